"""The door to the hypervisor: what the fleet needs of it, and the real implementation on libvirt.

The other implementation is the in-memory twin, ``simulated.py``; one contract test runs on both. All calls return
or raise within their deadline, whatever hangs underneath:

    NotFound          the hypervisor does not run this VM
    HypervisorFailed  it refused
    NotResponding     the hypervisor is silent, so it was not asked (``what`` is "libvirt"), or the VM is held
    Unreachable       there is no connection to it at the moment
    Unfinished        the deadline passed; the call may still come through, and then ``Returned`` is told
    Busy              too many calls wait

Events come from the hypervisor's own thread: a listener only puts them into an inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from vdsm.system.libvirt import domains, host
from vdsm.system.libvirt.connection import Ask, Connection, Lane
from vdsm.system.libvirt.domains import Order, Way
from vdsm.system.libvirt.facts import (
    CheapCounters,
    Event,
    GuestReply,
    Health,
    MonitorCounters,
    Picture,
    Returned,
    RunningDomain,
)
from vdsm.system.qemu_process import Processes, ProcessFacts

R = TypeVar("R")

MARK: Final = "urn:vdsm:agent:1"


class Hypervisor(Protocol):
    """See the module."""

    def start(self, listener: Callable[[Event], None]) -> None:
        """Begin to connect; ``Connected`` says when it is worth asking."""

    def stop(self) -> None:
        """End; calls that hang are left behind."""

    def health(self) -> Health:
        """Whether the hypervisor answers. Never waits."""

    def running(self) -> list[RunningDomain]:
        """All running domains that carry an agent's mark, with XML, in one pass."""

    def launch(self, xml: str, *, paused: bool) -> Future[None]:
        """Start a domain; its end comes through the future, which may be cancelled until it began."""

    def pause(self, vm_id: str) -> None:
        """Stop the CPUs."""

    def resume(self, vm_id: str) -> None:
        """Let the CPUs run."""

    def reset(self, vm_id: str) -> None:
        """Press the reset button."""

    def order(self, vm_id: str, order: Order, way: Way) -> None:
        """Ask the guest to shut down or reboot, through its agent or by the power button."""

    def destroy(self, vm_id: str) -> None:
        """Kill the VM; works while its QEMU is frozen."""

    def update_devices(self, vm_id: str, change: Callable[[str], Iterable[str]], *, force: bool) -> None:
        """Change live devices: ``change`` makes the XML of the new ones from the domain's, and may refuse."""

    def screenshot(self, vm_id: str) -> Picture:
        """A picture of the first display."""

    def ping_agent(self, vm_id: str) -> None:
        """Return when the guest's agent answered; NotResponding when it did not."""

    def guest_info(self, vm_id: str) -> GuestReply:
        """Ask the guest's agent about the guest."""

    def xml(self, vm_id: str) -> str:
        """The live domain XML."""

    def cheap(self, vm_ids: Collection[str]) -> Mapping[str, CheapCounters]:
        """State and network counters, one call for all; a VM that does not run is left out."""

    def monitored(
        self, vm_ids: Collection[str], *, cpu: bool, deadline_s: float, late: Callable[[], None]
    ) -> Mapping[str, MonitorCounters | None]:
        """Counters that QEMUs are asked for, one call for all; None: another call holds the VM.

        One frozen QEMU makes the call pass its deadline; ``late`` is called when it comes back.
        """

    def processes(self, vm_ids: Collection[str]) -> Mapping[str, ProcessFacts]:
        """What the kernel says of the VMs' processes. Never waits; for one thread."""

    def stopped(self, vm_id: str) -> bool:
        """Whether the kernel says that the VM's process is stopped. Never waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds that calls may take."""

    call_s: float = 5.0
    # libvirt gives a QEMU 10 s for SIGTERM, then 5 s for SIGKILL.
    destroy_s: float = 20.0
    listing_s: float = 30.0
    agent_s: float = 5.0


# Bulkheads. A QEMU that hangs keeps a thread of WORK or MONITOR here, and one of libvirtd's 20 (max_workers) there,
# each time somebody waits for it in vain. What can hang is 19 in all, so that libvirtd always has a thread for CHEAP
# calls, which ask no QEMU; and it has five more for URGENT ones, which only kill.
WORK: Final = Lane("work", workers=8, queue=64)
LAUNCH: Final = Lane("launch", workers=6, queue=1024)
MONITOR: Final = Lane("monitor", workers=3, queue=0)
AGENT: Final = Lane("agent", workers=2, queue=64)
CHEAP: Final = Lane("cheap", workers=2, queue=8)
URGENT: Final = Lane("urgent", workers=4, queue=1024)
LANES: Final = (WORK, LAUNCH, MONITOR, AGENT, CHEAP, URGENT)


