"""Merging a volume into the one beneath it, while nobody has the image open (cold merge).

    prepareMerge     the base becomes large enough          task of the SPM
    merge            the top's data goes into the base      job of any host (``jobs``), under the base's lease
    finalizeMerge    the top is taken out of the chain      task of the SPM; it is deleted later, by deleteVolume

Each can be cut off anywhere and be made again.
"""

from __future__ import annotations

from typing import Final

from vdsm.operations.kinds import Kind, Policy
from vdsm.storage import plans, wants
from vdsm.storage.domains.domain import Domain
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef
from vdsm.storage.images import scope
from vdsm.storage.images.planned import Carrier, Decided, Decision, Manner, planned_kind
from vdsm.storage.steps import Rebase

_REBASED: Final = Manner(Policy.RESUME, pivot=Rebase)


class Subchain(Decided, frozen=True, kw_only=True):
    """Two volumes of one image, the one on the other, that are to become one.

    Attributes:
        base_id: the one that stays.
        top_id: the one whose data goes into it.
        base_generation: what the base's generation must be when data is committed; None is any.
    """

    domain_id: DomainId
    image_id: ImageId
    base_id: VolumeId
    top_id: VolumeId
    base_generation: int | None = None

    @property
    def base(self) -> VolumeRef:
        """The address of the one that stays."""
        return VolumeRef(self.domain_id, self.image_id, self.base_id)

    @property
    def top(self) -> VolumeRef:
        """The address of the one that goes."""
        return VolumeRef(self.domain_id, self.image_id, self.top_id)


def prepare_merge(carrier: Carrier) -> Kind[Subchain]:
    """The kind prepareMerge."""
    return planned_kind(
        "prepareMerge",
        Subchain,
        _decide_prepare,
        lambda given: wants.of_image(given.base.image),
        domain_of=lambda given: given.domain_id,
        carrier=carrier,
        manner=Manner(Policy.RESUME),
    )


def finalize_merge(carrier: Carrier) -> Kind[Subchain]:
    """The kind finalizeMerge."""
    return planned_kind(
        "finalizeMerge",
        Subchain,
        _decide_finalize,
        lambda given: wants.of_image(given.base.image),
        domain_of=lambda given: given.domain_id,
        carrier=carrier,
        manner=_REBASED,
    )


def _decide_prepare(domain: Domain, given: Subchain) -> Decision:
    images = scope.known(domain.backend, given.domain_id, [given.image_id])
    return images, plans.prepare_merge(images, given.base, given.top)


def _decide_finalize(domain: Domain, given: Subchain) -> Decision:
    images = scope.known(domain.backend, given.domain_id, [given.image_id])
    return images, plans.finish_merge(images, given.base, given.top)
