"""Builds the image repository and its verbs, starts its parts in order, and stops them in reverse.

repository, mounts        connections -----+
helper processes, locks   domains ---------+-- monitors -- the pool -- the SPM's tasks
qemu-img                  data of images --+-- this host's jobs
"""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from vdsm.base import threads
from vdsm.base.config import Config
from vdsm.base.errors import VdsmError
from vdsm.bindings.storage_metrics import StorageFigures
from vdsm.operations.host_journal import HostJournal
from vdsm.operations.kinds import Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.privileged.calls import Privileged
from vdsm.services.notifications import Notifications
from vdsm.services.ovf_store import OvfStore, stream_kinds
from vdsm.services.own_storage import OwnStorage, StorageParts
from vdsm.services.served_volumes import DomainVolumes
from vdsm.services.storage_checks import StorageCheckService
from vdsm.services.storage_connections import StorageConnectionService
from vdsm.services.storage_copies import copy_kinds
from vdsm.services.storage_domains import StorageDomainService
from vdsm.services.storage_gates import Gates
from vdsm.services.storage_hosts import HostStorageService
from vdsm.services.storage_images import ImageService
from vdsm.services.storage_jobs import VolumeJobService
from vdsm.services.storage_leases import LeaseDumps, LeaseService
from vdsm.services.storage_pools import StorageMergeService, StoragePoolService
from vdsm.services.storage_spm import SpmDoor
from vdsm.services.storage_tasks import TaskService
from vdsm.services.storage_volumes import VolumeService
from vdsm.storage.checks.check import DomainChecker
from vdsm.storage.checks.repair import DomainRepair
from vdsm.storage.connection.connections import Connections, NfsDefaults
from vdsm.storage.connection.repository import Repository
from vdsm.storage.domains.domain_opener import DomainTools
from vdsm.storage.domains.domain_work import DomainKinds, DomainWork
from vdsm.storage.domains.domains import Domains
from vdsm.storage.domains.monitor import DomainReport, Monitors
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.formats import tree
from vdsm.storage.ids import BLANK, DomainId
from vdsm.storage.images.copy_jobs import copy_data
from vdsm.storage.images.copying import Copier
from vdsm.storage.images.guarded_plan import Guard
from vdsm.storage.images.image_kinds import image_kinds
from vdsm.storage.images.image_queries import ImageQueries
from vdsm.storage.images.images import ImageChanges
from vdsm.storage.images.job_kinds import job_kinds
from vdsm.storage.images.jobs import Jobs
from vdsm.storage.images.mover import QemuImages
from vdsm.storage.images.preparing import Preparer
from vdsm.storage.images.volume_tools import QemuTools
from vdsm.storage.leases.external_leases import ExternalLeases
from vdsm.storage.locks.lock_maker import lock_maker
from vdsm.storage.locks.sanlock_lock import SanlockLeases, SanlockSettings
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits
from vdsm.storage.pool.pool_errors import NoSuchPool
from vdsm.storage.pool.pools import PoolParts, Pools
from vdsm.storage.pool.tasks import Tasks
from vdsm.system.sanlock.daemon import Daemon

log = logging.getLogger(__name__)

_STOP_S: Final = 3.0


