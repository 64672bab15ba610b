"""This host as the storage pool manager (SPM): the one host that changes what the pool's domains share.

    Free --spm_start--> Contend: join, SDM lease, master's directories, others' tasks, our journal --> SPM
      ^                    | fails: everything is taken back                                            |
      +--------------------+<---- spm_stop: journal at rest, lease given back -------------------------+
      ^                                                                                                |
      +<---- lease lost: from that moment nothing is written, no step begins; ``fence`` ---------------+

What is held meanwhile is a ``Term``. The next SPM, here or elsewhere, settles what the journal on the master says.

Source: storage format, sections 3.4, 3.8 and 5.4.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any, Final, TypeVar

import msgspec

from vdsm.base.errors import Failed, VdsmError
from vdsm.operations.kinds import Kind, Run, Step
from vdsm.operations.manager import Operations
from vdsm.operations.records import ENDED, OperationView, Phase
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import LeaseLost
from vdsm.storage.files.files import told
from vdsm.storage.ids import DomainId, PoolId
from vdsm.storage.pool import master as masters
from vdsm.storage.pool.foreign_tasks import ForeignTasks
from vdsm.storage.pool.pool_errors import NotSpm, TasksRunning, error_of
from vdsm.storage.pool.pool_session import PoolSession
from vdsm.storage.pool.spm_term import SpmParts, Term

log = logging.getLogger(__name__)

A = TypeVar("A", bound=msgspec.Struct)

_STOP_S: Final = 30.0


@unique
class SpmRole(Enum):
    """What this host is in its pool; the words are the API's."""

    FREE = "Free"
    CONTEND = "Contend"
    SPM = "SPM"


@dataclass(frozen=True, slots=True)
class SpmStatus:
    """Who manages a pool.

    Attributes:
        status: what this host is.
        lver: how often the SPM has changed; -1 is unknown.
        host_id: the SPM's; -1 is none.
    """

    status: SpmRole
    lver: int
    host_id: int


class SpmStart(msgspec.Struct, frozen=True):
    """Become the SPM, and raise the domains' version; None leaves it."""

    pool_id: PoolId
    version: int | None = None


