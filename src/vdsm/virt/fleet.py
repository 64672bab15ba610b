"""All VMs of this agent: creation, lookup, requests, and what is found running after a restart.

    start -> hypervisor connects -> reconcile: adopt every running domain that carries our mark, in one pass;
                                    a VM on record that does not run any more is Down with its reason -> ready
    each later connection        -> reconcile again: nothing that happened meanwhile is lost

Domains without our mark, or with another agent's, are not touched and not listed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, Failed, NoSuchVm, Recovering, Unfinished, VdsmError, VmExists
from vdsm.base.ids import VmId
from vdsm.base.threads import Pool
from vdsm.system.libvirt.facts import (
    Connected,
    DevicesChanged,
    Disconnected,
    Event,
    Health,
    Returned,
    RunningDomain,
    Started,
)
from vdsm.virt import endings
from vdsm.virt.changes import agent_connected
from vdsm.virt.domxml import DomainFacts, Prepared, describe
from vdsm.virt.guests import GuestWatch
from vdsm.virt.health import Cause, Responsiveness
from vdsm.virt.hypervisor import Hypervisor
from vdsm.virt.lifecycle import Status
from vdsm.virt.machine import Machine
from vdsm.virt.records import Record, Records
from vdsm.virt.requests import Ask
from vdsm.virt.sampling import Sampler
from vdsm.virt.strand import Strand
from vdsm.virt.surroundings import Patience, Surroundings
from vdsm.virt.view import Exit, PauseCode, Screenshot, VmChange, VmView, What, pack, unpack

log = logging.getLogger(__name__)

R = TypeVar("R")

_RETRY_S: Final = 1.0


def _keep(_: DomainFacts) -> None:
    """What is prepared for VMs needs no giving back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Seconds, and the ids that tell ours from others': the agent's instance and the host's boot."""

    instance: str
    boot_id: str
    cheap_interval_s: float = 3.0
    monitor_interval_s: float = 10.0
    not_responding_after_s: float = 3.0
    request_deadline_s: float = 15.0
    destroy_deadline_s: float = 30.0
    guest_interval_s: float = 60.0
    workers: int = 8
    patience: Patience = field(default_factory=Patience)


