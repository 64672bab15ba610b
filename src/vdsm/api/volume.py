"""The verbs of volumes: the layers of images."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import BoolText, Pool, Role, Text, Wire, delete, get, namespace, post, put, verb
from vdsm.api.storage_types import (
    BLANK,
    Bytes,
    Description,
    DomainIdParam,
    ImageIdParam,
    Legality,
    PoolOfDomain,
    QemuImageInfo,
    VolumeAllocation,
    VolumeChecksum,
    VolumeFormat,
    VolumeIdParam,
    VolumeInfo,
    VolumeMeasure,
    VolumeRole,
    VolumeSize,
)

ONE = "/storage-domains/{domain_id}/images/{image_id}/volumes/{volume_id}"


@namespace("Volume")
class Volume(Protocol):
    """Volumes: the layers of images. What changes one is a task of the pool's manager (SPM)."""

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/volumes", status=202),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        legacy="createVolume",
    )
    def create(  # noqa: PLR0913 - the original's parameters
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        size: Bytes,
        *,
        pool_id: PoolOfDomain = BLANK,
        vol_format: VolumeFormat = "RAW",
        preallocate: VolumeAllocation = "SPARSE",
        disk_type: Annotated[str, msgspec.Meta(max_length=4)] = "DATA",
        description: Annotated[Description, Wire("desc")] = "",
        parent_image_id: Annotated[str, Wire("srcImgUUID")] = BLANK,
        parent_id: Annotated[str, Wire("srcVolUUID")] = BLANK,
        initial_size: Bytes | None = None,
        add_bitmaps: BoolText = False,
        legal: BoolText = True,
        sequence: Annotated[Text, msgspec.Meta(ge=0, le=1 << 31)] = 0,
        bitmap: str | None = None,
    ) -> str:
        """Make an empty volume, or one on top of another; the answer is the task's id.

        Args:
            domain_id: the domain.
            image_id: the image, which is made with its first volume.
            volume_id: the new volume's id.
            size: what a guest sees, in bytes.
            pool_id: the pool.
            vol_format: RAW or COW (qcow2).
            preallocate: whether its space is taken at once.
            disk_type: what it is for: DATA, OVFS, ISOF, MEMD, MEMM, SCRD, ...
            description: for the manager; on the disk with the volume.
            parent_image_id: the image of its parent; the blank UUID: its own.
            parent_id: what it stands on; the blank UUID: nothing.
            initial_size: bytes of a sparse volume that are taken at once, on block storage.
            add_bitmaps: give it the bitmaps that its parent has.
            legal: False: it is ILLEGAL until it was filled.
            sequence: a number that the manager counts up along a chain.
            bitmap: give it this one bitmap.

        Raises:
            NotSpm: this host does not manage the pool.
            VolumeExists: there is one already.
            NoSuchVolume: there is no such parent.
        """

    @verb(rest=post(f"{ONE}/copy", status=202), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="copyImage")
    def copy(  # noqa: PLR0913 - the original's parameters
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        target_image_id: Annotated[str, Wire("dstImgUUID")],
        target_volume_id: Annotated[str, Wire("dstVolUUID")],
        *,
        target_domain_id: Annotated[str, Wire("dstSdUUID")] = BLANK,
        pool_id: PoolOfDomain = BLANK,
        description: Annotated[Description, Wire("desc")] = "",
        role: Annotated[VolumeRole, Wire("volType")] = "LEAF",
        vol_format: VolumeFormat = "RAW",
        preallocate: VolumeAllocation = "SPARSE",
        post_zero: BoolText = False,
        discard: BoolText = False,
        force: BoolText = False,
    ) -> str:
        """Copy what a guest sees of a volume into a new image of one volume; the answer is the task's id.

        Args:
            domain_id: where it is.
            image_id: the image.
            volume_id: the volume; it and all that it stands on become one.
            target_image_id: the new image.
            target_volume_id: its volume.
            target_domain_id: where to; the blank UUID: the same domain.
            pool_id: the pool.
            description: the new volume's.
            role: SHARED makes it a template, LEAF a disk.
            vol_format: the new volume's.
            preallocate: whether its space is taken at once.
            post_zero: with force: overwrite the data of what is replaced.
            discard: with force: tell the storage that the space is free.
            force: replace what is there.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: it is not there.
        """

    @verb(rest=delete(ONE), role=Role.OPERATOR, pool=Pool.STORAGE)
    def delete(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
        post_zero: BoolText = False,
        discard: BoolText = False,
        force: BoolText = False,
    ) -> str:
        """Delete a volume that nothing stands on; the answer is the task's id.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: the volume.
            pool_id: the pool.
            post_zero: overwrite the data before; on file systems it is only deleted.
            discard: tell the storage that the space is free; refused on file systems.
            force: also one that others stand on.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: it is not there.
        """

    @verb(rest=get(ONE), pool=Pool.STORAGE, legacy="getVolumeInfo")
    def get_info(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> VolumeInfo:
        """What a volume's metadata says, its sizes and its lease.

        Raises:
            NoSuchDomain: it is not connected.
            NoSuchVolume: it is not there.
            Damaged: its metadata cannot be read.
        """

    @verb(rest=get(f"{ONE}/size"), pool=Pool.STORAGE, legacy="getVolumeSize")
    def get_size(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> VolumeSize:
        """What a volume takes of its domain.

        Raises:
            NoSuchDomain: it is not connected.
            NoSuchVolume: it is not there.
        """

    @verb(rest=get(f"{ONE}/qemu-image-info"), pool=Pool.STORAGE)
    def get_qemu_image_info(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> QemuImageInfo:
        """What a volume's header says, its bitmaps included.

        Raises:
            NoSuchVolume: it is not there.
            Damaged: its header cannot be read.
        """

    @verb(rest=get(f"{ONE}/measure"), pool=Pool.STORAGE)
    def measure(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
        target_format: Annotated[VolumeFormat, Wire("dstVolFormat")] = "COW",
        backing_chain: Annotated[BoolText, Wire("backing_chain")] = True,
        base_id: Annotated[str | None, Wire("baseID")] = None,
    ) -> VolumeMeasure:
        """How much room a copy of a volume would need.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: the volume.
            pool_id: not used.
            target_format: the copy's format.
            backing_chain: with all that it stands on.
            base_id: with what it stands on down to this volume, which is included.

        Raises:
            NoSuchVolume: it is not there.
        """

    @verb(rest=get(f"{ONE}/checksum"), role=Role.OPERATOR, pool=Pool.STORAGE)
    def checksum(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> VolumeChecksum:
        """The checksum of what a guest reads of a volume; reads all of its data.

        Raises:
            NoSuchVolume: it is not there.
            Unfinished: it takes longer than a caller waits.
        """

    @verb(rest=post(f"{ONE}/verify-untrusted"), role=Role.OPERATOR, pool=Pool.STORAGE, name="verify_untrusted")
    def verify_untrusted(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> None:
        """Look, under limits, whether data that came from outside is a harmless image of what the metadata says.

        Raises:
            NoSuchVolume: it is not there.
            ImageRefused: it is not: says what is wrong.
        """

    @verb(rest=post(f"{ONE}/extend", status=202), role=Role.OPERATOR, pool=Pool.STORAGE)
    def extend_size(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        new_size: Bytes,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> str:
        """Make a volume larger for the guest; the answer is the task's id.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: the volume.
            new_size: what a guest sees, in bytes.
            pool_id: the pool.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: it is not there.
        """

    @verb(rest=post(f"{ONE}/resize", status=202), role=Role.OPERATOR, pool=Pool.STORAGE)
    def resize(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        new_size: Bytes,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> str:
        """Make a volume of any format that no VM uses larger for the guest; the answer is the task's id.

        `Volume.extendSize` makes raw ones larger, and does nothing with qcow2 ones: with those it is the manager's VM
        that resizes them.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: the leaf of the image.
            new_size: what a guest sees, in bytes.
            pool_id: the pool.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: it is not there.
        """

    @verb(rest=post(f"{ONE}/refresh"), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="refreshVolume")
    def refresh(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> None:
        """Look anew how large a volume's container is; on file systems every access does.

        Raises:
            NoSuchVolume: it is not there.
        """

    @verb(rest=put(f"{ONE}/description"), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="setVolumeDescription")
    def set_description(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        description: Description,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> None:
        """Set a volume's description.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: the volume.
            description: some 200 characters; the volume's metadata must fit into 512 bytes.
            pool_id: the pool.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: it is not there.
            MetadataOverflow: it is too long.
        """

    @verb(rest=put(f"{ONE}/legality"), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="setVolumeLegality")
    def set_legality(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        legality: Legality,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> None:
        """Set whether a volume's content may be used.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: the volume.
            legality: LEGAL or ILLEGAL.
            pool_id: the pool.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: it is not there.
        """
