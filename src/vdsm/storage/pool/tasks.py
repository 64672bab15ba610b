"""Tasks, as the Engine polls them: the SPM's operations, those in memory, and what hosts of the original left.

An operation that has ended stays a task, on the master's journal, until it is cleared: after a failover the new SPM
tells of the old one's. Words and messages are the original's.

    Task is initializing    running job 1 of 1    1 jobs completed successfully    (the error's text)

Source: storage format, sections 5.1 and 5.4.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from vdsm.base.errors import WrongState
from vdsm.operations.explanations import Explanation
from vdsm.operations.manager import NoSuchOperation, Operations
from vdsm.operations.records import ENDED, OperationView, Phase, task_words
from vdsm.storage.formats.tasks import TaskRecord
from vdsm.storage.ids import PoolId
from vdsm.storage.pool.pool_errors import NoSuchTask, NotSpm, TaskNotEnded, WrongTaskState
from vdsm.storage.pool.pool_kinds import INTERNAL
from vdsm.storage.pool.spm import Spm

T = TypeVar("T")

_BEGINS: Final = "Task is initializing"
_RUNS: Final = "running job 1 of 1"
_DONE: Final = "1 jobs completed successfully"
_FAILED: Final = 100


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """How far a task is.

    Attributes:
        id: the task's.
        state: unknown, init, running, finished, aborting or cleaning.
        result: success, failure, cleanSuccess or cleanFailure; "" until it is finished.
        code: 0, or the number of what went wrong.
        message: for people.
    """

    id: str
    state: str
    result: str
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a task does; ``verb`` is the original's word."""

    id: str
    verb: str


class TaskSource(Protocol):
    """Who has tasks: ``Pools``."""

    @property
    def host_tasks(self) -> Operations:
        """Those that live in memory only."""

    def current(self) -> PoolId | None:
        """The pool that this host is in."""

    def spm(self, pool_id: PoolId) -> Spm:
        """This host as the pool's SPM.

        Raises:
            NotSpm: it is not.
        """


