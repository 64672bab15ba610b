"""The host's jobs that the storage domain has: each changes one volume under its lease.

    merge_subchain     the data of a volume goes into the one beneath it
    update_volume      legality, description, kind and generation, in one write
    amend_volume       another version of a qcow2 header
    add_bitmap, remove_bitmap, clear_bitmaps

They go on after a restart of the agent; see ``guarded_plan`` for how that is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.storage import plans, wants
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import InvalidUpdate, NotLeaf, UnsupportedOperation
from vdsm.storage.executor import change
from vdsm.storage.formats.leases import next_generation
from vdsm.storage.formats.volume import VolumeMetadata, tidy_description
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef
from vdsm.storage.images import scope
from vdsm.storage.images.guarded_plan import Guard, check_generation
from vdsm.storage.images.merge_kinds import Subchain
from vdsm.storage.images.planned import Decided
from vdsm.storage.images.usage import refuse_busy, wait_until_free
from vdsm.storage.journaled import write_plan
from vdsm.storage.kinds import Legality, VolumeFormat, VolumeKind
from vdsm.storage.steps import Change

_UNSET: Final = -1


class VolumeTools(Protocol):
    """What qemu-img does to single volumes; each call again is the same."""

    def amend(self, volume: VolumeRef, compatibility: str) -> None:
        """Rewrite the header for a version of the format."""

    def sparsify(self, volume: VolumeRef) -> None:
        """Give what holds nothing in a volume back to the storage, in place."""

    def add_bitmap(self, volume: VolumeRef, bitmap: str) -> None:
        """Begin a bitmap.

        Raises:
            UnsupportedOperation: a volume of the chain has one of this name.
        """

    def remove_bitmap(self, volume: VolumeRef, bitmap: str) -> None:
        """Take a bitmap away; nothing if it is not there."""

    def clear_bitmaps(self, volume: VolumeRef) -> None:
        """Take all bitmaps away."""

    def merge_bitmaps(self, top: VolumeRef, base: VolumeRef) -> None:
        """Add what the top's bitmaps noted to the base's, and those bitmaps that the base lacks."""


class MergeJob(Subchain, frozen=True, kw_only=True):
    """A merge; ``generation`` is the base's when it was decided."""

    merge_bitmaps: bool = False
    generation: int = _UNSET


class VolumeJob(Decided, frozen=True, kw_only=True):
    """A job on one volume.

    Attributes:
        requested: the generation that the volume must have; None is any.
        generation: what it was when the job was decided.
    """

    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId
    requested: int | None = None
    generation: int = _UNSET

    @property
    def volume(self) -> VolumeRef:
        """Its address."""
        return VolumeRef(self.domain_id, self.image_id, self.volume_id)


class UpdateVolume(VolumeJob, frozen=True, kw_only=True):
    """What is to be changed; None leaves it.

    Attributes:
        new_generation: instead of the next.
        shared: it becomes a template's.
    """

    legality: Legality | None = None
    description: str | None = None
    new_generation: int | None = None
    shared: bool = False

    @property
    def next(self) -> int:
        """The generation afterwards."""
        return next_generation(self.generation) if self.new_generation is None else self.new_generation


class AmendVolume(VolumeJob, frozen=True, kw_only=True):
    """The version of the format that the header is to have: "0.10" or "1.1"."""

    compatibility: str


class BitmapJob(VolumeJob, frozen=True, kw_only=True):
    """The bitmap that is added or removed."""

    bitmap: str = ""


@dataclass(frozen=True, slots=True)
class JobKinds:
    """The kinds by name."""

    merge: Kind[MergeJob]
    update_volume: Kind[UpdateVolume]
    amend_volume: Kind[AmendVolume]
    sparsify_volume: Kind[VolumeJob]
    add_bitmap: Kind[BitmapJob]
    remove_bitmap: Kind[BitmapJob]
    clear_bitmaps: Kind[BitmapJob]

    def all(self) -> list[Kind[Any]]:
        """Each of them."""
        return [
            *(self.merge, self.update_volume, self.amend_volume, self.sparsify_volume),
            *(self.add_bitmap, self.remove_bitmap, self.clear_bitmaps),
        ]


def job_kinds(guard: Guard, tools: VolumeTools) -> JobKinds:
    """Make the kinds.

    Args:
        guard: who carries plans out under leases.
        tools: who changes volumes.
    """

    def on_volume(
        name: str,
        arguments: type[Any],
        check: Callable[[Domain, Any, VolumeMetadata], None],
        act: Callable[[Any], None],
    ) -> Kind[Any]:
        return Kind(
            name,
            1,
            arguments,
            lambda given: [_acting(guard, name, given, act)],
            lambda given: wants.of_image(given.volume.image),
            lambda given: _decide_on_volume(guard, given, check),
            Policy.UNDO,
        )

    return JobKinds(
        merge=_merge(guard, tools),
        update_volume=_update(guard),
        amend_volume=on_volume(
            "amend_volume", AmendVolume, _check_amend, lambda job: tools.amend(job.volume, job.compatibility)
        ),
        sparsify_volume=on_volume(
            "sparsify_volume", VolumeJob, _check_sparsify, lambda job: tools.sparsify(job.volume)
        ),
        add_bitmap=on_volume(
            "add_bitmap", BitmapJob, _check_bitmap, lambda job: tools.add_bitmap(job.volume, job.bitmap)
        ),
        remove_bitmap=on_volume(
            "remove_bitmap", BitmapJob, _check_bitmap, lambda job: tools.remove_bitmap(job.volume, job.bitmap)
        ),
        clear_bitmaps=on_volume("clear_bitmaps", BitmapJob, _check_bitmap, lambda job: tools.clear_bitmaps(job.volume)),
    )


