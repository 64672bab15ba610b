"""The verbs of the host's storage as a whole: what it sees, how it is, and what works on it."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from vdsm.api.contract import BoolText, Pool, Role, Wire, get, namespace, verb
from vdsm.api.host_types import Job, StorageDomainHealth, TaskInfo, TaskStatus
from vdsm.api.storage_types import BLANK, DomainClass, PoolOfDomain, StorageType


@namespace("Host", service="HostStorage")
class HostStorage(Protocol):
    """The host's storage as a whole."""

    @verb(rest=get("/storage-domains"), pool=Pool.STORAGE, legacy="getStorageDomainsList")
    def get_storage_domains(
        self,
        *,
        pool_id: PoolOfDomain = BLANK,
        domain_class: DomainClass | None = None,
        storage_type: StorageType | None = None,
        remote_path: str | None = None,
    ) -> list[str]:
        """The ids of the storage domains that this host sees.

        Args:
            pool_id: only this pool's; the blank UUID: all.
            domain_class: only of this class.
            storage_type: only on this storage.
            remote_path: only the one that is at `server:/export`, or for LOCALFS at this path.
        """

    @verb(rest=get("/storage-health"), legacy="repoStats")
    def get_storage_repo_stats(self, *, domains: tuple[str, ...] = ()) -> dict[str, StorageDomainHealth]:
        """How each storage domain of the pool answered last; nothing is asked while the caller waits.

        Args:
            domains: only these; empty for all.
        """

    @verb(rest=get("/pools"), legacy="getConnectedStoragePoolsList")
    def get_connected_storage_pools(self) -> list[str]:
        """The pool that this host is in; none or one."""

    @verb(rest=get("/block-devices"), pool=Pool.STORAGE, role=Role.OPERATOR, legacy="getDeviceList")
    def get_device_list(
        self,
        *,
        storage_type: StorageType | None = None,
        guids: tuple[str, ...] = (),
        check_status: BoolText = True,
        refresh: BoolText = True,
    ) -> list[dict[str, Any]]:
        """The LUNs that this host sees. Refused: this version has no block storage.

        Args:
            storage_type: only of this storage.
            guids: only these.
            check_status: look whether they are used.
            refresh: look for new ones.

        Raises:
            UnsupportedOperation: always.
        """

    @verb(rest=get("/jobs"))
    def get_jobs(
        self,
        job_type: Annotated[str, Wire("job_type")] = "",
        job_ids: Annotated[tuple[str, ...], Wire("job_ids")] = (),
    ) -> dict[str, Job]:
        """Long-running work of this host, by id.

        Args:
            job_type: only of this type: storage, virt or v2v; empty for all.
            job_ids: only these; empty for all.
        """

    @verb(rest=get("/tasks/info"), legacy="getAllTasksInfo")
    def get_all_tasks_info(self) -> dict[str, TaskInfo]:
        """What each storage task does, by id.

        Raises:
            NotSpm: this host does not manage a pool, so it has no tasks.
        """

    @verb(rest=get("/tasks"), legacy="getAllTasksStatuses")
    def get_all_tasks_statuses(self) -> dict[str, TaskStatus]:
        """How far each storage task is, by id.

        Raises:
            NotSpm: this host does not manage a pool, so it has no tasks.
        """
