"""The verbs of images: the disks of virtual machines, each a chain of volumes."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from vdsm.api.contract import BoolText, Pool, Role, Wire, delete, get, namespace, post, verb
from vdsm.api.storage_types import (
    BLANK,
    DomainIdParam,
    ImageIdParam,
    MoveOperation,
    PoolOfDomain,
    PreparedImage,
    VolumeIdParam,
)

LeafParam = Annotated[VolumeIdParam, Wire("leafVolID")]
TargetDomain = Annotated[str, Wire("dstSdUUID")]


@namespace("Image")
class Image(Protocol):
    """Images: the disks of virtual machines, each a chain of volumes. What changes one is a task of the pool's SPM."""

    @verb(rest=get("/storage-domains/{domain_id}/images/{image_id}/volumes"), pool=Pool.STORAGE)
    def get_volumes(
        self, domain_id: DomainIdParam, image_id: ImageIdParam, *, pool_id: PoolOfDomain = BLANK
    ) -> list[str]:
        """The ids of an image's volumes.

        Raises:
            NoSuchDomain: it is not connected.
            NoSuchImage: the domain has no such image.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/prepare"),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        legacy="prepareVolume",
    )
    def prepare(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
        allow_illegal: BoolText = False,
    ) -> PreparedImage:
        """Make an image usable on this host, up to one of its volumes. Again is fine.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: the top of what is used.
            pool_id: not used.
            allow_illegal: also when a volume is marked ILLEGAL.

        Raises:
            NoSuchVolume: the image has no such volume.
            IllegalVolume: it is marked so: it was not written to its end, or is to be deleted.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/teardown"),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        legacy="teardownVolume",
    )
    def teardown(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        *,
        volume_id: LeafParam = BLANK,
        pool_id: PoolOfDomain = BLANK,
    ) -> None:
        """Take back `Image.prepare`. What is not prepared is torn down already.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_id: not used.
            pool_id: not used.

        Raises:
            NoSuchDomain: it is not connected.
        """

    @verb(
        rest=delete("/storage-domains/{domain_id}/images/{image_id}"),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        legacy="deleteImage",
    )
    def delete(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        *,
        pool_id: PoolOfDomain = BLANK,
        post_zero: BoolText = False,
        discard: BoolText = False,
        force: BoolText = False,
    ) -> str:
        """Delete an image; the answer is the task's id. From the moment of the answer the image is gone for all.

        Args:
            domain_id: the domain.
            image_id: the image.
            pool_id: the pool.
            post_zero: overwrite the data before; on file systems it is only deleted.
            discard: tell the storage that the space is free; refused on file systems, as by the original.
            force: also a template that others stand on.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchImage: the domain has no such image.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/delete-volumes", status=202),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        legacy="deleteVolume",
    )
    def delete_volumes(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_list: tuple[str, ...],
        *,
        pool_id: PoolOfDomain = BLANK,
        post_zero: BoolText = False,
        discard: BoolText = False,
        force: BoolText = False,
    ) -> str:
        """Delete volumes of an image that nothing stands on; the answer is the task's id.

        Args:
            domain_id: the domain.
            image_id: the image.
            volume_list: the volumes, in the order in which they are deleted.
            pool_id: the pool.
            post_zero: overwrite the data before; on file systems it is only deleted.
            discard: tell the storage that the space is free; refused on file systems.
            force: also volumes that others stand on.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: the image has no such volume.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/move", status=202),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        legacy="moveImage",
    )
    def move(  # noqa: PLR0913 - the original's parameters
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        target_domain_id: TargetDomain,
        operation: MoveOperation,
        *,
        pool_id: PoolOfDomain = BLANK,
        post_zero: BoolText = False,
        discard: BoolText = False,
        force: BoolText = False,
    ) -> str:
        """Copy or move an image with all its volumes to another domain; the answer is the task's id.

        Args:
            domain_id: where it is.
            image_id: the image.
            target_domain_id: where to.
            operation: COPY or MOVE.
            pool_id: the pool.
            post_zero: MOVE: overwrite the data at its old place.
            discard: MOVE: tell the storage that the space is free; refused on file systems.
            force: replace an image of this id at the target.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchImage: the domain has no such image.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/clone-structure", status=202),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
    )
    def clone_structure(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        target_domain_id: TargetDomain,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> str:
        """Make an image's chain on another domain, without the data; the answer is the task's id.

        Args:
            domain_id: where it is.
            image_id: the image.
            target_domain_id: where to.
            pool_id: the pool.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchImage: the domain has no such image.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/sync-data", status=202),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
    )
    def sync_data(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        target_domain_id: TargetDomain,
        *,
        sync_type: Literal["ALL", "INTERNAL", "LEAF"] = "ALL",
        pool_id: PoolOfDomain = BLANK,
    ) -> str:
        """Copy the data of an image into its chain on another domain; the answer is the task's id.

        Args:
            domain_id: where it is.
            image_id: the image.
            target_domain_id: where to.
            sync_type: all volumes, all but the leaf, or only the leaf.
            pool_id: the pool.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchImage: the domain has no such image.
        """

    @verb(rest=post("/storage-domains/{domain_id}/images/{image_id}/reconcile"), role=Role.OPERATOR, pool=Pool.STORAGE)
    def reconcile_volume_chain(
        self,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        leaf_id: LeafParam,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> list[str]:
        """Bring an image's metadata in line with its data after a merge that was cut off; the chain, base first.

        Args:
            domain_id: the domain.
            image_id: the image.
            leaf_id: the top of the chain.
            pool_id: the pool.

        Raises:
            NotSpm: this host does not manage the pool.
            WrongChain: data and metadata differ in more than a merge explains; nothing was changed.
        """
