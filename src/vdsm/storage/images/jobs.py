"""The host's storage jobs, as an Engine polls them (Host.getJobs): operations in this host's own journal.

    submit -> pending -> running -> done | failed | aborted -> forgotten, an hour after its end

The caller gives the id. A job that a restart of the agent interrupted is found in the journal and goes on, or has
failed; either way it is still told of under its id.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import WrongState
from vdsm.operations.journal import JournalStore
from vdsm.operations.kinds import Kind, Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import ENDED, Fault, JobStatus, OperationView, job_status

A = TypeVar("A", bound=msgspec.Struct)

JOB_TYPE: Final = "storage"
# The original's autodelete_delay.
_KEPT_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class JobView:
    """A job, as it is told of.

    Attributes:
        id: given by the caller.
        status: where it is.
        description: what it does, in the original's words.
        progress: 0 to 100; None before it runs.
        error: why it failed.
    """

    id: str
    status: JobStatus
    description: str
    progress: float | None
    error: Fault | None

    def answer(self) -> dict[str, Any]:
        """As getJobs says it."""
        found: dict[str, Any] = {
            "id": self.id,
            "status": str(self.status),
            "description": self.description,
            "job_type": JOB_TYPE,
        }
        if self.progress is not None:
            found["progress"] = self.progress
        if self.error is not None:
            found["error"] = {"code": self.error.code, "message": self.error.text}
        return found


def _ignore(_: JobView) -> None:
    """The hook that nobody uses."""


def _pass(_: str) -> None:
    """No fault point."""


class Jobs:
    """All storage jobs of this host; may be used by many threads at once.

    Args:
        kinds: what jobs there are.
        journal: this host's own.
        locks: shared with all who lock storage.
        workers: how many run at the same time.
        kept_s: seconds that a job is told of after its end; negative is for ever.
        changed: told of each change of status; must not wait.
        point: called at every fault point; for tests.
    """

    def __init__(
        self,
        kinds: Iterable[Kind[Any]],
        journal: JournalStore,
        locks: Locks,
        *,
        workers: int = 10,
        kept_s: float = _KEPT_S,
        changed: Callable[[JobView], None] = _ignore,
        point: Callable[[str], None] = _pass,
    ) -> None:
        self._changed: Final = changed
        self._kept_s: Final = kept_s
        self._lock = threading.Lock()
        self._ended_s: dict[str, float] = {}
        self._operations: Final = Operations(
            Kinds(kinds), journal, locks, workers=workers, changed=self._note, point=point
        )

    @property
    def operations(self) -> Operations:
        """What they are made of, for who explains and settles operations."""
        return self._operations

    def resume(self) -> list[JobView]:
        """Read the journal and settle what the last process has left; must come before the first ``submit``.

        Raises:
            OSError: the journal cannot be read.
        """
        views = self._operations.resume()
        for view in views:
            if view.phase in ENDED:
                self._mark(view.id)
        return [_view(view) for view in views]

    def submit(self, kind: Kind[A], arguments: A, job_id: str) -> JobView:
        """Begin a job.

        Raises:
            AlreadyExists: there is a job of this id.
            BadParameter: the id is no UUID.
            Busy: too many are under way.
            Recovering: the journal was not read yet.
            Failed: the journal cannot be written; nothing was begun.
        """
        self._forget_old()
        return _view(self._operations.submit(kind, arguments, job_id))

    def views(self, job_ids: Iterable[str] = ()) -> dict[str, JobView]:
        """The jobs of these ids that there are, or all; by id."""
        self._forget_old()
        wanted = frozenset(job_ids)
        return {view.id: _view(view) for view in self._operations.views() if not wanted or view.id in wanted}

    def wait(self, job_id: str, timeout_s: float) -> JobView:
        """Wait for a job's end.

        Raises:
            NoSuchOperation: there is no such job.
            Unfinished: it has not ended within ``timeout_s`` seconds.
        """
        return _view(self._operations.wait(job_id, timeout_s))

    def abort(self, job_id: str) -> JobView:
        """Ask for the end of a job.

        Raises:
            NoSuchOperation: there is no such job.
            WrongState: it has ended.
        """
        return _view(self._operations.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended.

        Raises:
            NoSuchOperation: there is no such job.
            WrongState: it has not ended.
        """
        self._operations.clear(job_id)
        with self._lock:
            self._ended_s.pop(job_id, None)

    def stop(self, deadline_s: float) -> bool:
        """Stop all where they are; see ``Operations.stop``."""
        return self._operations.stop(deadline_s)

    def _note(self, view: OperationView) -> None:
        if view.phase in ENDED:
            self._mark(view.id)
        self._changed(_view(view))

    def _mark(self, job_id: str) -> None:
        with self._lock:
            self._ended_s[job_id] = monotonic_s()

    def _forget_old(self) -> None:
        if self._kept_s < 0:
            return
        with self._lock:
            old = [job_id for job_id, at_s in self._ended_s.items() if monotonic_s() - at_s > self._kept_s]
        for job_id in old:
            try:
                self.delete(job_id)
            except WrongState:
                continue  # it is being settled again


def _view(view: OperationView) -> JobView:
    status = job_status(view)
    progress = None if status is JobStatus.PENDING else float(view.progress)
    return JobView(view.id, status, view.kind, progress, None if status is JobStatus.ABORTED else view.fault)
