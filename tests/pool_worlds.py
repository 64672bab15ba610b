"""Hosts and storage for tests of pools: real directories, links, monitors and journals; a host is a set of objects.

Local domains have the real lock, a flock. Domains that several hosts share are POSIXFS ones whose lock is the twin in
memory (``lock_twin``), so that a host can be killed, stopped or declared dead without a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain_parts import LocalDoors, Place, eventually
from storage_domains import Areas
from vdsm.operations.host_journal import HostJournal
from vdsm.operations.kinds import Kind
from vdsm.operations.locks import Locks
from vdsm.storage.backend import LeaseWriter
from vdsm.storage.connection.repository import Repository
from vdsm.storage.domains.domain_maker import NewDomain
from vdsm.storage.domains.domain_opener import DomainTools, FileDoors, LockMaker
from vdsm.storage.domains.domains import Domains
from vdsm.storage.domains.monitor import Monitors
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.ids import DomainId, PoolId, new_id
from vdsm.storage.kinds import StorageType
from vdsm.storage.locks.local_lock import LocalLock
from vdsm.storage.locks.lock_twin import TwinHost
from vdsm.storage.pool.pools import PoolParts, Pools
from vdsm.storage.pool.tasks import Tasks, TaskStatus

POOL = PoolId("5bb00001-0000-4000-8000-000000000001")
SLOW_S = 90.0


def local_lock(
    domain_id: DomainId, kind: StorageType, ids_path: str, leases_path: str, geometry: Geometry
) -> LocalLock:
    """The lock of a domain that one host reaches."""
    return LocalLock(domain_id, ids_path, leases_path, geometry)


@dataclass
class Host:
    """One host: its own objects on shared directories."""

    base: Path
    places: list[Place]
    number: int = 1
    twin: TwinHost | None = None
    kinds: Sequence[Kind[Any]] = ()
    doors: FileDoors = field(default_factory=LocalDoors)
    timeout_s: float = 30.0
    options: dict[str, Any] = field(default_factory=dict)
    fenced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        maker: LockMaker = local_lock if self.twin is None else self.twin.locks
        writer: LeaseWriter = Areas() if self.twin is None else self.twin
        tools = DomainTools(self.doors, maker, QemuImageMaker(), writer)
        self.domains = Domains(lambda: self.places, tools, timeout_s=self.timeout_s)
        self.repository = Repository(str(self.base / f"rhev{self.number}"), str(self.base / f"run{self.number}"))
        Path(self.repository.root).mkdir(exist_ok=True)
        self.monitors = Monitors(self.domains, interval_s=0.5)
        self.pools = Pools(
            PoolParts(
                domains=self.domains,
                links=self.repository,
                monitors=self.monitors,
                kinds=list(self.kinds),
                locks=Locks(),
                journal=HostJournal(self.base / f"journal{self.number}"),
                fence=self.fenced.append,
                join_s=5.0,
                **self.options,
            )
        )
        self.pools.begin()
        self.tasks = Tasks(self.pools)

    def new_domain(self, place: Place, **facts: Any) -> DomainId:
        return self.domains.create(NewDomain(DomainId(new_id()), place.type, place.spec, **facts)).id

    def metadata(self, domain_id: DomainId) -> DomainMetadata:
        return self.domains.find(domain_id).backend.read_domain()

    def become_spm(self, pool_id: PoolId = POOL) -> TaskStatus:
        """Start the SPM, wait for the task, clear it."""
        task = self.pools.spm_start(pool_id)
        found = self.ended(task)
        self.tasks.clear(task)
        return found

    def ended(self, task: str) -> TaskStatus:
        eventually(lambda: self.tasks.status(task).state == "finished", SLOW_S)
        return self.tasks.status(task)

    def end(self) -> None:
        """The process ends in an orderly way; locks in this process that a dead one would not have are given back."""
        self.pools.end(10.0)
        self.monitors.stop(10.0)


def places(base: Path, count: int, kind: StorageType = StorageType.LOCALFS) -> list[Place]:
    return [Place.of(base / f"storage{number}", kind) for number in range(count)]