class Tasks:
    """All tasks of this host; may be used by many threads at once."""

    def __init__(self, pools: TaskSource) -> None:
        self._pools: Final = pools

    def status(self, task_id: str) -> TaskStatus:
        """One task, of whatever kind.

        Raises:
            NoSuchTask: there is none.
        """
        return self._on(task_id, lambda operations: status_of(operations.get(task_id)), status_of_foreign)

    def info(self, task_id: str) -> TaskInfo:
        """One task, of whatever kind.

        Raises:
            NoSuchTask: there is none.
        """
        return self._on(
            task_id,
            lambda operations: TaskInfo(task_id, operations.get(task_id).kind),
            lambda task: TaskInfo(task_id, task.verb),
        )

    def statuses(self) -> list[TaskStatus]:
        """All tasks of the pool; none when this host is in no pool.

        Raises:
            NotSpm: it is in one, and not its SPM.
        """
        spm = self._spm()
        if spm is None:
            return []
        return [*map(status_of, _visible(spm)), *map(status_of_foreign, spm.foreign.tasks())]

    def infos(self) -> list[TaskInfo]:
        """All tasks of the pool. Raises as ``statuses``."""
        spm = self._spm()
        if spm is None:
            return []
        foreign = [TaskInfo(task.task_id, task.verb) for task in spm.foreign.tasks()]
        return [*(TaskInfo(view.id, view.kind) for view in _visible(spm)), *foreign]

    def clear(self, task_id: str) -> None:
        """Forget a task that has ended.

        Raises:
            NoSuchTask: there is none.
            TaskNotEnded: it has not ended.
            Failed: the journal cannot be written.
        """

        def clear(operations: Operations) -> None:
            if operations.get(task_id).phase not in ENDED:
                raise TaskNotEnded(task_id)
            operations.clear(task_id)

        def clear_foreign(task: TaskRecord) -> None:
            if not task.state.is_done:
                raise TaskNotEnded(task_id)
            self._the_spm(task_id).foreign.clear(task_id)

        self._on(task_id, clear, clear_foreign)

    def stop(self, task_id: str) -> None:
        """End a task; what it has done is undone. Nothing when it has ended, or is being undone.

        Raises:
            NoSuchTask: there is none.
            WrongTaskState: it can only be finished.
        """

        def cancel(operations: Operations) -> None:
            if operations.get(task_id).phase is Phase.RUNNING:
                try:
                    operations.cancel(task_id)
                except WrongState as error:
                    raise WrongTaskState(task_id, str(error)) from error

        self._on(task_id, cancel, lambda _: None)

    def revert(self, task_id: str) -> None:
        """Take back what a task has done, as far as that can be known.

        Raises:
            NoSuchTask: there is none.
            WrongTaskState: it is done, and its result is used: deleting what it made is a task of its own.
        """

        def revert(operations: Operations) -> None:
            phase = operations.get(task_id).phase
            if phase is Phase.RUNNING:
                self.stop(task_id)
            elif phase is Phase.HALF_UNDONE:
                operations.settle(task_id)
            elif phase is not Phase.UNDONE and phase is not Phase.UNDOING:
                raise WrongTaskState(task_id, f"it is {phase}")

        def revert_foreign(task: TaskRecord) -> None:
            self._the_spm(task_id).foreign.revert(task)

        self._on(task_id, revert, revert_foreign)

    def explain(self, task_id: str) -> Explanation:
        """What is done of a task, what is left, and what will happen.

        Raises:
            NoSuchTask: there is none.
        """
        return self._on(task_id, lambda operations: operations.explain(task_id), _explain_foreign)

    def _on(self, task_id: str, ours: Callable[[Operations], T], foreign: Callable[[TaskRecord], T]) -> T:
        """Ask whoever has the task."""
        with suppress(NoSuchOperation):
            return ours(self._pools.host_tasks)
        try:
            spm = self._spm()
        except NotSpm:
            spm = None
        if spm is None:
            raise NoSuchTask(task_id)
        task = spm.foreign.get(task_id)
        if task is not None:
            return foreign(task)
        try:
            return ours(spm.operations)
        except NoSuchOperation as error:
            raise NoSuchTask(task_id) from error

    def _spm(self) -> Spm | None:
        current = self._pools.current()
        return None if current is None else self._pools.spm(current)

    def _the_spm(self, task_id: str) -> Spm:
        spm = self._spm()
        if spm is None:
            raise NoSuchTask(task_id)
        return spm


def status_of(view: OperationView) -> TaskStatus:
    """An operation as a task."""
    state, result = task_words(view)
    code, message = 0, _RUNS
    if view.phase is Phase.DONE:
        message = _DONE
    elif view.fault is not None:
        code, message = view.fault.code or _FAILED, view.fault.text
    elif view.waiting:
        message = _BEGINS
    return TaskStatus(view.id, str(state), str(result), code, message)


def status_of_foreign(task: TaskRecord) -> TaskStatus:
    """A task of a host of the original."""
    code, message = (0, _BEGINS) if task.outcome is None else (task.outcome.code, task.outcome.message)
    return TaskStatus(task.task_id, task.state.told_state, task.state.told_result, code, message)


def _visible(spm: Spm) -> list[OperationView]:
    return [view for view in spm.operations.views() if view.kind not in INTERNAL]


def _explain_foreign(task: TaskRecord) -> Explanation:
    after = "nothing; it is kept until it is cleared" if task.state.is_done else "the next SPM rolls it back"
    return Explanation(
        id=task.task_id,
        kind=task.verb,
        arguments="; ".join(job.call for job in task.jobs),
        summary=f"a host of the original left it {task.state.value}",
        done=(),
        uncertain=(),
        left=tuple(item.name for item in reversed(task.rollbacks)),
        next=after,
        locks=(),
    )
