"""Samples of all VMs by bulk calls, and the search for VMs that do not answer.

    cheap round    every few seconds: /proc (CPU, is the process stopped?) and one libvirt call that asks no QEMU
    monitor round  rarely: one call that asks the QEMUs of all VMs that are not in quarantine (memory, disks)

A QEMU that hangs makes the monitor call pass its deadline. The call stays where it is and holds that VM, and the
same call again, beside it, passes over VMs that are held: those it passed over are the culprits. They go into
quarantine until the first call comes back; everybody else was sampled by the second.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Unfinished, VdsmError
from vdsm.system.libvirt.facts import CheapCounters, MonitorCounters
from vdsm.system.qemu_process import ProcessFacts
from vdsm.virt import endings
from vdsm.virt.health import Cause, Responsiveness
from vdsm.virt.hypervisor import Hypervisor
from vdsm.virt.lifecycle import Status
from vdsm.virt.machine import Machine
from vdsm.virt.tracks import Track
from vdsm.virt.view import VmSample

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
# What a healthy QEMU may take, so that hundreds of them are not mistaken for one that hangs.
_PER_VM_S: Final = 0.01
# One more call per QEMU that hangs, as long as the lane has threads.
_SEARCHES: Final = 3


class _Stuck:
    """A monitor call that passed its deadline, and whom it is stuck with."""

    def __init__(self, health: Responsiveness) -> None:
        self._health = health
        self._lock = threading.Lock()
        self._back = False
        self._culprits: frozenset[str] = frozenset()

    def blame(self, culprits: Iterable[str]) -> None:
        with self._lock:
            if self._back:
                return
            self._culprits |= frozenset(culprits)
            for vm_id in self._culprits:
                self._health.blame(vm_id, Cause.STUCK)

    @property
    def back(self) -> bool:
        """Whether it has come back."""
        return self._back

    def came_back(self) -> None:
        with self._lock:
            self._back = True
            for vm_id in self._culprits:
                self._health.clear(vm_id, Cause.STUCK)


class Sampler:
    """Two threads. ``machines`` lists the VMs; ``tick`` is called about every second."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        machines: Callable[[], Collection[Machine]],
        health: Responsiveness,
        tick: Callable[[], None],
        *,
        cheap_interval_s: float,
        monitor_interval_s: float,
        patience_s: float,
    ) -> None:
        """Prepare; ``patience_s``: after so long a monitor call counts as stuck."""
        self._hypervisor = hypervisor
        self._machines = machines
        self._health = health
        self._tick = tick
        self._cheap_interval_s = cheap_interval_s
        self._monitor_interval_s = monitor_interval_s
        self._patience_s = patience_s
        self._stopping = threading.Event()
        self._wakes = (threading.Event(), threading.Event())
        self._lock = threading.Lock()
        self._tracks: dict[str, Track] = {}
        self._missed: set[str] = set()
        self._held: set[str] = set()
        self._failing: set[str] = set()
        self._stuck: list[_Stuck] = []
        self._without_process: frozenset[str] = frozenset()

    def start(self) -> None:
        """Begin to sample."""
        cheap, monitor = self._wakes
        threads.start("sample-cheap", self._run_cheap, cheap)
        threads.start("sample-qemu", self._run_monitor, monitor)

    def hurry(self) -> None:
        """Sample now: there are VMs that have no samples yet."""
        for wake in self._wakes:
            wake.set()

    def stop(self) -> None:
        """End; a round under way is left behind."""
        self._stopping.set()
        self.hurry()

    def _run_cheap(self, wake: threading.Event) -> None:
        due_s = monotonic_s()
        while not self._stopping.is_set():
            hurry = wake.wait(max(0.0, min(TICK_S, due_s - monotonic_s())))
            wake.clear()
            if self._stopping.is_set():
                return
            self._guarded("tick", self._tick)
            now_s = monotonic_s()
            if hurry or now_s >= due_s:
                due_s = max(due_s, now_s) + self._cheap_interval_s
                self._guarded("cheap samples", self.cheap_round)

    def _run_monitor(self, wake: threading.Event) -> None:
        while not self._stopping.is_set():
            began_s = monotonic_s()
            self._guarded("samples of QEMU", self.monitor_round)
            wake.wait(max(0.0, began_s + self._monitor_interval_s - monotonic_s()))
            wake.clear()

    def _guarded(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except VdsmError as error:
            if what not in self._failing:  # once per outage
                log.warning("no %s: %s", what, error)
            self._failing.add(what)
        except Exception:
            log.exception("%s failed", what)  # the next round may work; the thread must not end
        else:
            self._failing.discard(what)

    # -- the cheap round

    def cheap_round(self) -> None:
        """Sample what costs nothing.

        Raises:
            VdsmError: libvirt did not answer; the VMs' old samples stay.
        """
        machines: dict[str, Machine] = {machine.vm_id: machine for machine in self._machines() if machine.alive}
        self._forget_others(machines)
        if not machines:
            return
        processes = self._hypervisor.processes(machines.keys())
        self._health.stopped([vm_id for vm_id, process in processes.items() if process.stopped])
        self._without_process = frozenset(machines.keys() - processes.keys())
        began_s = monotonic_s()
        counters = self._hypervisor.cheap(machines.keys())
        self._note_missing(machines, counters)
        now_s = monotonic_s()
        for vm_id, seen in counters.items():
            machine = machines[vm_id]
            self._compare(machine, seen, began_s)
            machine.sampled(self._track_cheap(vm_id, now_s, seen, processes.get(vm_id)))

    def _track_cheap(self, vm_id: str, now_s: float, seen: CheapCounters, process: ProcessFacts | None) -> VmSample:
        with self._lock:
            return self._tracks.setdefault(vm_id, Track()).cheap(now_s, seen, process)

    def _forget_others(self, machines: Mapping[str, Machine]) -> None:
        self._health.keep(machines)
        with self._lock:
            for vm_id in self._tracks.keys() - machines.keys():
                del self._tracks[vm_id]

    def _note_missing(self, machines: Mapping[str, Machine], counters: Mapping[str, CheapCounters]) -> None:
        """A VM that libvirt does not run any more, twice, without having told: its news were lost."""
        missing = machines.keys() - counters.keys()
        for vm_id in missing & self._missed:
            machines[vm_id].tell_missing(endings.LOST)
        self._missed = set(missing)

    @staticmethod
    def _compare(machine: Machine, seen: CheapCounters, began_s: float) -> None:
        status = machine.view.status
        if status is Status.WAIT_FOR_LAUNCH or (status is Status.PAUSED) != (seen.paused is not None):
            machine.tell_running(seen.paused, began_s)

    # -- the monitor round

    def monitor_round(self) -> None:
        """Sample what QEMUs have to be asked for.

        Raises:
            VdsmError: libvirt did not answer, or too many QEMUs hang.
        """
        quarantined = self._health.quarantined()
        machines: dict[str, Machine] = {
            machine.vm_id: machine for machine in self._machines() if machine.alive and machine.vm_id not in quarantined
        }
        if not machines:
            return
        self._stuck = [call for call in self._stuck if not call.back]
        for _ in range(_SEARCHES):
            call = _Stuck(self._health)
            try:
                counters = self._ask(machines.keys(), call)
            except Unfinished:
                self._stuck.append(call)
                continue
            break
        else:
            log.warning("several QEMUs do not answer; which ones is not known")
            return
        self._judge(machines, counters)

    def _ask(self, vm_ids: Collection[str], call: _Stuck) -> Mapping[str, MonitorCounters | None]:
        deadline_s = max(self._patience_s, _PER_VM_S * len(vm_ids))
        cpu = not self._without_process.isdisjoint(vm_ids)
        return self._hypervisor.monitored(vm_ids, cpu=cpu, deadline_s=deadline_s, late=call.came_back)

    def _judge(self, machines: Mapping[str, Machine], counters: Mapping[str, MonitorCounters | None]) -> None:
        now_s = monotonic_s()
        held = {vm_id for vm_id, seen in counters.items() if seen is None}
        for call in self._stuck:
            # Which call is stuck with whom is not known. The first that comes back clears all, and the next round
            # blames those again that are still held.
            call.blame(held)
        for vm_id in held & self._held:
            self._health.blame(vm_id, Cause.HELD)
        self._held = held
        for vm_id, seen in counters.items():
            if seen is not None:
                self._health.clear(vm_id, Cause.HELD)
                with self._lock:
                    sample = self._tracks.setdefault(vm_id, Track()).monitor(now_s, seen)
                machines[vm_id].sampled(sample)