class Storage:
    """Everything of storage.

    Args:
        config: the agent's.
        state_dir: where this host's journals are.
        privileged: the root helper.
        notifications: is told of what changes.
    """

    def __init__(self, config: Config, state_dir: Path, privileged: Privileged, notifications: Notifications) -> None:
        settings = config.storage
        self._privileged = privileged
        self._journals = state_dir / "operations"
        self._notifications = notifications
        self.repository = Repository(
            settings.repository_dir, settings.image_link_dir or f"{config.paths.run_dir}/storage"
        )
        self.helpers = HelperPool(
            HelperLimits(
                timeout_s=settings.helper_timeout_s,
                calls=settings.helper_calls,
                abandoned=settings.helper_abandoned,
                longest_delay_s=settings.helper_longest_delay_s,
            )
        )
        self._sanlock = SanlockLeases(Daemon(), SanlockSettings(io_timeout_s=settings.sanlock_io_timeout_s))
        self.connections = Connections(
            self.repository,
            privileged,
            mount_deadline_s=settings.mount_deadline_s,
            nfs=NfsDefaults(settings.nfs_version, settings.nfs_timeout_ds, settings.nfs_retrans),
            leaving=self._leaving,
        )
        locks = lock_maker(self._sanlock, file_deadline_s=settings.helper_timeout_s)
        tools = DomainTools(self.helpers, locks, QemuImageMaker(), self._sanlock)
        self.domains = Domains(self.connections.mounts, tools, timeout_s=settings.helper_timeout_s)
        self.monitors = Monitors(
            self.domains, interval_s=settings.health_check_interval_s, changed=self._domain_changed
        )
        self.locks = Locks()
        self.data = QemuImages(self.domains.find)
        self._wire_operations(settings.tasks)
        self.preparer = Preparer(self.domains.find, self.repository)
        self.tasks = Tasks(self.pools)
        self._gates = Gates(config.limits.storage_places)
        self.services: Mapping[str, object] = self._services(self._gates)
        """The verbs' implementations, by their services' names."""

    def _wire_operations(self, workers: int) -> None:
        find = self.domains.find
        tools = QemuTools(self.data)
        self._kinds = image_kinds(find, self.data, tools)
        self._copies = copy_kinds(Copier(find, self.data))
        streams = stream_kinds(DomainVolumes(find))
        self.leases = ExternalLeases(find, self._sanlock, self._host_id)
        self._lease_kinds = self.leases.kinds()
        guard = Guard(find, self.data, lambda _: self._host_id())
        self._job_kinds, self._copy_data = job_kinds(guard, tools), copy_data(guard, self.data)
        self.jobs = Jobs(
            [*self._job_kinds.all(), self._copy_data],
            HostJournal(self._journals / "jobs"),
            self.locks,
            workers=workers,
            changed=self._notifications.job_changed,
        )
        domain_kinds = DomainKinds(self.domains)
        self._domain_operations = Operations(
            Kinds(domain_kinds.all), HostJournal(self._journals / "domains"), self.locks, workers=workers
        )
        self.work = DomainWork(self.domains, domain_kinds, self._domain_operations)
        self.pools = Pools(
            PoolParts(
                domains=self.domains,
                links=self.repository,
                monitors=self.monitors,
                kinds=[*self._kinds, *self._copies, *self._lease_kinds, *streams],
                locks=self.locks,
                journal=HostJournal(self._journals / "pools"),
                fence=_end_process,
                changed=self._notifications.task_changed,
                workers=workers,
            )
        )

        self.ovf = OvfStore(
            streams, SpmDoor(self.pools, self.domains), DomainVolumes(find), self._journals.parent / "spool"
        )

    def _services(self, gates: Gates) -> dict[str, object]:
        queries = ImageQueries(self.domains.find)
        spm = SpmDoor(self.pools, self.domains)
        return {
            "HostStorage": HostStorageService(self.domains, self.monitors, self.pools, self.jobs, self.tasks),
            "StorageConnections": StorageConnectionService(self.connections, self.work.settle),
            "StoragePool": StoragePoolService(self.pools, self.domains, queries, gates),
            "StorageMerges": StorageMergeService(self._kinds, spm, gates),
            "StorageDomain": StorageDomainService(
                domains=self.domains,
                work=self.work,
                monitors=self.monitors,
                pools=self.pools,
                queries=queries,
                leases=LeaseDumps(self._sanlock),
                spm=spm,
                gates=gates,
            ),
            **self._image_services(queries, spm, gates),
            "SDM": VolumeJobService(self.jobs, self._job_kinds, self._copy_data),
            "Lease": LeaseService(self.leases, self._lease_kinds, spm, gates),
            "Task": TaskService(self.tasks),
            "StorageChecks": self._check_service(spm, gates),
        }

    def _check_service(self, spm: SpmDoor, gates: Gates) -> StorageCheckService:
        checker = DomainChecker(self.domains.find, self._sanlock, self.data, self.locks)
        return StorageCheckService(
            checker, DomainRepair(self.domains.find, checker, self.data, self._sanlock), spm, gates
        )

    def _image_services(self, queries: ImageQueries, spm: SpmDoor, gates: Gates) -> dict[str, object]:
        changes = ImageChanges(self.domains.find, self.data, self.locks)
        return {
            "Image": ImageService(
                kinds=self._kinds,
                copies=self._copies,
                queries=queries,
                changes=changes,
                preparer=self.preparer,
                spm=spm,
                gates=gates,
            ),
            "Volume": VolumeService(
                kinds=self._kinds,
                copies=self._copies,
                queries=queries,
                changes=changes,
                data=self.data,
                spm=spm,
                gates=gates,
            ),
        }

    def start(self, then: Callable[[], None]) -> None:
        """Clean what the last process left, and begin to settle its work; returns at once.

        ``then`` is called when the journals of this host have been read.
        """
        try:
            if not Path(self.repository.mounts).is_dir():
                self._privileged.prepare_repository()
            mounted = self.connections.mounts()
            self.repository.clean(frozenset(item.path for item in mounted))
        except (OSError, VdsmError) as error:
            log.warning("the repository tree cannot be used: %s", error)
        threads.start("storage-begin", self._begin, then)

    def _begin(self, then: Callable[[], None]) -> None:
        for what, begin in (
            ("domains", self._domain_operations.resume),
            ("jobs", self.jobs.resume),
            ("pools", self.pools.begin),
        ):
            try:
                begin()
            except (OSError, VdsmError):
                log.exception("this host's journal of %s cannot be read: nothing of that kind is done", what)
        self.work.settle()
        then()

    def stop(self) -> None:
        """End everything where it is; leases of the lockspace stay, because VMs may need them."""
        self.pools.end(_STOP_S)
        self.jobs.stop(_STOP_S)
        self._domain_operations.stop(_STOP_S)
        self.monitors.stop(_STOP_S)
        self.helpers.stop(_STOP_S)

    def own(self, place: Path, host_id: int, in_use: Callable[[DomainId], bool]) -> OwnStorage:
        """The storage that this host manages by itself, remembered at ``place``."""
        parts = StorageParts(
            connections=self.connections,
            domains=self.domains,
            work=self.work,
            pools=self.pools,
            tasks=self.tasks,
            monitors=self.monitors,
            host_id=host_id,
        )
        return OwnStorage(place, parts, in_use)

    def figures(self) -> StorageFigures:
        """What storage is doing, for metrics; from memory."""
        journals = {"domains": self._domain_operations, "jobs": self.jobs.operations}
        current = self.pools.current()
        with suppress(VdsmError):
            if current is not None:
                journals["tasks"] = self.pools.spm(current).operations
        found = Counter((name, str(view.phase)) for name, journal in journals.items() for view in journal.views())
        return StorageFigures(self.helpers.stats(), found, self._gates.under_way())

    @property
    def trees(self) -> tuple[str, ...]:
        """Where the repository is: on this host, and as managers name it."""
        return tuple(dict.fromkeys((self.repository.root, tree.DATA_CENTER)))

    def _host_id(self) -> int:
        """Under which this host lives in its pool."""
        current = self.pools.current()
        if current is None:
            raise NoSuchPool(BLANK)
        return self.pools.session(current).facts.host_id

    def _leaving(self, place: str) -> None:
        self.domains.forget_mount(place)

    def _domain_changed(self, domain_id: DomainId, report: DomainReport) -> None:
        self._notifications.domain_changed(domain_id, report)
        if report.valid:
            self.pools.domain_changed(domain_id)
            self.jobs.operations.tend(ended=True)
            self.work.settle()


def _end_process(reason: str) -> None:
    """Nothing of this process may write any more: another host is the SPM by now, or soon."""
    log.critical("this process ends at once: %s", reason)
    os.kill(os.getpid(), signal.SIGKILL)
