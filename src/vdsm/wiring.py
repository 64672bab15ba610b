"""The composition root: builds every object from the configuration, starts them in order, stops them in reverse.

supervdsm client - acceleration -+
libvirt ---- fleet --------------+- services - verbs - dispatcher - JSON-RPC, REST - listener
host capabilities, statistics ---+
                                    events: fleet -> notifications -> hub -> STOMP subscribers, SSE log
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

from uvicorn._types import ASGI3Application

from vdsm.api.catalogue import all_verbs
from vdsm.api.contract import Pool
from vdsm.api.host_types import HostStats
from vdsm.api.vm_types import VmStats
from vdsm.base import process, threads
from vdsm.base.config import Config
from vdsm.base.errors import BadParameter, Failed, Recovering, VdsmError
from vdsm.base.ids import parse_vm_id
from vdsm.base.persist import claim_directory, persist_file, read_file
from vdsm.bindings.broker import Broker
from vdsm.bindings.dispatch import Dispatcher
from vdsm.bindings.event_hub import EventHub, StompEvents
from vdsm.bindings.http_session import HttpServer
from vdsm.bindings.jsonrpc import JsonRpc
from vdsm.bindings.listener import Doors, Listener
from vdsm.bindings.metrics import EventCounts, Metrics, MetricSources, RequestTimes
from vdsm.bindings.ovf_store import OvfDoor
from vdsm.bindings.pacing import OutputLimits
from vdsm.bindings.peers import Caller
from vdsm.bindings.rest import RestApp, RestParts
from vdsm.bindings.sse import EventLog
from vdsm.bindings.stomp_session import StompLimits, StompSession
from vdsm.bindings.tls import TlsFiles
from vdsm.bindings.verbs import bind
from vdsm.host.capabilities import CapabilitiesSource, Collector, Settings
from vdsm.host.hardware import HardwareSource
from vdsm.host.hypervisor import HypervisorFacts
from vdsm.host.networks import KernelLinks
from vdsm.host.sampler import StatisticsSampler
from vdsm.privileged.client import PrivilegedClient
from vdsm.services.acceleration import Acceleration
from vdsm.services.definitions import DefinitionService
from vdsm.services.host_traits import MACHINE_ALIASES, TraitsSource
from vdsm.services.hosts import HostService
from vdsm.services.launching import Launcher
from vdsm.services.notifications import Notifications
from vdsm.services.served_volumes import DomainVolumes
from vdsm.services.tokens import TokenService
from vdsm.services.vm_answers import StatsAnswers
from vdsm.services.vm_images import VmImages
from vdsm.services.vm_leases import VmLeases
from vdsm.services.vms import VmService
from vdsm.storage_wiring import Storage
from vdsm.system import procfs
from vdsm.transfer_wiring import Transfers
from vdsm.virt.definitions import Definitions
from vdsm.virt.disks import PathImages
from vdsm.virt.fleet import Fleet
from vdsm.virt.fleet import Settings as FleetSettings
from vdsm.virt.hypervisor import Deadlines, Hypervisor, LibvirtFacts, LibvirtHypervisor
from vdsm.virt.lifecycle import Status
from vdsm.virt.records import Records

log = logging.getLogger(__name__)

_STOP_S: Final = 3.0
# An Engine updates the two copies of a domain's OVF store one after the other.
_OVF_WORKERS: Final = 4
# So long the capabilities wait for a connection to libvirt, without which they are incomplete.
_CONNECT_S: Final = 2.0
# libvirt may come later than the agent; VMs that start with the agent start then.
_READY_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """An in-memory hypervisor, and what it says of the host."""

    hypervisor: Hypervisor
    guests: HypervisorFacts


class Agent:
    """Everything of vdsmd. ``start`` and ``stop`` run on the event loop."""

    def __init__(self, config: Config, simulated: Simulated | None = None) -> None:
        """Build; nothing is started. ``simulated`` stands in for libvirt.

        Raises:
            Failed: another agent has these directories, or they cannot be used.
        """
        self._config = config
        state_dir = Path(config.paths.state_dir)
        # Two agents would take each other's socket, and both would be master of the same VMs.
        places = dict.fromkeys((Path(config.paths.run_dir), state_dir))
        self._claims = [claim_directory(place) for place in places]
        self._ways = _Ways(config)
        self._house = House(config, state_dir, simulated, self._ways.hub)
        self._ways.connect(self._house)

    def start(self) -> None:
        """Open the doors first, so that callers hear "recovering", then find the VMs.

        Raises:
            Failed: the address or the certificates cannot be used.
        """
        self._ways.start()
        self._house.start()

    async def stop(self) -> None:
        """Close the doors, then everything behind them; VMs go on."""
        await self._ways.stop()
        await asyncio.to_thread(self._house.stop)
        for claim in self._claims:
            claim.release()

    def reload(self) -> None:
        """Read the certificates anew."""
        try:
            self._ways.listener.reload_tls()
        except VdsmError as error:
            log.error("the old certificates stay in use: %s", error)  # noqa: TRY400 - the reason says it all

    @property
    def port(self) -> int:
        """The TCP port that was taken."""
        return self._ways.listener.port


class House:
    """What is behind the doors: the domains and their services."""

    def __init__(self, config: Config, state_dir: Path, simulated: Simulated | None, hub: EventHub) -> None:
        self._config = config
        self._privileged = PrivilegedClient(
            config.supervdsm_socket,
            config.supervdsm.call_deadline_s,
            mount_deadline_s=config.storage.mount_deadline_s,
        )
        self._acceleration = Acceleration(self._privileged, state_dir, config.virt.domain_type)
        self._guests: HypervisorFacts
        self.hypervisor: Hypervisor
        if simulated is None:
            libvirt = LibvirtHypervisor(config.libvirt.uri, Deadlines(call_s=config.virt.call_deadline_s))
            self.hypervisor, self._guests = libvirt, LibvirtFacts(libvirt, self._acceleration.works)
        else:
            self.hypervisor, self._guests = simulated.hypervisor, simulated.guests
        self._notifications = Notifications(hub.publish)
        instance = _instance(state_dir)
        self.fleet = Fleet(
            self.hypervisor,
            Records(state_dir / "vms.sqlite"),
            self._notifications.vm_changed,
            FleetSettings(
                instance=instance,
                boot_id=procfs.read_text("sys/kernel/random/boot_id") or "",
                cheap_interval_s=config.virt.cheap_interval_s,
                monitor_interval_s=config.virt.monitor_interval_s,
                not_responding_after_s=config.virt.not_responding_after_s,
            ),
            release=lambda facts: self._images.release(facts),  # noqa: PLW0108 - there are none yet
        )
        self._hardware = HardwareSource(self._privileged.hardware)
        self.answers = StatsAnswers()
        self.statistics = StatisticsSampler(directories=(config.paths.log_dir, config.paths.state_dir, "/tmp"))  # noqa: S108 - its free space
        self._wire_host(state_dir, instance)

    def _wire_host(self, state_dir: Path, instance: str) -> None:
        config = self._config
        settings = Settings(machine_aliases=MACHINE_ALIASES)
        collector = Collector(
            guests=self._guests,
            links=KernelLinks(),
            initiator_name=self._privileged.initiator_name,
            kvm=self._acceleration.works,
            settings=settings,
        )
        self.capabilities = CapabilitiesSource(
            collector, settings, lambda _facts: self._notifications.network_changed()
        )
        self._traits = TraitsSource(config, self.capabilities.current, self._hardware, self._acceleration, self._guests)
        self.storage = Storage(config, state_dir, self._privileged, self._notifications)
        paths = PathImages(self._privileged, config.virt.disk_dirs)
        self._images = images = VmImages(paths, self.storage.preparer, self.storage.pools.current, self.storage.trees)
        self._own_storage = self.storage.own(state_dir / "storage.json", config.storage.host_id, self._has_images_in)
        leases = VmLeases(self.storage.domains.find, self.storage.leases, self._privileged.lock_manager)
        launcher = Launcher(self.fleet, images, leases, self._traits.current, instance)
        self._store = Definitions(state_dir / "definitions.sqlite")
        self._definitions = DefinitionService(self._store, self.fleet, launcher)
        self.tokens = TokenService(state_dir / "tokens.json")
        self._transfers = Transfers(config, DomainVolumes(self.storage.domains.find))
        self.host = HostService(
            self.fleet,
            self.capabilities,
            self.statistics,
            self._hardware,
            self.answers,
            domain_reports=self.storage.monitors.reports,
            report_kvm=config.virt.report_kvm,
        )
        self.services = self._services(VmService(self.fleet, launcher, images, self.answers))

    def _services(self, vms: VmService) -> dict[str, object]:
        return {
            "Host": self.host,
            "VM": vms,
            "Definition": self._definitions,
            "Token": self.tokens,
            "Storage": self._own_storage,
            **self.storage.services,
            **self._transfers.services,
        }

    def start(self) -> None:
        """Begin to sample and to look for VMs; returns at once."""
        self.storage.start(self._own_storage.start)
        self.statistics.start()
        self.fleet.start()
        self._transfers.start()
        threads.start("first-steps", self._first_steps)

    def _first_steps(self) -> None:
        """What may take seconds and nobody waits for, unless they ask for it."""
        self.fleet.wait_ready(_CONNECT_S)
        self.capabilities.start()
        try:
            self._traits.current()
        except VdsmError as error:
            log.warning("what guests can have here is not known yet: %s", error)
        if self._config.virt.autostart and self.fleet.wait_ready(_READY_S):
            self._own_storage.wait_settled(_READY_S)
            self._definitions.autostart()

    def _has_images_in(self, domain_id: str) -> bool:
        return any(
            disk.domain_id == domain_id
            for view in self.fleet.views()
            if view.status is not Status.DOWN
            for disk in view.facts.disks
        )

    def stop(self) -> None:
        """End everything; VMs go on."""
        self._transfers.stop()
        self.capabilities.stop()
        self.statistics.stop()
        self.fleet.stop()
        self._own_storage.stop()
        self.storage.stop()
        self._privileged.close()


class _Ways:
    """The ways in."""

    def __init__(self, config: Config) -> None:
        limits = config.limits
        self._config = config
        self.hub = EventHub()
        self.pools = {
            Pool.QUERY: threads.Pool("query", limits.query_workers, limits.queue),
            Pool.LIFECYCLE: threads.Pool("lifecycle", limits.lifecycle_workers, limits.queue),
            Pool.HOST: threads.Pool("host", limits.slow_workers, limits.queue),
            Pool.STORAGE: threads.Pool("storage", limits.storage_workers, limits.queue),
        }
        self._ovf_workers = threads.Pool("ovf", _OVF_WORKERS, limits.queue)
        self.events = EventLog()
        self.broker = Broker()
        self.listener: Listener

    def connect(self, house: House) -> None:
        """Build the ways to the house's verbs."""
        config = self._config
        verbs = bind(all_verbs(), house.services)
        requests = RequestTimes()
        dispatcher = Dispatcher(verbs, self.pools, lambda: house.fleet.ready, observe=requests.observe)
        rpc = JsonRpc(dispatcher)
        self._stomp_events = StompEvents(self.broker, lambda: house.fleet.ready)
        stomp_limits = StompLimits(
            frame_bytes=config.limits.frame_bytes,
            min_beat_ms=config.heartbeat.min_ms,
            grace=config.heartbeat.grace,
            output=OutputLimits(total_bytes=config.limits.output_bytes),
        )
        rest = RestApp(
            RestParts(
                verbs=verbs,
                dispatcher=dispatcher,
                jsonrpc=rpc,
                tokens=house.tokens,
                events=self.events,
                metrics=Metrics(self._metric_sources(house), requests).render,
                workers=self.pools[Pool.QUERY],
                ovf=OvfDoor(house.storage.ovf, self._ovf_workers),
                limit=config.limits.frame_bytes,
            )
        )
        self.listener = Listener(
            _doors(config),
            partial(_stomp_session, rpc, self.broker, stomp_limits),
            HttpServer(cast("ASGI3Application", rest)).session,
        )

    def _metric_sources(self, house: House) -> MetricSources:
        return MetricSources(
            vms=partial(_vm_stats, house),
            host=partial(_host_stats, house),
            pools=lambda: [pool.stats() for pool in self.pools.values()],
            connections=lambda: self.listener.counts(),  # noqa: PLW0108 - there is none yet
            events=lambda: EventCounts(self.events.stats().published, self.hub.lost + self.events.stats().cut),
            libvirt_up=lambda: house.hypervisor.health().answers,
            abandoned=lambda: {
                "program": process.abandoned(),
                "libvirt": house.hypervisor.health().abandoned,
            },
            storage=house.storage.figures,
        )

    def start(self) -> None:
        """Open the doors; on the loop."""
        self.hub.start(self._stomp_events.deliver, self.events.publish)
        self.listener.start()

    async def stop(self) -> None:
        """Close them."""
        self.hub.stop()
        self.events.stop()
        await self.listener.stop(_STOP_S)
        for pool in (*self.pools.values(), self._ovf_workers):
            pool.stop(0.0)


