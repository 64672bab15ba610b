"""Opening a domain in a place that is known: its metadata is read, its sectors are compared with the storage's.

All files of a connection are reached through one door, named by where it is mounted: a helper process of its own, also
for local directories, which may lie on anything. A file system has at most one domain, so that is one per domain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from vdsm.storage.access import FileAccess
from vdsm.storage.backend import LeaseWriter
from vdsm.storage.clusterlock import ClusterLock
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_maker import probe
from vdsm.storage.domains.domain_places import Mount
from vdsm.storage.errors import WrongBlockSize
from vdsm.storage.files.file_backend import FileBackend, ImageMaker
from vdsm.storage.files.files import FileDomainReader, told
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import StorageType

# A domain's id and type, the paths of its ``ids`` and ``leases``, its geometry. Touches no storage.
LockMaker: TypeAlias = Callable[[DomainId, StorageType, str, str, Geometry], ClusterLock]


class FileDoors(Protocol):
    """Where the files of each mount are reached; ``oop.pool.HelperPool``."""

    def of(self, domain_key: str) -> FileAccess:
        """The files of a mount."""

    def close(self, domain_key: str) -> None:
        """End what was started for it."""


@dataclass(frozen=True, slots=True)
class DomainTools:
    """What domains work with.

    Attributes:
        doors: where their files are reached.
        lock_maker: makes what keeps hosts apart on them.
        image_maker: writes image headers.
        lease_writer: formats the leases of volumes on shared storage.
    """

    doors: FileDoors
    lock_maker: LockMaker
    image_maker: ImageMaker
    lease_writer: LeaseWriter


class DomainOpener:
    """Makes the handles on domains. Locks outlive them: they may be held while a handle is made anew.

    ``timeout_s`` is in seconds, for each call to a domain's files.
    """

    def __init__(self, tools: DomainTools, timeout_s: float) -> None:
        self._tools: Final = tools
        self._timeout_s: Final = timeout_s
        self._lock = threading.Lock()
        self._locks: dict[tuple[DomainId, StorageType, str, Geometry], ClusterLock] = {}

    def files(self, mount_path: str) -> FileAccess:
        """The files of a mount."""
        return self._tools.doors.of(mount_path).within(self._timeout_s)

    def close(self, mount_path: str) -> None:
        """End the mount's helper; whoever uses its files later gets a new one."""
        self._tools.doors.close(mount_path)

    def open(self, mount: Mount, domain_id: DomainId) -> Domain:
        """Open a domain in a mount.

        Raises:
            NoSuchDomain: it is not in this one.
            Damaged, UnsupportedVersion: it is, and cannot be read.
            WrongBlockSize: it was made for other sectors than the storage has.
            StorageFailed, Unfinished, NotResponding, Unreachable, Busy: the storage does not let itself be looked at.
        """
        files = self.files(mount.path)
        reader = FileDomainReader(files, mount.path, domain_id, direct=mount.type.is_shared)
        metadata = reader.read_domain()
        _check_sectors(files, mount.path, metadata)
        writer = self._tools.lease_writer if metadata.storage_type.is_shared else None
        return Domain(
            id=domain_id,
            kind=metadata.storage_type,
            domain_class=metadata.domain_class,
            version=metadata.version,
            geometry=metadata.geometry,
            mount=mount.path,
            files=files,
            backend=FileBackend(files, mount.path, metadata, self._tools.image_maker, writer),
            lock=self.lock(mount.path, metadata),
        )

    def lock(self, mount_path: str, metadata: DomainMetadata) -> ClusterLock:
        """The lock of a domain, always the same one for the same domain in the same place."""
        domain_id, kind, shape = metadata.domain_id, metadata.storage_type, metadata.geometry
        dom_md = f"{mount_path}/{domain_id}/{tree.DOM_MD}"
        key = (domain_id, kind, mount_path, shape)
        with self._lock:
            if key not in self._locks:
                ids, leases = f"{dom_md}/{tree.IDS}", f"{dom_md}/{tree.LEASES}"
                self._locks[key] = self._tools.lock_maker(domain_id, kind, ids, leases, shape)
            return self._locks[key]

    def forget_locks(self, domain_id: DomainId) -> None:
        """Drop the locks of a domain that has been taken away."""
        with self._lock:
            self._locks = {key: lock for key, lock in self._locks.items() if key[0] != domain_id}


def _check_sectors(files: FileAccess, mount_path: str, metadata: DomainMetadata) -> None:
    with told(f"probing the sectors of {mount_path}"):
        found = probe(files, mount_path, shared=metadata.storage_type.is_shared)
    wanted = metadata.geometry.block_size
    if found not in {1, wanted}:
        raise WrongBlockSize(f"{mount_path} has {found}, its domain was made for {wanted}")
