"""Lets QEMU's user open /dev/kvm, as udev does on every ordinary Debian; without udev the node may be root's alone.

It matters even where KVM does not work: libvirt probes QEMU with the right to open everything, finds KVM, then finds
that QEMU's user may not open it, and so takes what it learned for outdated and probes again, dozens of times for one
start of a VM.
"""

from __future__ import annotations

import grp
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KVM: Final = Path("/dev/kvm")
GROUP: Final = "kvm"
MODE: Final = 0o660


@dataclass(frozen=True)
class DeviceNode:
    """A device node's group and mode."""

    path: str
    gid: int
    mode: int

    def restore(self) -> None:
        """Give the node this group and mode."""
        with suppress(OSError):  # it may be gone
            os.chown(self.path, -1, self.gid)
            Path(self.path).chmod(self.mode)


def open_kvm(path: Path = KVM) -> DeviceNode | None:
    """Let the group kvm open the node; returns how it was before, None when there was nothing to do."""
    group = next((item for item in grp.getgrall() if item.gr_name == GROUP), None)
    if group is None or not path.exists():
        return None
    facts = path.stat()
    mode = facts.st_mode & 0o7777
    if mode & 0o006 == 0o006 or (facts.st_gid == group.gr_gid and mode & 0o060 == 0o060):
        return None
    DeviceNode(str(path), group.gr_gid, mode | MODE).restore()
    return DeviceNode(str(path), facts.st_gid, mode)
