"""What there is on a domain, for who asks: lists of images and volumes, one volume's facts, a dump of everything.

Lists come from names only, and are kept by the back end while the directories' times stay the same. A volume's facts
are read when they are asked for. Who has its lease is asked of sanlock with a deadline, and left out when there is no
answer: a list of disks must not wait for a lock manager.

Source: storage format, section 1.7 (last paragraph).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Any, Final

from vdsm.base.errors import VdsmError
from vdsm.base.threads import Pool
from vdsm.storage.backend import DataFacts
from vdsm.storage.chain import Image
from vdsm.storage.clusterlock import LeaseState
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import BLANK, DomainId, ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.kinds import Legality

log = logging.getLogger(__name__)

_NO_DATA: Final = DataFacts(0, 0)


@unique
class VolumeStatus(StrEnum):
    """The original's words for whether a volume can be used."""

    OK = "OK"
    INVALID = "INVALID"  # what is on the disk cannot be read
    ILLEGAL = "ILLEGAL"


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """One volume.

    Attributes:
        volume: where it was looked at; a template's may be of another image.
        metadata: what it says of itself; None when that cannot be read.
        data: the sizes of its container.
        lease: where its lease is; None when it has none.
        lease_state: who has it; None when that could not be learnt in time.
    """

    volume: VolumeRef
    metadata: VolumeMetadata | None
    data: DataFacts
    lease: LeaseRecord | None = None
    lease_state: LeaseState | None = None

    @property
    def status(self) -> VolumeStatus:
        """Whether it can be used."""
        if self.metadata is None:
            return VolumeStatus.INVALID
        return VolumeStatus.ILLEGAL if self.metadata.legality is Legality.ILLEGAL else VolumeStatus.OK

    def answer(self) -> dict[str, Any]:
        """As getVolumeInfo says it."""
        found: dict[str, Any] = {
            "uuid": self.volume.volume_id,
            "domain": self.volume.domain_id,
            "image": self.volume.image_id,
            "status": str(self.status),
            "apparentsize": str(self.data.apparent),
            "truesize": str(self.data.allocated),
            "children": [],  # nobody reads it, and to know it all others would have to be read
        }
        if self.metadata is not None:
            found |= _described(self.metadata) | {
                "capacity": str(self.metadata.capacity),
                "ctime": str(self.metadata.created_s),
                "domain": self.metadata.domain_id,
                "mtime": "0",
                "pool": "",
            }
        if self.lease is not None:
            state = self.lease_state
            found["lease"] = {"path": self.lease.path, "offset": self.lease.offset}
            if state is not None:
                found["lease"] |= {"owners": list(state.owners), "version": state.version}
        return found

    def dumped(self) -> dict[str, Any]:
        """As StorageDomain.dump says it: sizes are numbers there."""
        found: dict[str, Any] = {
            "image": self.volume.image_id,
            "status": str(VolumeStatus.INVALID if self.metadata is None else VolumeStatus.OK),
            "apparentsize": self.data.apparent,
            "truesize": self.data.allocated,
        }
        if self.metadata is not None:
            capacity, created_s = self.metadata.capacity, self.metadata.created_s
            found |= _described(self.metadata) | {"capacity": capacity, "ctime": created_s}
        return found


@dataclass(frozen=True, slots=True)
class DomainDump:
    """Everything of a domain's images at one moment.

    Attributes:
        volumes: each; a template's once, in its own image.
        removed: images that wait to be purged.
        half_made: containers without metadata.
        strays: other things in the place of images.
    """

    volumes: Mapping[VolumeId, VolumeFacts] = field(default_factory=dict)
    removed: tuple[ImageId, ...] = ()
    half_made: tuple[VolumeRef, ...] = ()
    strays: tuple[str, ...] = ()

    def answer(self) -> dict[str, dict[str, Any]]:
        """The part "volumes" of StorageDomain.dump."""
        return {ident: facts.dumped() for ident, facts in self.volumes.items()}


