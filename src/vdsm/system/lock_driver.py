"""libvirt's lock manager for QEMU: who keeps two hosts from running a VM that has a lease.

libvirt takes leases through a plug-in (Debian: libvirt-sanlock) that its qemu.conf names. Without one it starts a VM
that has ``<lease>`` devices all the same, and takes none of them (seen with libvirt 9.0).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

QEMU_CONF: Final = Path("/etc/libvirt/qemu.conf")

_SETTING: Final = re.compile(r"""^[ \t]*lock_manager[ \t]*=[ \t]*["']([a-z]*)["']""", re.MULTILINE)


def lock_manager(file: Path = QEMU_CONF) -> str:
    """The plug-in's name ("sanlock", "lockd"); empty where none is set, or libvirt is not there."""
    try:
        text = file.read_text("utf-8", "replace")
    except OSError:
        return ""
    found = _SETTING.findall(text)
    return found[-1] if found else ""
