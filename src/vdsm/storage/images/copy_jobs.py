"""The host's job that copies a volume's data into a volume that is there (SDM.copy_data), under the target's lease.

    the lease is taken -> the generation is what it was -> ILLEGAL -> the data -> LEGAL and generation + 1, in one write

A target that was cut off stays ILLEGAL and of the old generation: so the manager knows, and it may be done again.

Source: storage format, sections 3.3, 7.2 and 7.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Mode, Wants
from vdsm.storage import wants
from vdsm.storage.errors import InvalidParameter, NoSuchVolume
from vdsm.storage.executor import change
from vdsm.storage.formats.leases import next_generation
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef
from vdsm.storage.images.guarded_plan import Guard, check_generation
from vdsm.storage.images.mover import QemuImages, Target
from vdsm.storage.kinds import Legality
from vdsm.storage.steps import Change

_UNSET = -1


class CopyData(msgspec.Struct, frozen=True, kw_only=True):
    """A volume and where its data goes.

    Attributes:
        requested: the generation that the target must have; None is any.
        bitmaps: also copy persistent bitmaps.
        legal: the target becomes LEGAL at the end.
        generation: decided: what the target's was.
    """

    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId
    target_domain_id: DomainId
    target_image_id: ImageId
    target_volume_id: VolumeId
    requested: int | None = None
    bitmaps: bool = False
    legal: bool = True
    generation: int = _UNSET

    @property
    def source(self) -> VolumeRef:
        """The address of the one that is copied."""
        return VolumeRef(self.domain_id, self.image_id, self.volume_id)

    @property
    def target(self) -> VolumeRef:
        """The address of the one that is written."""
        return VolumeRef(self.target_domain_id, self.target_image_id, self.target_volume_id)


def copy_data(guard: Guard, images: QemuImages) -> Kind[CopyData]:
    """The kind copy_data."""

    def decide(given: CopyData) -> CopyData:
        if given.source == given.target:
            raise InvalidParameter("destination", "is the source")
        image = guard.find(given.domain_id).backend.image(given.image_id)
        if image.below(given.volume_id) is None:
            raise NoSuchVolume(given.volume_id)
        images.chain(given.source)
        actual = guard.find(given.target_domain_id).backend.volume(given.target).generation
        check_generation(given.requested, actual)
        return msgspec.structs.replace(given, generation=actual)

    def copy(given: CopyData, run: Run) -> None:
        after = next_generation(given.generation)
        with guard.leased(given.target, run) as domain:
            actual = domain.backend.volume(given.target).generation
            if actual == after:
                return  # it was done, and cut off before that was on record
            check_generation(given.generation, actual)
            change(Change(given.target, legality=Legality.ILLEGAL), domain.backend)
            run.point("the target is illegal")
            images.watched(run).copy(given.source, given.target, Target.USED, bitmaps=given.bitmaps)
            run.point("the data is copied")
            legality = Legality.LEGAL if given.legal else None
            change(Change(given.target, legality=legality, generation=after), domain.backend)

    def steps(given: CopyData) -> Sequence[Step]:
        return [Step("copy the data", lambda run: copy(given, run))]

    return Kind("copy_data", 1, CopyData, steps, _locks, decide, Policy.RESUME)


def _locks(given: CopyData) -> Wants:
    return [*wants.of_volume(given.source, Mode.SHARED), *wants.of_volume(given.target)]
