"""Whether nodes run on KVM: found out by trying, once per boot of the machine.

That /dev/kvm is there says little: on some nested machines QEMU dies of it, on others the guest hangs. So a node is
booted with it under a deadline; what does not come up is killed, and software emulation (TCG) it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .image.build import qemu_version

KVM: Final = "kvm"
TCG: Final = "tcg"
_DEVICE: Final = Path("/dev/kvm")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def options(accelerator: str) -> list[str]:
    """QEMU's options for one."""
    if accelerator == TCG:
        # Fewer features make emulation slower, not faster.
        return ["-accel", "tcg,thread=multi", "-cpu", "max"]
    return ["-accel", accelerator, "-cpu", "host"]


def choose(cache: Path, boots: Callable[[], bool], device: Path = _DEVICE) -> str:
    """KVM or TCG; VDSM_LAB_ACCEL decides, or what was found since this machine was booted, or a try.

    Args:
        cache: the directory for what was found.
        boots: tries to boot a node with KVM; asked at most once.
        device: what must be there for a try.
    """
    if wanted := os.environ.get("VDSM_LAB_ACCEL"):
        return wanted
    if not device.exists():
        return TCG
    memory = cache / "accelerator.json"
    circumstances = {"boot": _BOOT_ID.read_text(encoding="ascii").strip(), "qemu": qemu_version()}
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if found.get("circumstances") != circumstances:
        found = {"circumstances": circumstances, "works": boots()}
        memory.write_text(json.dumps(found), encoding="utf-8")
    return KVM if found["works"] else TCG
