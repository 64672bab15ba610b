"""What is in the directories of a file domain's images: names with their stat, metadata, headers and leases.

Read in few calls, through the domain's helper; what cannot be read is noted with its reason and keeps nobody from the
rest.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vdsm.base.errors import BadParameter, VdsmError
from vdsm.storage.access import FileKind, FileStat
from vdsm.storage.chain import Image
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.formats.leases import Leader, decode_leader
from vdsm.storage.formats.volume import VolumeMetadata, decode_volume
from vdsm.storage.ids import ImageId, VolumeId, is_uuid
from vdsm.storage.images.inspection import read_header
from vdsm.storage.kinds import VolumeFormat, VolumeKind
from vdsm.system.qemu_img import header as qcow2

_HEAD: Final = 4096  # of a file; nearly every header is in it
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Listed:
    """One image's directory.

    Attributes:
        image: its volumes as their metadata has them.
        entries: every name in it.
        own_mode: the directory's.
        unreadable: volumes whose metadata is damaged, and why.
        headers: of its own qcow2 volumes that have data: the header, or why there is none.
        leases: of its own volumes that have a lease: what is in it, None: nothing.
    """

    image: Image
    entries: Mapping[str, FileStat]
    own_mode: int
    unreadable: Mapping[VolumeId, str] = field(default_factory=dict)
    headers: Mapping[VolumeId, qcow2.Header | str] = field(default_factory=dict)
    leases: Mapping[VolumeId, Leader | None] = field(default_factory=dict)

    @property
    def id(self) -> ImageId:
        """The image's id."""
        return self.image.image_id


@dataclass(frozen=True, slots=True)
class Listing:
    """The directory of all images.

    Attributes:
        images: those that were looked at.
        aside: images that were put aside to be deleted.
        strays: other names in it.
    """

    images: Mapping[ImageId, Listed]
    aside: tuple[ImageId, ...] = ()
    strays: tuple[str, ...] = ()


