"""One term of this host as the SPM: what is held and open from the taking of the lease until it is given back or lost.

gate        lets nothing be written once the lease is not certain (``write_gate``)
journal     on the master, written only through the gate
operations  kinds whose every step asks the gate
foreign     tasks of hosts of the original
watchdog    tells when the lease is lost
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import VdsmError
from vdsm.operations.kinds import Kind, Kinds, Run, Step
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import SETTLED, OperationView
from vdsm.storage import guard
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import LeaseLost
from vdsm.storage.ids import DomainId
from vdsm.storage.pool import master as masters
from vdsm.storage.pool.foreign_tasks import ForeignTasks
from vdsm.storage.pool.master import MasterJournal
from vdsm.storage.pool.pool_session import DomainSource
from vdsm.storage.pool.watchdog import Watchdog
from vdsm.storage.pool.write_gate import WriteGate, spm_gate

log = logging.getLogger(__name__)

_TEND_S: Final = 10.0


class LeaseWatchdog(Protocol):
    """Who looks at a lease and tells when it is lost; ``Watchdog``."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """Look no more."""


MakeWatchdog = Callable[[WriteGate, Callable[[str], None], Callable[[], None]], LeaseWatchdog]


@dataclass(frozen=True, kw_only=True)
class SpmParts:
    """What an SPM is made of.

    Attributes:
        domains: finds domains.
        kinds: all that the journal on a master may name.
        locks: shared with all who lock the same things.
        waited: kinds whose callers wait for them: nobody else will clear their operations.
        gate: makes the gate of a domain whose SDM lease this host has taken under its id.
        watchdog: makes the one that looks at a gate's lease.
        fence: called when the lease is lost, or cannot be given back: it should end this process and its children.
        changed: told of each task's change of phase; must not wait.
        moved: told that another domain is the master.
        point: for tests.
        join_s: seconds to wait until this host shows as alive.
        workers: how many tasks run at once.
    """

    domains: DomainSource
    kinds: Iterable[Kind[Any]]
    locks: Locks
    waited: frozenset[str] = frozenset()
    gate: Callable[[Domain, int], WriteGate] = spm_gate
    watchdog: MakeWatchdog = Watchdog
    fence: Callable[[str], None] = lambda _: None
    changed: Callable[[OperationView], None] = lambda _: None
    moved: Callable[[], None] = lambda: None
    point: Callable[[str], None] = lambda _: None
    join_s: float = 180.0
    workers: int = 10


@dataclass(eq=False)
class Term:
    """See the module; made anew for each.

    Attributes:
        master: the master domain, which can change.
        host_id: under which the lease is held.
        lost: called when the lease is lost.
    """

    parts: SpmParts
    master: Domain
    host_id: int
    lost: Callable[[str], None]
    gate: WriteGate | None = None
    journal: MasterJournal | None = None
    operations: Operations | None = None
    foreign: ForeignTasks | None = None
    lver: int = -1
    over: threading.Event = field(default_factory=threading.Event)
    _watchdog: LeaseWatchdog | None = None
    _kinds: dict[tuple[str, int], Kind[Any]] = field(default_factory=dict)
    _copied_to: DomainId | None = None
    _found: set[str] = field(default_factory=set)
    _tended_s: float = 0.0

    def take(self) -> None:
        """Take the lease, and open the gate.

        Raises:
            LeaseHeld, LeaseFailed: it cannot be had.
        """
        lock = self.master.lock
        if not lock.holds(lock.sdm):
            lock.acquire(lock.sdm, self.host_id)
        self.gate = self.parts.gate(self.master, self.host_id)
        self.gate.open()
        self.lver = lver_of(self.master)

    def give_back(self) -> None:
        """Give the lease back.

        Raises:
            LeaseFailed: it may still be held; the process is fenced.
        """
        if self.gate is not None:
            self.gate.shut("the lease is given back")
        try:
            self.master.lock.release(self.master.lock.sdm)
        except VdsmError as error:
            self.parts.fence(f"the SPM's lease cannot be given back: {error}")
            raise

    def inherit(self) -> None:
        """Settle what hosts of the original left."""
        self.foreign = ForeignTasks(self.master, self.parts.domains)
        with guard.guarded(self.check):
            self.foreign.load()
            self.foreign.settle()

    def resume(self) -> None:
        """Read the journal, and begin to settle it."""
        kinds = [dataclasses.replace(kind, plan=self._guarded(kind)) for kind in self.parts.kinds]
        self._kinds = {(kind.name, kind.version): kind for kind in kinds}
        self.journal = MasterJournal(masters.journal_of(self.master), self.check)
        self.operations = Operations(
            Kinds(kinds),
            self.journal,
            self.parts.locks,
            workers=self.parts.workers,
            changed=self.parts.changed,
            point=self.parts.point,
        )
        self._found = {view.id for view in self.operations.resume()}
        self.sweep()

    def kind(self, kind: Kind[Any]) -> Kind[Any]:
        """The kind as it is registered: its steps ask the gate."""
        return self._kinds.get((kind.name, kind.version), kind)

    def watch(self) -> None:
        """Have the lease looked at from now on."""
        if self.gate is not None:
            self._watchdog = self.parts.watchdog(self.gate, self.lost, self._tend)
            self._watchdog.start()

    def _tend(self) -> None:
        """The master can be written: what stalls goes on, but is not tried again with each look."""
        now_s = monotonic_s()
        if self.operations is not None and now_s - self._tended_s >= _TEND_S:
            self._tended_s = now_s
            self.operations.tend()

    def unwatch(self) -> None:
        """Have it looked at no more."""
        if self._watchdog is not None:
            self._watchdog.stop()

    def sweep(self) -> None:
        """Forget settled operations whose callers are gone with an earlier process."""
        if self.operations is None:
            return
        for view in self.operations.views():
            if view.kind in self.parts.waited and view.phase in SETTLED and view.id in self._found:
                try:
                    self.operations.clear(view.id)
                except VdsmError as error:
                    log.warning("operation %s stays in the journal: %s", view.id, error)

    def halt(self, deadline_s: float) -> bool:
        """Stop all operations where they are; whether their steps have ended in time."""
        return self.operations is None or self.operations.stop(deadline_s)

    def check(self) -> None:
        """See that this host may write.

        Raises:
            LeaseLost: it may not, and never will in this term.
            VdsmError: that cannot be known now.
        """
        gate = self.gate
        if gate is None or self.over.is_set():
            raise LeaseLost("writing to the pool", "this host is not the SPM")
        try:
            gate.check()
        except LeaseLost as error:
            self.lost(error.reason)
            raise

    # The master moves.

    def copy_journal(self, new: Domain) -> None:
        """Keep the journal on another domain, too."""
        self._journal().copy_to(masters.journal_of(new))
        self._copied_to = new.id

    def settle_journal(self) -> None:
        """Keep the journal only where the master is."""
        if self._copied_to == self.master.id:
            self._journal().move()
        else:
            self._journal().stay()
        self._copied_to = None

    def move_to(self, new: Domain) -> None:
        """Let another domain, whose lease is held, be the master; the journal stays on both."""
        gate = self.parts.gate(new, self.host_id)
        gate.open()
        foreign = ForeignTasks(new, self.parts.domains)
        foreign.load()
        lver = lver_of(new)
        # From here on nothing fails.
        self.unwatch()
        self.foreign, self.lver, self.gate, self.master = foreign, lver, gate, new
        self.watch()

    def _journal(self) -> MasterJournal:
        if self.journal is None:
            raise LeaseLost("writing to the pool", "this host is not the SPM")
        return self.journal

    def _guarded(self, kind: Kind[Any]) -> Callable[[Any], list[Step]]:
        def plan(arguments: Any) -> list[Step]:
            return [
                dataclasses.replace(step, do=self._asking(step.do), undo=self._asking(step.undo))
                for step in kind.plan(arguments)
            ]

        return plan

    def _asking(self, call: Callable[[Run], None]) -> Callable[[Run], None]:
        def asking(run: Run) -> None:
            # By way of this object, because the gate changes with the master.
            with guard.guarded(self.check):
                call(run)

        return asking


def lver_of(master: Domain) -> int:
    """How often the SPM has changed; -1 where the lock does not count."""
    return master.lock.inspect(master.lock.sdm).version or -1
