"""An operation in words: what is done, what may be done, what is left, and what will happen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vdsm.operations.journal import Damaged
from vdsm.operations.locks import Use
from vdsm.operations.records import OperationView, Phase, Record
from vdsm.operations.run import Plan


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where an operation is.

    Attributes:
        id: its id.
        kind: what it does.
        arguments: with what, as JSON.
        summary: one sentence.
        done: steps that are done and lasting.
        uncertain: steps that may be done, half done or not begun.
        left: steps that are not begun, or undone.
        next: what will happen.
        locks: what it holds or waits for, and who else does.
    """

    id: str
    kind: str
    arguments: str
    summary: str
    done: tuple[str, ...]
    uncertain: tuple[str, ...]
    left: tuple[str, ...]
    next: str
    locks: tuple[str, ...]


def explain(record: Record, plan: Plan, view: OperationView, uses: Iterable[Use]) -> Explanation:
    """Put an operation into words."""
    first, last = _uncertain(record, plan)
    return Explanation(
        id=record.id,
        kind=record.kind,
        arguments=bytes(record.arguments).decode(),
        summary=_summary(record, view),
        done=record.steps[:first],
        uncertain=record.steps[first:last],
        left=record.steps[last:],
        next=_next(record, plan, view),
        locks=tuple(
            f"{use.resource} {use.mode}, {'held' if use.held else 'waited for'} by {use.owner} for {use.seconds:.0f} s"
            for use in uses
        ),
    )


def explain_damaged(damaged: Damaged) -> Explanation:
    """Put into words that nothing can be said."""
    return Explanation(
        id=damaged.id,
        kind="unknown",
        arguments="",
        summary=f"its record cannot be read: {damaged.reason}",
        done=(),
        uncertain=(),
        left=(),
        next="nothing, until a person has looked at the record",
        locks=(),
    )


def _uncertain(record: Record, plan: Plan) -> tuple[int, int]:
    """The range of steps of which it is not known whether they are done."""
    match record.phase:
        case Phase.RUNNING | Phase.UNFINISHED:
            return record.reached, plan.touched(record.reached)
        case Phase.UNDOING | Phase.HALF_UNDONE:
            # How far the last step had come is not known, and the ones before it may be without a record.
            first = record.reached
            while first > 0 and (first == record.reached or not _is_recorded(plan, first - 1)):
                first -= 1
            return first, record.reached
        case Phase.DONE | Phase.UNDONE:
            return record.reached, record.reached


def _is_recorded(plan: Plan, index: int) -> bool:
    return index >= len(plan.steps) or plan.steps[index].recorded


def _summary(record: Record, view: OperationView) -> str:
    why = f": {record.fault.text}" if record.fault else ""
    match record.phase:
        case Phase.RUNNING if view.waiting:
            return "it waits for its turn"
        case Phase.RUNNING:
            return f"it is at {view.progress} %: {view.step}"
        case Phase.UNDOING:
            return f"it is being undone{why}"
        case Phase.DONE:
            return "it is done"
        case Phase.UNDONE:
            return f"it was undone, as if it had never been{why}"
        case Phase.UNFINISHED:
            return f"it must be finished, but that failed{why}"
        case Phase.HALF_UNDONE:
            undo = f"; undoing failed: {record.undo_fault.text}" if record.undo_fault else ""
            return f"it is half undone{why}{undo}"


def _next(record: Record, plan: Plan, view: OperationView) -> str:
    if view.stalled and not plan.steps:
        return f"nothing, by this agent: {view.stalled}; it keeps its locks"
    if view.stalled:
        return f"nothing at the moment: {view.stalled}"
    match record.phase:
        case Phase.DONE | Phase.UNDONE:
            return "nothing; it is kept until it is cleared"
        case Phase.UNFINISHED:
            return "it is tried again when the agent starts, or when settling is asked for; it keeps its locks"
        case Phase.HALF_UNDONE:
            return "undoing is tried again when the agent starts, or when settling is asked for; it keeps its locks"
        case Phase.UNDOING:
            return "what may be done of it is undone, the last step first; so it is if the agent ends now"
        case Phase.RUNNING:
            return _prospect(record, plan, view)


def _prospect(record: Record, plan: Plan, view: OperationView) -> str:
    if view.cancelled:
        return "it stops at the next opportunity and is undone"
    if plan.forward_only(record.reached):
        return "it goes on, also if the agent ends now; there is no way back"
    ended = "undone" if plan.policy.value == "undo" else "continued"
    return f"it goes on; if a step fails it is undone, and if the agent ends now it is {ended} at the next start"
