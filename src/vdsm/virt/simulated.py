"""The hypervisor's in-memory twin: any number of VMs whose counters move, that can freeze, crash and come back.

Product code: the same contract tests run on it and on libvirt, so what is developed or measured with it (five
hundred VMs on a laptop) may be trusted.
"""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from defusedxml.ElementTree import fromstring

from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.base.errors import HypervisorFailed, NotFound, NotResponding, Unfinished, Unreachable
from vdsm.base.threads import Pool
from vdsm.system.libvirt.domains import Order, Way
from vdsm.system.libvirt.facts import (
    AgentConnected,
    CheapCounters,
    Connected,
    DevicesChanged,
    Disconnected,
    DiskCounters,
    Event,
    GuestReply,
    Health,
    MonitorCounters,
    NicCounters,
    PauseCause,
    Paused,
    Picture,
    Rebooted,
    Resumed,
    Returned,
    RunningDomain,
    ShutdownBy,
    ShuttingDown,
    Started,
    StopCause,
    Stopped,
)
from vdsm.system.qemu_process import ProcessFacts
from vdsm.virt.domxml import describe
from vdsm.virt.hypervisor import MARK

# One black pixel, in the format that old QEMUs make.
_PIXEL: Final = b"P6\n1 1\n255\n\0\0\0"
_KIB: Final = 1024


@dataclass(slots=True)
class Domain:
    """One simulated domain, and the calls that hang with it."""

    vm_id: str
    name: str
    xml: str
    memory_kib: int
    disks: tuple[str, ...]
    nics: tuple[str, ...]
    paused: PauseCause | None
    pid: int
    started_s: float
    agent: bool = False
    frozen: bool = False
    visible: bool = True
    held: bool = False
    late: list[Callable[[], None]] = field(default_factory=list)


class SimulatedHost:
    """The VMs and the daemon, with levers. Outlives the agents that use it."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.domains: dict[str, Domain] = {}
        self.listeners: list[Callable[[Event], None]] = []
        self.connected = True
        self.frozen_since_s: float | None = None
        self._next_pid = 1000

    def freeze(self, vm_id: str, *, visible: bool = True) -> None:
        """Stop a VM's QEMU; ``visible``: the kernel says so, else only its silence does."""
        with self.changed:
            domain = self.find(vm_id)
            domain.frozen, domain.visible = True, visible

    def thaw(self, vm_id: str) -> None:
        """Let it go on: calls that hang come back."""
        with self.changed:
            domain = self.find(vm_id)
            domain.frozen = domain.held = False
            late, domain.late = domain.late, []
            self.changed.notify_all()
        for call in late:
            call()

    def freeze_daemon(self) -> None:
        """Stop the daemon: nothing is answered."""
        with self.changed:
            self.frozen_since_s = monotonic_s()

    def thaw_daemon(self) -> None:
        """Let it go on."""
        with self.changed:
            self.frozen_since_s = None

    def kill_daemon(self) -> None:
        """End the daemon; the VMs go on."""
        self.emit(Disconnected("the daemon ended"))
        with self.changed:
            self.connected = False

    def restart_daemon(self) -> None:
        """Start the daemon again."""
        with self.changed:
            self.connected = True
        self.emit(Connected())

    def run(self, xml: str, *, paused: bool = False) -> str:
        """Start a domain at once, as another program would; its id.

        Raises:
            HypervisorFailed: it is no domain, or runs already.
        """
        with self.changed:
            domain = self._parse(xml, PauseCause.USER if paused else None)
            if domain.vm_id in self.domains:
                raise HypervisorFailed("start a domain", f"domain {domain.name} is already running")
            self.domains[domain.vm_id] = domain
        self.emit(Started(domain.vm_id))
        return domain.vm_id

    def end(self, vm_id: str, cause: StopCause, by: ShutdownBy | None = None) -> None:
        """End a VM from inside or outside."""
        with self.changed:
            late = self.find(vm_id).late
            del self.domains[vm_id]
            self.changed.notify_all()
        for call in late:
            call()
        if by is not None:
            self.emit(ShuttingDown(vm_id, by))
        self.emit(Stopped(vm_id, cause))

    def connect_agent(self, vm_id: str) -> None:
        """Have the guest's agent open its channel."""
        with self.changed:
            self.find(vm_id).agent = True
        self.emit(AgentConnected(vm_id, connected=True))

    def emit(self, event: Event) -> None:
        """Tell the agents something, unless they have no connection."""
        if self.connected:
            for listener in list(self.listeners):
                listener(event)

    def find(self, vm_id: str) -> Domain:
        """A running domain.

        Raises:
            NotFound: it does not run.
        """
        try:
            return self.domains[vm_id]
        except KeyError:
            raise NotFound("domain", vm_id) from None

    def _parse(self, xml: str, paused: PauseCause | None) -> Domain:
        try:
            facts = describe(xml)
        except ValueError as error:
            raise HypervisorFailed("start a domain", str(error)) from error
        self._next_pid += 1
        return Domain(
            vm_id=facts.vm_id,
            name=facts.name,
            xml=xml,
            memory_kib=facts.memory_kib,
            disks=tuple(disk.target for disk in facts.disks),
            nics=tuple(f"vnet{number}" for number, _ in enumerate(facts.nics)),
            paused=paused,
            pid=self._next_pid,
            started_s=monotonic_s(),
        )


