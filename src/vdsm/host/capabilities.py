"""What this host is and can do: the answer behind Host.getCapabilities.

The facts here are plain values; the service layer gives them their wire names and historical JSON kinds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Final, Protocol

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Failed, Unfinished, VdsmError
from vdsm.host import cpu, hypervisor, kernel, networks, numa
from vdsm.host.cpu import CpuFacts
from vdsm.host.hardware import HbaInventory, HbaSource
from vdsm.host.hypervisor import GuestSupport, HypervisorFacts
from vdsm.host.kernel import SystemFacts
from vdsm.host.networks import Bonding, Bridge, LinkSource, NetworkFacts, Nic, Vlan
from vdsm.host.numa import NumaNode
from vdsm.host.packages import PROTOCOL_VERSION, Package, PackageSource
from vdsm.system import packagedb

log = logging.getLogger(__name__)

VERSION_NAME: Final = "Snow Man"  # what hosts of protocol 4.50 call their release
SUPPORTED_ENGINES: Final = ("4.2", "4.3", "4.4", "4.5")
# Cluster level -> machine types of which an Engine wants at least one, beside what every QEMU has. Levels up to 4.7
# take upstream QEMU's names; 4.8 takes only names of RHEL's QEMU, which the agent can map.
CLUSTER_LEVELS: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(("4.2", "4.3", "4.4", "4.5", "4.6", "4.7"), frozenset[str]()),
    "4.8": frozenset({"pc-q35-rhel9.6.0", "pc-i440fx-rhel7.6.0"}),
}
BLOCK_SIZES: Final[dict[str, tuple[int, ...]]] = {
    "FCP": (512,),
    "ISCSI": (512,),
    "GLUSTERFS": (0, 512, 4096),
    "LOCALFS": (0, 512, 4096),
    "NFS": (512,),
    "POSIXFS": (512,),
}


@dataclass(frozen=True, slots=True)
class AgentTraits:
    """What the agent itself can do and says of itself; constants of a release or from the configuration."""

    reserved_memory_mib: int = 321
    guest_overhead_mib: int = 65
    backup: bool = False
    cold_backup: bool = False
    clear_bitmaps: bool = False
    cd_change_pdiv: bool = False
    vnc_encrypted: bool = False
    hosted_engine: bool = False
    ovn_configured: bool = False
    net_config_dirty: bool = False
    additional_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One complete set of facts."""

    taken_monotonic_s: float
    kvm: bool
    cluster_levels: tuple[str, ...]
    supported_engines: tuple[str, ...]
    software_version: str
    software_revision: str
    version_name: str
    emulated_machines: tuple[str, ...]
    packages: tuple[Package, ...]
    cpu: CpuFacts
    numa_nodes: tuple[NumaNode, ...]
    system: SystemFacts
    hba: HbaInventory
    network: NetworkFacts
    agent: AgentTraits
    supported_block_sizes: Mapping[str, tuple[int, ...]]
    """Storage type -> block sizes in bytes; 0 means that it is detected."""
    hooks: Mapping[str, Mapping[str, str]]
    """Hook point -> program -> checksum."""
    openstack_binding_host_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the source works; times in seconds."""

    traits: AgentTraits = field(default_factory=AgentTraits)
    machine_aliases: Mapping[str, str] = field(default_factory=dict)
    """Machine names that the agent maps to one of QEMU's, and to which; reported where QEMU has the target."""
    interval_s: float = 10.0
    """Between two readings of the host."""
    retry_s: float = 1.0
    """After a reading that failed while there are no capabilities yet."""


def machine_names(guests: GuestSupport, aliases: Mapping[str, str]) -> tuple[str, ...]:
    """All machine types that a guest's definition may name on this host, sorted."""
    own = set(guests.machines)
    return tuple(sorted(own | {alias for alias, target in aliases.items() if target in own}))


def cluster_levels(machines: tuple[str, ...]) -> tuple[str, ...]:
    """The cluster levels that this host can join with these machine types."""
    have = frozenset(machines)
    return tuple(level for level, wanted in CLUSTER_LEVELS.items() if not wanted or wanted & have)


def outline(facts: NetworkFacts) -> tuple[object, ...]:
    """What a manager is told about at once when it changes: links and addresses, but not the ports of VMs."""
    devices: list[Nic | Bridge | Vlan | Bonding] = [
        *facts.nics.values(),
        *facts.bridges.values(),
        *facts.vlans.values(),
        *facts.bondings.values(),
    ]
    return (
        tuple((type(item).__name__, item.name, item.ip, item.mtu, item.mac) for item in devices),
        tuple((item.name, item.up) for item in facts.nics.values()),
        tuple((item.name, item.slaves, item.active_slave) for item in facts.bondings.values()),
    )


