"""Fleets for tests: small VMs, a fleet on any hypervisor, and what it published."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

from lab.light import eventually
from vdsm.base.ids import VmId, new_vm_id
from vdsm.virt import domxml
from vdsm.virt.fleet import Fleet, Settings
from vdsm.virt.hypervisor import Hypervisor
from vdsm.virt.lifecycle import Status
from vdsm.virt.records import Records
from vdsm.virt.spec import BootSpec, DiskSpec, Limits, VmSpec
from vdsm.virt.surroundings import Patience
from vdsm.virt.traits import HostTraits
from vdsm.virt.view import VmChange, VmView, What

BOOT_ID = "11111111-0000-4000-8000-000000000000"


def traits(directory: Path) -> HostTraits:
    """A host of whatever kind: TCG, since it works everywhere."""
    for name in ("console", "log/console"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    return HostTraits(
        domain_type="qemu",
        emulator="/usr/bin/qemu-system-x86_64",
        machines=frozenset(),
        limits=Limits(max_memory_mib=1024, max_vcpus=4),
        os_name="test",
        os_version="1",
        host_serial="test",
        run_dir=str(directory),
        log_dir=str(directory / "log"),
    )


class Lab:
    """What is needed to make VMs and fleets for one agent instance whose state is in ``directory``.

    ``pace_s``: about how often fleets look at their VMs.
    """

    def __init__(self, directory: Path, *, pace_s: float = 0.3) -> None:
        self.directory = directory
        self._pace_s = pace_s
        self.instance = str(uuid.uuid4())
        self.changes: list[VmChange] = []
        self._lock = threading.Lock()
        self._fleets: list[Fleet] = []

    def vm(self, name: str = "", *, vm_id: VmId | None = None, instance: str = "", **spec: object) -> domxml.Prepared:
        """A VM of 32 MiB without an operating system and without an agent's channel, unless said otherwise."""
        ident = vm_id or new_vm_id()
        values = {"memory_mib": 32, "boot": BootSpec(order=("disk",)), "agent_channel": False, "graphics": None}
        values |= {"vm_id": ident, "name": name or f"t-{ident[:8]}", **spec}
        owner = domxml.Owner(instance or self.instance)
        return domxml.build(VmSpec(**values), owner, traits(self.directory))  # type: ignore[arg-type]

    @staticmethod
    def cdrom() -> DiskSpec:
        """An empty CD drive."""
        return DiskSpec(path=None, device="cdrom")

    def fleet(self, hypervisor: Hypervisor, *, ready: bool = True, **settings: object) -> Fleet:
        """A fleet that has started; all made here have one state."""
        values = {
            "instance": self.instance,
            "boot_id": BOOT_ID,
            "cheap_interval_s": self._pace_s,
            "monitor_interval_s": 2 * self._pace_s,
            "not_responding_after_s": 3 * self._pace_s,
            "patience": Patience(up_after_s=60.0, step_s=2.0),
            **settings,
        }
        fleet = Fleet(hypervisor, Records(self.directory / "vms.sqlite"), self._note, Settings(**values))  # type: ignore[arg-type]
        self._fleets.append(fleet)
        fleet.start()
        if ready:
            assert fleet.wait_ready(30.0)
        return fleet

    def _note(self, change: VmChange) -> None:
        with self._lock:
            self.changes.append(change)

    def close(self) -> None:
        """Stop all fleets."""
        for fleet in self._fleets:
            fleet.stop()

    def statuses(self, vm_id: str) -> list[str]:
        """The states that were published for a VM, in order, its creation included."""
        with self._lock:
            return [
                change.view.status.value
                for change in self.changes
                if change.view.vm_id == vm_id and change.what & (What.STATUS | What.CREATED)
            ]


def reaches(fleet: Fleet, vm_id: str, *statuses: Status) -> VmView:
    """Wait until a VM is in one of these states; it has failed when it is Down instead."""
    eventually(lambda: fleet.get(vm_id).status in {*statuses, Status.DOWN}, f"{[status.value for status in statuses]}")
    view = fleet.get(vm_id)
    assert view.status in statuses, view.exit
    return view
