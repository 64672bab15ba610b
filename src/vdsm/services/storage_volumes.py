"""The verbs of volumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vdsm.api import storage_types as api
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Unfinished
from vdsm.services import storage_answers as answers
from vdsm.services.storage_copies import CopyKinds
from vdsm.services.storage_gates import Gates
from vdsm.services.storage_spm import SpmDoor
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.ids import (
    BLANK,
    VolumeRef,
    parse_domain_id,
    parse_image_id,
    parse_parent_id,
    parse_volume_id,
)
from vdsm.storage.images import content
from vdsm.storage.images.copying import CopyVolume
from vdsm.storage.images.image_kinds import ImageKinds
from vdsm.storage.images.image_queries import ImageQueries
from vdsm.storage.images.images import ImageChanges
from vdsm.storage.images.mover import QemuImages, Unwatched
from vdsm.storage.images.volume_kinds import CreateVolume, DeleteVolumes, ExtendVolume
from vdsm.storage.kinds import Allocation, Legality, VolumeFormat

# A caller gets an answer after 170 s, whatever it is.
_CALLER_WAITS_S: Final = 160.0


class _Patience(Unwatched):
    """Ends work that nobody waits for any more."""

    def __init__(self, seconds: float) -> None:
        self._seconds: Final = seconds
        self._until_s: Final = monotonic_s() + seconds

    def check(self) -> None:
        """See Watch.

        Raises:
            Unfinished: it has taken too long.
        """
        if monotonic_s() >= self._until_s:
            raise Unfinished("reading the volume", self._seconds)


class VolumeService:
    """Implements ``api.volume.Volume``."""

    def __init__(
        self,
        *,
        kinds: ImageKinds,
        copies: CopyKinds,
        queries: ImageQueries,
        changes: ImageChanges,
        data: QemuImages,
        spm: SpmDoor,
        gates: Gates,
    ) -> None:
        self._kinds: Final = kinds
        self._copies: Final = copies
        self._queries: Final = queries
        self._changes: Final = changes
        self._data: Final = data
        self._spm: Final = spm
        self._gates: Final = gates

    def create(  # noqa: PLR0913 - the contract's
        self,
        domain_id: str,
        image_id: str,
        volume_id: str,
        size: int,
        *,
        pool_id: str = BLANK,
        vol_format: api.VolumeFormat = "RAW",
        preallocate: api.VolumeAllocation = "SPARSE",
        disk_type: str = "DATA",
        description: str = "",
        parent_image_id: str = BLANK,
        parent_id: str = BLANK,
        initial_size: int | None = None,
        add_bitmaps: bool = False,
        legal: bool = True,
        sequence: int = 0,
        bitmap: str | None = None,
    ) -> str:
        """Make a volume."""
        request = CreateVolume(
            domain_id=parse_domain_id(domain_id),
            image_id=parse_image_id(image_id),
            volume_id=parse_volume_id(volume_id),
            capacity=size,
            format=VolumeFormat.of_word(vol_format, "volFormat"),
            allocation=Allocation.of_word(preallocate, "preallocate"),
            parent_image_id=None if parent_image_id == BLANK else parse_image_id(parent_image_id, "srcImgUUID"),
            parent_id=parse_parent_id(parent_id),
            initial_size=initial_size,
            legal=legal,
            description=description,
            disk_type=disk_type,
            sequence=sequence,
            inherit_bitmaps=add_bitmaps,
            bitmap=bitmap,
        )
        with self._gates.place(request.domain_id):
            return self._spm.submit(pool_id, self._kinds.create_volume, request)

    def copy(  # noqa: PLR0913 - the contract's
        self,
        domain_id: str,
        image_id: str,
        volume_id: str,
        target_image_id: str,
        target_volume_id: str,
        *,
        target_domain_id: str = BLANK,
        pool_id: str = BLANK,
        description: str = "",
        role: api.VolumeRole = "LEAF",
        vol_format: api.VolumeFormat = "RAW",
        preallocate: api.VolumeAllocation = "SPARSE",
        post_zero: bool = False,
        discard: bool = False,
        force: bool = False,
    ) -> str:
        """Copy its data into a new image."""
        with self._at(domain_id, image_id, volume_id) as ref:
            elsewhere = target_domain_id != BLANK
            request = CopyVolume(
                domain_id=ref.domain_id,
                image_id=ref.image_id,
                volume_id=ref.volume_id,
                target_domain_id=parse_domain_id(target_domain_id, "dstSdUUID") if elsewhere else ref.domain_id,
                target_image_id=parse_image_id(target_image_id, "dstImgUUID"),
                target_volume_id=parse_volume_id(target_volume_id, "dstVolUUID"),
                description=description or None,
                format=VolumeFormat.of_word(vol_format, "volFormat"),
                allocation=Allocation.of_word(preallocate, "preallocate"),
                shared=role == "SHARED",
                force=force,
                post_zero=post_zero,
                discard=discard,
            )
            return self._spm.submit(pool_id, self._copies.copy, request)

    def delete(
        self,
        domain_id: str,
        image_id: str,
        volume_id: str,
        *,
        pool_id: str = BLANK,
        post_zero: bool = False,
        discard: bool = False,
        force: bool = False,
    ) -> str:
        """Delete it."""
        with self._at(domain_id, image_id, volume_id) as ref:
            request = DeleteVolumes(
                domain_id=ref.domain_id,
                image_id=ref.image_id,
                volume_ids=[ref.volume_id],
                force=force,
                post_zero=post_zero,
                discard=discard,
            )
            return self._spm.submit(pool_id, self._kinds.delete_volumes, request)

    def get_info(self, domain_id: str, image_id: str, volume_id: str, *, pool_id: str = BLANK) -> api.VolumeInfo:
        """What its metadata says."""
        with self._at(domain_id, image_id, volume_id) as ref:
            return answers.volume_info(self._queries.volume_info(ref), "" if pool_id == BLANK else pool_id)

    def get_size(self, domain_id: str, image_id: str, volume_id: str, *, pool_id: str = BLANK) -> api.VolumeSize:
        """What it takes."""
        del pool_id
        with self._at(domain_id, image_id, volume_id) as ref:
            found = self._queries.size(ref)
            return api.VolumeSize(truesize=found.allocated, apparentsize=found.apparent)

    def get_qemu_image_info(
        self, domain_id: str, image_id: str, volume_id: str, *, pool_id: str = BLANK
    ) -> api.QemuImageInfo:
        """What its header says."""
        del pool_id
        with self._at(domain_id, image_id, volume_id) as ref:
            return answers.qemu_image_info(self._data.info(ref))

    def measure(
        self,
        domain_id: str,
        image_id: str,
        volume_id: str,
        *,
        pool_id: str = BLANK,
        target_format: api.VolumeFormat = "COW",
        backing_chain: bool = True,
        base_id: str | None = None,
    ) -> api.VolumeMeasure:
        """What a copy would need."""
        del pool_id
        with self._long(domain_id, image_id, volume_id) as ref:
            base = None if base_id is None else parse_volume_id(base_id, "baseID")
            if base is not None and base != ref.volume_id:
                raise UnsupportedOperation("measuring a part of a chain")
            chain = backing_chain and base is None
            return answers.measure(
                self._data.measure(ref, VolumeFormat.of_word(target_format, "dstVolFormat"), chain=chain)
            )

    def checksum(self, domain_id: str, image_id: str, volume_id: str, *, pool_id: str = BLANK) -> api.VolumeChecksum:
        """The checksum of its data."""
        del pool_id
        with self._long(domain_id, image_id, volume_id) as ref:
            found = content.checksum(self._data, ref, _Patience(_CALLER_WAITS_S))
            return api.VolumeChecksum(algorithm=found.algorithm, block_size=found.block_size, checksum=found.checksum)

    def verify_untrusted(self, domain_id: str, image_id: str, volume_id: str, *, pool_id: str = BLANK) -> None:
        """Look whether it is harmless."""
        del pool_id
        with self._long(domain_id, image_id, volume_id) as ref:
            self._data.verify_untrusted(ref)

    def extend_size(self, domain_id: str, image_id: str, volume_id: str, new_size: int, *, pool_id: str = BLANK) -> str:
        """Make it larger."""
        with self._at(domain_id, image_id, volume_id) as ref:
            request = ExtendVolume(
                domain_id=ref.domain_id, image_id=ref.image_id, volume_id=ref.volume_id, capacity=new_size
            )
            return self._spm.submit(pool_id, self._kinds.extend_volume, request)

    def resize(self, domain_id: str, image_id: str, volume_id: str, new_size: int, *, pool_id: str = BLANK) -> str:
        """Make it larger, whatever its format."""
        with self._at(domain_id, image_id, volume_id) as ref:
            known = self._queries.volume_info(ref).metadata
            request = ExtendVolume(
                domain_id=ref.domain_id, image_id=ref.image_id, volume_id=ref.volume_id, capacity=new_size
            )
            is_qcow2 = known is not None and known.format is VolumeFormat.COW
            kind = self._kinds.resize_volume if is_qcow2 else self._kinds.extend_volume
            return self._spm.submit(pool_id, kind, request)

    def refresh(self, domain_id: str, image_id: str, volume_id: str, *, pool_id: str = BLANK) -> None:
        """See that it is there: a file's size is asked for at every access."""
        self.get_size(domain_id, image_id, volume_id, pool_id=pool_id)

    def set_description(
        self, domain_id: str, image_id: str, volume_id: str, description: str, *, pool_id: str = BLANK
    ) -> None:
        """Set its description."""
        with self._at(domain_id, image_id, volume_id) as ref:
            self._spm.spm(pool_id)
            self._changes.set_description(ref, description)

    def set_legality(
        self, domain_id: str, image_id: str, volume_id: str, legality: api.Legality, *, pool_id: str = BLANK
    ) -> None:
        """Set whether it may be used."""
        with self._at(domain_id, image_id, volume_id) as ref:
            self._spm.spm(pool_id)
            self._changes.set_legality(ref, Legality(legality))

    @contextmanager
    def _at(self, domain_id: str, image_id: str, volume_id: str) -> Iterator[VolumeRef]:
        with self._gates.domain(domain_id) as ident:
            yield VolumeRef(ident, parse_image_id(image_id), parse_volume_id(volume_id))

    @contextmanager
    def _long(self, domain_id: str, image_id: str, volume_id: str) -> Iterator[VolumeRef]:
        """Reading all of a volume takes minutes: that has places of its own."""
        ref = VolumeRef(parse_domain_id(domain_id), parse_image_id(image_id), parse_volume_id(volume_id))
        with self._gates.place(f"{ref.domain_id} data"):
            yield ref