class SimulatedHypervisor:
    """One agent's connection. ``launch_s`` is what a start takes, ``deadline_s`` what a call on a frozen VM costs."""

    def __init__(self, host: SimulatedHost, *, launch_s: float = 0.0, deadline_s: float = 0.3) -> None:
        self._host = host
        self._changed = host.changed
        self._launch_s = launch_s
        self._deadline_s = deadline_s
        self._listener: Callable[[Event], None] | None = None
        self._pool = Pool("sim-launch", 4, 8192)

    def start(self, listener: Callable[[Event], None]) -> None:
        """See Hypervisor."""
        self._listener = listener
        self._host.listeners.append(listener)
        if self._host.connected:
            listener(Connected())

    def stop(self) -> None:
        """See Hypervisor."""
        if self._listener in self._host.listeners:
            self._host.listeners.remove(self._listener)
        self._pool.stop(0.0)

    def health(self) -> Health:
        """See Hypervisor."""
        with self._changed:
            abandoned = sum(len(domain.late) for domain in self._host.domains.values())
            silent_s = (
                0.0 if self._host.frozen_since_s is None else max(1e-9, monotonic_s() - self._host.frozen_since_s)
            )
            return Health(reachable=self._host.connected, silent_s=silent_s, abandoned=abandoned)

    def running(self) -> list[RunningDomain]:
        """See Hypervisor."""
        with self._changed:
            self._admit()
            ours = [domain for domain in self._host.domains.values() if MARK in domain.xml]
            return [RunningDomain(domain.vm_id, domain.name, domain.paused, domain.xml) for domain in ours]

    def launch(self, xml: str, *, paused: bool) -> Future[None]:
        """See Hypervisor."""
        with self._changed:
            self._admit()
        return self._pool.submit(self._launch, xml, paused)

    def _launch(self, xml: str, paused: bool) -> None:  # noqa: FBT001 - through the pool
        sleep_s(self._launch_s)
        with self._changed:
            self._admit()
        self._host.run(xml, paused=paused)

    def pause(self, vm_id: str) -> None:
        """See Hypervisor."""
        self._ask(vm_id).paused = PauseCause.USER
        self._host.emit(Paused(vm_id, PauseCause.USER))

    def resume(self, vm_id: str) -> None:
        """See Hypervisor."""
        self._ask(vm_id).paused = None
        self._host.emit(Resumed(vm_id))

    def reset(self, vm_id: str) -> None:
        """See Hypervisor."""
        self._ask(vm_id)
        self._host.emit(Rebooted(vm_id))

    def order(self, vm_id: str, order: Order, way: Way) -> None:
        """See Hypervisor. A simulated guest obeys its agent, and has no eye for the power button."""
        domain = self._ask(vm_id)
        if way == "acpi":
            return
        if not domain.agent:
            raise NotResponding("the guest agent", 0.0)
        if order == "reboot":
            self._host.emit(Rebooted(vm_id))
        else:
            self._host.end(vm_id, StopCause.SHUTDOWN, ShutdownBy.GUEST)

    def destroy(self, vm_id: str) -> None:
        """See Hypervisor."""
        with self._changed:
            self._admit()
            if MARK not in self._host.find(vm_id).xml:
                raise NotFound("domain", vm_id)
        self._host.end(vm_id, StopCause.DESTROYED)

    def update_devices(self, vm_id: str, change: Callable[[str], Iterable[str]], *, force: bool) -> None:  # noqa: ARG002
        """See Hypervisor."""
        domain = self._ask(vm_id)
        for device in change(domain.xml):
            domain.xml = _replaced(domain.xml, fromstring(device))
        self._host.emit(DevicesChanged(vm_id))

    def screenshot(self, vm_id: str) -> Picture:
        """See Hypervisor."""
        self._ask(vm_id)
        return Picture(_PIXEL, "image/x-portable-pixmap")

    def ping_agent(self, vm_id: str) -> None:
        """See Hypervisor."""
        if not self._ask(vm_id).agent:
            raise NotResponding("the guest agent", 0.0)

    def guest_info(self, vm_id: str) -> GuestReply:
        """See Hypervisor."""
        self.ping_agent(vm_id)
        return GuestReply({"hostname": self._host.find(vm_id).name, "os.id": "simulated"})

    def xml(self, vm_id: str) -> str:
        """See Hypervisor."""
        with self._changed:
            self._admit()
            return self._host.find(vm_id).xml

    def cheap(self, vm_ids: Collection[str]) -> Mapping[str, CheapCounters]:
        """See Hypervisor."""
        with self._changed:
            self._admit()
            domains = [domain for domain in self._host.domains.values() if domain.vm_id in vm_ids]
        return {domain.vm_id: CheapCounters(domain.paused, _nics(domain)) for domain in domains}

    def monitored(
        self,
        vm_ids: Collection[str],
        *,
        cpu: bool,  # noqa: ARG002
        deadline_s: float,
        late: Callable[[], None],
    ) -> Mapping[str, MonitorCounters | None]:
        """See Hypervisor."""
        with self._changed:
            self._admit()
            domains = [domain for domain in self._host.domains.values() if domain.vm_id in vm_ids]
            for domain in domains:
                if domain.frozen and not domain.held:
                    self._hold(domain, deadline_s, "sample QEMUs", late)
            return {dom.vm_id: None if dom.frozen else _monitor(dom) for dom in domains}

    def processes(self, vm_ids: Collection[str]) -> Mapping[str, ProcessFacts]:
        """See Hypervisor."""
        with self._changed:
            domains = [domain for domain in self._host.domains.values() if domain.vm_id in vm_ids]
        return {domain.vm_id: _process(domain) for domain in domains}

    def stopped(self, vm_id: str) -> bool:
        """See Hypervisor."""
        with self._changed:
            domain = self._host.domains.get(vm_id)
            return domain is not None and _process(domain).stopped

    # -- inside

    def _admit(self) -> None:
        if not self._host.connected:
            raise Unreachable("libvirt", "the daemon ended")
        if self._host.frozen_since_s is not None:
            raise NotResponding("libvirt", monotonic_s() - self._host.frozen_since_s)

    def _ask(self, vm_id: str) -> Domain:
        """The domain, when its QEMU answers."""
        with self._changed:
            self._admit()
            domain = self._host.find(vm_id)
            if domain.frozen:
                self._hold(domain, self._deadline_s, vm_id, lambda: self._host.emit(Returned(vm_id)))
            return domain

    def _hold(self, domain: Domain, deadline_s: float, what: str, late: Callable[[], None]) -> None:
        domain.held = True
        if self._changed.wait_for(lambda: not domain.frozen or domain.vm_id not in self._host.domains, deadline_s):
            self._host.find(domain.vm_id)
            return
        domain.late.append(late)
        raise Unfinished(what, deadline_s)


