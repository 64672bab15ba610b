"""A file domain, written: the other half of ``backend.Backend`` on a directory.

The order of the names in an image's directory is the protocol of a volume's life: data first, then .meta, which makes
it a volume, then .lease; and away again in the order data, .lease, .meta, so that what a crash leaves is found by its
.meta and deleted again. Hosts of the original do the same, and either side takes up what the other left.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final, Protocol

from vdsm.storage.access import NEW_SUFFIX, FileAccess
from vdsm.storage.backend import Area, LeaseWriter
from vdsm.storage.errors import (
    InvalidParameter,
    NoSpace,
    NoSuchImage,
    NoSuchVolume,
    VolumeExists,
    WrongChain,
    WrongFormat,
)
from vdsm.storage.files.files import FileDomainReader, told
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import DomainMetadata, encode_domain
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.formats.volume import VolumeMetadata, encode_volume
from vdsm.storage.ids import ImageId, VolumeId, VolumeRef
from vdsm.storage.kinds import Allocation, VolumeFormat
from vdsm.storage.steps import NewData

# QEMU finds out a raw file's alignment by reading its first block, which must not be a hole.
_FIRST_BLOCK: Final = 4096
_OLD_COMPATIBILITY: Final = "0.10"
_COMPATIBILITY: Final = "1.1"


class ImageMaker(Protocol):
    """Who writes image headers: qemu-img."""

    def create_qcow2(
        self, path: str, capacity: int, *, compatibility: str, backing: str | None, backing_format: str | None
    ) -> None:
        """Write the header of an empty image into the file; ``backing`` is only noted, never opened."""


class FileArea:
    """``backend.SharedArea`` on a file of ``dom_md``."""

    def __init__(self, files: FileAccess, path: str, *, direct: bool) -> None:
        self.path: Final = path
        self._files: Final = files
        self._direct: Final = direct

    def size(self) -> int:
        """See SharedArea."""
        with told(f"looking at {self.path}"):
            return self._files.stat(self.path).size

    def read(self, offset: int, length: int) -> bytes:
        """See SharedArea."""
        with told(f"reading {self.path}"):
            return self._files.read(self.path, offset=offset, size=length, direct=self._direct)

    def write(self, offset: int, data: bytes) -> None:
        """See SharedArea."""
        with told(f"writing {self.path}"):
            self._files.write_at(self.path, offset, data, direct=self._direct)

    def grow(self, size: int) -> None:
        """See SharedArea."""
        if self.size() < size:
            with told(f"extending {self.path}"):
                self._files.truncate(self.path, size)


class FileBackend(FileDomainReader):
    """``backend.Backend`` on a directory.

    Args:
        files: how its files are reached.
        root: where its file system is mounted.
        metadata: what the domain says of itself: its version, type and geometry never change while it is open.
        maker: who writes image headers.
        lease_writer: who formats leases; None where there are none, on LOCALFS.
    """

    def __init__(
        self,
        files: FileAccess,
        root: str,
        metadata: DomainMetadata,
        maker: ImageMaker,
        lease_writer: LeaseWriter | None,
    ) -> None:
        super().__init__(files, root, metadata.domain_id, direct=metadata.storage_type.is_shared)
        self._files: Final = files
        self._version: Final = metadata.version
        self._shape: Final = metadata.geometry
        self._maker: Final = maker
        self._lease_writer: Final = lease_writer

    def write_domain(self, metadata: DomainMetadata) -> None:
        """See Backend."""
        if metadata.domain_id != self.domain_id:
            raise InvalidParameter("storagedomainID", f"is {metadata.domain_id} in the metadata")
        path = f"{self.path}/{tree.DOM_MD}/{tree.METADATA}"
        with told(f"writing {path}"):
            self._files.replace(path, encode_domain(metadata), mode=tree.METADATA_MODE)

    def area(self, area: Area) -> FileArea:
        """See Backend."""
        return FileArea(self._files, f"{self.path}/{tree.DOM_MD}/{area.value}", direct=self._direct)

    def share(self, template: VolumeRef, image_id: ImageId) -> None:
        """See Backend."""
        target = VolumeRef(self.domain_id, image_id, template.volume_id)
        if not self._exists(self.meta_path(template)):
            raise NoSuchVolume(template.volume_id)
        self._make_image(image_id)
        with told(f"linking {self.data_path(template)} into image {image_id}"):
            self._link(self.data_path(template), self.data_path(target))
            self._link(self.meta_path(template), self.meta_path(target))
            if self._lease_writer is not None:
                self._link(self.lease_path(template), self.lease_path(target))

    def unshare(self, template: VolumeRef, image_id: ImageId) -> None:
        """See Backend. The data's file tells a link from a volume of its own: a .meta may have been replaced."""
        target = VolumeRef(self.domain_id, image_id, template.volume_id)
        inode = self._inode(self.data_path(target))
        if inode is not None and inode != self._inode(self.data_path(template)):
            raise WrongChain(image_id, f"volume {template.volume_id} is its own")
        for path in (self.meta_path(target), self.lease_path(target), self.data_path(target)):
            self._unlink(path)
        self._remove_empty(self.image_path(image_id))

    def make_data(self, volume: VolumeRef, data: NewData) -> None:
        """See Backend."""
        if data.format is VolumeFormat.RAW and data.backing is not None:
            raise WrongFormat("a raw volume cannot stand on another")
        path = self.data_path(volume)
        if not self._make_image(volume.image_id):
            # What an earlier attempt left; in a new directory there is nothing.
            if self._exists(self.meta_path(volume)):
                raise VolumeExists(volume.volume_id)
            self._unlink(path)
            self._unlink(self.lease_path(volume))
        with told(f"making {path}"):
            self._files.create(path, mode=tree.DATA_MODE)
            if data.format is VolumeFormat.RAW:
                self._make_raw(path, data)
            else:
                self._make_qcow2(path, data)
                self._files.fsync(path)

    def publish(self, volume: VolumeRef, metadata: VolumeMetadata) -> None:
        """See Backend."""
        text = encode_volume(metadata, self._version)
        if not self._exists(self.data_path(volume)):
            raise NoSuchVolume(volume.volume_id)
        self._replace_meta(volume, text)
        if self._lease_writer is not None:
            path = self.lease_path(volume)
            with told(f"making {path}"):
                self._files.truncate(path, 0, create=True, mode=tree.DATA_MODE)
            self._lease_writer.write_resource(self._lease(volume))

    def rewrite(self, volume: VolumeRef, metadata: VolumeMetadata) -> None:
        """See Backend. On a full file system, where volumes must still be marked and deleted, it is done in place."""
        text = encode_volume(metadata, self._version)
        if not self._exists(self.meta_path(volume)):
            raise NoSuchVolume(volume.volume_id)
        try:
            self._replace_meta(volume, text)
        except NoSpace:
            self._overwrite_meta(volume, text)

    def tidy(self, volume: VolumeRef) -> None:
        """See Backend."""
        self._unlink(f"{self.meta_path(volume)}{NEW_SUFFIX}")

    def grow(self, volume: VolumeRef, size: int) -> None:
        """See Backend."""
        now = self.data(volume)
        if now.apparent >= size:
            return
        path = self.data_path(volume)
        with told(f"extending {path}"):
            if self.volume(volume).allocation is Allocation.PREALLOCATED:
                self._files.allocate(path, now.apparent, size - now.apparent)
            else:
                self._files.truncate(path, size)

    def delete(self, volume: VolumeRef) -> None:
        """See Backend."""
        self.tidy(volume)
        for path in (self.data_path(volume), self.lease_path(volume), self.meta_path(volume)):
            self._unlink(path)
        path = self.image_path(volume.image_id)
        try:
            left = self._contents([f"{path}/{name}" for name in self._names(volume.image_id)])
        except NoSuchImage:
            return
        alone = not left.damaged and not any(image.volumes for image in left.images.values())
        if alone and not self._half_made(volume.image_id):
            self._empty(path)

    def remove_image(self, image_id: ImageId) -> None:
        """See Backend."""
        path, aside = self.image_path(image_id), f"{self.images_path}/{tree.removed_name(image_id)}"
        if not self._exists(path):
            if self._exists(aside):
                return
            raise NoSuchImage(image_id, self.domain_id)
        # What an earlier image of this id left; nothing of it is needed.
        self.purge_image(image_id)
        with told(f"putting {path} aside"):
            self._files.rename(path, aside)

    def purge_image(self, image_id: ImageId) -> None:
        """See Backend."""
        self._empty(f"{self.images_path}/{tree.removed_name(image_id)}")

    def volume_lease(self, volume: VolumeRef) -> LeaseRecord | None:
        """See Backend."""
        if not self._exists(self.meta_path(volume)):
            raise NoSuchVolume(volume.volume_id)
        return None if self._lease_writer is None else self._lease(volume)

    def prepare(self, image_id: ImageId) -> Mapping[VolumeId, str]:
        """See Backend. QEMU gets at files through the group, so the group may do what the owner may."""
        image = self.image(image_id)
        found = {}
        for volume_id in sorted({*image.volumes, *image.shared}):
            path = f"{self.image_path(image_id)}/{volume_id}"
            with told(f"preparing {path}"):
                mode = self._files.stat(path).mode
                wanted = mode | (mode & 0o700) >> 3
                if wanted != mode:
                    self._files.chmod(path, wanted)
            found[volume_id] = path
        return found

    def teardown(self, image_id: ImageId) -> None:
        """See Backend: there is nothing to take back."""

    def _lease(self, volume: VolumeRef) -> LeaseRecord:
        return LeaseRecord(self.domain_id, volume.volume_id, self.lease_path(volume), 0, self._shape)

    def _make_raw(self, path: str, data: NewData) -> None:
        # Each of these calls is durable.
        if data.initial_size is not None and data.allocation is not Allocation.PREALLOCATED:
            raise InvalidParameter("initialSize", "is for preallocated volumes")
        self._files.truncate(path, data.capacity)
        self._files.write_at(path, 0, bytes(min(_FIRST_BLOCK, data.capacity)))
        if data.allocation is Allocation.PREALLOCATED and data.capacity > _FIRST_BLOCK:
            self._files.allocate(path, _FIRST_BLOCK, data.capacity - _FIRST_BLOCK)

    def _make_qcow2(self, path: str, data: NewData) -> None:
        if data.initial_size is not None:
            raise InvalidParameter("initialSize", "is for block storage")
        self._maker.create_qcow2(
            path,
            data.capacity,
            compatibility=_COMPATIBILITY if self._version >= 4 else _OLD_COMPATIBILITY,
            backing=data.backing.volume_id if data.backing else None,
            backing_format=data.backing.format.qemu if data.backing else None,
        )
        if data.allocation is Allocation.PREALLOCATED:
            end = self._files.stat(path).size
            end += -end % _FIRST_BLOCK
            if end < data.capacity:
                self._files.allocate(path, end, data.capacity - end)

    def _replace_meta(self, volume: VolumeRef, text: bytes) -> None:
        path = self.meta_path(volume)
        with told(f"writing {path}"):
            self._files.replace(path, text, mode=tree.METADATA_MODE)

    def _overwrite_meta(self, volume: VolumeRef, text: bytes) -> None:
        """Write over the metadata: one sector, which is there already. Readers stop at EOF, whatever follows it."""
        path = self.meta_path(volume)
        with told(f"writing {path}"):
            self._files.write_at(path, 0, text)
            self._files.truncate(path, len(text))

    def _make_image(self, image_id: ImageId) -> bool:
        """See to an image's directory; whether it is new."""
        path = self.image_path(image_id)
        with told(f"making {path}"):
            try:
                self._files.mkdir(path, mode=tree.DIRECTORY_MODE)
            except FileExistsError:
                return False
        return True

    def _exists(self, path: str) -> bool:
        return self._inode(path) is not None

    def _inode(self, path: str) -> int | None:
        with told(f"looking at {path}"):
            try:
                return self._files.stat(path).inode
            except FileNotFoundError:
                return None

    def _link(self, path: str, target: str) -> None:
        if not self._exists(target):
            self._files.link(path, target)

    def _unlink(self, path: str) -> None:
        with told(f"removing {path}"):
            try:
                self._files.unlink(path)
            except FileNotFoundError:
                return

    def _empty(self, path: str) -> None:
        """Remove a directory with its files; other hosts may be doing the same."""
        with told(f"removing {path}"):
            try:
                names = self._files.listdir(path)
            except FileNotFoundError:
                return
        # Metadata goes last: by it the volumes would be found again.
        for name in sorted(names, key=lambda name: (name.endswith(tree.META_SUFFIX), name)):
            self._unlink(f"{path}/{name}")
        self._remove_empty(path)

    def _remove_empty(self, path: str) -> None:
        with told(f"removing {path}"):
            try:
                self._files.rmdir(path)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
