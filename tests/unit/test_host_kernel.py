"""Mitigations, the operating system's name, and which directories are local."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdsm.host.filesystems import local_path, mount_of
from vdsm.host.kernel import OperatingSystem, kernel_features, operating_system
from vdsm.system.procfs import Mount


@pytest.mark.parametrize(
    ("spectre", "meltdown", "features"),
    [
        ("Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling", "Not affected", (1, 0, 0)),
        ("Mitigation: Retpolines; STIBP: disabled; PBRSB-eIBRS: Not affected", "Mitigation: PTI", (0, 1, 1)),
        ("Mitigation; Retpolines; STIBP disabled; PBRSB-eIBRS Not affected", "Not affected", (0, 1, 0)),
        ("Mitigation: Full generic retpoline", "Mitigation: PTI", (0, 1, 1)),
        ("Vulnerable: eIBRS with unprivileged eBPF", "Vulnerable", (0, 0, 0)),
        ("", "", (0, 0, 0)),
    ],
)
def test_only_the_mitigation_itself_counts(spectre: str, meltdown: str, features: tuple[int, int, int]) -> None:
    found = kernel_features({"spectre_v2": spectre, "meltdown": meltdown})
    assert (found["IBRS"], found["RETP"], found["PTI"]) == features


def test_an_operating_system_without_a_name_is_linux() -> None:
    assert operating_system({}) == OperatingSystem("Linux", "", "", "Linux")
    values = {"NAME": "Fedora Linux", "VERSION_ID": "42", "PRETTY_NAME": "Fedora Linux 42"}
    assert operating_system(values) == OperatingSystem("Fedora Linux", "42", "", "Fedora Linux 42")


def test_the_longest_and_last_mount_wins() -> None:
    mounts = (Mount("/", "ext4"), Mount("/mnt", "ext4"), Mount("/mnt", "nfs4"), Mount("/mnt/b", "xfs"))
    assert mount_of("/mnt", mounts) == Mount("/mnt", "nfs4")
    assert mount_of("/mnt/b/c", mounts) == Mount("/mnt/b", "xfs")
    assert mount_of("/mntx", mounts) == Mount("/", "ext4")
    assert mount_of("/etc", ()) is None


def test_a_directory_behind_a_link_to_a_network_is_not_local(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "log").symlink_to("remote/log")
    (tmp_path / "run").symlink_to(f"{tmp_path}/here/../here")
    (tmp_path / "loop").symlink_to("loop")
    mounts = (Mount("/", "ext4"), Mount(f"{tmp_path}/remote", "nfs4"), Mount(f"{tmp_path}/fuse", "fuse.sshfs"))
    assert local_path(f"{tmp_path}/run", mounts) == f"{tmp_path}/here"
    for name in ("log", "remote", "remote/deep/../x", "fuse/x", "loop"):
        assert local_path(f"{tmp_path}/{name}", mounts) is None
    assert local_path("/", mounts) == "/"