def _doors(config: Config) -> Doors:
    return Doors(
        address=config.listen.address,
        port=config.listen.port,
        tls=TlsFiles.below(Path(config.paths.pki_dir)) if config.listen.tls else None,
        unix_path=config.api_socket,
        unix_group=config.listen.group,
        unix_denied=config.users.qemu,
        connections=config.limits.connections,
        handshake_s=config.limits.handshake_s,
    )


def _stomp_session(
    rpc: JsonRpc,
    broker: Broker,
    limits: StompLimits,
    caller: Caller,
    lost: Callable[[], None],
) -> StompSession:
    return StompSession(rpc=rpc, broker=broker, limits=limits, caller=caller, lost=lost)


def _vm_stats(house: House) -> list[VmStats]:
    try:
        return house.host.get_all_vm_stats()
    except Recovering:
        return []


def _host_stats(house: House) -> HostStats | None:
    try:
        return house.host.get_stats()
    except VdsmError:
        return None


def _instance(state_dir: Path) -> str:
    """This agent's own id: marks its VMs, so that two agents on one libvirt leave each other's alone.

    Raises:
        Failed: the file is damaged. A new id would leave the VMs that run without an owner.
    """
    place = state_dir / "instance"
    kept = read_file(place)
    if kept is not None:
        try:
            return parse_vm_id(kept.decode("ascii", "replace").strip(), "id")
        except BadParameter as error:
            raise Failed(f"reading {place}", f"{error} (running VMs have the right one in their metadata)") from error
    fresh = str(uuid.uuid4())
    persist_file(place, fresh.encode() + b"\n", mode=0o644)
    return fresh
