"""Takes down what "make run" brought up, in order; done by the command itself, or by its janitor when it was killed.

    VMs -> vdsmd -> supervdsmd -> libvirtd -> virtlogd -> files

Every process that is ended was started here; QEMU processes are found by their VM's id.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vds_bootstrap import hypervisor, transfers
from vds_bootstrap.api import Api, ApiError
from vds_bootstrap.devices import DeviceNode
from vds_bootstrap.processes import Process, wait_until
from vds_bootstrap.programs import ProgramFailed, run

if TYPE_CHECKING:
    from vds_bootstrap.progress import Progress

DAEMON_PATIENCE_S = 10.0
MACHINE_PATIENCE_S = 8.0
# libvirt may be at work on a start when the agent ends; its QEMU appears within this time.
APPEAR_S = 2.0


@dataclass
class State:
    """Everything that is up because of this run."""

    api_socket: str = ""
    machines: list[str] = field(default_factory=list)  # ids of VMs
    daemons: list[Process] = field(default_factory=list)  # in the order of their start
    libvirt: list[Process] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # files, and directories to remove when empty
    nodes: list[DeviceNode] = field(default_factory=list)  # as they were

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, line: str) -> State:
        """The state in a line of ``dumps``."""
        raw = json.loads(line)
        for name in ("daemons", "libvirt"):
            raw[name] = [Process(**item) for item in raw[name]]
        raw["nodes"] = [DeviceNode(**item) for item in raw["nodes"]]
        return cls(**raw)


def take_down(state: State, progress: Progress) -> list[str]:
    """Take everything down; returns what could not be ended (empty: nothing is left)."""
    left: list[str] = []
    if state.machines:
        with progress.step("Stopping the VMs") as outcome:
            left += _stop_machines(state)
            outcome.say("done" if not left else f"left: {', '.join(left)}")
    if state.daemons:
        with progress.step("Stopping the agent"):
            left += _stop_processes(reversed_unique(state.daemons))
            left += transfers.stop(Path(state.api_socket).parent, DAEMON_PATIENCE_S)
    left += _stop_libvirt(state, progress)
    left += _stop_qemus(state)
    if state.api_socket:
        _remove_links(Path(state.api_socket).parent / "storage")
    for name in reversed(state.files):
        _remove(Path(name))
    for node in state.nodes:
        node.restore()
    return left


def reversed_unique(items: list[Process]) -> list[Process]:
    """The processes in the opposite order, each once."""
    return list(dict.fromkeys(reversed(items)))


def _stop_machines(state: State) -> list[str]:
    """Destroy VMs through the agent; what it does not do in time, at their QEMU processes."""
    api = Api(Path(state.api_socket), timeout_s=5.0)
    for vm_id in state.machines:
        try:
            api.delete(f"/vms/{vm_id}")
        except ApiError as error:
            if error.status == 0:
                wait_until(lambda: bool(_qemus(state)), APPEAR_S)
                break
    wait_until(lambda: not _qemus(state) or not api.is_ready(), MACHINE_PATIENCE_S)
    return _stop_qemus(state)


def _qemus(state: State) -> list[hypervisor.Machine]:
    return [machine for machine in hypervisor.machines() if machine.uuid in state.machines]


def _stop_qemus(state: State) -> list[str]:
    return [machine.name for machine in _qemus(state) if not machine.process.stop(MACHINE_PATIENCE_S)]


def _stop_processes(processes: list[Process]) -> list[str]:
    return [process.name for process in processes if not process.stop(DAEMON_PATIENCE_S)]


def _stop_libvirt(state: State, progress: Progress) -> list[str]:
    if not state.libvirt and not state.units:
        return []
    others = hypervisor.foreign_machines(set(state.machines))
    if others:
        progress.note(f"libvirtd goes on: other VMs run under it ({', '.join(others)})")
        return []
    with progress.step("Stopping libvirt"):
        left = _stop_processes(reversed_unique(state.libvirt))
        for unit in state.units:
            try:
                run(["systemctl", "stop", unit], timeout_s=30)
            except ProgramFailed:
                left.append(unit)
        return left


def _remove_links(folder: Path) -> None:
    """The links to images that VMs had: an agent that was killed could not take them back."""
    for link in folder.glob("*/*"):
        if link.is_symlink():
            link.unlink(missing_ok=True)
    for place in (*folder.glob("*"), folder):
        _remove(place)


def _remove(path: Path) -> None:
    try:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    except OSError:
        return  # a directory that others use, too
