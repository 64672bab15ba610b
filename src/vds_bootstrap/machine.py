"""Checks whether a machine can be a host, in words that say what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vds_bootstrap.layout import Layout

MIN_MEMORY_MIB = 1024
MIN_DISK_MIB = 2048
OS_RELEASE = Path("/etc/os-release")


@dataclass(frozen=True)
class Finding:
    """One fact about the machine; ``remedy`` says what to do when it is not ok."""

    level: Literal["ok", "warning", "error"]
    what: str
    remedy: str = ""


def check(layout: Layout) -> list[Finding]:
    """Everything that decides whether this machine can be a host."""
    return [
        _user(),
        _system(),
        _processor(),
        _memory(),
        _disk(layout.state_dir),
        _acceleration(),
    ]


def _user() -> Finding:
    if os.geteuid() == 0:
        return Finding("ok", "root")
    return Finding("error", "not running as root", "preparing a host needs root: use sudo make run")


def _system() -> Finding:
    facts = os_release(OS_RELEASE.read_text(encoding="utf-8")) if OS_RELEASE.exists() else {}
    name = facts.get("PRETTY_NAME", platform.system())
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return Finding(
            "error", f"{name} has no apt", "make run prepares Debian; elsewhere install by hand, see README.md"
        )
    if (facts.get("ID"), facts.get("VERSION_ID")) != ("debian", "12"):
        return Finding("warning", f"{name} is not Debian 12", "it is built and tested on Debian 12; going on")
    return Finding("ok", name)


def _processor() -> Finding:
    machine = platform.machine()
    count = len(os.sched_getaffinity(0))
    if machine != "x86_64":
        return Finding("error", f"the processor is {machine}", "only x86-64 (amd64) machines are supported so far")
    return Finding("ok", f"{count} CPU{'s' if count > 1 else ''}")


def _memory() -> Finding:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    facts = dict(line.split(":") for line in text.splitlines() if ":" in line)
    available = int(facts["MemAvailable"].split()[0]) // 1024
    if available < MIN_MEMORY_MIB:
        return Finding(
            "warning",
            f"{available} MiB of memory are available",
            f"the agent, libvirt and a small VM want {MIN_MEMORY_MIB} MiB",
        )
    return Finding("ok", f"{available / 1024:.1f} GiB of memory")


def _disk(state_dir: Path) -> Finding:
    folder = next(path for path in (state_dir, *state_dir.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free >> 20
    if free < MIN_DISK_MIB:
        return Finding(
            "error", f"{free} MiB are free on the disk of {folder}", f"make room: {MIN_DISK_MIB} MiB are needed"
        )
    return Finding("ok", f"{free >> 10} GiB of disk free")


def _acceleration() -> Finding:
    if Path("/dev/kvm").exists():
        return Finding("ok", "/dev/kvm")
    return Finding(
        "warning", "there is no /dev/kvm: VMs will be emulated, slowly", "enable virtualization in the firmware"
    )


def os_release(text: str) -> dict[str, str]:
    """The variables of an os-release file."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
