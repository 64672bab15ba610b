"""The VM that "make run" shows: made through the agent's own API, and watched until its guest is up."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vds_bootstrap import account
from vds_bootstrap.processes import wait_until
from vds_bootstrap.programs import run

if TYPE_CHECKING:
    from pathlib import Path

    from vds_bootstrap.api import Api
    from vds_bootstrap.guest import Guest
    from vds_bootstrap.layout import Layout

NAME: Final = "demo"
MEMORY_MIB: Final = 256
DISK_SIZE: Final = "1G"
POLL_S: Final = 0.05
CONSOLE_S: Final = 120.0
AGENT_S: Final = 60.0


class DemoFailed(RuntimeError):
    """The VM did not come up; says how far it came."""


@dataclass(frozen=True)
class Demo:
    """The running VM, and how long it took in seconds."""

    vm_id: str
    name: str
    console: str
    console_s: float


def make_disk(layout: Layout, name: str = NAME) -> Path:
    """A new, empty qcow2 disk that belongs to the agent."""
    path = layout.images_dir / f"{name}.qcow2"
    path.unlink(missing_ok=True)
    run(["qemu-img", "create", "-q", "-f", "qcow2", path, DISK_SIZE])
    path.chmod(0o660)
    os.chown(path, *account.ids(layout))
    return path


def description(guest: Guest, disk: Path, name: str = NAME) -> dict[str, Any]:
    """The typed description of the VM, as POST /api/v1/vms takes it."""
    return {
        "name": name,
        "memory_mib": MEMORY_MIB,
        "vcpus": 1,
        "boot": {"kernel": str(guest.kernel), "initrd": str(guest.initrd), "cmdline": guest.cmdline_for(name)},
        "disks": [{"path": str(disk), "format": "qcow2"}],
        "nics": [{"model": "virtio"}],
        "serial_console": True,
        "guest_agent": True,
    }


def wait_for_console(api: Api, layout: Layout, vm_id: str, guest: Guest) -> float:
    """Wait until the guest says on its serial console that it is up; returns the seconds that it took.

    Raises:
        DemoFailed: it ended, or said nothing in time.
    """
    began = time.monotonic()
    log = layout.log_dir / "console" / f"{vm_id}.log"
    next_look = began

    def is_up() -> bool:
        nonlocal next_look
        if _said(log, guest.marker):
            return True
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + 1.0
            _refuse_down(api, vm_id)
        return False

    if not wait_until(is_up, CONSOLE_S):
        raise DemoFailed(f"the guest did not say {guest.marker} on its console within {CONSOLE_S:.0f} s; see {log}")
    return time.monotonic() - began


def wait_for_agent(api: Api, vm_id: str) -> dict[str, Any]:
    """Wait until the guest's agent answers; returns the VM's statistics then.

    Raises:
        DemoFailed: the VM ended, or its agent did not answer in time.
    """
    deadline = time.monotonic() + AGENT_S
    while True:
        stats = _refuse_down(api, vm_id)
        if stats.get("guest_agent") is True:
            return stats
        if time.monotonic() >= deadline:
            raise DemoFailed(f"the guest's agent did not answer within {AGENT_S:.0f} s")
        time.sleep(POLL_S)


def _refuse_down(api: Api, vm_id: str) -> dict[str, Any]:
    stats: dict[str, Any] = api.get(f"/vms/{vm_id}/stats")
    if stats.get("status") == "Down":
        raise DemoFailed(f"the VM ended: {stats.get('exit_message')}")
    return stats


def _said(log: Path, marker: str) -> bool:
    try:
        return marker.encode() in log.read_bytes()
    except OSError:
        return False
