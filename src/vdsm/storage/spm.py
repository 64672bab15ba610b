"""This host as the storage pool manager (SPM): the one host that changes what the pool's domains share.

    Free --spm_start--> Contend: join, SDM lease, master's directories, others' tasks, our journal --> SPM
      ^                    | fails: everything is taken back                                            |
      +--------------------+<---- spm_stop: journal at rest, lease given back -------------------------+
      ^                                                                                                |
      +<---- lease lost: from that moment nothing is written to the journal, no step begins -----------+

Whoever loses the lease may have one call to the storage under way; sanlock (or the callback ``fence``) ends the
process for that. The next SPM, here or elsewhere, settles what the journal on the master says.

Source: storage format, sections 3.4, 3.8 and 5.4.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, unique
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import msgspec

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import VdsmError
from vdsm.operations.kinds import Kind, Kinds, Run, Step
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import ENDED, OperationView, Phase
from vdsm.storage import master as masters
from vdsm.storage.clusterlock import ClusterLock
from vdsm.storage.domain import Domain
from vdsm.storage.foreign_tasks import ForeignTasks
from vdsm.storage.ids import DomainId
from vdsm.storage.master import MasterJournal
from vdsm.storage.pool_errors import LeaseLost, NotSpm, TasksRunning, error_of
from vdsm.storage.pool_session import DomainSource, PoolSession

log = logging.getLogger(__name__)

A = TypeVar("A", bound=msgspec.Struct)

# The lease is asked for again when the last answer is this old; it outlives its last renewal by 80 s.
_ASKED_S: Final = 1.0
_STOP_S: Final = 30.0
_RECORDS: Final = frozenset({"before a record", "after a record"})


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


class LeaseWatchdog(Protocol):
    """Who looks at a lease and tells when it is lost."""

    def start(self, lost: Callable[[], None]) -> None:
        """Begin; ``lost`` is called once, in another thread."""

    def stop(self) -> None:
        """Look no more."""


@dataclass(frozen=True, kw_only=True)
class SpmParts:
    """What an SPM is made of.

    Attributes:
        domains: finds domains.
        kinds: all that the journal on a master may name.
        locks: shared with all who lock the same things.
        watchdog: makes the one that looks at a domain's SDM lease.
        fence: called when the lease is lost, or cannot be given back: it should end this process and its children.
        changed: told of each task's change of phase; must not wait.
        moved: told that another domain is the master.
        point: for tests.
        join_s: seconds to wait until this host shows as alive.
        workers: how many tasks run at once.
    """

    domains: DomainSource
    kinds: Kinds
    locks: Locks
    watchdog: Callable[[ClusterLock], LeaseWatchdog]
    fence: Callable[[str], None] = lambda _: None
    changed: Callable[[OperationView], None] = lambda _: None
    moved: Callable[[], None] = lambda: None
    point: Callable[[str], None] = lambda _: None
    join_s: float = 180.0
    workers: int = 10


@dataclass(eq=False)
class _Office:
    """What the SPM has while it is one; a new one for each term."""

    master: Domain
    journal: MasterJournal | None = None
    operations: Operations | None = None
    foreign: ForeignTasks | None = None
    watchdog: LeaseWatchdog | None = None
    copied_to: DomainId | None = None
    lver: int = -1
    lost: threading.Event = field(default_factory=threading.Event)
    asked_s: float = 0.0


class Spm:
    """The SPM's part of one connected pool; may be used by many threads at once."""

    def __init__(self, session: PoolSession, parts: SpmParts) -> None:
        self._session: Final = session
        self._parts: Final = parts
        self._lock = threading.Lock()
        self._role = SpmRole.FREE
        self._office: _Office | None = None

    @property
    def role(self) -> SpmRole:
        """What this host is."""
        return self._role

    @property
    def lver(self) -> int:
        """How often the SPM has changed; -1 when this host is not it, or the lock does not count."""
        office = self._office
        return office.lver if office is not None else -1

    @property
    def operations(self) -> Operations:
        """The pool's operations, on the master's journal.

        Raises:
            NotSpm: this host is not the SPM.
        """
        office = self._office
        if self._role is not SpmRole.SPM or office is None or office.operations is None:
            raise NotSpm(self._session.facts.pool_id)
        return office.operations

    @property
    def foreign(self) -> ForeignTasks:
        """The tasks that hosts of the original left. Raises as ``operations``."""
        office = self._office
        if self._role is not SpmRole.SPM or office is None or office.foreign is None:
            raise NotSpm(self._session.facts.pool_id)
        return office.foreign

    def submit(self, kind: Kind[A], arguments: A, task_id: str | None = None) -> str:
        """Begin an operation of the pool; the task's id.

        Raises:
            NotSpm: this host is not the SPM.
            VdsmError: see ``Operations.submit``.
        """
        return self.operations.submit(kind, arguments, task_id).id

    def perform(self, kind: Kind[A], arguments: A, timeout_s: float) -> None:
        """Carry out an operation that is no task: it is forgotten when it is settled.

        Raises:
            NotSpm: this host is not the SPM.
            Unfinished: it is still under way; it goes on.
            OperationFailed: it failed, with the number of what went wrong.
        """
        operations = self.operations
        view = operations.wait(operations.submit(kind, arguments).id, timeout_s)
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
            raise NotSpm(self._session.facts.pool_id)

    def contend(self) -> bool:
        """Take the right to start; False when this host is the SPM or on its way."""
        with self._lock:
            if self._role is not SpmRole.FREE:
                return False
            self._role = SpmRole.CONTEND
            self._office = _Office(self._session.facts.master)
            return True

    def give_up(self) -> None:
        """Be Free again, after a start that failed."""
        with self._lock:
            if self._role is SpmRole.CONTEND:
                self._role, self._office = SpmRole.FREE, None

    def start_steps(self) -> list[Step]:
        """The steps from Contend to SPM, for an operation that need not survive the process."""
        steps: list[tuple[str, Callable[[Run], None], Callable[[Run], None] | None]] = [
            ("show as alive on the master", self._join, None),
            ("take the SPM's lease", self._acquire, self._release),
            ("prepare the master", self._prepare, None),
            ("settle what hosts of the original left", self._inherit, None),
            ("read the journal", self._resume, self._halt),
            ("watch over the lease", self._watch, self._unwatch),
        ]
        return [
            Step(name, do, recorded=False) if undo is None else Step(name, do, undo, recorded=False)
            for name, do, undo in steps
        ]

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

    def stop(self, last: Callable[[], None] = lambda: None) -> None:
        """Be Free; nothing when this host is not the SPM.

        Args:
            last: called when nothing is written to the journal any more, and the lease is still held.

        Raises:
            TasksRunning: something is under way; what is at rest stays in the journal for the next SPM.
            LeaseFailed: the lease may still be held; the process is fenced.
        """
        with self._lock:
            office = self._office
            if self._role is not SpmRole.SPM or office is None or office.operations is None:
                return
            self.check_idle()
            self._role = SpmRole.FREE
            self._office = None
        if office.watchdog is not None:
            office.watchdog.stop()
        if not office.operations.stop(_STOP_S):
            self._parts.fence("work of the SPM does not end")
        try:
            last()
        finally:
            self._give_back(office)

    def halt(self, deadline_s: float) -> bool:
        """Stop where everything is, as the process ends; whether that was done in time."""
        office = self._office
        if office is None or office.operations is None:
            return True
        if office.watchdog is not None:
            office.watchdog.stop()
        return office.operations.stop(deadline_s)

    def lose(self, reason: str = "the lease is lost") -> None:
        """Be Free at once: nothing more is written to the journal. Called when the lease is lost."""
        with self._lock:
            office, self._office = self._office, None
            role, self._role = self._role, SpmRole.FREE
        if office is None or office.lost.is_set():
            return
        office.lost.set()
        log.error("this host is not the SPM of pool %s any more: %s", self._session.facts.pool_id, reason)
        if office.operations is not None:
            office.operations.stop(0.0)
        if office.watchdog is not None:
            office.watchdog.stop()
        if role is not SpmRole.FREE:
            self._parts.fence(reason)

    # The master moves: called by the steps of switchMaster.

    @property
    def master_id(self) -> DomainId:
        """The master domain of this term."""
        return self._held().master.id

    def copy_journal(self, new: Domain) -> None:
        """Keep the journal on another domain, too."""
        office = self._held()
        self._journal().copy_to(masters.journal_of(new))
        office.copied_to = new.id

    def settle_journal(self) -> None:
        """Keep the journal only where the master is."""
        office = self._held()
        if office.copied_to == office.master.id:
            self._journal().move()
        else:
            self._journal().stay()
        office.copied_to = None

    def move_to(self, new: Domain, version: int) -> None:
        """Let another domain, whose lease is held, be the master; the journal stays on both."""
        office = self._held()
        if office.master.id == new.id:
            return
        foreign = ForeignTasks(new, self._parts.domains)
        foreign.load()
        lver = _lver(new)
        watchdog = self._parts.watchdog(new.lock)
        watchdog.start(self.lose)
        # From here on nothing fails.
        before, office.watchdog = office.watchdog, watchdog
        office.foreign, office.lver = foreign, lver
        office.master, office.asked_s = new, 0.0
        self._session.set_master(new, version)
        if before is not None:
            before.stop()
        self._parts.moved()

    # The steps of the start, and what takes them back.

    def _join(self, _: Run) -> None:
        office = self._held()
        office.master.lock.join(self._session.facts.host_id, wait_s=self._parts.join_s)

    def _acquire(self, _: Run) -> None:
        office = self._held()
        lock = office.master.lock
        if not lock.holds(lock.sdm):
            lock.acquire(lock.sdm, self._session.facts.host_id)
        office.lver = _lver(office.master)

    def _release(self, _: Run) -> None:
        office = self._office
        if office is not None:
            self._give_back(office)

    def _prepare(self, _: Run) -> None:
        masters.prepare(self._held().master)

    def _inherit(self, _: Run) -> None:
        office = self._held()
        office.foreign = ForeignTasks(office.master, self._parts.domains)
        office.foreign.load()
        office.foreign.settle()

    def _resume(self, _: Run) -> None:
        office = self._held()
        fence = partial(self._fence, office)
        office.journal = MasterJournal(masters.journal_of(office.master), fence)
        operations = Operations(
            self._parts.kinds,
            office.journal,
            self._parts.locks,
            workers=self._parts.workers,
            changed=self._parts.changed,
            point=partial(self._point, office),
        )
        office.operations = operations
        # Steps of what is resumed may ask for the SPM.
        self._role = SpmRole.SPM
        operations.resume()

    def _halt(self, _: Run) -> None:
        office = self._office
        self._role = SpmRole.CONTEND
        if office is not None and office.operations is not None:
            office.operations.stop(_STOP_S)

    def _watch(self, _: Run) -> None:
        self._watch_lease(self._held())
        facts = self._session.facts
        log.info("this host is the SPM of pool %s, lver %d", facts.pool_id, self.lver)

    def _unwatch(self, _: Run) -> None:
        office = self._office
        if office is not None and office.watchdog is not None:
            office.watchdog.stop()

    def _watch_lease(self, office: _Office) -> None:
        office.watchdog = self._parts.watchdog(office.master.lock)
        office.watchdog.start(self.lose)

    def _held(self) -> _Office:
        office = self._office
        if office is None:
            raise NotSpm(self._session.facts.pool_id)
        return office

    def _journal(self) -> MasterJournal:
        journal = self._held().journal
        if journal is None:
            raise NotSpm(self._session.facts.pool_id)
        return journal

    def _give_back(self, office: _Office) -> None:
        try:
            office.master.lock.release(office.master.lock.sdm)
        except VdsmError as error:
            self._parts.fence(f"the SPM's lease cannot be given back: {error}")
            raise

    def _point(self, office: _Office, name: str) -> None:
        self._parts.point(name)
        if name in _RECORDS:
            # An error in such a place would not be an operation's; the journal has a fence of its own.
            return
        self._fence(office)

    def _fence(self, office: _Office) -> None:
        """Let nothing be begun or written without the lease."""
        if office.lost.is_set():
            raise LeaseLost("writing to the pool", "this host is not the SPM any more")
        if monotonic_s() - office.asked_s < _ASKED_S:
            return
        lock = office.master.lock
        if not lock.holds(lock.sdm):
            self.lose()
            raise LeaseLost("writing to the pool", "this host does not hold the SPM's lease")
        office.asked_s = monotonic_s()


def _forget(operations: Operations, operation_id: str) -> None:
    try:
        operations.clear(operation_id)
    except VdsmError as error:
        log.warning("operation %s stays in the journal: %s", operation_id, error)


def _lver(master: Domain) -> int:
    return master.lock.inspect(master.lock.sdm).version or -1


def start_kind(steps: Callable[[], list[Step]]) -> Kind[Any]:
    """The kind of spmStart, which lives in memory."""
    return Kind("spmStart", 1, SpmStart, lambda _: steps())


class SpmStart(msgspec.Struct, frozen=True):
    """Become the SPM."""

    pool_id: str