class Collector:
    """Reads the host once per call; keeps what is slow to get. For one thread."""

    def __init__(
        self,
        *,
        guests: HypervisorFacts,
        links: LinkSource,
        initiator_name: Callable[[], str],
        kvm: Callable[[], bool],
        settings: Settings,
    ) -> None:
        self._hypervisor = guests
        self._links = links
        self._hba = HbaSource(initiator_name)
        self._kvm = kvm
        self._settings = settings
        self._packages = PackageSource()
        self._guests: GuestSupport | None = None
        self._guests_stamp: tuple[int, ...] = ()
        self._guests_late = False

    def collect(self, *, everything: bool) -> Capabilities:
        """All facts of this moment.

        libvirt is asked the first time, when ``everything`` is wanted, and when packages came or went.

        Raises:
            VdsmError: a part without which there are no capabilities has never been read and failed now.
        """
        guests = self._guest_support(everything=everything)
        nodes = numa.gather()
        machines = machine_names(guests, self._settings.machine_aliases)
        return Capabilities(
            taken_monotonic_s=monotonic_s(),
            kvm=self._kvm(),
            cluster_levels=cluster_levels(machines),
            supported_engines=SUPPORTED_ENGINES,
            software_version=PROTOCOL_VERSION,
            software_revision="1",
            version_name=VERSION_NAME,
            emulated_machines=machines,
            packages=self._packages.gather(guests.libvirt_version, guests.qemu_version),
            cpu=cpu.gather(guests, nodes),
            numa_nodes=nodes,
            system=kernel.gather(),
            hba=self._hba.gather(),
            network=networks.gather(self._links),
            agent=self._settings.traits,
            supported_block_sizes=BLOCK_SIZES,
            hooks={},
            openstack_binding_host_ids={},
        )

    def _guest_support(self, *, everything: bool) -> GuestSupport:
        # Not asked by the clock: libvirt needs seconds where it distrusts its cache of what QEMU can do (as where
        # its QEMU user may not open /dev/kvm but root may), and only other packages or another libvirt change this.
        last = self._guests
        stamp = packagedb.stamp()
        if last is not None and stamp == self._guests_stamp and not everything:
            return last
        try:
            self._guests = hypervisor.gather(self._hypervisor)
        except VdsmError as error:
            # libvirt is away for a while: what guests can have has not changed by that
            if last is None:
                raise
            if not self._guests_late:
                log.warning("libvirt's capabilities cannot be read, the last ones stay: %s", error)
            self._guests_late = True
            return last
        self._guests_late = False
        self._guests_stamp = stamp
        return self._guests


class Collecting(Protocol):
    """Reads the host; the Collector, or values in a test."""

    def collect(self, *, everything: bool) -> Capabilities:
        """All facts of this moment; see Collector.collect."""
        ...


class CapabilitiesSource:
    """The last capabilities, kept fresh by one background thread; whoever asks gets them from memory.

    A reading that fails leaves the last one in place; ``Capabilities.taken_monotonic_s`` tells its age.
    """

    def __init__(
        self,
        collector: Collecting,
        settings: Settings,
        on_change: Callable[[NetworkFacts], None] = lambda _facts: None,
    ) -> None:
        """``on_change`` is called in the background thread when links or addresses have changed."""
        self._collector = collector
        self._settings = settings
        self._on_change = on_change
        self._turn = threading.Condition()
        self._last: Capabilities | None = None
        self._error: VdsmError | None = None
        self._asked = 0
        self._answered = 0
        self._failing = False
        self._stopped = False

    def start(self) -> None:
        """Begin reading."""
        threads.start("capabilities", self._run)

    def stop(self) -> None:
        """End after the reading that may be under way; does not wait for it."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def current(self, *, timeout_s: float = 10.0) -> Capabilities:
        """The last capabilities, at once; only before there are any it waits for the first.

        Raises:
            VdsmError: there are none yet and the last try failed with this.
            Unfinished: there are none within the time.
        """
        last = self._last
        if last is not None:
            return last
        with self._turn:
            self._turn.wait_for(lambda: self._last or self._error or self._stopped, timeout_s)
            return self._outcome(timeout_s)

    def request_refresh(self) -> int:
        """Have everything read anew, libvirt included (do this when it was restarted).

        Returns:
            At once, with the number of the request.
        """
        with self._turn:
            self._asked += 1
            self._turn.notify_all()
            return self._asked

    def refresh(self, *, timeout_s: float = 10.0) -> Capabilities:
        """Read everything anew and wait for it.

        Raises:
            VdsmError: that reading failed with this.
            Unfinished: it was not done within the time; it goes on.
        """
        mine = self.request_refresh()
        with self._turn:
            if not self._turn.wait_for(lambda: self._answered >= mine or self._stopped, timeout_s):
                raise Unfinished("reading the host's capabilities", timeout_s)
            if self._error is not None:
                raise copy(self._error)
            return self._outcome(timeout_s)

    def _outcome(self, timeout_s: float) -> Capabilities:
        if self._last is not None:
            return self._last
        if self._error is not None:
            raise copy(self._error)
        raise Unfinished("reading the host's capabilities", timeout_s)

    def _run(self) -> None:
        while True:
            with self._turn:
                if self._stopped:
                    return
                number = self._asked
                everything = number > self._answered
            self._read(number, everything=everything)
            with self._turn:
                wait_s = self._settings.interval_s if self._last else self._settings.retry_s
                self._turn.wait_for(lambda: self._stopped or self._asked > self._answered, wait_s)

    def _read(self, number: int, *, everything: bool) -> None:
        previous = self._last
        found, error = self._attempt(everything=everything)
        with self._turn:
            self._last = found or previous
            self._error = error
            self._answered = number
            self._turn.notify_all()
        if found and previous and outline(found.network) != outline(previous.network):
            self._tell(found.network)

    def _tell(self, facts: NetworkFacts) -> None:
        try:
            self._on_change(facts)
        except Exception:
            log.exception("the listener to changes of the host's networks failed")

    def _attempt(self, *, everything: bool) -> tuple[Capabilities | None, VdsmError | None]:
        try:
            found = self._collector.collect(everything=everything)
        except VdsmError as error:
            self._complain(error)
            return None, error
        except Exception as error:  # noqa: BLE001 - the top of a thread: a file of an odd kernel must not end it
            self._complain(error)
            return None, Failed(what="reading the host's capabilities", reason=repr(error))
        if self._failing:
            log.info("the host's capabilities can be read again")
        self._failing = False
        return found, None

    def _complain(self, error: Exception) -> None:
        if not self._failing:
            expected = isinstance(error, VdsmError)
            log.warning("the host's capabilities cannot be read: %s", error, exc_info=None if expected else error)
        self._failing = True