class Reader:
    """Lists a domain's images.

    Args:
        domain: the domain, on files.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain: Final = domain
        self._root: Final = f"{domain.path}/{tree.IMAGES}"
        self._direct: Final = domain.kind.is_shared

    def all(self) -> Listing:
        """Everything.

        Raises:
            StorageFailed, ...: the storage refused.
        """
        with told(f"listing {self._root}"):
            found = self._domain.files.scan(self._root)
        directories = {entry.name: entry.stat for entry in found if entry.stat.kind is FileKind.DIRECTORY}
        ids = [ImageId(name) for name in directories if is_uuid(name)]
        aside = [name.removeprefix(tree.REMOVED_PREFIX) for name in directories if name.startswith(tree.REMOVED_PREFIX)]
        known = {*ids, *map(tree.removed_name, map(ImageId, aside))}
        return Listing(
            self.some(ids),
            tuple(sorted(map(ImageId, aside))),
            tuple(entry.name for entry in found if entry.name not in known),
        )

    def some(self, images: Iterable[ImageId]) -> Mapping[ImageId, Listed]:
        """Those of the images that are there."""
        scans: dict[ImageId, tuple[int, dict[str, FileStat]]] = {}
        for image_id in images:
            path = f"{self._root}/{image_id}"
            with told(f"listing {path}"):
                try:
                    mode = self._domain.files.stat(path).mode
                    entries = self._domain.files.scan(path)
                except FileNotFoundError:
                    continue
            scans[image_id] = (mode, {entry.name: entry.stat for entry in entries})
        return self._listed(scans)

    def is_aside(self, image_id: ImageId) -> bool:
        """Whether an image of this id was put aside."""
        path = f"{self._root}/{tree.removed_name(image_id)}"
        with told(f"looking at {path}"):
            try:
                self._domain.files.stat(path)
            except FileNotFoundError:
                return False
        return True

    def _listed(self, scans: Mapping[ImageId, tuple[int, dict[str, FileStat]]]) -> Mapping[ImageId, Listed]:
        metas = [
            (image_id, volume_id)
            for image_id, (_, entries) in scans.items()
            for volume_id in filter(None, map(tree.volume_of_meta, entries))
        ]
        found: dict[ImageId, dict[VolumeId, VolumeMetadata]] = {image_id: {} for image_id in scans}
        unreadable: dict[ImageId, dict[VolumeId, str]] = {image_id: {} for image_id in scans}
        for (image_id, volume_id), data in self._read(metas, tree.META_SUFFIX):
            try:
                if isinstance(data, OSError):
                    raise Damaged(volume_id, data.strerror or str(data))
                found[image_id][volume_id] = decode_volume(data, f"{image_id}/{volume_id}{tree.META_SUFFIX}")
            except VdsmError as error:
                unreadable[image_id][volume_id] = str(error)
        images = {image_id: _image(image_id, volumes) for image_id, volumes in found.items()}
        headers = self._headers(images, scans)
        leases = self._leases(images, scans)
        return {
            image_id: Listed(
                images[image_id],
                entries,
                mode,
                unreadable[image_id],
                {ident: headers[image_id, ident] for ident in images[image_id].volumes if (image_id, ident) in headers},
                {ident: leases[image_id, ident] for ident in images[image_id].volumes if (image_id, ident) in leases},
            )
            for image_id, (mode, entries) in scans.items()
        }

    def _headers(
        self, images: Mapping[ImageId, Image], scans: Mapping[ImageId, tuple[int, dict[str, FileStat]]]
    ) -> dict[tuple[ImageId, VolumeId], qcow2.Header | str]:
        wanted = [
            (image_id, ident)
            for image_id, image in images.items()
            for ident, volume in image.volumes.items()
            if volume.format is VolumeFormat.COW and ident in scans[image_id][1]
        ]
        return {place: self._header(place, data) for place, data in self._read(wanted, "")}

    def _header(self, place: tuple[ImageId, VolumeId], data: bytes | OSError) -> qcow2.Header | str:
        if isinstance(data, OSError):
            return f"it cannot be read: {data.strerror or data}"
        try:
            if not data.startswith(qcow2.MAGIC):
                return "it is no qcow2 image"
            return qcow2.parse_header(data)
        except BadParameter:
            pass  # it may be longer than what was read
        path = f"{self._root}/{place[0]}/{place[1]}"
        try:
            found = read_header(self._domain.files, path, direct=self._direct)
        except BadParameter as error:
            return error.reason
        return "it is no qcow2 image" if found is None else found

    def _leases(
        self, images: Mapping[ImageId, Image], scans: Mapping[ImageId, tuple[int, dict[str, FileStat]]]
    ) -> dict[tuple[ImageId, VolumeId], Leader | None]:
        if not self._domain.kind.is_shared:
            return {}
        wanted = [
            (image_id, ident)
            for image_id, image in images.items()
            for ident in image.volumes
            if f"{ident}{tree.LEASE_SUFFIX}" in scans[image_id][1]
        ]
        return {place: _leader(data) for place, data in self._read(wanted, tree.LEASE_SUFFIX)}

    def _read(
        self, places: Sequence[tuple[ImageId, VolumeId]], suffix: str
    ) -> Iterator[tuple[tuple[ImageId, VolumeId], bytes | OSError]]:
        """The beginning of many files; those that are gone are left out."""
        for start in range(0, len(places), _BATCH):
            batch = places[start : start + _BATCH]
            paths = [f"{self._root}/{image_id}/{ident}{suffix}" for image_id, ident in batch]
            with told(f"reading files in {self._root}"):
                found = self._domain.files.read_many(paths, size=_HEAD, direct=self._direct)
            for place, data in zip(batch, found, strict=True):
                if not isinstance(data, OSError) or data.errno != errno.ENOENT:
                    yield place, data


def _image(image_id: ImageId, volumes: Mapping[VolumeId, VolumeMetadata]) -> Image:
    # A template's volume is linked into the images on it, and says that it is of another.
    linked = {
        ident for ident, found in volumes.items() if found.image_id != image_id and found.kind is VolumeKind.SHARED
    }
    return Image(
        image_id,
        {ident: found for ident, found in volumes.items() if ident not in linked},
        {ident: found for ident, found in volumes.items() if ident in linked},
    )


def _leader(data: bytes | OSError) -> Leader | None:
    if isinstance(data, OSError) or not any(data):
        return None
    try:
        return decode_leader(data, "a lease")
    except VdsmError:
        return None
