"""Packages from the texts of dpkg-query and rpm."""

from __future__ import annotations

import pytest

from vdsm.host import packages
from vdsm.host.packages import Package
from vdsm.system import packagedb
from vdsm.system.packagedb import Installed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("9.0.0-4+deb12u2", ("9.0.0", "4+deb12u2")),
        ("1:7.2+dfsg-7+deb12u18+b3", ("7.2+dfsg", "7+deb12u18+b3")),
        ("2:1.0-rc1-3", ("1.0-rc1", "3")),
        ("20230527", ("20230527", "1")),
    ],
)
def test_debian_versions_lose_epoch_and_revision(text: str, parts: tuple[str, str]) -> None:
    assert packagedb.split_version(text) == parts


def test_only_installed_packages_count() -> None:
    text = b"installed\tqemu-system-x86\t1:7.2+dfsg-7\nnot-installed\tlibrbd1\t\nconfig-files\tsanlock\t3.8.5-1\n"
    assert packagedb.parse_dpkg(text) == (Installed("qemu-system-x86", "7.2+dfsg", "7", None),)


def test_rpm_names_what_is_missing_in_its_output() -> None:
    text = b"qemu-kvm\t9.0.0\t10.el9\t1700000000\npackage librbd1 is not installed\nlvm2\t2.03\t1.el9\t(none)\n"
    assert packagedb.parse_rpm(text) == (
        Installed("qemu-kvm", "9.0.0", "10.el9", 1_700_000_000),
        Installed("lvm2", "2.03", "1.el9", None),
    )


def test_packages_get_their_protocol_names_and_the_first_candidate_wins() -> None:
    installed = (
        Installed("libvirt-daemon-system", "9.0.0", "5", None),
        Installed("libvirt-daemon", "9.0.0", "4", None),
        Installed("qemu-system-x86", "7.2", "7", None),
        Installed("bash", "5", "1", None),
    )
    assert packages.named(installed) == {
        "libvirt": Package("libvirt", "9.0.0", "4"),
        "qemu-kvm": Package("qemu-kvm", "7.2", "7"),
    }


@pytest.mark.parametrize(
    ("release", "parts"),
    [("6.1.0-30-amd64", ("6.1.0", "30-amd64")), ("6.18.44", ("6.18.44", ""))],
)
def test_the_running_kernel_is_a_package(release: str, parts: tuple[str, str]) -> None:
    assert packages.kernel_package(release) == Package("kernel", *parts)
