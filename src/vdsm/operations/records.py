"""What the journal keeps of an operation, and the words in which others ask for its state.

    RUNNING --all steps done----> DONE                                       task: finished, success
       |    --a step failed, and it must be finished--> UNFINISHED           task: finished, failure
       |                           (tried again at the next start or settle)
       +----failed, cancelled, or the agent ended--> UNDOING                 task: aborting, then cleaning
                                                        |--all undone--> UNDONE             finished, cleanSuccess
                                                        +--undo failed--> HALF_UNDONE       finished, cleanFailure
                                                           (tried again at the next start or settle)

Pure: no threads, no files, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from msgspec import Raw, Struct

from vdsm.base.errors import VdsmError

# The version of the record itself; that of an operation's arguments and steps is its kind's.
FORMAT: Final = 1
# What a note may be: enough to undo by, small enough to be written again with each step.
Note = str | int | bool | None


class Phase(StrEnum):
    """Where an operation is, as the journal knows it."""

    RUNNING = "running"
    UNDOING = "undoing"
    DONE = "done"
    UNDONE = "undone"
    UNFINISHED = "unfinished"
    HALF_UNDONE = "half undone"


SETTLED: Final = frozenset({Phase.DONE, Phase.UNDONE})
ENDED: Final = SETTLED | {Phase.UNFINISHED, Phase.HALF_UNDONE}


class Fault(Struct, frozen=True):
    """Why an operation did not succeed: an error's stable name, its number, and what it said."""

    name: str
    code: int
    text: str


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operation in the journal. Replaced as a whole at every boundary.

    Attributes:
        format: the version of this structure.
        id: the operation's id.
        kind: the name of its kind; the registry says what that does.
        version: the version of the kind.
        arguments: the kind's arguments, as JSON; once it is decided, with what was decided.
        decided: whether the kind has looked at the present state, under the locks, and the steps are known.
        steps: the names of its steps, so that another plan is noticed.
        wants: what it locks: namespace, name, mode.
        begun: wall time, for people.
        flow: the request that asked for it, for the log.
        phase: where it is.
        reached: RUNNING: so many steps are known to be done. UNDOING: so many from the first may need to be undone.
        notes: what its steps remembered.
        fault: the first thing that went wrong.
        undo_fault: why the last attempt to undo it failed.
        cancelled: somebody asked for its end.
        cleared: nobody wants to see it any more; it goes when it is settled.
    """

    format: int = FORMAT
    id: str
    kind: str
    version: int
    arguments: Raw
    steps: tuple[str, ...]
    decided: bool = True
    wants: tuple[tuple[str, str, str], ...] = ()
    begun: str
    flow: str = ""
    phase: Phase = Phase.RUNNING
    reached: int = 0
    notes: dict[str, Note] = {}
    fault: Fault | None = None
    undo_fault: Fault | None = None
    cancelled: bool = False
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class OperationView:
    """A picture of an operation.

    Attributes:
        id: its id.
        kind: what it does.
        phase: where it is, as the journal knows it.
        waiting: it has not begun: others have what it locks, or all workers are busy.
        progress: 0 to 100.
        step: what it is doing at the moment, or what it stands before.
        fault: the first thing that went wrong.
        cancelled: somebody asked for its end.
        stalled: why it goes on neither forward nor back at the moment; "" if it does or has ended.
        begun: wall time.
        notes: what its steps remembered.
    """

    id: str
    kind: str
    phase: Phase
    waiting: bool
    progress: int
    step: str
    fault: Fault | None
    cancelled: bool
    stalled: str
    begun: str
    notes: dict[str, Note]


class TaskState(StrEnum):
    """The original's states of storage tasks, as an Engine reads them."""

    INIT = "init"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTING = "aborting"
    CLEANING = "cleaning"


class TaskResult(StrEnum):
    """The original's results of storage tasks."""

    NONE = ""
    SUCCESS = "success"
    FAILURE = "failure"
    CLEAN_SUCCESS = "cleanSuccess"
    CLEAN_FAILURE = "cleanFailure"


class JobStatus(StrEnum):
    """The original's states of host jobs."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    ABORTED = "aborted"
    FAILED = "failed"


_RESULTS: Final = {
    Phase.DONE: TaskResult.SUCCESS,
    Phase.UNDONE: TaskResult.CLEAN_SUCCESS,
    Phase.UNFINISHED: TaskResult.FAILURE,
    Phase.HALF_UNDONE: TaskResult.CLEAN_FAILURE,
}


def task_words(view: OperationView) -> tuple[TaskState, TaskResult]:
    """An operation's state and result in the words of storage tasks."""
    if view.phase in ENDED:
        return TaskState.FINISHED, _RESULTS[view.phase]
    if view.phase is Phase.UNDOING:
        return TaskState.CLEANING, TaskResult.NONE
    if view.cancelled:
        return TaskState.ABORTING, TaskResult.NONE
    return (TaskState.INIT if view.waiting else TaskState.RUNNING), TaskResult.NONE


def job_status(view: OperationView) -> JobStatus:
    """An operation's state in the words of host jobs."""
    match view.phase:
        case Phase.DONE:
            return JobStatus.DONE
        case Phase.UNDONE if view.cancelled:
            return JobStatus.ABORTED
        case Phase.UNDONE | Phase.UNFINISHED | Phase.HALF_UNDONE:
            return JobStatus.FAILED
        case Phase.RUNNING | Phase.UNDOING:
            return JobStatus.PENDING if view.waiting and view.phase is Phase.RUNNING else JobStatus.RUNNING


def fault_of(error: BaseException) -> Fault:
    """An error as the journal keeps it."""
    if isinstance(error, VdsmError):
        return Fault(error.name, error.code, str(error))
    return Fault(type(error).__name__, VdsmError.code, str(error) or type(error).__name__)
