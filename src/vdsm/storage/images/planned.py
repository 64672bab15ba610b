"""Kinds of operations whose steps are a plan: from what is asked for, by way of what is there, to what is done.

    submit      arguments: what is asked for
    decide      under the locks: reads what is there, makes the plan, and what takes each step back  -> arguments
    step n      executor.carry_out(plan[n])
    undo n      executor.carry_out(back[n])

Both lists are in the journal, as plain values, so another process needs nothing else to go on or back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec

from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Wants
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import NoSuchVolume
from vdsm.storage.executor import DataMover, carry_out
from vdsm.storage.ids import DomainId, VolumeRef
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.images.usage import wait_until_free
from vdsm.storage.journaled import Entry, read_plan, write_plan
from vdsm.storage.steps import (
    Change,
    Commit,
    Delete,
    GrowData,
    Images,
    MakeData,
    Plan,
    Publish,
    PurgeImage,
    Rebase,
    RemoveImage,
    Resize,
    ShareTemplate,
    UnshareTemplate,
    apply,
    undoing,
)
from vdsm.storage.steps import Step as Planned

_LONG: Final = 100.0
_WORDS: Final[dict[type[Planned], str]] = {
    ShareTemplate: "link the template",
    UnshareTemplate: "unlink the template",
    MakeData: "make the data",
    Publish: "write the metadata",
    Change: "change the metadata",
    GrowData: "grow the data",
    Resize: "resize the image",
    Commit: "commit the data",
    Rebase: "rebase the header",
    Delete: "delete",
    RemoveImage: "put aside the image",
    PurgeImage: "purge the image",
}


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a kind's arguments that ``decide`` fills in: the plan, and what takes each step of it back."""

    steps: list[Entry] = []
    back: list[Entry | None] = []


D = TypeVar("D", bound=Decided)
Decision = tuple[Images, Plan]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a kind's steps are journaled.

    Attributes:
        policy: what becomes of it when it does not run through.
        pivot: the step after whose end there is no way back; None when there always is one.
        recorded: the end of each step goes into the journal, which costs a write; otherwise of the last and the pivot.
    """

    policy: Policy = Policy.UNDO
    pivot: type[Planned] | None = None
    recorded: bool = False


UNDONE: Final = Manner()


def planned_kind(
    name: str,
    arguments: type[D],
    decide: Callable[[Domain, D], Decision],
    wants: Callable[[D], Wants],
    *,
    domain_of: Callable[[D], DomainId],
    carrier: Carrier,
    manner: Manner = UNDONE,
) -> Kind[D]:
    """A kind whose steps are a plan.

    Args:
        name: the original's word for such a task.
        arguments: what is asked for.
        decide: reads what has to be known, and refuses or makes the plan.
        wants: what is locked.
        domain_of: where it happens.
        carrier: who carries steps out.
        manner: how they are journaled.
    """

    def fill_in(given: D) -> D:
        images, plan = decide(carrier.find(domain_of(given)), given)
        return _filled(given, images, plan)

    def plan(given: D) -> Sequence[Step]:
        return carrier.steps(domain_of(given), given, manner)

    return Kind(name, 1, arguments, plan, wants, fill_in, manner.policy)


class Carrier:
    """Carries plans out as the steps of operations.

    Args:
        find: the handle on a domain.
        mover: who changes the data of images.
    """

    def __init__(self, find: FindDomain, mover: DataMover) -> None:
        self.find: Final = find
        self._mover: Final = mover

    def steps(self, domain_id: DomainId, decided: Decided, manner: Manner) -> list[Step]:
        """The steps of an operation that was decided."""
        plan, back = read_plan(decided.steps), _read_back(decided.back)
        doomed = frozenset(step.volume for step in plan if isinstance(step, Delete))
        found: list[Step] = []
        turned = manner.pivot is None
        for index, (step, undo) in enumerate(zip(plan, back, strict=True)):
            pivot = not turned and isinstance(step, manner.pivot or object)
            turned = turned or pivot
            found.append(
                Step(
                    f"{_WORDS[type(step)]} {_subject(step)}",
                    partial(self._do, domain_id, step, doomed),
                    partial(self._undo, domain_id, undo),
                    weight=_LONG if _is_long(step) else 1.0,
                    recorded=manner.recorded or pivot or _is_long(step) or index + 1 == len(plan),
                    pivot=pivot,
                )
            )
        return found

    def _do(self, domain_id: DomainId, step: Planned, doomed: frozenset[VolumeRef], run: Run) -> None:
        domain = self.find(domain_id)
        wait_until_free(domain, written(step), run.check)
        try:
            carry_out(step, domain.backend, self._mover.watched(run))
        except NoSuchVolume:
            # Made again after a crash: what it changes was already deleted by a later step.
            if not isinstance(step, Change) or step.volume not in doomed:
                raise

    def _undo(self, domain_id: DomainId, step: Planned | None, run: Run) -> None:
        if step is None:
            return
        backend = self.find(domain_id).backend
        if isinstance(step, Change):
            # When it was cut off before anything was changed, nothing is written now.
            backend.tidy(step.volume)
        carry_out(step, backend, self._mover.watched(run))


def _filled(given: D, images: Images, plan: Plan) -> D:
    back: list[Entry | None] = []
    for step in plan:
        undo = _undoing(images, step)
        back.append(write_plan((undo,))[0] if undo is not None else None)
        images = apply(images, step)
    return msgspec.structs.replace(given, steps=write_plan(plan), back=back)


def _undoing(images: Images, step: Planned) -> Planned | None:
    if isinstance(step, RemoveImage):
        # It failed, so the image is there as it was; or nobody knows, and what is aside must not stay: every host of
        # the original may have begun to delete it.
        return PurgeImage(step.image)
    return undoing(images, step)


def _read_back(entries: list[Entry | None]) -> list[Planned | None]:
    return [read_plan([entry])[0] if entry is not None else None for entry in entries]


def written(step: Planned) -> tuple[VolumeRef, ...]:
    """The volumes that QEMU's tools open for a step."""
    match step:
        case Commit(top, base):
            return (top, base)
        case Rebase(volume) | Resize(volume):
            return (volume,)
        case _:
            return ()


def _is_long(step: Planned) -> bool:
    return isinstance(step, Commit)


def _subject(step: Planned) -> str:
    match step:
        case RemoveImage(image) | PurgeImage(image) | ShareTemplate(_, image) | UnshareTemplate(_, image):
            return image.image_id
        case Commit(top):
            return top.volume_id
        case _:
            return f"of {step.volume.volume_id}" if not isinstance(step, Delete) else step.volume.volume_id