def _merge(guard: Guard, tools: VolumeTools) -> Kind[MergeJob]:
    def decide(given: MergeJob) -> MergeJob:
        backend = guard.find(given.domain_id).backend
        images = scope.known(backend, given.domain_id, [given.image_id])
        plan = plans.commit_merge(images, given.base, given.top)
        actual = images[given.base.image].volume(given.base_id).generation
        check_generation(given.base_generation, actual)
        refuse_busy(guard.find(given.domain_id), [given.base, given.top])
        return msgspec.structs.replace(given, steps=write_plan(plan), generation=actual)

    def steps(given: MergeJob) -> Sequence[Step]:
        def move_bitmaps() -> None:
            if given.merge_bitmaps:
                tools.merge_bitmaps(given.top, given.base)

        return [guard.step("commit the data", given.base, given.steps, _both(given.generation), move_bitmaps)]

    return Kind(
        "merge_subchain",
        1,
        MergeJob,
        steps,
        lambda given: wants.of_image(given.base.image),
        decide,
        Policy.RESUME,
    )


def _update(guard: Guard) -> Kind[UpdateVolume]:
    def decide(given: UpdateVolume) -> UpdateVolume:
        before = guard.find(given.domain_id).backend.volume(given.volume)
        check_generation(given.requested, before.generation)
        _check_update(given, before)
        decided = msgspec.structs.replace(given, generation=before.generation)
        write = Change(
            given.volume,
            kind=VolumeKind.SHARED if given.shared else None,
            legality=given.legality,
            description=None if given.description is None else tidy_description(given.description),
            generation=decided.next,
        )
        return msgspec.structs.replace(decided, steps=write_plan((write,)))

    def steps(given: UpdateVolume) -> Sequence[Step]:
        return [guard.step("change the metadata", given.volume, given.steps, (given.generation, given.next))]

    return Kind(
        "update_volume",
        1,
        UpdateVolume,
        steps,
        lambda given: wants.of_image(given.volume.image),
        decide,
        Policy.RESUME,
    )


def _acting(guard: Guard, name: str, given: VolumeJob, act: Callable[[Any], None]) -> Step:
    before, after = _both(given.generation)

    def do(run: Run) -> None:
        with guard.leased(given.volume, run) as domain:
            check_generation(before, domain.backend.volume(given.volume).generation)
            wait_until_free(domain, [given.volume], run.check)
            act(given)
            run.point("the volume is changed")
            change(Change(given.volume, generation=after), domain.backend)

    return Step(name.replace("_", " "), do)


def _decide_on_volume(guard: Guard, given: Any, check: Callable[[Domain, Any, VolumeMetadata], None]) -> Any:
    domain = guard.find(given.domain_id)
    before = domain.backend.volume(given.volume)
    check_generation(given.requested, before.generation)
    check(domain, given, before)
    refuse_busy(domain, [given.volume])
    return msgspec.structs.replace(given, generation=before.generation)


def _check_update(given: UpdateVolume, before: VolumeMetadata) -> None:
    if given.shared and before.kind is not VolumeKind.LEAF:
        raise InvalidUpdate(given.volume_id, f"it is {before.kind.value} and cannot become a template's")
    if given.shared and before.parent is not None:
        raise InvalidUpdate(given.volume_id, "it stands on another and cannot become a template's")
    if given.legality is not None and given.legality is before.legality:
        raise InvalidUpdate(given.volume_id, f"it is {before.legality.value} already")


def _check_amend(domain: Domain, given: AmendVolume, before: VolumeMetadata) -> None:
    _check_qcow2(given, before)
    if given.compatibility not in {"0.10", "1.1"} or (given.compatibility == "1.1" and domain.version < 4):
        raise UnsupportedOperation(f"domain {domain.id} cannot have qcow2 of version {given.compatibility!r:.20}")


def _check_sparsify(_: Domain, given: VolumeJob, before: VolumeMetadata) -> None:
    if before.kind is not VolumeKind.LEAF:
        raise NotLeaf(given.volume_id)


def _check_bitmap(domain: Domain, given: BitmapJob, before: VolumeMetadata) -> None:
    _check_qcow2(given, before)
    if domain.version < 4:
        raise UnsupportedOperation(f"domain {domain.id} is of version {domain.version}, and has no bitmaps")


def _check_qcow2(given: VolumeJob, before: VolumeMetadata) -> None:
    if before.format is not VolumeFormat.COW:
        raise UnsupportedOperation(f"volume {given.volume_id} is not qcow2")
    if before.kind is VolumeKind.SHARED:
        raise UnsupportedOperation(f"volume {given.volume_id} is a template's")


def _both(generation: int) -> tuple[int, int]:
    """The generation, and the one after it; before anything is decided neither counts."""
    return (generation, next_generation(generation)) if generation >= 0 else (_UNSET, _UNSET)
