"""A file domain, read: one directory on any file system, through ``access.FileReader``.

All names come from the disk and are judged before they are used: what does not look like an image or a volume is a
stray. Metadata is read past the page cache where other hosts can write it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vdsm.base.errors import VdsmError
from vdsm.storage.access import MAX_BYTES, FileKind, FileReader
from vdsm.storage.backend import Contents, DataFacts, Inventory, Space
from vdsm.storage.chain import Image
from vdsm.storage.errors import Damaged, NoSpace, NoSuchDomain, NoSuchImage, NoSuchVolume, StorageFailed
from vdsm.storage.files.names import ImageNames
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import DomainMetadata, decode_domain
from vdsm.storage.formats.volume import VolumeMetadata, decode_volume
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef, is_uuid
from vdsm.storage.kinds import VolumeKind

# A sound volume's metadata has at most 512 bytes. What is larger is read so far, and refused for what it is.
_META_READ: Final = 4096
_META_BATCH: Final = MAX_BYTES // _META_READ
_LIKE_UUID: Final = "-".join("?" * count for count in (8, 4, 4, 4, 12))
# A hundred domains in a pool, and what else may come.
_DOMAIN_READ: Final = 1 << 20


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the file system says into the repository's errors; ``what`` names what was being done.

    Raises:
        NoSpace: the file system or a quota is full.
        StorageFailed: anything else that it refused.
    """
    try:
        yield
    except OSError as error:
        kind = NoSpace if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageFailed
        raise kind(what, error.strerror or str(error)) from error