class Fleet:
    """See the module.

    ``publish`` is called from the VMs' strands, with every change of a VM but its samples. ``release`` gives back what
    was prepared for a VM that another process of the agent started; it is called once when that VM has ended.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        records: Records,
        publish: Callable[[VmChange], None],
        settings: Settings,
        release: Callable[[DomainFacts], None] = _keep,
    ) -> None:
        self._hypervisor = hypervisor
        self._records = records
        self._publish = publish
        self._settings, self._release = settings, release
        self._lock = threading.Lock()
        self._machines: dict[VmId, Machine] = {}
        self._ready = threading.Event()
        self._retry_s: float | None = None
        # A strand is in the pool's queue at most once, so the queue is never full before thousands of VMs.
        self._pool = Pool("vm", settings.workers, 8192)
        self._strand = Strand(self._pool, "fleet")
        self._health = Responsiveness(self._responds)
        self._guests = GuestWatch(hypervisor, interval_s=settings.guest_interval_s)
        self._sampler = Sampler(
            hypervisor,
            self._all,
            self._health,
            self._tick,
            cheap_interval_s=settings.cheap_interval_s,
            monitor_interval_s=settings.monitor_interval_s,
            patience_s=settings.not_responding_after_s,
        )
        self._world = Surroundings(
            hypervisor=hypervisor,
            records=records,
            pool=self._pool,
            record=self._record,
            publish=self._announce,
            gone=self._remove,
            suspect=lambda vm_id: self._health.blame(vm_id, Cause.STUCK),
            doubt=self._doubt,
            patience=settings.patience,
        )

    # -- life of the fleet

    def start(self) -> None:
        """Begin to connect; ``ready`` says when the VMs are known."""
        self._hypervisor.start(self._listen)
        self._sampler.start()

    def stop(self) -> None:
        """End; the VMs go on."""
        self._sampler.stop()
        self._guests.stop()
        self._pool.stop(1.0)
        self._hypervisor.stop()
        self._records.close()

    @property
    def ready(self) -> bool:
        """Whether the VMs that ran at the start are known."""
        return self._ready.is_set()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until ready; False: it took longer."""
        return self._ready.wait(timeout_s)

    def health(self) -> Health:
        """Whether the hypervisor answers. Never waits."""
        return self._hypervisor.health()

    # -- verbs

    def create(self, prepared: Prepared, teardown: Callable[[], None] | None = None) -> VmView:
        """Begin to start a VM; returns at once.

        Args:
            prepared: the checked domain.
            teardown: gives back what was prepared for it; called once when the VM ends or could not be started.
                When this method raises, the caller still owns it.

        Raises:
            Recovering: the VMs are not known yet.
            VmExists: a VM of this id or name is there already.
            Unreachable, NotResponding: the hypervisor cannot be asked now.
        """
        self._check_ready()
        now_s = monotonic_s()
        view = VmView(
            vm_id=prepared.vm_id,
            name=prepared.name,
            status=Status.WAIT_FOR_LAUNCH,
            status_time_s=now_s,
            started_s=now_s,
            facts=prepared.facts,
            packed_xml=pack(prepared.xml),
        )
        machine = Machine(view, self._world, teardown=teardown)
        self._insert(machine)
        try:
            machine.launch(prepared.xml, paused=prepared.facts.launch_paused)
        except VdsmError:
            self._remove(view.vm_id)
            raise
        return view

    def get(self, vm_id: str) -> VmView:
        """One VM as of now.

        Raises:
            Recovering: the VMs are not known yet.
            NoSuchVm: it is not here.
        """
        return self._machine(vm_id).view

    def find(self, vm_id: str) -> VmView | None:
        """One VM as of now, or None when it is not here.

        Raises:
            Recovering: the VMs are not known yet.
        """
        self._check_ready()
        machine = self._machines.get(VmId(vm_id))
        return None if machine is None else machine.view

    def views(self) -> tuple[VmView, ...]:
        """All VMs as of now, those that are Down included.

        Raises:
            Recovering: the VMs are not known yet.
        """
        self._check_ready()
        return tuple(machine.view for machine in self._all())

    def request(self, vm_id: str, ask: Ask) -> VmView:
        """Ask something of a VM and wait for the outcome.

        Raises:
            Recovering, NoSuchVm: as ``get``.
            WrongState: it is not legal now.
            NotResponding: the VM's QEMU, or libvirt, does not answer.
            Unreachable: there is no connection to libvirt.
            Unfinished: no outcome in time; it may still happen.
            Busy: too many requests wait; nothing was done.
            HypervisorFailed: libvirt refused; the VM is as it was.
        """
        machine = self._machine(vm_id)
        return self._outcome(machine.ask(ask), f"{ask.request.value} VM {vm_id}", self._settings.request_deadline_s)

    def screenshot(self, vm_id: str) -> Screenshot:
        """A picture of a VM's display; errors as ``request``."""
        machine = self._machine(vm_id)
        return self._outcome(
            machine.ask_screenshot(), f"take a screenshot of VM {vm_id}", self._settings.request_deadline_s
        )

    def destroy(self, vm_id: str) -> None:
        """Power a VM off and forget it; one that is Down is forgotten. Works while its QEMU is frozen.

        Raises:
            Recovering, NoSuchVm, Unreachable, NotResponding, HypervisorFailed: as ``request``.
            Unfinished: it is still being ended, and is forgotten when it has.
        """
        machine = self._machine(vm_id)
        gone = machine.destroy()
        try:
            gone.result(timeout=self._settings.destroy_deadline_s)
        except TimeoutError:
            raise Unfinished(f"destroy VM {vm_id}", self._settings.destroy_deadline_s) from None

    @staticmethod
    def _outcome(future: Future[R], what: str, deadline_s: float) -> R:
        try:
            return future.result(timeout=deadline_s)
        except TimeoutError:
            if future.cancel():
                raise Busy(what) from None
            raise Unfinished(what, deadline_s) from None

    # -- the list

    def _check_ready(self) -> None:
        if not self._ready.is_set():
            raise Recovering

    def _all(self) -> list[Machine]:
        return list(self._machines.values())

    def _machine(self, vm_id: str) -> Machine:
        self._check_ready()
        machine = self._machines.get(VmId(vm_id))
        if machine is None:
            raise NoSuchVm(vm_id)
        return machine

    def _insert(self, machine: Machine) -> None:
        name = machine.view.name
        with self._lock:
            if machine.vm_id in self._machines:
                raise VmExists(machine.vm_id)
            if any(other.view.name == name and other.view.status is not Status.DOWN for other in self._all()):
                raise VmExists(name)
            self._machines[machine.vm_id] = machine

    def _remove(self, vm_id: VmId) -> None:
        with self._lock:
            self._machines.pop(vm_id, None)

    def _record(self, view: VmView) -> None:
        try:
            self._records.put(
                Record(view.vm_id, view.name, self._settings.boot_id, view.started_s, view.packed_xml, view.exit)
            )
        except Failed as error:
            log.error("VM %s: %s", view.vm_id, error)  # noqa: TRY400 - it runs all the same

    # -- news

    def _listen(self, event: Event) -> None:
        match event:
            case Connected():
                self._strand.tell(self._reconcile)
            case Disconnected():
                pass
            case _:
                if isinstance(event, Returned):
                    self._health.clear(event.vm_id, Cause.STUCK)
                machine = self._machines.get(VmId(event.vm_id))
                if machine is not None and machine.view.status is not Status.DOWN:
                    machine.tell(event)
                elif isinstance(event, Started):
                    self._strand.tell(self._look_at, event.vm_id)

    def _responds(self, vm_id: str, since_s: float | None) -> None:
        machine = self._machines.get(VmId(vm_id))
        if machine is not None:
            machine.tell_responding(since_s)

    def _announce(self, change: VmChange) -> None:
        try:
            self._publish(change)
        except Exception:
            log.exception("VM %s: a change was not published", change.view.vm_id)  # whoever listens must not stop a VM

    def _doubt(self) -> None:
        if self._hypervisor.health().answers:
            self._strand.tell(self._reconcile)

    def _tick(self) -> None:
        now_s = monotonic_s()
        if self._retry_s is not None and now_s >= self._retry_s:
            self._retry_s = None
            self._strand.tell(self._reconcile)
        machines = self._all()
        for machine in machines:
            machine.tick(now_s)
        self._guests.tick(machines, now_s)

    # -- what runs

    def _reconcile(self) -> None:
        """Compare with what libvirt runs."""
        began_s = monotonic_s()
        expected = [machine for machine in self._all() if machine.alive]
        try:
            running = {domain.vm_id: domain for domain in self._hypervisor.running()}
        except VdsmError as error:
            log.warning("cannot list the domains: %s", error)
            self._retry_s = began_s + _RETRY_S
            return
        first = not self._ready.is_set()
        records = {record.vm_id: record for record in self._records.all()} if first else {}
        for domain in running.values():
            self._meet(domain, records.pop(VmId(domain.vm_id), None), began_s)
        for machine in expected:
            if machine.vm_id not in running:
                machine.tell_missing(endings.ENDED_UNSEEN)
        for record in records.values():
            self._bury(record)
        if first:
            log.info("found %d VMs in %.3f s", len(self._machines), monotonic_s() - began_s)
            self._ready.set()
            self._sampler.hurry()

    def _look_at(self, vm_id: str) -> None:
        """A domain that is none of ours yet has started: is it, from before a crash?"""
        try:
            xml = self._hypervisor.xml(vm_id)
        except VdsmError as error:
            log.debug("domain %s: %s", vm_id, error)
            return
        if self._settings.instance in xml:
            self._reconcile()

    def _meet(self, domain: RunningDomain, record: Record | None, began_s: float) -> None:
        machine = self._machines.get(VmId(domain.vm_id))
        if machine is not None and machine.view.status is not Status.DOWN:
            machine.tell_running(domain.paused, began_s)
            machine.tell(DevicesChanged(domain.vm_id))
            return
        facts = describe(domain.xml)
        if facts.instance != self._settings.instance:
            return
        view = self._adopted(domain, facts, record)
        with self._lock:
            self._machines[view.vm_id] = Machine(view, self._world, teardown=partial(self._release, facts))
        if record is None:
            self._record(view)
        if self._ready.is_set():
            self._announce(VmChange(view, What.CREATED))

    def _adopted(self, domain: RunningDomain, facts: DomainFacts, record: Record | None) -> VmView:
        now_s = monotonic_s()
        started_s = record.started_s if record is not None and record.boot_id == self._settings.boot_id else now_s
        connected = agent_connected(domain.xml)
        booted = connected or not facts.agent_channel or now_s - started_s > self._settings.patience.up_after_s
        status = Status.UP if booted else Status.POWERING_UP
        return VmView(
            vm_id=VmId(domain.vm_id),
            name=domain.name,
            status=status if domain.paused is None else Status.PAUSED,
            status_time_s=now_s,
            started_s=started_s,
            facts=facts,
            packed_xml=pack(domain.xml),
            pause_code=PauseCode.NONE if domain.paused is None else endings.paused(domain.paused),
            agent_connected=connected,
        )

    def _bury(self, record: Record) -> None:
        """A VM on record that does not run: it was Down before, or ended while nobody looked."""
        facts = replace(describe(unpack(record.packed_xml)), vm_id=record.vm_id)
        how = record.exit
        if how is None:
            how = endings.MISSING if record.boot_id == self._settings.boot_id else endings.HOST_RESTARTED
            self._note_end(record.vm_id, how)
            self._release_unseen(facts)
        view = VmView(
            vm_id=record.vm_id,
            name=record.name,
            status=Status.DOWN,
            status_time_s=monotonic_s(),
            started_s=record.started_s,
            facts=facts,
            packed_xml=record.packed_xml,
            exit=how,
        )
        with self._lock:
            self._machines[view.vm_id] = Machine(view, self._world)

    def _release_unseen(self, facts: DomainFacts) -> None:
        try:
            self._release(facts)
        except VdsmError as error:
            log.error("VM %s: %s", facts.vm_id, error)  # noqa: TRY400 - it is gone all the same

    def _note_end(self, vm_id: VmId, how: Exit) -> None:
        try:
            self._records.end(vm_id, how)
        except Failed as error:
            log.error("VM %s: %s", vm_id, error)  # noqa: TRY400 - it is Down all the same
