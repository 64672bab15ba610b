"""The door to one storage domain: what every kind of storage can do, in steps that are atomic on the disk.

Above it are the chains and plans (``chain``, ``plans``, ``steps``), which are the same for all storage; below it a
directory (``files``, ``file_backend``), a volume group (later), or the in-memory twin (``memory``). One contract test
runs on all.

    half-made        a volume's container without metadata: ``make_data`` makes it, ``publish`` ends it; nobody sees it.
                     A data file without .meta; a logical volume tagged OVIRT_VOL_INITIALIZING
    removed          an image that was put aside: its data waits for ``purge_image``.
                     A directory _remove_me_...; tags IU__remove_me_...
    linked           a template's volume in the images that stand on it.
                     Hard links; on block domains nothing is on the disk, the parent's id says it

Only one host changes a domain's images at a time (the SPM), or holds a volume's lease; a back end takes no locks. Each
changing call can be made again when nobody knows whether it was carried out: twice is once.

Besides the errors at the calls, all raise

    Damaged        what is on the disk cannot be read; nothing was changed
    NoSpace        the storage is full
    StorageFailed  the storage refused
    Unfinished, NotResponding    it does not answer in time
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Protocol

from vdsm.base.errors import VdsmError
from vdsm.storage.chain import Image
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.steps import NewData


@unique
class Area(Enum):
    """The parts of a domain that all hosts read and write in place; files of ``dom_md``, or logical volumes."""

    IDS = "ids"
    LEASES = "leases"
    XLEASES = "xleases"
    INBOX = "inbox"
    OUTBOX = "outbox"


@dataclass(frozen=True, slots=True)
class Space:
    """A domain's room in bytes.

    Attributes:
        total: of the file system or volume group.
        free: what can be taken.
        read_only: nothing can be written.
    """

    total: int
    free: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The container of a volume's data, in bytes: its length, and what it takes of the domain."""

    apparent: int
    allocated: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a domain's names say is in it; no metadata was read.

    Attributes:
        images: each image and its volumes, linked ones included, sorted.
        half_made: containers without metadata, sorted.
        removed: images that wait to be purged, sorted.
        strays: other things that are in the place of images, as relative paths; nobody touches them.
    """

    images: Mapping[ImageId, tuple[VolumeId, ...]] = field(default_factory=dict)
    half_made: tuple[VolumeRef, ...] = ()
    removed: tuple[ImageId, ...] = ()
    strays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """All images of a domain with their metadata, and what could not be read, each with its error."""

    images: Mapping[ImageRef, Image] = field(default_factory=dict)
    damaged: Mapping[VolumeRef, VdsmError] = field(default_factory=dict)


class SharedArea(Protocol):
    """One of a domain's areas; all of it is read and written past any cache."""

    @property
    def path(self) -> str:
        """What sanlock opens."""

    def size(self) -> int:
        """Its length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of it; fewer at its end. Both numbers are multiples of the sector size."""

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes into it, durably. Offset and length are multiples of the sector size."""

    def grow(self, size: int) -> None:
        """Make it at least this long.

        Raises:
            NoSpace: it cannot be.
        """


class LeaseWriter(Protocol):
    """Who formats lease areas: sanlock, once for each domain and each volume."""

    def write_lockspace(self, lockspace: LeaseRecord) -> None:
        """Format a lockspace; the record's resource does not count."""

    def write_resource(self, resource: LeaseRecord) -> None:
        """Format a resource; what was there is lost."""


