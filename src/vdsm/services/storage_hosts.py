"""The verbs of the host's storage as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from vdsm.api import host_types
from vdsm.api import storage_types as api
from vdsm.base.errors import BadParameter, VdsmError
from vdsm.services import storage_answers as answers
from vdsm.storage.domains.domains import Domains
from vdsm.storage.domains.monitor import Monitors
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.formats.mounts import normalize
from vdsm.storage.ids import BLANK, DomainId, parse_domain_id, parse_pool_id
from vdsm.storage.images.jobs import JOB_TYPE, Jobs
from vdsm.storage.pool.pools import Pools
from vdsm.storage.pool.tasks import Tasks

log = logging.getLogger(__name__)

_JOB_TYPES: Final = frozenset({"", JOB_TYPE, "virt", "v2v"})


class HostStorageService:
    """Implements ``api.host_storage.HostStorage``."""

    def __init__(self, domains: Domains, monitors: Monitors, pools: Pools, jobs: Jobs, tasks: Tasks) -> None:
        self._domains: Final = domains
        self._monitors: Final = monitors
        self._pools: Final = pools
        self._jobs: Final = jobs
        self._tasks: Final = tasks

    def get_storage_domains(
        self,
        *,
        pool_id: str = BLANK,
        domain_class: api.DomainClass | None = None,
        storage_type: api.StorageType | None = None,
        remote_path: str | None = None,
    ) -> list[str]:
        """The domains that this host sees; one that cannot be read fits no filter."""
        pool = None if pool_id == BLANK else parse_pool_id(pool_id)
        place = normalize(remote_path) if remote_path else None

        def fits(ident: DomainId) -> bool:
            metadata = self._domains.info(ident)
            return (
                (pool is None or pool in metadata.pools)
                and (domain_class is None or metadata.domain_class.value == domain_class)
                and (storage_type is None or metadata.storage_type.value == storage_type)
                # Storage moves: what counts is where it is connected now.
                and (place is None or self._domains.address(ident) == place)
            )

        found = self._domains.visible()
        if pool is None and domain_class is None and storage_type is None and place is None:
            return list(found)
        return [ident for ident in found if _readable(ident, fits)]

    def get_storage_repo_stats(self, *, domains: tuple[str, ...] = ()) -> dict[str, host_types.StorageDomainHealth]:
        """How each watched domain is."""
        wanted = {parse_domain_id(item, f"domains[{index}]") for index, item in enumerate(domains)}
        return {
            ident: answers.health(report)
            for ident, report in self._monitors.reports().items()
            if not wanted or ident in wanted
        }

    def get_connected_storage_pools(self) -> list[str]:
        """The pool that this host is in."""
        current = self._pools.current()
        return [] if current is None else [current]

    def get_device_list(
        self,
        *,
        storage_type: api.StorageType | None = None,
        guids: tuple[str, ...] = (),
        check_status: bool = True,
        refresh: bool = True,
    ) -> list[dict[str, Any]]:
        """Refused."""
        del storage_type, guids, check_status, refresh
        raise UnsupportedOperation("this version has no block storage: it lists no devices")

    def get_jobs(self, job_type: str = "", job_ids: tuple[str, ...] = ()) -> dict[str, host_types.Job]:
        """The host's jobs; all that there are work on storage."""
        if job_type not in _JOB_TYPES:
            raise BadParameter("job_type", f"must be storage, virt or v2v, is {job_type!r:.40}")
        if job_type not in {"", JOB_TYPE}:
            return {}
        return {ident: answers.job(view) for ident, view in self._jobs.views(job_ids).items()}

    def get_all_tasks_info(self) -> dict[str, host_types.TaskInfo]:
        """What each task does."""
        return {item.id: answers.task_info(item) for item in self._tasks.infos()}

    def get_all_tasks_statuses(self) -> dict[str, host_types.TaskStatus]:
        """How far each task is."""
        return {item.id: answers.task_status(item) for item in self._tasks.statuses()}


def _readable(ident: DomainId, fits: Callable[[DomainId], bool]) -> bool:
    try:
        return fits(ident)
    except VdsmError as error:
        log.warning("what domain %s is cannot be told: %s", ident, error)
        return False
