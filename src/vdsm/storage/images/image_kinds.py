"""All operations of the SPM on images, as kinds; made once, and given to whoever keeps the pool's journal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vdsm.operations.kinds import Kind, Policy
from vdsm.storage import plans, wants
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import DiscardUnsupported
from vdsm.storage.executor import DataMover
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeRef
from vdsm.storage.images import scope
from vdsm.storage.images.merge_kinds import Subchain, finalize_merge, prepare_merge
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.images.planned import Carrier, Decided, Decision, Manner, planned_kind
from vdsm.storage.images.usage import refuse_busy
from vdsm.storage.images.volume_kinds import (
    BitmapTools,
    CreateVolume,
    DeleteVolumes,
    ExtendVolume,
    create_volume,
    delete_volumes,
    extend_volume,
    resize_volume,
)
from vdsm.storage.steps import RemoveImage


class DeleteImage(Decided, frozen=True, kw_only=True):
    """An image that is to go with all its volumes.

    Attributes:
        post_zero: on block storage its data is wiped; files are only unlinked.
        discard: only for block storage.
    """

    domain_id: DomainId
    image_id: ImageId
    post_zero: bool = False
    discard: bool = False

    @property
    def image(self) -> ImageRef:
        """Its address."""
        return ImageRef(self.domain_id, self.image_id)


@dataclass(frozen=True, slots=True)
class ImageKinds:
    """The kinds by name; iterating gives all."""

    create_volume: Kind[CreateVolume]
    delete_volumes: Kind[DeleteVolumes]
    delete_image: Kind[DeleteImage]
    extend_volume: Kind[ExtendVolume]
    resize_volume: Kind[ExtendVolume]
    prepare_merge: Kind[Subchain]
    finalize_merge: Kind[Subchain]

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter((
            *(self.create_volume, self.delete_volumes, self.delete_image, self.extend_volume),
            *(self.resize_volume, self.prepare_merge, self.finalize_merge),
        ))


def image_kinds(find: FindDomain, mover: DataMover, tools: BitmapTools | None = None) -> ImageKinds:
    """Make the kinds.

    Args:
        find: the handle on a domain.
        mover: who changes the data of images.
        tools: who makes the bitmaps of new volumes; without, they are refused.
    """
    carrier = Carrier(find, mover)
    return ImageKinds(
        create_volume(carrier, tools),
        delete_volumes(carrier),
        delete_image(carrier),
        extend_volume(carrier),
        resize_volume(carrier),
        prepare_merge(carrier),
        finalize_merge(carrier),
    )


def delete_image(carrier: Carrier) -> Kind[DeleteImage]:
    """The kind deleteImage: once the image is put aside it only goes forward."""
    return planned_kind(
        "deleteImage",
        DeleteImage,
        _decide_delete,
        lambda given: wants.of_image(given.image),
        domain_of=lambda given: given.domain_id,
        carrier=carrier,
        manner=Manner(Policy.RESUME, pivot=RemoveImage),
    )


def _decide_delete(domain: Domain, given: DeleteImage) -> Decision:
    if given.discard and not domain.kind.is_block:
        raise DiscardUnsupported(given.domain_id)
    images = scope.with_dependents(domain.backend, given.image)
    plan = plans.remove(images, given.image)
    ids = images[given.image].volumes
    refuse_busy(domain, [VolumeRef(given.domain_id, given.image_id, ident) for ident in ids])
    return images, plan
