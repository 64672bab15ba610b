"""The verbs of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from vdsm.api import storage_types as api
from vdsm.services.storage_copies import CopyKinds
from vdsm.services.storage_gates import Gates
from vdsm.services.storage_spm import SpmDoor
from vdsm.storage.errors import NoSuchImage
from vdsm.storage.ids import BLANK, ImageRef, parse_domain_id, parse_image_id, parse_volume_id
from vdsm.storage.images.copying import MoveImage
from vdsm.storage.images.image_kinds import DeleteImage, ImageKinds
from vdsm.storage.images.image_queries import ImageQueries
from vdsm.storage.images.images import ImageChanges
from vdsm.storage.images.preparing import Preparer
from vdsm.storage.images.structure_copies import CloneStructure, Part, SyncData
from vdsm.storage.images.volume_kinds import DeleteVolumes


class ImageService:
    """Implements ``api.image.Image``."""

    def __init__(
        self,
        *,
        kinds: ImageKinds,
        copies: CopyKinds,
        queries: ImageQueries,
        changes: ImageChanges,
        preparer: Preparer,
        spm: SpmDoor,
        gates: Gates,
    ) -> None:
        self._kinds: Final = kinds
        self._copies: Final = copies
        self._queries: Final = queries
        self._changes: Final = changes
        self._preparer: Final = preparer
        self._spm: Final = spm
        self._gates: Final = gates

    def get_volumes(self, domain_id: str, image_id: str, *, pool_id: str = BLANK) -> list[str]:
        """Its volumes."""
        del pool_id
        with self._at(domain_id, image_id) as ref:
            found = self._queries.volumes(ref.domain_id, ref.image_id)
            if not found:
                raise NoSuchImage(ref.image_id, ref.domain_id)
            return list(found)

    def prepare(
        self,
        domain_id: str,
        image_id: str,
        volume_id: str,
        *,
        pool_id: str = BLANK,
        allow_illegal: bool = False,
    ) -> api.PreparedImage:
        """Make it usable on this host."""
        with self._at(domain_id, image_id) as ref:
            leaf = parse_volume_id(volume_id)
            pool = None if pool_id == BLANK else self._spm.pool(pool_id)
            prepared = self._preparer.prepare(pool, ref.domain_id, ref.image_id, leaf, allow_illegal=allow_illegal)
            return api.PreparedImage(path=prepared.path)

    def teardown(self, domain_id: str, image_id: str, *, volume_id: str = BLANK, pool_id: str = BLANK) -> None:
        """Take that back."""
        del volume_id, pool_id
        with self._at(domain_id, image_id) as ref:
            self._preparer.teardown(ref.domain_id, ref.image_id)

    def delete(
        self,
        domain_id: str,
        image_id: str,
        *,
        pool_id: str = BLANK,
        post_zero: bool = False,
        discard: bool = False,
        force: bool = False,
    ) -> str:
        """Delete it."""
        del force  # the original's caller sends it, and the original deletes no template that others stand on, either
        with self._at(domain_id, image_id) as ref:
            request = DeleteImage(domain_id=ref.domain_id, image_id=ref.image_id, post_zero=post_zero, discard=discard)
            return self._spm.submit(pool_id, self._kinds.delete_image, request)

    def delete_volumes(
        self,
        domain_id: str,
        image_id: str,
        volume_list: tuple[str, ...],
        *,
        pool_id: str = BLANK,
        post_zero: bool = False,
        discard: bool = False,
        force: bool = False,
    ) -> str:
        """Delete some of its volumes."""
        with self._at(domain_id, image_id) as ref:
            request = DeleteVolumes(
                domain_id=ref.domain_id,
                image_id=ref.image_id,
                volume_ids=[parse_volume_id(item, f"volumeList[{index}]") for index, item in enumerate(volume_list)],
                force=force,
                post_zero=post_zero,
                discard=discard,
            )
            return self._spm.submit(pool_id, self._kinds.delete_volumes, request)

    def move(  # noqa: PLR0913 - the contract's
        self,
        domain_id: str,
        image_id: str,
        target_domain_id: str,
        operation: api.MoveOperation,
        *,
        pool_id: str = BLANK,
        post_zero: bool = False,
        discard: bool = False,
        force: bool = False,
    ) -> str:
        """Copy or move it to another domain."""
        with self._at(domain_id, image_id) as ref:
            request = MoveImage(
                domain_id=ref.domain_id,
                image_id=ref.image_id,
                target_domain_id=parse_domain_id(target_domain_id, "dstSdUUID"),
                keep=operation == "COPY",
                force=force,
                post_zero=post_zero,
                discard=discard,
            )
            return self._spm.submit(pool_id, self._copies.move, request)

    def clone_structure(self, domain_id: str, image_id: str, target_domain_id: str, *, pool_id: str = BLANK) -> str:
        """Make its chain elsewhere."""
        with self._at(domain_id, image_id) as ref:
            target = parse_domain_id(target_domain_id, "dstSdUUID")
            request = CloneStructure(domain_id=ref.domain_id, image_id=ref.image_id, target_domain_id=target)
            return self._spm.submit(pool_id, self._copies.clone, request)

    def sync_data(
        self,
        domain_id: str,
        image_id: str,
        target_domain_id: str,
        *,
        sync_type: Literal["ALL", "INTERNAL", "LEAF"] = "ALL",
        pool_id: str = BLANK,
    ) -> str:
        """Copy its data into its chain elsewhere."""
        with self._at(domain_id, image_id) as ref:
            request = SyncData(
                domain_id=ref.domain_id,
                image_id=ref.image_id,
                target_domain_id=parse_domain_id(target_domain_id, "dstSdUUID"),
                part=Part(sync_type),
            )
            return self._spm.submit(pool_id, self._copies.sync, request)

    def reconcile_volume_chain(self, domain_id: str, image_id: str, leaf_id: str, *, pool_id: str = BLANK) -> list[str]:
        """Bring its metadata in line with its data."""
        with self._at(domain_id, image_id) as ref:
            leaf = parse_volume_id(leaf_id, "leafVolID")
            self._spm.spm(pool_id)
            return list(self._changes.reconcile(ref, leaf))

    @contextmanager
    def _at(self, domain_id: str, image_id: str) -> Iterator[ImageRef]:
        with self._gates.domain(domain_id) as ident:
            yield ImageRef(ident, parse_image_id(image_id))