class Spm:
    """The SPM's part of one connected pool; may be used by many threads at once."""

    def __init__(self, session: PoolSession, parts: SpmParts) -> None:
        self._session: Final = session
        self._parts: Final = parts
        self._lock = threading.Lock()
        self._role = SpmRole.FREE
        self._term: Term | None = None

    @property
    def role(self) -> SpmRole:
        """What this host is."""
        return self._role

    @property
    def lver(self) -> int:
        """How often the SPM has changed; -1 when this host is not it, or the lock does not count."""
        term = self._term
        return term.lver if term is not None else -1

    @property
    def operations(self) -> Operations:
        """The pool's operations, on the master's journal.

        Raises:
            NotSpm: this host is not the SPM.
        """
        operations = self._held().operations
        if self._role is not SpmRole.SPM or operations is None:
            raise self._not_spm()
        return operations

    @property
    def foreign(self) -> ForeignTasks:
        """The tasks that hosts of the original left. Raises as ``operations``."""
        foreign = self._held().foreign
        if self._role is not SpmRole.SPM or foreign is None:
            raise self._not_spm()
        return foreign

    def submit(self, kind: Kind[A], arguments: A, task_id: str | None = None) -> str:
        """Begin an operation of the pool; the task's id.

        Raises:
            NotSpm: this host is not the SPM.
            NoSpace, StorageFailed: the master takes no record of it.
            VdsmError: see ``Operations.submit``.
        """
        try:
            return self.operations.submit(self._held().kind(kind), arguments, task_id).id
        except Failed as error:
            if isinstance(error.__cause__, OSError):
                # The journal knows nothing of storage; the manager must hear that the domain is full.
                with told(f"beginning {kind.name}: writing its record to the master"):
                    raise error.__cause__ from None
            raise

    def perform(self, kind: Kind[A], arguments: A, timeout_s: float) -> None:
        """Carry out an operation, and forget it when it is settled: the caller waits.

        Raises:
            NotSpm: this host is not the SPM.
            Unfinished: it is still under way; it goes on.
            OperationFailed: it failed, with the number of what went wrong.
            LeaseLost: this host is not the SPM any more; the next one settles it.
        """
        operations = self.operations
        self._held().sweep()
        view = operations.wait(self.submit(kind, arguments), timeout_s)
        if view.phase in ENDED:
            _forget(operations, view.id)
        if view.phase is not Phase.DONE:
            if view.fault is None:
                raise LeaseLost(kind.name, view.stalled)
            raise error_of(view.fault, kind.name)

    def check(self) -> None:
        """See that this host is the SPM.

        Raises:
            NotSpm: it is not.
        """
        if self._role is not SpmRole.SPM:
            raise self._not_spm()

    def busy(self) -> list[OperationView]:
        """What is under way; what is at rest can wait for the next SPM."""
        return [view for view in self.operations.views() if view.phase not in ENDED and not view.stalled]

    def check_idle(self) -> None:
        """See that nothing is under way.

        Raises:
            TasksRunning: something is.
        """
        busy = self.busy()
        if busy:
            raise TasksRunning(self._session.facts.pool_id, ", ".join(f"{view.kind} {view.id}" for view in busy))

    def contend(self) -> bool:
        """Take the right to start; False when this host is the SPM or on its way."""
        with self._lock:
            if self._role is not SpmRole.FREE:
                return False
            facts = self._session.facts
            self._role = SpmRole.CONTEND
            self._term = Term(self._parts, facts.master, facts.host_id, self.lose)
            return True

    def give_up(self) -> None:
        """Be Free again, after a start that failed."""
        with self._lock:
            if self._role is SpmRole.CONTEND:
                self._role, self._term = SpmRole.FREE, None

    def start_steps(self) -> list[Step]:
        """The steps from Contend to SPM, for an operation that need not survive the process."""

        def step(name: str, do: Callable[[Term], None], undo: Callable[[Term], None] | None = None) -> Step:
            def done(_: Run) -> None:
                do(self._held())

            def undone(_: Run) -> None:
                term = self._term
                if term is not None and undo is not None:
                    undo(term)

            return Step(name, done, undone, recorded=False)

        return [
            step("show as alive on the master", self._join),
            step("take the SPM's lease", Term.take, Term.give_back),
            step("prepare the master", lambda term: masters.prepare(term.master)),
            step("settle what hosts of the original left", Term.inherit),
            step("read the journal", self._resume, self._halt),
            step("watch over the lease", Term.watch, Term.unwatch),
        ]

    def stop(self, last: Callable[[], None] = lambda: None) -> None:
        """Be Free; nothing when this host is not the SPM.

        Args:
            last: called when nothing is written to the journal any more, and the lease is still held.

        Raises:
            TasksRunning: something is under way; what is at rest stays in the journal for the next SPM.
            LeaseFailed: the lease may still be held; the process is fenced.
        """
        with self._lock:
            term = self._term
            if self._role is not SpmRole.SPM or term is None:
                return
            self.check_idle()
            self._role, self._term = SpmRole.FREE, None
        term.sweep()
        term.unwatch()
        if not term.halt(_STOP_S):
            self._parts.fence("work of the SPM does not end")
        try:
            last()
        finally:
            term.give_back()

    def halt(self, deadline_s: float) -> bool:
        """Stop where everything is, as the process ends; whether that was done in time."""
        term = self._term
        if term is None:
            return True
        term.unwatch()
        return term.halt(deadline_s)

    def lose(self, reason: str) -> None:
        """Be Free at once: nothing more is written. Called when the lease is lost."""
        with self._lock:
            term, self._term = self._term, None
            self._role = SpmRole.FREE
        if term is None or term.over.is_set():
            return
        term.over.set()
        if term.gate is not None:
            term.gate.shut(reason)
        log.critical("this host is not the SPM of pool %s any more: %s", self._session.facts.pool_id, reason)
        term.halt(0.0)
        term.unwatch()
        self._parts.fence(reason)

    # The master moves: called by the steps of switchMaster.

    @property
    def master_id(self) -> DomainId:
        """The master domain of this term."""
        return self._held().master.id

    def copy_journal(self, new: Domain) -> None:
        """Keep the journal on another domain, too."""
        self._held().copy_journal(new)

    def settle_journal(self) -> None:
        """Keep the journal only where the master is."""
        self._held().settle_journal()

    def move_to(self, new: Domain, version: int) -> None:
        """Let another domain, whose lease is held, be the master; the journal stays on both."""
        term = self._held()
        if term.master.id != new.id:
            term.move_to(new)
            self._session.set_master(new, version)
            self._parts.moved()

    def _join(self, term: Term) -> None:
        term.master.lock.join(term.host_id, wait_s=self._parts.join_s)

    def _resume(self, term: Term) -> None:
        # Steps of what is resumed may ask for the SPM.
        self._role = SpmRole.SPM
        term.resume()
        log.info("this host is the SPM of pool %s, lver %d", self._session.facts.pool_id, term.lver)

    def _halt(self, term: Term) -> None:
        self._role = SpmRole.CONTEND
        term.halt(_STOP_S)

    def _held(self) -> Term:
        term = self._term
        if term is None:
            raise self._not_spm()
        return term

    def _not_spm(self) -> NotSpm:
        return NotSpm(self._session.facts.pool_id)


def start_kind(steps: Callable[[], list[Step]], upgrade: Callable[[PoolId, int], None]) -> Kind[Any]:
    """The kind of spmStart, which lives in memory."""

    def all_steps(given: SpmStart) -> list[Step]:
        def raise_version(_: Run) -> None:
            if given.version is not None:
                upgrade(given.pool_id, given.version)

        return [*steps(), Step("raise the domains' version", raise_version)]

    return Kind("spmStart", 1, SpmStart, all_steps)


def _forget(operations: Operations, operation_id: str) -> None:
    try:
        operations.clear(operation_id)
    except VdsmError as error:
        log.warning("operation %s stays in the journal: %s", operation_id, error)