class LibvirtHypervisor:
    """The hypervisor that libvirt at ``uri`` is."""

    def __init__(self, uri: str, deadlines: Deadlines | None = None, connection: Connection | None = None) -> None:
        self._deadlines = deadlines or Deadlines()
        self._connection = connection or Connection(uri, LANES)
        self._processes = Processes()
        self._listener: Callable[[Event], None] | None = None

    def start(self, listener: Callable[[Event], None]) -> None:
        """See Hypervisor."""
        self._listener = listener
        self._connection.start(listener)

    def stop(self) -> None:
        """See Hypervisor."""
        self._connection.stop()

    def health(self) -> Health:
        """See Hypervisor."""
        return self._connection.health()

    def _about(self, lane: Lane, ask: Ask[R], verb: str, vm_id: str, deadline_s: float | None = None) -> R:
        return self._connection.call(
            lane,
            ask,
            what=f"{verb} {vm_id}",
            deadline_s=self._deadlines.call_s if deadline_s is None else deadline_s,
            late=partial(self._returned, vm_id),
        )

    def _returned(self, vm_id: str) -> None:
        if self._listener is not None:
            self._listener(Returned(vm_id))

    def running(self) -> list[RunningDomain]:
        """See Hypervisor."""
        return self._connection.call(
            CHEAP, lambda conn: domains.running(conn, MARK), what="list domains", deadline_s=self._deadlines.listing_s
        )

    def launch(self, xml: str, *, paused: bool) -> Future[None]:
        """See Hypervisor."""
        return self._connection.submit(
            LAUNCH, lambda conn: domains.create(conn, xml, paused=paused), what="start a domain"
        )

    def pause(self, vm_id: str) -> None:
        """See Hypervisor."""
        self._about(WORK, lambda conn: domains.pause(conn, vm_id), "pause", vm_id)

    def resume(self, vm_id: str) -> None:
        """See Hypervisor."""
        self._about(WORK, lambda conn: domains.resume(conn, vm_id), "resume", vm_id)

    def reset(self, vm_id: str) -> None:
        """See Hypervisor."""
        self._about(WORK, lambda conn: domains.reset(conn, vm_id), "reset", vm_id)

    def order(self, vm_id: str, order: Order, way: Way) -> None:
        """See Hypervisor."""
        lane = AGENT if way == "agent" else WORK
        self._about(lane, lambda conn: domains.order(conn, vm_id, order, way), order, vm_id)

    def destroy(self, vm_id: str) -> None:
        """See Hypervisor."""
        self._about(
            URGENT,
            lambda conn: domains.destroy(conn, vm_id, MARK),
            "destroy",
            vm_id,
            deadline_s=self._deadlines.destroy_s,
        )

    def update_devices(self, vm_id: str, change: Callable[[str], Iterable[str]], *, force: bool) -> None:
        """See Hypervisor."""
        self._about(
            WORK, lambda conn: domains.update_devices(conn, vm_id, change, force=force), "change a device of", vm_id
        )

    def screenshot(self, vm_id: str) -> Picture:
        """See Hypervisor."""
        return self._about(WORK, lambda conn: domains.screenshot(conn, vm_id), "take a screenshot of", vm_id)

    def ping_agent(self, vm_id: str) -> None:
        """See Hypervisor."""
        limit = max(1, int(self._deadlines.agent_s))
        self._about(
            AGENT, lambda conn: domains.ping_agent(conn, vm_id, limit), "ping the agent of", vm_id, deadline_s=limit + 2
        )

    def guest_info(self, vm_id: str) -> GuestReply:
        """See Hypervisor."""
        limit = max(1, int(self._deadlines.agent_s))
        return self._about(
            AGENT, lambda conn: domains.guest_info(conn, vm_id, limit), "ask the agent of", vm_id, deadline_s=limit + 2
        )

    def xml(self, vm_id: str) -> str:
        """See Hypervisor."""
        return self._about(CHEAP, lambda conn: domains.xml(conn, vm_id), "XML of", vm_id)

    def cheap(self, vm_ids: Collection[str]) -> Mapping[str, CheapCounters]:
        """See Hypervisor."""
        return self._connection.call(
            CHEAP, lambda conn: domains.cheap(conn, vm_ids), what="sample", deadline_s=self._deadlines.call_s
        )

    def monitored(
        self, vm_ids: Collection[str], *, cpu: bool, deadline_s: float, late: Callable[[], None]
    ) -> Mapping[str, MonitorCounters | None]:
        """See Hypervisor."""
        return self._connection.call(
            MONITOR,
            lambda conn: domains.monitored(conn, vm_ids, cpu=cpu),
            what="sample QEMUs",
            deadline_s=deadline_s,
            late=late,
        )

    def processes(self, vm_ids: Collection[str]) -> Mapping[str, ProcessFacts]:
        """See Hypervisor."""
        return self._processes.look(vm_ids)

    def stopped(self, vm_id: str) -> bool:
        """See Hypervisor."""
        return self._processes.stopped(vm_id)


class LibvirtFacts:
    """What libvirt says of the host, through a hypervisor's connection.

    ``kvm`` tells whether guests run with KVM here; it may take the seconds that trying takes.
    """

    def __init__(self, hypervisor: LibvirtHypervisor, kvm: Callable[[], bool], architecture: str = "x86_64") -> None:
        self._connection = hypervisor._connection  # noqa: SLF001 - two faces of one thing
        self._kvm = kvm
        self._architecture = architecture

    def _call(self, ask: Ask[R], what: str) -> R:
        # The first question after a change of QEMU makes libvirt probe it, which takes a second or more.
        return self._connection.call(CHEAP, ask, what=what, deadline_s=30.0)

    def capabilities_xml(self) -> str:
        """The capabilities XML."""
        return self._call(host.capabilities, "libvirt's capabilities")

    def domain_capabilities_xml(self) -> str:
        """The domain capabilities XML."""
        domain_type = "kvm" if self._kvm() else "qemu"
        return self._call(lambda conn: host.domain_capabilities(conn, domain_type), "libvirt's domain capabilities")

    def cpu_models(self) -> tuple[str, ...]:
        """CPU models by name."""
        return self._call(lambda conn: host.cpu_models(conn, self._architecture), "libvirt's CPU models")

    def versions(self) -> tuple[str, str]:
        """Versions of libvirt and QEMU."""
        return self._call(host.versions, "libvirt's version")
