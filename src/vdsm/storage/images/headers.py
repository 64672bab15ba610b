"""What qcow2 headers say of the volumes of an image, read through the domain's files and never by way of qemu-img.

Nothing that a header names is opened.
"""

from __future__ import annotations

from typing import Final, Protocol

from vdsm.base.errors import BadParameter
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged, NoSuchVolume
from vdsm.storage.files.files import told
from vdsm.storage.ids import VolumeId, VolumeRef, is_uuid
from vdsm.storage.kinds import VolumeFormat
from vdsm.system import qemu_img
from vdsm.system.qemu_img import Header

# The usual cluster; all that is needed of a header is in its first one.
_READ: Final = 64 << 10


class Headers(Protocol):
    """Who reads the headers of volumes."""

    def virtual_size(self, domain: Domain, volume: VolumeRef, path: str, volume_format: VolumeFormat) -> int:
        """The bytes that a VM sees of a volume by what is in its container, at a prepared path.

        Raises:
            Damaged: it is no such image.
        """

    def backing(self, domain: Domain, volume: VolumeRef, path: str) -> VolumeId | None:
        """What a qcow2 volume's header names beneath it.

        Raises:
            Damaged: it is no such image, or names no volume.
        """


class FileHeaders:
    """``Headers`` by reading the beginning of the container."""

    def virtual_size(self, domain: Domain, volume: VolumeRef, path: str, volume_format: VolumeFormat) -> int:
        """See Headers."""
        if volume_format is VolumeFormat.RAW:
            return domain.backend.data(volume).apparent
        return self._header(domain, volume, path).virtual_size

    def backing(self, domain: Domain, volume: VolumeRef, path: str) -> VolumeId | None:
        """See Headers."""
        name = self._header(domain, volume, path).backing
        if name is None:
            return None
        ident = name.rsplit("/", 1)[-1]
        if not is_uuid(ident):
            raise Damaged(path, f"its header names {name!r:.80} beneath it, which is no volume")
        return VolumeId(ident)

    def _header(self, domain: Domain, volume: VolumeRef, path: str) -> Header:
        with told(f"reading {path}"):
            try:
                data = domain.files.read(path, size=_READ, direct=domain.kind.is_shared)
            except FileNotFoundError as error:
                raise NoSuchVolume(volume.volume_id) from error
        try:
            return qemu_img.parse_header(data)
        except BadParameter as error:
            raise Damaged(path, str(error)) from error
