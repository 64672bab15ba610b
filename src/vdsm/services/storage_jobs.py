"""The verbs of volume jobs."""

from __future__ import annotations

from typing import Final, TypedDict, TypeVar

import msgspec

from vdsm.api import storage_types as api
from vdsm.operations.kinds import Kind
from vdsm.storage.errors import InvalidParameter, UnsupportedOperation
from vdsm.storage.ids import (
    DomainId,
    ImageId,
    VolumeId,
    parse_domain_id,
    parse_image_id,
    parse_job_id,
    parse_volume_id,
)
from vdsm.storage.images.copy_jobs import CopyData
from vdsm.storage.images.job_kinds import AmendVolume, BitmapJob, JobKinds, MergeJob, UpdateVolume, VolumeJob
from vdsm.storage.images.jobs import Jobs
from vdsm.storage.kinds import Legality

A = TypeVar("A", bound=msgspec.Struct)


class _Volume(TypedDict):
    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId
    requested: int | None


class VolumeJobService:
    """Implements ``api.sdm.VolumeJobs``."""

    def __init__(self, jobs: Jobs, kinds: JobKinds, copy: Kind[CopyData]) -> None:
        self._jobs: Final = jobs
        self._kinds: Final = kinds
        self._copy: Final = copy

    def merge(self, job_id: str, subchain_info: api.Subchain, *, merge_bitmaps: bool = False) -> None:
        """Write data into the volume beneath."""
        request = MergeJob(
            domain_id=parse_domain_id(subchain_info.sd_id, "subchain_info.sd_id"),
            image_id=parse_image_id(subchain_info.img_id, "subchain_info.img_id"),
            base_id=parse_volume_id(subchain_info.base_id, "subchain_info.base_id"),
            top_id=parse_volume_id(subchain_info.top_id, "subchain_info.top_id"),
            base_generation=subchain_info.base_generation,
            merge_bitmaps=merge_bitmaps,
        )
        self._submit(self._kinds.merge, request, job_id)

    def copy_data(
        self,
        job_id: str,
        source: api.CopyEndpoint,
        destination: api.CopyEndpoint,
        *,
        copy_bitmaps: bool = False,
        legal: bool = True,
    ) -> None:
        """Copy data into a volume."""
        if source.lease is not None or destination.lease is not None:
            raise UnsupportedOperation("a copy under an external lease")
        origin, target = _volume(source, "source"), _volume(destination, "destination")
        request = CopyData(
            domain_id=origin["domain_id"],
            image_id=origin["image_id"],
            volume_id=origin["volume_id"],
            target_domain_id=target["domain_id"],
            target_image_id=target["image_id"],
            target_volume_id=target["volume_id"],
            requested=target["requested"],
            bitmaps=copy_bitmaps,
            legal=legal,
        )
        self._submit(self._copy, request, job_id)

    def update_volume(self, job_id: str, volume: api.VolumeAddress, change: api.VolumeChange) -> None:
        """Change metadata."""
        request = UpdateVolume(
            **_volume(volume),
            legality=None if change.legality is None else Legality(change.legality),
            description=change.description,
            new_generation=change.generation,
            shared=change.type is not None,
        )
        self._submit(self._kinds.update_volume, request, job_id)

    def sparsify_volume(self, job_id: str, volume: api.VolumeAddress) -> None:
        """Give unused space back."""
        self._submit(self._kinds.sparsify_volume, VolumeJob(**_volume(volume)), job_id)

    def amend_volume(self, job_id: str, volume: api.VolumeAddress, change: api.Qcow2Change) -> None:
        """Change a header."""
        if change.compat is None:
            raise InvalidParameter("qcow2_attr.compat", "is missing")
        request = AmendVolume(**_volume(volume), compatibility=change.compat)
        self._submit(self._kinds.amend_volume, request, job_id)

    def add_bitmap(self, job_id: str, volume: api.VolumeAddress, bitmap: str) -> None:
        """Make a bitmap."""
        self._submit(self._kinds.add_bitmap, BitmapJob(**_volume(volume), bitmap=bitmap), job_id)

    def remove_bitmap(self, job_id: str, volume: api.VolumeAddress, bitmap: str) -> None:
        """Remove a bitmap."""
        self._submit(self._kinds.remove_bitmap, BitmapJob(**_volume(volume), bitmap=bitmap), job_id)

    def clear_bitmaps(self, job_id: str, volume: api.VolumeAddress) -> None:
        """Remove all bitmaps."""
        self._submit(self._kinds.clear_bitmaps, BitmapJob(**_volume(volume)), job_id)

    def _submit(self, kind: Kind[A], request: A, job_id: str) -> None:
        self._jobs.submit(kind, request, parse_job_id(job_id))


def _volume(given: api.VolumeAddress, field: str = "vol_info") -> _Volume:
    return {
        "domain_id": parse_domain_id(given.sd_id, f"{field}.sd_id"),
        "image_id": parse_image_id(given.img_id, f"{field}.img_id"),
        "volume_id": parse_volume_id(given.vol_id, f"{field}.vol_id"),
        "requested": given.generation,
    }
