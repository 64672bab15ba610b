"""The VM that "make run" shows: made through the agent's own API, and watched until its guest is up."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vds_bootstrap.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from vds_bootstrap.api import Api
    from vds_bootstrap.guest import Guest
    from vds_bootstrap.layout import Layout

NAME: Final = "demo"
MEMORY_MIB: Final = 256
DISK_SIZE: Final = 1 << 30
STORAGE: Final = "local"
STORAGE_S: Final = 30.0
TASK_S: Final = 30.0
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


def ensure_storage(api: Api, layout: Layout) -> dict[str, Any]:
    """The storage domain of this host that "make run" keeps, made when there is none; waits until it can be used.

    Raises:
        DemoFailed: it does not come up.
    """
    found = _storage(api)
    if found is None:
        api.post("/storage", {"name": STORAGE, "path": str(layout.storage_dir)})

    def is_active() -> bool:
        nonlocal found
        found = _storage(api)
        return found is not None and found["status"] == "active"

    if not wait_until(is_active, STORAGE_S) or found is None:
        raise DemoFailed(f"the storage {STORAGE} did not come up: {(found or {}).get('reason') or 'see the log'}")
    return found


def make_image(api: Api, storage: dict[str, Any], name: str = NAME) -> dict[str, str]:
    """A new, empty qcow2 image in the storage, in place of the one of the last run; where it is.

    Raises:
        DemoFailed: it was not made.
    """
    image_id, volume_id = ids(storage, name)
    domain = f"/storage-domains/{storage['domain_id']}"
    if image_id in api.get(f"{domain}/images"):
        _finish(api, api.delete(f"{domain}/images/{image_id}"))
    _finish(
        api,
        api.post(
            f"{domain}/images/{image_id}/volumes",
            {"volume_id": volume_id, "size": DISK_SIZE, "vol_format": "COW", "description": name},
        ),
    )
    return {
        "pool_id": storage["pool_id"],
        "domain_id": storage["domain_id"],
        "image_id": image_id,
        "volume_id": volume_id,
    }


def ids(storage: dict[str, Any], name: str = NAME) -> tuple[str, str]:
    """The image's and its volume's id: always the same in a storage, so that the next run finds them."""
    home = uuid.UUID(storage["domain_id"])
    return str(uuid.uuid5(home, f"image {name}")), str(uuid.uuid5(home, f"volume {name}"))


def _storage(api: Api) -> dict[str, Any] | None:
    return next((item for item in api.get("/storage") if item["name"] == STORAGE), None)


def _finish(api: Api, task_id: str) -> None:
    """Wait for a task of the storage and forget it."""
    status: dict[str, Any] = {}

    def is_over() -> bool:
        nonlocal status
        status = api.get(f"/tasks/{task_id}")
        return bool(status["task_state"] == "finished")

    if not wait_until(is_over, TASK_S):
        raise DemoFailed(f"the storage's task {task_id} takes too long")
    api.delete(f"/tasks/{task_id}")
    if status["code"]:
        raise DemoFailed(f"the disk was not made: {status['message']}")


def description(guest: Guest, image: dict[str, str], name: str = NAME) -> dict[str, Any]:
    """The typed description of the VM, as POST /api/v1/vms takes it."""
    return {
        "name": name,
        "memory_mib": MEMORY_MIB,
        "vcpus": 1,
        "boot": {"kernel": str(guest.kernel), "initrd": str(guest.initrd), "cmdline": guest.cmdline_for(name)},
        "disks": [{"image": image, "format": "qcow2"}],
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