class ImageQueries:
    """Answers questions; changes nothing. May be used by many threads at once.

    Args:
        find: the handle on a domain.
        lease_timeout_s: seconds to wait for who has a lease.
    """

    def __init__(self, find: FindDomain, *, lease_timeout_s: float = 5.0) -> None:
        self._find: Final = find
        self._lease_timeout_s: Final = lease_timeout_s
        self._pool: Final = Pool("lease-facts", 4, 64)

    def images(self, domain_id: DomainId) -> list[ImageId]:
        """The images of a domain, sorted.

        Raises:
            NoSuchDomain: it is not there.
        """
        return list(self._find(domain_id).backend.image_ids())

    def volumes(self, domain_id: DomainId, image_id: ImageId | None = None) -> list[VolumeId]:
        """The volumes of a domain, or those of one image with the template beneath it; sorted.

        Raises:
            NoSuchDomain: it is not there.
        """
        backend = self._find(domain_id).backend
        if image_id is not None:
            return list(backend.volume_ids(image_id))
        images = backend.inventory().images
        return sorted({volume for volumes in images.values() for volume in volumes})

    def image(self, ref: ImageRef) -> Image:
        """One image with its volumes' metadata: parents, children, chain.

        Raises:
            NoSuchDomain, NoSuchImage: it is not there.
            Damaged: metadata of it cannot be read.
        """
        return self._find(ref.domain_id).backend.image(ref.image_id)

    def parent(self, ref: VolumeRef) -> VolumeId | None:
        """What a volume stands on.

        Raises:
            NoSuchDomain, NoSuchVolume: it is not there.
        """
        return self._find(ref.domain_id).backend.volume(ref).parent

    def children(self, ref: VolumeRef) -> list[VolumeId]:
        """The volumes of its image that stand on it. Errors as of :meth:`image`."""
        return list(self.image(ref.image).children(ref.volume_id))

    def volume_info(self, ref: VolumeRef) -> VolumeFacts:
        """One volume's facts; one whose metadata is damaged is INVALID, and no error.

        Raises:
            NoSuchDomain, NoSuchVolume: it is not there.
            StorageFailed: the storage refused.
        """
        domain = self._find(ref.domain_id)
        try:
            metadata = domain.backend.volume(ref)
            data = domain.backend.data(ref)
        except Damaged as error:
            log.warning("volume %s cannot be read: %s", ref.volume_id, error)
            return VolumeFacts(ref, None, _NO_DATA)
        lease = domain.backend.volume_lease(ref)
        state = self._lease_state(domain, lease) if lease is not None else None
        return VolumeFacts(ref, metadata, data, lease, state)

    def size(self, ref: VolumeRef) -> DataFacts:
        """The sizes of a volume's container.

        Raises:
            NoSuchDomain, NoSuchVolume: it is not there.
        """
        return self._find(ref.domain_id).backend.data(ref)

    def dump(self, domain_id: DomainId) -> DomainDump:
        """All volumes of a domain with their facts; without leases.

        Raises:
            NoSuchDomain: it is not there.
            StorageFailed: the storage refused.
        """
        backend = self._find(domain_id).backend
        contents, sizes, names = backend.images(), backend.sizes(), backend.inventory()
        found: dict[VolumeId, VolumeFacts] = {}
        for ref, image in contents.images.items():
            for ident, metadata in image.volumes.items():
                volume = VolumeRef(ref.domain_id, ref.image_id, ident)
                found[ident] = VolumeFacts(volume, metadata, sizes.get(volume, _NO_DATA))
        for volume in contents.damaged:
            found.setdefault(volume.volume_id, VolumeFacts(volume, None, sizes.get(volume, _NO_DATA)))
        return DomainDump(found, names.removed, names.half_made, names.strays)

    def _lease_state(self, domain: Domain, lease: LeaseRecord) -> LeaseState | None:
        try:
            return self._pool.submit(domain.lock.inspect, lease).result(self._lease_timeout_s)
        except (VdsmError, NoAnswer) as error:
            log.warning("who has the lease %s of domain %s is not known: %s", lease.resource, domain.id, error)
            return None


def _described(metadata: VolumeMetadata) -> dict[str, Any]:
    return {
        "description": metadata.description,
        "disktype": str(metadata.disk_type),
        "format": metadata.format.value,
        "generation": metadata.generation,
        "image": metadata.image_id,
        "legality": metadata.legality.value,
        "parent": metadata.parent or BLANK,
        "sequence": metadata.sequence,
        "type": metadata.allocation.value,
        "voltype": metadata.kind.value,
    }
