"""Which lock a domain has: sanlock where several hosts reach it, a lock on a file where only one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from vdsm.storage.clusterlock import ClusterLock
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import StorageType
from vdsm.storage.locks.local_lock import LocalLock
from vdsm.storage.locks.sanlock_lock import SanlockLeases

LockMaker: TypeAlias = Callable[[DomainId, StorageType, str, str, Geometry], ClusterLock]
"""Domain, what it lies on, the path of its ``ids``, of its ``leases``, its geometry. Touches no storage."""


def lock_maker(leases: SanlockLeases, *, file_deadline_s: float = 10.0) -> LockMaker:
    """The maker for real domains.

    Args:
        leases: those of this process.
        file_deadline_s: seconds that a look at a file that is a lock may take.
    """

    def make(
        domain_id: DomainId, kind: StorageType, ids_path: str, leases_path: str, geometry: Geometry
    ) -> ClusterLock:
        if kind.is_shared:
            return leases.of(domain_id, ids_path, leases_path, geometry)
        return LocalLock(domain_id, ids_path, leases_path, geometry, deadline_s=file_deadline_s)

    return make
