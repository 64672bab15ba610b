"""A storage domain that this host reaches: the handle that everything else works with.

Who made it found the domain's directory and looked at its metadata once; what may change (role, pool, description) is
read through ``backend.read_domain`` where it matters. Making one costs no process: helpers start with their first call.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdsm.storage.access import FileAccess
from vdsm.storage.backend import Backend
from vdsm.storage.clusterlock import ClusterLock
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import DomainClass, StorageType


@dataclass(frozen=True, slots=True)
class Domain:
    """One opened domain.

    Attributes:
        id: its id.
        kind: what it lies on.
        domain_class: what it is for.
        version: of its format, 3 to 5.
        geometry: its sector and lease sizes.
        mount: the directory that has the domain's directory in it.
        files: its files, through its helper process.
        backend: its images and metadata.
        lock: what keeps hosts apart on it.
    """

    id: DomainId
    kind: StorageType
    domain_class: DomainClass
    version: int
    geometry: Geometry
    mount: str
    files: FileAccess
    backend: Backend
    lock: ClusterLock

    @property
    def path(self) -> str:
        """The domain's directory."""
        return f"{self.mount}/{self.id}"

    @property
    def master_path(self) -> str:
        """Where the pool's own data is while the domain is the pool's master."""
        return f"{self.path}/{tree.MASTER}"

    def is_as(self, metadata: DomainMetadata) -> bool:
        """Whether the handle still fits what the domain says of itself; otherwise it is to be opened anew."""
        own = (self.id, self.kind, self.domain_class, self.version, self.geometry)
        return own == (
            metadata.domain_id,
            metadata.storage_type,
            metadata.domain_class,
            metadata.version,
            metadata.geometry,
        )