def _replaced(xml: str, device: ET.Element) -> str:
    root = fromstring(xml)
    devices = root.find("devices")
    for name in ("passwd", "passwdValidTo"):
        device.attrib.pop(name, None)
    for number, old in enumerate(devices if devices is not None else ()):
        if old.tag == device.tag and _key(old) == _key(device) and devices is not None:
            devices[number] = device
    return ET.tostring(root, encoding="unicode")


def _key(device: ET.Element) -> str:
    target = device.find("target")
    return device.get("type", "") if target is None else target.get("dev", "")


def _ran_s(domain: Domain) -> float:
    return monotonic_s() - domain.started_s


def _nics(domain: Domain) -> tuple[NicCounters, ...]:
    packets = int(_ran_s(domain) * 10)
    return tuple(
        NicCounters(name, rx_bytes=packets * 100, rx_packets=packets, tx_bytes=packets * 50, tx_packets=packets)
        for name in domain.nics
    )


def _monitor(domain: Domain) -> MonitorCounters:
    operations = int(_ran_s(domain) * 20)
    return MonitorCounters(
        memory={
            "current": domain.memory_kib,
            "maximum": domain.memory_kib,
            "rss": domain.memory_kib // 2,
            "available": domain.memory_kib,
            "unused": domain.memory_kib // 4,
        },
        disks=tuple(
            DiskCounters(
                name,
                read_ops=operations,
                read_bytes=operations * 4 * _KIB,
                read_ns=operations * 100_000,
                write_ops=operations,
                write_bytes=operations * 8 * _KIB,
                write_ns=operations * 200_000,
                capacity=1 << 30,
                allocation=1 << 20,
                physical=1 << 20,
            )
            for name in domain.disks
        ),
    )


def _process(domain: Domain) -> ProcessFacts:
    return ProcessFacts(
        pid=domain.pid,
        state="T" if domain.frozen and domain.visible else "S",
        user_s=_ran_s(domain) * 0.1,
        system_s=_ran_s(domain) * 0.05,
        started_s=domain.started_s,
        rss=domain.memory_kib * _KIB // 2,
    )
