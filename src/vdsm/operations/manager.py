"""All operations of one journal: begins, lists, cancels, clears and settles them."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from vdsm.base import logs
from vdsm.base.clock import monotonic_s, now_utc
from vdsm.base.errors import (
    AlreadyExists,
    BadParameter,
    Busy,
    Failed,
    Recovering,
    Rejected,
    Unfinished,
    VdsmError,
    WrongState,
)
from vdsm.base.threads import Pool, PoolStats
from vdsm.operations.explanations import Explanation, explain, explain_damaged
from vdsm.operations.journal import Damaged, JournalStore
from vdsm.operations.kinds import Kind, Kinds, Policy, Unsettled
from vdsm.operations.locks import Claim, Locks, Mode, Resource
from vdsm.operations.records import ENDED, SETTLED, Fault, OperationView, Phase, Record, fault_of
from vdsm.operations.run import Execution, Plan

log = logging.getLogger(__name__)

A = TypeVar("A", bound=msgspec.Struct)

# It becomes the name of a file.
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(eq=False)
class NoSuchOperation(Rejected):
    """There is no operation of this id, or it was cleared."""

    name = "no_such_operation"
    code = 401
    status = 404
    message = "operation {operation_id} does not exist"
    operation_id: str


@dataclass(eq=False)
class _Entry:
    execution: Execution
    kind: Kind[Any] | None
    claim: Claim | None = None
    ended: threading.Event = field(default_factory=threading.Event)


def _ignore(_: object) -> None:
    """The hook that nobody uses."""


class Operations:
    """The operations of one journal; may be used by many threads at once.

    Args:
        kinds: all that the journal may name.
        journal: where records are.
        locks: shared with all who lock the same things.
        workers: how many run at the same time.
        limit: how many may be unsettled; more are Busy.
        changed: told of each change of phase, in the thread that does it; must not wait.
        point: called at every fault point; for tests.
    """

    def __init__(
        self,
        kinds: Kinds,
        journal: JournalStore,
        locks: Locks,
        *,
        workers: int = 10,
        limit: int = 500,
        changed: Callable[[OperationView], None] = _ignore,
        point: Callable[[str], None] = _ignore,
    ) -> None:
        self._kinds: Final = kinds
        self._journal: Final = journal
        self._locks: Final = locks
        self._limit: Final = limit
        self._changed: Final = changed
        self._point: Final = point
        # Everything that is submitted finds a place: an operation is put in at most once, its refusal once more.
        self._pool: Final = Pool("operation", workers, 1 << 20)
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._damaged: dict[str, Damaged] = {}
        self._resumed = self._stopped = False

    def resume(self) -> list[OperationView]:
        """Read the journal, and begin to settle what is not; must come before the first ``submit``.

        Every operation that is not settled stands in line for its locks before anybody who comes later.

        Returns:
            What the journal had, as it was.

        Raises:
            OSError, NotResponding, Unfinished: the journal cannot be read; nothing was begun.
        """
        records, damaged = self._journal.load()
        entries = [self._entry_of(record) for record in records]
        views = [entry.execution.view() for entry in entries]
        with self._lock:
            self._entries = {entry.execution.record.id: entry for entry in entries}
            self._damaged = {item.id: item for item in damaged}
        for item in damaged:
            log.error("operation %s in the journal cannot be read: %s", item.id, item.reason)
        for entry in entries:
            if entry.execution.record.phase in SETTLED:
                self._finish(entry)
            else:
                log.warning("settling %s %s, which was %s", *_words(entry.execution.record))
                self._stand_in_line(entry, timeout_s=None)
        self._resumed = True
        return views

    def submit(self, kind: Kind[A], arguments: A, operation_id: str | None = None) -> OperationView:
        """Begin an operation; it is in the journal when this returns.

        Raises:
            AlreadyExists: there is an operation of this id.
            BadParameter: ``operation_id`` is not a UUID in lower case.
            Busy: too many are not settled.
            Recovering: the journal was not read yet.
            Failed: the journal cannot be written; nothing was begun.
            VdsmError: the kind's plan refuses the arguments.
        """
        if kind not in self._kinds:
            msg = f"kind of operation {kind.name} version {kind.version} is not registered"
            raise ValueError(msg)
        if operation_id is not None and not _ID.fullmatch(operation_id):
            raise BadParameter("operation_id", f"must be a UUID, is {operation_id!r:.80}")
        raw = msgspec.Raw(msgspec.json.encode(arguments))
        plan = Plan((), kind.policy) if kind.decide else _planned(kind, raw)
        wants = tuple((want.namespace, want.name, str(mode)) for want, mode in kind.wants(arguments))
        record = Record(
            id=operation_id or str(uuid.uuid4()),
            kind=kind.name,
            version=kind.version,
            arguments=raw,
            steps=tuple(step.name for step in plan.steps),
            decided=kind.decide is None,
            wants=wants,
            begun=now_utc().isoformat(timespec="microseconds"),
            flow=logs.flow_id.get(),
        )
        entry = _Entry(self._execution(record, plan, kind, fresh=True), kind)
        self._register(entry)
        try:
            self._journal.write(record)
        except (OSError, VdsmError) as error:
            self._drop(record.id)
            raise Failed(f"beginning {kind.name}", f"its journal cannot be written: {error}") from error
        self._stand_in_line(entry, timeout_s=kind.lock_timeout_s)
        return entry.execution.view()

    def views(self) -> list[OperationView]:
        """All operations that are not cleared, the oldest first."""
        with self._lock:
            entries = list(self._entries.values())
        return [entry.execution.view() for entry in entries if not entry.execution.record.cleared]

    def get(self, operation_id: str) -> OperationView:
        """One operation.

        Raises:
            NoSuchOperation: it does not exist, or was cleared.
        """
        entry = self._entry(operation_id)
        if entry.execution.record.cleared:
            raise NoSuchOperation(operation_id)
        return entry.execution.view()

    def wait(self, operation_id: str, timeout_s: float) -> OperationView:
        """Wait until it has ended (or stalls).

        Raises:
            NoSuchOperation: it does not exist.
            Unfinished: it has not ended within ``timeout_s`` seconds.
        """
        entry = self._entry(operation_id)
        began = monotonic_s()
        if not entry.ended.wait(timeout_s):
            raise Unfinished(f"operation {operation_id}", monotonic_s() - began)
        return entry.execution.view()

    def cancel(self, operation_id: str) -> OperationView:
        """Ask for the end of an operation; what it has done is undone.

        Raises:
            NoSuchOperation: it does not exist.
            WrongState: it has ended, is on its way back, or can only go forward.
        """
        entry = self._entry(operation_id)
        entry.execution.cancel()
        if entry.claim is not None and not entry.claim.held and entry.execution.untouched:
            # It need not wait for what it will not use. Others need their locks to be undone.
            self._locks.release(entry.claim)
            self._pool.submit(self._work, entry)
        return entry.execution.view()

    def clear(self, operation_id: str) -> None:
        """Forget an operation that has ended. One that is not settled is only hidden, and goes when it is settled.

        Raises:
            NoSuchOperation: it does not exist.
            WrongState: it has not ended.
            Failed: the journal cannot be written.
        """
        entry = self._entry(operation_id)
        record = entry.execution.record
        if record.phase not in ENDED:
            raise WrongState("clear the operation", f"it is {record.phase}")
        if record.phase in SETTLED:
            try:
                self._journal.remove(operation_id)
            except (OSError, VdsmError) as error:
                raise Failed(f"clearing operation {operation_id}", str(error)) from error
            self._drop(operation_id)
        elif entry.execution.begin():
            entry.execution.hide()
            if not entry.execution.record.cleared:
                raise Failed(f"clearing operation {operation_id}", entry.execution.stalled)

    def settle(self, operation_id: str) -> OperationView:
        """Try again to finish or undo an operation that has ended without being settled, or that stalls.

        Raises:
            NoSuchOperation: it does not exist.
            WrongState: it is settled, under way, or waits for its locks.
            Unsettled: this agent does not know how.
        """
        entry = self._entry(operation_id)
        record = entry.execution.record
        if entry.kind is None:
            raise Unsettled(f"operation {operation_id}", entry.execution.stalled)
        resting = record.phase in ENDED or entry.execution.stalled
        if record.phase in SETTLED or not resting or entry.claim is None or not entry.claim.held:
            raise WrongState("settle the operation", f"it is {record.phase}")
        entry.ended.clear()
        self._pool.submit(self._work, entry)
        return entry.execution.view()

    def tend(self, *, ended: bool = False) -> None:
        """Try again what stalls because its journal could not be written; who sees that it can be, calls this.

        Args:
            ended: also what has ended without being settled, because what it works on may be there again.
        """
        with self._lock:
            entries = [] if self._stopped else list(self._entries.values())
        for entry in entries:
            record = entry.execution.record
            if entry.kind is None or record.phase in SETTLED:
                continue
            if entry.execution.stalled or (ended and record.phase in ENDED):
                # Somebody else may have begun it meanwhile, or ended it.
                with contextlib.suppress(WrongState, NoSuchOperation, Busy):
                    self.settle(record.id)

    def explain(self, operation_id: str) -> Explanation:
        """What is done, what is left, and what will happen.

        Raises:
            NoSuchOperation: it does not exist.
        """
        with self._lock:
            damaged = self._damaged.get(operation_id)
        if damaged is not None:
            return explain_damaged(damaged)
        entry = self._entry(operation_id)
        execution = entry.execution
        uses = [use for use in self._locks.uses() if entry.claim is not None and use.resource in entry.claim.wants]
        return explain(execution.record, execution.plan, execution.view(), uses)

    def damaged(self) -> list[Damaged]:
        """What the journal had that cannot be read."""
        with self._lock:
            return list(self._damaged.values())

    def stats(self) -> PoolStats:
        """What the workers are doing."""
        return self._pool.stats()

    def stop(self, deadline_s: float) -> bool:
        """Stop all where they are, and write nothing to the journal any more; it says how to go on.

        Returns:
            Whether all steps that ran have come to an end within ``deadline_s`` seconds.
        """
        with self._lock:
            self._stopped = True
            entries = list(self._entries.values())
        for entry in entries:
            entry.execution.halt()
        done = self._pool.stop(deadline_s)
        for entry in entries:
            # A step that still runs gives its locks back when it ends.
            if entry.claim is not None and not entry.execution.running:
                self._locks.release(entry.claim)
        return done

    def _entry(self, operation_id: str) -> _Entry:
        with self._lock:
            entry = self._entries.get(operation_id)
        if entry is None:
            raise NoSuchOperation(operation_id)
        return entry

    def _register(self, entry: _Entry) -> None:
        record = entry.execution.record
        with self._lock:
            if not self._resumed or self._stopped:
                raise Recovering
            if record.id in self._entries or record.id in self._damaged:
                raise AlreadyExists("operation", record.id)
            if sum(item.execution.record.phase not in ENDED for item in self._entries.values()) >= self._limit:
                raise Busy("operation")
            self._entries[record.id] = entry

    def _drop(self, operation_id: str) -> None:
        with self._lock:
            self._entries.pop(operation_id, None)

    def _execution(self, record: Record, plan: Plan, kind: Kind[Any] | None, *, fresh: bool = False) -> Execution:
        decide = partial(_decided, kind) if kind is not None else None
        return Execution(
            record, plan, self._journal, fresh=fresh, decide=decide, point=self._point, changed=self._changed
        )

    def _entry_of(self, record: Record) -> _Entry:
        """A journaled operation, with its plan if this agent can make it."""
        try:
            kind = self._kinds.of(record)
            plan = _planned(kind, record.arguments) if record.decided else Plan((), kind.policy)
            if tuple(step.name for step in plan.steps) != record.steps:
                raise Unsettled(f"operation {record.id}", f"the steps of {record.kind} are others now")
        except (VdsmError, msgspec.DecodeError) as error:
            entry = _Entry(self._execution(record, Plan((), Policy.UNDO), None), None)
            if record.phase not in SETTLED:
                entry.execution.stalled = str(error)
                log.error("%s", error)  # noqa: TRY400 - the text says all
            return entry
        return _Entry(self._execution(record, plan, kind), kind)

    def _stand_in_line(self, entry: _Entry, *, timeout_s: float | None) -> None:
        record = entry.execution.record
        wants = [(Resource(namespace, name), Mode(mode)) for namespace, name, mode in record.wants]

        def ready(claim: Claim) -> None:
            entry.claim = claim
            self._pool.submit(self._work, entry)

        def expired(claim: Claim) -> None:
            self._pool.submit(self._refuse, entry, fault_of(self._locks.refusal(claim)))

        claim = self._locks.claim(record.id, wants, timeout_s=timeout_s, ready=ready, expired=expired)
        entry.claim = claim

    def _work(self, entry: _Entry) -> None:
        execution = entry.execution
        if entry.kind is None:
            entry.ended.set()
            return
        if not execution.begin():
            return
        logs.flow_id.set(execution.record.flow)
        execution.perform()
        self._finish(entry)

    def _refuse(self, entry: _Entry, fault: Fault) -> None:
        """An operation that did not get its locks in time, before its first step."""
        if not entry.execution.begin():
            return
        entry.execution.refuse(fault)
        self._finish(entry)

    def _finish(self, entry: _Entry) -> None:
        """Give back the locks of what is settled, and remove what nobody wants to see."""
        record = entry.execution.record
        if record.phase in SETTLED and record.cleared:
            self._forget(record.id)
        if entry.claim is not None and (record.phase in SETTLED or self._stopped):
            self._locks.release(entry.claim)
        entry.ended.set()

    def _forget(self, operation_id: str) -> None:
        try:
            self._journal.remove(operation_id)
        except (OSError, VdsmError):
            log.exception("the record of operation %s stays in the journal", operation_id)
        else:
            self._drop(operation_id)


def _planned(kind: Kind[Any], arguments: msgspec.Raw) -> Plan:
    """The plan of a kind for arguments as the journal has them: now, and whenever it is read."""
    return Plan(tuple(kind.plan(msgspec.json.decode(arguments, type=kind.arguments))), kind.policy)


def _decided(kind: Kind[Any], arguments: msgspec.Raw) -> tuple[msgspec.Raw, Plan]:
    """Have the kind look and decide; the full arguments and their plan."""
    given = msgspec.json.decode(arguments, type=kind.arguments)
    full = msgspec.Raw(msgspec.json.encode(kind.decide(given) if kind.decide else given))
    return full, _planned(kind, full)


def _words(record: Record) -> tuple[str, str, Phase]:
    return record.kind, record.id, record.phase