class BackendReader(Protocol):
    """The calls that change nothing; see the module."""

    def read_domain(self) -> DomainMetadata:
        """The domain's metadata, as it is on the disk now.

        Raises:
            NoSuchDomain: it is not there.
        """

    def space(self) -> Space:
        """The domain's room."""

    def inventory(self) -> Inventory:
        """What is there, by names only."""

    def images(self) -> Contents:
        """All images, with metadata read anew, in as few accesses as the storage can."""

    def image(self, image_id: ImageId) -> Image:
        """One image.

        Raises:
            NoSuchImage: it is not there.
            Damaged: one of its volumes' metadata cannot be read.
        """

    def image_ids(self) -> tuple[ImageId, ...]:
        """The ids of the images, by names only, sorted."""

    def volume_ids(self, image_id: ImageId) -> tuple[VolumeId, ...]:
        """The ids of an image's volumes, linked ones included, by names only, sorted; none if it is not there."""

    def homes(self, volume_id: VolumeId) -> tuple[ImageId, ...]:
        """The images that have a volume of this id, sorted: its own, and those that stand on a template."""

    def volume(self, volume: VolumeRef) -> VolumeMetadata:
        """One volume's metadata.

        Raises:
            NoSuchVolume: it is not there, or half-made.
        """

    def sizes(self) -> Mapping[VolumeRef, DataFacts]:
        """The sizes of all containers, linked ones under each image, in as few accesses as the storage can."""

    def data(self, volume: VolumeRef) -> DataFacts:
        """The sizes of a volume's container.

        Raises:
            NoSuchVolume: it is not there.
        """


class Backend(BackendReader, Protocol):
    """See the module."""

    def write_domain(self, metadata: DomainMetadata) -> None:
        """Replace the domain's metadata in one step."""

    def area(self, area: Area) -> SharedArea:
        """One of its shared areas, which need not be there (xleases before version 4)."""

    def share(self, template: VolumeRef, image_id: ImageId) -> None:
        """Link a template's volume into an image, which is made if need be.

        Raises:
            NoSuchVolume: there is no such template.
        """

    def unshare(self, template: VolumeRef, image_id: ImageId) -> None:
        """Take ``share`` back, also when it was cut off; with the last thing in it the image goes.

        Raises:
            WrongChain: the image has a volume of its own of this id.
        """

    def make_data(self, volume: VolumeRef, data: NewData) -> None:
        """Make a new volume's container, and its image if need be; what was half-made is replaced.

        Raises:
            VolumeExists: it has metadata already.
            WrongFormat: this storage cannot have such a volume.
        """

    def publish(self, volume: VolumeRef, metadata: VolumeMetadata) -> None:
        """Give a half-made volume its metadata and lease.

        Raises:
            NoSuchVolume: it has no container.
            MetadataOverflow: the description is too long.
        """

    def rewrite(self, volume: VolumeRef, metadata: VolumeMetadata) -> None:
        """Replace a volume's metadata in one step.

        Raises:
            NoSuchVolume: it is not there, or half-made.
            MetadataOverflow: the description is too long.
        """

    def tidy(self, volume: VolumeRef) -> None:
        """Remove what a ``rewrite`` that was cut off has left beside a volume's metadata; nothing if there is none."""

    def grow(self, volume: VolumeRef, size: int) -> None:
        """Make a volume's container at least this long; a raw one reads as zeros where it is new.

        Raises:
            NoSuchVolume: it is not there.
        """

    def delete(self, volume: VolumeRef) -> None:
        """Remove a volume or what is half-made of it; with an image's last own volume the image goes."""

    def remove_image(self, image_id: ImageId) -> None:
        """Put an image aside in one step.

        Raises:
            NoSuchImage: it is not there, and does not wait to be purged.
        """

    def purge_image(self, image_id: ImageId) -> None:
        """Delete the data of an image that was put aside; nothing if there is none."""

    def volume_lease(self, volume: VolumeRef) -> LeaseRecord | None:
        """Where a volume's lease is; None when the domain has no leases.

        Raises:
            NoSuchVolume: it is not there.
        """

    def prepare(self, image_id: ImageId) -> Mapping[VolumeId, str]:
        """Make an image's volumes, linked ones included, usable on this host; the path of each.

        All are in one directory under their ids, because a qcow2 header names its parent by the bare id.

        Raises:
            NoSuchImage: it is not there.
        """

    def teardown(self, image_id: ImageId) -> None:
        """Take back ``prepare``; nothing if it was not prepared."""
