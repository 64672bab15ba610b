"""The verbs of volume jobs: work on volumes that any host of the pool does, under the volume's own lease (SDM)."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import BoolText, Pool, Role, Wire, namespace, post, verb
from vdsm.api.storage_types import CopyEndpoint, JobIdParam, Qcow2Change, Subchain, VolumeAddress, VolumeChange

VolumeParam = Annotated[VolumeAddress, Wire("vol_info"), msgspec.Meta(description="the volume")]
BitmapName = Annotated[str, msgspec.Meta(min_length=1, max_length=1023, description="the bitmap's name")]


@namespace("SDM")
class VolumeJobs(Protocol):
    """Volume jobs: what any host of the pool may do, under the volume's own lease. `Host.getJobs` follows them."""

    @verb(rest=post("/volume-jobs/merge", status=201), role=Role.OPERATOR, pool=Pool.STORAGE)
    def merge(
        self,
        job_id: JobIdParam,
        subchain_info: Annotated[Subchain, Wire("subchain_info")],
        *,
        merge_bitmaps: Annotated[BoolText, Wire("merge_bitmaps")] = False,
    ) -> None:
        """Write the data of a part of a chain into its base; no VM may use it.

        Args:
            job_id: the id that the job gets.
            subchain_info: what is merged.
            merge_bitmaps: bitmaps, too.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: a volume is not there.
        """

    @verb(rest=post("/volume-jobs/copy-data", status=201), role=Role.OPERATOR, pool=Pool.STORAGE, name="copy_data")
    def copy_data(
        self,
        job_id: JobIdParam,
        source: CopyEndpoint,
        destination: CopyEndpoint,
        *,
        copy_bitmaps: Annotated[BoolText, Wire("copy_bitmaps")] = False,
        legal: BoolText = True,
    ) -> None:
        """Copy what a guest reads of a volume into another one that is there already.

        Args:
            job_id: the id that the job gets.
            source: what is copied.
            destination: where to.
            copy_bitmaps: bitmaps, too.
            legal: whether the destination is LEGAL afterwards.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: a volume is not there.
        """

    @verb(
        rest=post("/volume-jobs/update-volume", status=201),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        name="update_volume",
    )
    def update_volume(
        self,
        job_id: JobIdParam,
        volume: VolumeParam,
        change: Annotated[VolumeChange, Wire("vol_attr")],
    ) -> None:
        """Change a volume's metadata.

        Args:
            job_id: the id that the job gets.
            volume: the volume.
            change: what is changed.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: it is not there.
        """

    @verb(
        rest=post("/volume-jobs/sparsify-volume", status=201),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        name="sparsify_volume",
    )
    def sparsify_volume(self, job_id: JobIdParam, volume: VolumeParam) -> None:
        """Give back the space of a volume's unused parts.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: it is not there.
        """

    @verb(
        rest=post("/volume-jobs/amend-volume", status=201),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        name="amend_volume",
    )
    def amend_volume(
        self,
        job_id: JobIdParam,
        volume: VolumeParam,
        change: Annotated[Qcow2Change, Wire("qcow2_attr")],
    ) -> None:
        """Change a qcow2 volume's header.

        Args:
            job_id: the id that the job gets.
            volume: the volume.
            change: what is changed.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: it is not there.
        """

    @verb(rest=post("/volume-jobs/add-bitmap", status=201), role=Role.OPERATOR, pool=Pool.STORAGE, name="add_bitmap")
    def add_bitmap(self, job_id: JobIdParam, volume: VolumeParam, bitmap: BitmapName) -> None:
        """Make a dirty bitmap in a qcow2 volume.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: it is not there.
        """

    @verb(
        rest=post("/volume-jobs/remove-bitmap", status=201),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        name="remove_bitmap",
    )
    def remove_bitmap(self, job_id: JobIdParam, volume: VolumeParam, bitmap: BitmapName) -> None:
        """Remove a dirty bitmap of a qcow2 volume.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: it is not there.
        """

    @verb(
        rest=post("/volume-jobs/clear-bitmaps", status=201),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        name="clear_bitmaps",
    )
    def clear_bitmaps(self, job_id: JobIdParam, volume: VolumeParam) -> None:
        """Remove all dirty bitmaps of a qcow2 volume.

        Raises:
            AlreadyExists: there is a job of this id.
            NoSuchVolume: it is not there.
        """
