"""Versions of the software underneath, by the names that the protocol uses for it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Final

from vdsm.base.errors import VdsmError
from vdsm.system import packagedb

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package under its protocol name ("qemu-kvm"), whatever the distribution calls it."""

    name: str
    version: str
    release: str
    build_time_s: int | None = None
    """Seconds since 1970 where the package database knows it (rpm)."""


# The version of the host protocol that the agent speaks: an Engine takes a host of 4.50 for its 4.5 level, and
# compares nothing else with the number. The agent's own version would be refused as too old.
PROTOCOL_VERSION: Final = "4.50.6"
PROTOCOL_RELEASE: Final = "1"

# protocol name -> names of the distributions' packages, the first installed one counts
NAMES: Final[dict[str, tuple[str, ...]]] = {
    "glusterfs-cli": ("glusterfs-cli", "glusterfs-client"),
    "iscsi-initiator-utils": ("iscsi-initiator-utils", "open-iscsi"),
    "libvirt": ("libvirt-daemon", "libvirt-daemon-system", "libvirt"),
    "librbd1": ("librbd1",),
    "lvm2": ("lvm2",),
    "device-mapper-multipath": ("device-mapper-multipath", "multipath-tools"),
    "nmstate": ("nmstate",),
    "openvswitch": ("openvswitch", "openvswitch-switch"),
    "python3-libvirt": ("python3-libvirt", "libvirt-python"),
    "qemu-img": ("qemu-img", "qemu-utils"),
    "qemu-kvm": ("qemu-kvm", "qemu-kvm-core", "qemu-system-x86", "qemu-system-x86-core", "qemu-x86"),
    "sanlock": ("sanlock",),
    "seabios": ("seabios", "seabios-bin"),
    "spice-server": ("spice-server", "libspice-server1"),
    "swtpm": ("swtpm",),
}


def kernel_package(release: str) -> Package:
    """The running kernel from ``uname -r``: "6.1.0-30-amd64" is version 6.1.0, release 30-amd64."""
    version, _, rest = release.partition("-")
    return Package("kernel", version, rest)


def named(installed: tuple[packagedb.Installed, ...]) -> dict[str, Package]:
    """The installed packages under their protocol names."""
    by_name = {item.name: item for item in installed}
    found: dict[str, Package] = {}
    for name, candidates in NAMES.items():
        item = next((by_name[candidate] for candidate in candidates if candidate in by_name), None)
        if item is not None:
            found[name] = Package(name, item.version, item.release, item.build_time_s)
    return found


class PackageSource:
    """The packages of this host; the database is asked again only after it changed. Not for concurrent use."""

    def __init__(self) -> None:
        self._stamp: tuple[int, ...] | None = None
        self._installed: dict[str, Package] = {}

    def gather(self, libvirt_version: str, qemu_version: str) -> tuple[Package, ...]:
        """All packages that are here; libvirt's and QEMU's own versions stand in where no package is known."""
        stamp = packagedb.stamp()
        if stamp != self._stamp:
            self._ask(stamp)
        packages = {
            "vdsm": Package("vdsm", PROTOCOL_VERSION, PROTOCOL_RELEASE),
            "kernel": kernel_package(os.uname().release),
            "libvirt": Package("libvirt", libvirt_version, ""),
            "qemu-kvm": Package("qemu-kvm", qemu_version, ""),
            **self._installed,
        }
        return tuple(packages[name] for name in sorted(packages))

    def _ask(self, stamp: tuple[int, ...]) -> None:
        names = sorted({candidate for candidates in NAMES.values() for candidate in candidates})
        try:
            self._installed = named(packagedb.query(names))
        except VdsmError as error:
            # no reason to have no capabilities; a later change of the database is another chance
            log.warning("the package database does not answer: %s", error)
        self._stamp = stamp
