"""A storage domain in memory: ``backend.Backend`` without storage, for tests and for trying the agent out.

It keeps metadata as the bytes that would be on a disk, so that what cannot be written there cannot be here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from vdsm.storage.backend import Area, Contents, DataFacts, Inventory, Space
from vdsm.storage.chain import Image
from vdsm.storage.errors import (
    InvalidParameter,
    NoSpace,
    NoSuchImage,
    NoSuchVolume,
    VolumeExists,
    WrongChain,
    WrongFormat,
)
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import DomainMetadata, decode_domain, encode_domain
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.formats.volume import VolumeMetadata, decode_volume, encode_volume
from vdsm.storage.ids import ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.kinds import Allocation, VolumeFormat
from vdsm.storage.steps import Backing, NewData

# What qemu-img makes of an empty image.
_EMPTY_QCOW2: Final = 196_616


@dataclass(slots=True)
class _Volume:
    """One volume: half-made while there is no metadata. Linked volumes are the same object."""

    format: VolumeFormat
    backing: Backing | None
    apparent: int
    allocated: int
    meta: bytes | None = None


@dataclass(slots=True)
class MemoryArea:
    """``backend.SharedArea`` in memory."""

    path: str
    content: bytearray = field(default_factory=bytearray)

    def size(self) -> int:
        """See SharedArea."""
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        """See SharedArea."""
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """See SharedArea."""
        self.grow(offset + len(data))
        self.content[offset : offset + len(data)] = data

    def grow(self, size: int) -> None:
        """See SharedArea."""
        self.content.extend(bytes(max(0, size - len(self.content))))


class MemoryReader:
    """``backend.BackendReader`` in memory.

    Args:
        metadata: what the domain says of itself.
        total: bytes of room; volumes take theirs when they are made.
    """

    def __init__(self, metadata: DomainMetadata, total: int = 1 << 40) -> None:
        self.domain_id: Final = metadata.domain_id
        self._metadata = encode_domain(metadata)
        self._version: Final = metadata.version
        self._shape: Final = metadata.geometry
        self._leases: Final = metadata.storage_type.is_shared
        self._total: Final = total
        self._images: Final[dict[ImageId, dict[VolumeId, _Volume]]] = {}
        self._removed: Final[dict[ImageId, dict[VolumeId, _Volume]]] = {}
        self._areas: Final = {area: MemoryArea(f"/memory/{metadata.domain_id}/{area.value}") for area in Area}
        for special in tree.special_files(metadata.storage_type, metadata.version, metadata.geometry):
            self._areas[Area(special.name)].content = bytearray(special.size)

    def read_domain(self) -> DomainMetadata:
        """See Backend."""
        return decode_domain(self._metadata, f"domain {self.domain_id}")

    def space(self) -> Space:
        """See Backend."""
        every = [*self._images.values(), *self._removed.values()]
        taken = {id(volume): volume.allocated for image in every for volume in image.values()}
        return Space(self._total, max(0, self._total - sum(taken.values())))

    def inventory(self) -> Inventory:
        """See Backend."""
        return Inventory(
            images={
                image_id: tuple(sorted(ident for ident, volume in volumes.items() if volume.meta is not None))
                for image_id, volumes in sorted(self._images.items())
            },
            half_made=tuple(
                VolumeRef(self.domain_id, image_id, ident)
                for image_id, volumes in sorted(self._images.items())
                for ident, volume in sorted(volumes.items())
                if volume.meta is None
            ),
            removed=tuple(sorted(self._removed)),
        )

    def images(self) -> Contents:
        """See Backend."""
        found = {ImageRef(self.domain_id, ident): self._image(ident, self._images[ident]) for ident in self._images}
        return Contents({ref: image for ref, image in found.items() if image.volumes or image.shared})

    def image(self, image_id: ImageId) -> Image:
        """See Backend."""
        found = self._image(image_id, self._images.get(image_id, {}))
        if not found.volumes and not found.shared:
            raise NoSuchImage(image_id, self.domain_id)
        return found

    def image_ids(self) -> tuple[ImageId, ...]:
        """See Backend."""
        return tuple(sorted(self._images))

    def volume_ids(self, image_id: ImageId) -> tuple[VolumeId, ...]:
        """See Backend."""
        volumes = self._images.get(image_id, {})
        return tuple(sorted(ident for ident, volume in volumes.items() if volume.meta is not None))

    def homes(self, volume_id: VolumeId) -> tuple[ImageId, ...]:
        """See Backend."""
        found = ((ident, volumes.get(volume_id)) for ident, volumes in self._images.items())
        return tuple(sorted(ident for ident, volume in found if volume is not None and volume.meta is not None))

    def volume(self, volume: VolumeRef) -> VolumeMetadata:
        """See Backend."""
        return self._decoded(volume.volume_id, self._published(volume))

    def sizes(self) -> Mapping[VolumeRef, DataFacts]:
        """See Backend."""
        return {
            VolumeRef(self.domain_id, image, ident): DataFacts(volume.apparent, volume.allocated)
            for image, volumes in self._images.items()
            for ident, volume in volumes.items()
        }

    def data(self, volume: VolumeRef) -> DataFacts:
        """See Backend."""
        found = self._there(volume)
        return DataFacts(found.apparent, found.allocated)

    def _there(self, volume: VolumeRef) -> _Volume:
        try:
            return self._images[volume.image_id][volume.volume_id]
        except KeyError as error:
            raise NoSuchVolume(volume.volume_id) from error

    def _published(self, volume: VolumeRef) -> _Volume:
        found = self._there(volume)
        if found.meta is None:
            raise NoSuchVolume(volume.volume_id)
        return found

    def _decoded(self, volume_id: VolumeId, volume: _Volume) -> VolumeMetadata:
        return decode_volume(volume.meta or b"", f"volume {volume_id}")

    def _image(self, image_id: ImageId, volumes: Mapping[VolumeId, _Volume]) -> Image:
        own: dict[VolumeId, VolumeMetadata] = {}
        shared: dict[VolumeId, VolumeMetadata] = {}
        for ident, volume in volumes.items():
            if volume.meta is not None:
                metadata = self._decoded(ident, volume)
                (own if metadata.image_id == image_id else shared)[ident] = metadata
        return Image(image_id, own, shared)


class MemoryBackend(MemoryReader):
    """``backend.Backend`` in memory; made as MemoryReader is."""

    def write_domain(self, metadata: DomainMetadata) -> None:
        """See Backend."""
        if metadata.domain_id != self.domain_id:
            raise InvalidParameter("storagedomainID", f"is {metadata.domain_id} in the metadata")
        self._metadata = encode_domain(metadata)

    def area(self, area: Area) -> MemoryArea:
        """See Backend."""
        return self._areas[area]

    def share(self, template: VolumeRef, image_id: ImageId) -> None:
        """See Backend."""
        shared = self._published(template)
        self._images.setdefault(image_id, {}).setdefault(template.volume_id, shared)

    def unshare(self, template: VolumeRef, image_id: ImageId) -> None:
        """See Backend."""
        volumes = self._images.get(image_id, {})
        if template.volume_id in self._image(image_id, volumes).volumes:
            raise WrongChain(image_id, f"volume {template.volume_id} is its own")
        volumes.pop(template.volume_id, None)
        if not volumes:
            self._images.pop(image_id, None)

    def make_data(self, volume: VolumeRef, data: NewData) -> None:
        """See Backend."""
        if data.format is VolumeFormat.RAW and data.backing is not None:
            raise WrongFormat("a raw volume cannot stand on another")
        present = self._images.get(volume.image_id, {}).get(volume.volume_id)
        if present is not None and present.meta is not None:
            raise VolumeExists(volume.volume_id)
        raw = data.format is VolumeFormat.RAW
        full = data.allocation is Allocation.PREALLOCATED
        allocated = data.capacity if full else 4096 if raw else _EMPTY_QCOW2
        if allocated > self.space().free:
            raise NoSpace(f"making volume {volume.volume_id}", "the domain is full")
        apparent = data.capacity if raw or full else _EMPTY_QCOW2
        made = _Volume(data.format, data.backing, apparent, allocated)
        self._images.setdefault(volume.image_id, {})[volume.volume_id] = made

    def publish(self, volume: VolumeRef, metadata: VolumeMetadata) -> None:
        """See Backend."""
        text = encode_volume(metadata, self._version)
        self._there(volume).meta = text

    def rewrite(self, volume: VolumeRef, metadata: VolumeMetadata) -> None:
        """See Backend. As on files, what is linked keeps the metadata of when it was linked."""
        text = encode_volume(metadata, self._version)
        present = self._published(volume)
        self._images[volume.image_id][volume.volume_id] = replace(present, meta=text)

    def tidy(self, volume: VolumeRef) -> None:
        """See Backend: nothing is cut off here."""

    def grow(self, volume: VolumeRef, size: int) -> None:
        """See Backend."""
        found = self._there(volume)
        if found.apparent < size:
            if self.volume(volume).allocation is Allocation.PREALLOCATED:
                found.allocated += size - found.apparent
            found.apparent = size

    def delete(self, volume: VolumeRef) -> None:
        """See Backend."""
        volumes = self._images.get(volume.image_id, {})
        volumes.pop(volume.volume_id, None)
        half_made = any(left.meta is None for left in volumes.values())
        if not half_made and not self._image(volume.image_id, volumes).volumes:
            self._images.pop(volume.image_id, None)

    def remove_image(self, image_id: ImageId) -> None:
        """See Backend."""
        if image_id in self._images:
            self._removed[image_id] = self._images.pop(image_id)
        elif image_id not in self._removed:
            raise NoSuchImage(image_id, self.domain_id)

    def purge_image(self, image_id: ImageId) -> None:
        """See Backend."""
        self._removed.pop(image_id, None)

    def volume_lease(self, volume: VolumeRef) -> LeaseRecord | None:
        """See Backend."""
        self._published(volume)
        if not self._leases:
            return None
        path = f"/memory/{self.domain_id}/{volume.image_id}/{volume.volume_id}{tree.LEASE_SUFFIX}"
        return LeaseRecord(self.domain_id, volume.volume_id, path, 0, self._shape)

    def prepare(self, image_id: ImageId) -> Mapping[VolumeId, str]:
        """See Backend. The paths lead nowhere."""
        image = self.image(image_id)
        directory = f"/memory/{self.domain_id}/{image_id}"
        return {ident: f"{directory}/{ident}" for ident in sorted({*image.volumes, *image.shared})}

    def teardown(self, image_id: ImageId) -> None:
        """See Backend: there is nothing to take back."""