class FileDomainReader:
    """``backend.BackendReader`` on a directory.

    Args:
        files: how its files are reached.
        root: where its file system is mounted; the domain's directory in it has the domain's id as name.
        domain_id: the domain.
        direct: read past the page cache; to be false only where no other host can write.
    """

    def __init__(self, files: FileReader, root: str, domain_id: DomainId, *, direct: bool) -> None:
        self.domain_id: Final = domain_id
        self.path: Final = f"{root}/{domain_id}"
        self._reader: Final = files
        self._direct: Final = direct
        self._names_below: Final = ImageNames(files, self.images_path)

    def read_domain(self) -> DomainMetadata:
        """See Backend."""
        path = f"{self.path}/{tree.DOM_MD}/{tree.METADATA}"
        with told(f"reading {path}"):
            try:
                data = self._reader.read(path, size=_DOMAIN_READ, direct=self._direct)
            except FileNotFoundError as error:
                raise NoSuchDomain(self.domain_id) from error
        found = decode_domain(data, path)
        if found.domain_id != self.domain_id:
            raise Damaged(path, f"it is of the domain {found.domain_id}")
        return found

    def space(self) -> Space:
        """See Backend."""
        with told(f"looking at {self.path}"):
            found = self._reader.statvfs(self.path)
        return Space(found.total, found.available, found.read_only)

    def inventory(self) -> Inventory:
        """See Backend."""
        with told(f"listing {self.images_path}"):
            names = self._names_below.all()
        images = {ImageId(name): _sort(found) for name, found in names.items() if is_uuid(name)}
        aside = [name.removeprefix(tree.REMOVED_PREFIX) for name in names if name.startswith(tree.REMOVED_PREFIX)]
        others = [name for name in names if not is_uuid(name) and not name.startswith(tree.REMOVED_PREFIX)]
        return Inventory(
            images={image: volumes for image, (volumes, _, _) in images.items()},
            half_made=tuple(
                VolumeRef(self.domain_id, image, volume)
                for image, (_, halves, _) in images.items()
                for volume in halves
            ),
            removed=tuple(sorted(ImageId(name) for name in aside)),
            strays=tuple(
                sorted([*others, *(f"{image}/{name}" for image, (_, _, odd) in images.items() for name in odd)])
            ),
        )

    def images(self) -> Contents:
        """See Backend."""
        with told(f"listing {self.images_path}"):
            paths = self._reader.glob(f"{glob.escape(self.images_path)}/*/*{tree.META_SUFFIX}")
        return self._contents([path for path in paths if is_uuid(path.rsplit("/", 2)[1])])

    def image(self, image_id: ImageId) -> Image:
        """See Backend."""
        names = self._names(image_id)
        found = self._contents([f"{self.image_path(image_id)}/{name}" for name in names])
        for error in found.damaged.values():
            raise error
        image = found.images.get(ImageRef(self.domain_id, image_id))
        if image is None:
            raise NoSuchImage(image_id, self.domain_id)
        return image

    def image_ids(self) -> tuple[ImageId, ...]:
        """See Backend."""
        with told(f"listing {self.images_path}"):
            return tuple(ImageId(name) for name in self._names_below.images() if is_uuid(name))

    def volume_ids(self, image_id: ImageId) -> tuple[VolumeId, ...]:
        """See Backend."""
        try:
            return _sort(self._names(image_id))[0]
        except NoSuchImage:
            return ()

    def homes(self, volume_id: VolumeId) -> tuple[ImageId, ...]:
        """See Backend."""
        with told(f"looking for volume {volume_id}"):
            paths = self._reader.glob(f"{glob.escape(self.images_path)}/*/{volume_id}{tree.META_SUFFIX}")
        return tuple(ImageId(name) for name in (path.rsplit("/", 2)[1] for path in paths) if is_uuid(name))

    def volume(self, volume: VolumeRef) -> VolumeMetadata:
        """See Backend."""
        path = self.meta_path(volume)
        with told(f"reading {path}"):
            try:
                data = self._reader.read(path, size=_META_READ, direct=self._direct)
            except FileNotFoundError as error:
                raise NoSuchVolume(volume.volume_id) from error
        return decode_volume(data, path)

    def sizes(self) -> Mapping[VolumeRef, DataFacts]:
        """See Backend."""
        with told(f"listing {self.images_path}"):
            paths = self._reader.glob(f"{glob.escape(self.images_path)}/{_LIKE_UUID}/{_LIKE_UUID}")
        found: dict[VolumeRef, DataFacts] = {}
        for start in range(0, len(paths), _META_BATCH):
            batch = paths[start : start + _META_BATCH]
            with told(f"looking at volumes in {self.images_path}"):
                facts = self._reader.stat_many(batch)
            for path, fact in zip(batch, facts, strict=True):
                image, name = path.rsplit("/", 2)[1:]
                if fact is not None and fact.kind is FileKind.FILE and is_uuid(image) and is_uuid(name):
                    ref = VolumeRef(self.domain_id, ImageId(image), VolumeId(name))
                    found[ref] = DataFacts(fact.size, fact.allocated)
        return found

    def data(self, volume: VolumeRef) -> DataFacts:
        """See Backend."""
        path = self.data_path(volume)
        with told(f"looking at {path}"):
            try:
                found = self._reader.stat(path)
            except FileNotFoundError as error:
                raise NoSuchVolume(volume.volume_id) from error
        if found.kind is not FileKind.FILE:
            raise Damaged(path, f"it is a {found.kind}")
        return DataFacts(found.size, found.allocated)

    @property
    def images_path(self) -> str:
        """The directory of all images."""
        return f"{self.path}/{tree.IMAGES}"

    def image_path(self, image_id: ImageId) -> str:
        """An image's directory."""
        return f"{self.images_path}/{image_id}"

    def data_path(self, volume: VolumeRef) -> str:
        """A volume's data."""
        return f"{self.images_path}/{volume.image_id}/{volume.volume_id}"

    def meta_path(self, volume: VolumeRef) -> str:
        """A volume's metadata."""
        return f"{self.data_path(volume)}{tree.META_SUFFIX}"

    def lease_path(self, volume: VolumeRef) -> str:
        """A volume's lease."""
        return f"{self.data_path(volume)}{tree.LEASE_SUFFIX}"

    def _names(self, image_id: ImageId) -> list[str]:
        """The names of the metadata in an image's directory."""
        path = self.image_path(image_id)
        with told(f"listing {path}"):
            try:
                names = self._reader.listdir(path)
            except FileNotFoundError as error:
                raise NoSuchImage(image_id, self.domain_id) from error
        return [name for name in names if tree.volume_of_meta(name) is not None]

    def _half_made(self, image_id: ImageId) -> bool:
        """Whether an image has containers without metadata."""
        path = self.image_path(image_id)
        with told(f"listing {path}"):
            try:
                names = self._reader.listdir(path)
            except FileNotFoundError:
                return False
        return bool(_sort(names)[1])

    def _contents(self, paths: Sequence[str]) -> Contents:
        images: dict[ImageRef, tuple[dict[VolumeId, VolumeMetadata], dict[VolumeId, VolumeMetadata]]] = {}
        damaged: dict[VolumeRef, VdsmError] = {}
        for path, data in self._read_all(paths):
            directory, name = path.rsplit("/", 2)[1:]
            volume_id = tree.volume_of_meta(name)
            if volume_id is None or isinstance(data, FileNotFoundError):
                continue  # a stray, or deleted meanwhile
            ref = VolumeRef(self.domain_id, ImageId(directory), volume_id)
            own, shared = images.setdefault(ref.image, ({}, {}))
            try:
                with told(f"reading {path}"):
                    metadata = _decoded(data, path)
            except VdsmError as error:
                damaged[ref] = error
                continue
            # A template's volume is linked into the images on it, and says that it is of another.
            linked = metadata.image_id != ref.image_id and metadata.kind is VolumeKind.SHARED
            (shared if linked else own)[volume_id] = metadata
        found = {ref: Image(ref.image_id, own, shared) for ref, (own, shared) in images.items()}
        return Contents(found, damaged)

    def _read_all(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
        for start in range(0, len(paths), _META_BATCH):
            batch = paths[start : start + _META_BATCH]
            with told(f"reading metadata in {self.images_path}"):
                found = self._reader.read_many(batch, size=_META_READ, direct=self._direct)
            yield from zip(batch, found, strict=True)


def find_domain(files: FileReader, root: str) -> DomainId | None:
    """The domain in a mounted file system: there is at most one; None when there is none.

    Raises:
        Damaged: there are several.
        StorageFailed: it cannot be looked at.
    """
    with told(f"looking for a domain in {root}"):
        paths = files.glob(f"{glob.escape(root)}/*-*-*-*-*/{tree.DOM_MD}")
    found = [name for name in (path.rsplit("/", 2)[1] for path in paths) if is_uuid(name)]
    if len(found) > 1:
        raise Damaged(root, f"it has {len(found)} domains: {', '.join(found)}")
    return DomainId(found[0]) if found else None


def _decoded(data: bytes | OSError, path: str) -> VolumeMetadata:
    if isinstance(data, OSError):
        raise data
    return decode_volume(data, path)


def _sort(names: Sequence[str]) -> tuple[tuple[VolumeId, ...], tuple[VolumeId, ...], tuple[str, ...]]:
    """The names in an image's directory: volumes, containers without metadata, and what else there is."""
    volumes = {volume for name in names if (volume := tree.volume_of_meta(name)) is not None}
    halves = [VolumeId(name) for name in names if is_uuid(name) and name not in volumes]
    # What belongs to a volume that is there, or half there.
    known = {*volumes, *halves}
    ours = {f"{volume}{end}" for volume in known for end in ("", tree.META_SUFFIX, tree.LEASE_SUFFIX)}
    return tuple(sorted(volumes)), tuple(sorted(halves)), tuple(sorted(set(names) - ours))
