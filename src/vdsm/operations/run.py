"""One operation on its way: forward through its steps, or back; each boundary goes to the journal first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Raw

from vdsm.base.errors import Rejected, VdsmError, WrongState
from vdsm.operations.journal import JournalStore
from vdsm.operations.kinds import Policy, Step
from vdsm.operations.records import ENDED, SETTLED, Fault, Note, OperationView, Phase, Record, fault_of

log = logging.getLogger(__name__)

# The original's number of an aborted task.
_ABORTED: Final = 411
_INTERRUPTED: Final = Fault("interrupted", _ABORTED, "the agent ended while it ran")


@dataclass(eq=False)
class Cancelled(Rejected):
    """The operation was cancelled; what it had done is undone."""

    name = "cancelled"
    code = _ABORTED
    message = "cancelled"


class Halted(BaseException):
    """The operation must stop where it is and leave everything to the journal's next reader; not for catching."""


class JournalBroken(BaseException):
    """The journal cannot be written, so nothing may be done any more; not for catching."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation's kind makes of its arguments."""

    steps: Sequence[Step]
    policy: Policy

    def forward_only(self, reached: int) -> bool:
        """Whether there is no way back once ``reached`` steps are on record as done."""
        return self.policy is Policy.FINISH or any(step.pivot for step in self.steps[:reached])

    def touched(self, reached: int) -> int:
        """How many steps may have left something when ``reached`` are on record as done.

        Those without a record of their own, and the next that has one.
        """
        for index in range(reached, len(self.steps)):
            if self.steps[index].recorded:
                return index + 1
        return len(self.steps)


class Execution:
    """One operation; ``perform`` runs in one thread, everything else may be called from any.

    ``fresh`` is one that has just been made up; any other may have been interrupted in the middle of a step. ``decide``
    is for one whose kind still has to look: it gives the full arguments and their plan.
    """

    def __init__(
        self,
        record: Record,
        plan: Plan,
        journal: JournalStore,
        *,
        fresh: bool,
        decide: Callable[[Raw], tuple[Raw, Plan]] | None = None,
        point: Callable[[str], None],
        changed: Callable[[OperationView], None],
    ) -> None:
        self._record = record
        self._plan = plan
        self._decide: Final = decide
        self._journal: Final = journal
        self._point: Final = point
        self._changed: Final = changed
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._halted = threading.Event()
        self._alarms: list[Callable[[], object]] = []
        self._waiting = True
        self._at = record.reached
        self._fraction = 0.0
        self._interrupted = not fresh
        self._touched = record.reached if fresh else plan.touched(record.reached)
        self.stalled = ""

    @property
    def record(self) -> Record:
        """What the journal has of it."""
        return self._record

    @property
    def plan(self) -> Plan:
        """Its steps and policy."""
        return self._plan

    def view(self) -> OperationView:
        """A picture of the moment."""
        record = self._record
        steps = self._plan.steps
        return OperationView(
            id=record.id,
            kind=record.kind,
            phase=record.phase,
            waiting=self._waiting and not self.stalled and record.phase not in ENDED,
            progress=self._progress(),
            step=steps[self._at].name if self._at < len(steps) and record.phase not in SETTLED else "",
            fault=record.fault,
            cancelled=record.cancelled or self._cancelled.is_set(),
            stalled=self.stalled,
            begun=record.begun,
            notes=dict(record.notes),
        )

    @property
    def running(self) -> bool:
        """Whether somebody is performing it."""
        return not self._waiting and self._record.phase not in SETTLED

    def begin(self) -> bool:
        """Take the right to perform it; False when somebody has it or it has nothing to do."""
        with self._lock:
            if not self._waiting or self._record.phase in SETTLED or self._halted.is_set():
                return False
            self._waiting = False
            self.stalled = ""
            return True

    def perform(self) -> None:
        """Go forward or back as far as it can be done; the one who has got True from ``begin`` calls it."""
        with self._guarded():
            record = self._record
            back = self._plan.policy is Policy.UNDO and not self._plan.forward_only(record.reached)
            if self._interrupted and back and record.phase is Phase.RUNNING:
                self._save(phase=Phase.UNDOING, reached=self._touched, fault=_INTERRUPTED)
            self._interrupted = False
            if self._record.phase in {Phase.RUNNING, Phase.UNFINISHED}:
                if self._is_decided():
                    self._forward()
            else:
                self._back()

    def refuse(self, fault: Fault) -> None:
        """End it before its first step; the one who has got True from ``begin`` calls it."""
        with self._guarded():
            self._save(phase=Phase.UNDONE, reached=0, fault=fault, cancelled=self._cancelled.is_set())

    def hide(self) -> None:
        """Note that nobody wants to see it any more; the one who has got True from ``begin`` calls it."""
        with self._guarded():
            self._save(cleared=True)

    @property
    def untouched(self) -> bool:
        """Whether no step of it was ever begun."""
        return self._touched == 0

    def cancel(self) -> None:
        """Ask for its end; it comes at the next point where a step looks, and then what was done is undone.

        Raises:
            WrongState: it has ended, is on its way back, or can only go forward.
        """
        with self._lock:
            record = self._record
            if record.phase is not Phase.RUNNING:
                raise WrongState("cancel the operation", f"it is {record.phase}")
            if self._plan.forward_only(record.reached):
                raise WrongState("cancel the operation", "it can only be finished")
            self._cancelled.set()
        self._alarm()

    def halt(self) -> None:
        """Stop it where it is: from now on nothing of it is written to the journal."""
        self._halted.set()
        self._alarm()

    # What steps use, through StepRun.

    def check(self) -> None:
        """Raise Cancelled or Halted if that was asked for."""
        if self._halted.is_set():
            raise Halted
        forward = self._record.phase is Phase.RUNNING
        if forward and self._cancelled.is_set() and not self._plan.forward_only(self._record.reached):
            raise Cancelled

    def show(self, fraction: float) -> None:
        """Set how much of the present step is done."""
        self._fraction = min(1.0, max(0.0, fraction))

    def remember(self, notes: dict[str, Note]) -> None:
        """Put facts into the journal."""
        self._save(notes={**self._record.notes, **notes})

    def reach(self, name: str) -> None:
        """Pass a fault point."""
        self._point(name)

    @contextmanager
    def alarmed(self, function: Callable[[], object]) -> Iterator[None]:
        """Have ``function`` called when the operation is to stop while the block runs."""
        with self._lock:
            self._alarms.append(function)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._alarms.remove(function)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Stop where the block stops, and say why; what is not settled then may be begun again."""
        try:
            yield
        except Halted:
            self.stalled = "it was stopped, and goes on when its journal is read again"
        except JournalBroken as error:
            self.stalled = f"its journal cannot be written: {error}"
            log.error("operation %s %s is stopped: %s", self._record.kind, self._record.id, self.stalled)  # noqa: TRY400
        finally:
            with self._lock:
                self._waiting = self._record.phase not in SETTLED

    def _alarm(self) -> None:
        with self._lock:
            alarms = list(self._alarms)
        for function in alarms:
            function()

    def _is_decided(self) -> bool:
        """See to it that there is a plan; False when that was refused, and the operation has ended."""
        if self._record.decided or self._decide is None:
            return True
        try:
            self.check()
            self._point("before deciding")
            arguments, plan = self._decide(self._record.arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing was begun
            self._log_failure(error)
            self._save(phase=Phase.UNDONE, fault=fault_of(error), cancelled=isinstance(error, Cancelled))
            return False
        self._save(arguments=arguments, steps=tuple(step.name for step in plan.steps), decided=True)
        self._plan = plan
        return True

    def _forward(self) -> None:
        if self._record.phase is Phase.UNFINISHED:
            self._save(phase=Phase.RUNNING, fault=None)
        steps = self._plan.steps
        for index in range(self._record.reached, len(steps)):
            self._at, self._fraction = index, 0.0
            try:
                self.check()
                self._touched = max(self._touched, index + 1)
                self._point(f"before {steps[index].name}")
                steps[index].do(StepRun(self))
                self._point(f"after {steps[index].name}")
            except Exception as error:  # noqa: BLE001 - whatever it is, the operation is turned back
                self._fail(error)
                return
            if steps[index].recorded and index + 1 < len(steps):
                self._save(reached=index + 1)
        self._at = len(steps)
        self._save(phase=Phase.DONE, reached=len(steps), fault=None)

    def _fail(self, error: Exception) -> None:
        self._log_failure(error)
        fault = fault_of(error)
        if self._plan.forward_only(self._record.reached):
            self._save(phase=Phase.UNFINISHED, fault=fault)
            return
        self._save(phase=Phase.UNDOING, reached=self._touched, fault=fault, cancelled=isinstance(error, Cancelled))
        self._back()

    def _log_failure(self, error: Exception) -> None:
        record = self._record
        if isinstance(error, VdsmError | OSError):
            log.warning("%s %s failed: %s", record.kind, record.id, error)
        else:
            log.error("%s %s failed", record.kind, record.id, exc_info=error)

    def _back(self) -> None:
        if self._record.phase is Phase.HALF_UNDONE:
            self._save(phase=Phase.UNDOING, undo_fault=None)
        steps = self._plan.steps
        for index in reversed(range(self._record.reached)):
            self._at, self._fraction = index, 0.0
            self.check()
            try:
                self._point(f"before undoing {steps[index].name}")
                steps[index].undo(StepRun(self))
                self._point(f"after undoing {steps[index].name}")
            except Exception as error:
                log.exception("%s %s cannot be undone", self._record.kind, self._record.id)
                self._save(phase=Phase.HALF_UNDONE, reached=index + 1, undo_fault=fault_of(error))
                return
            if index:
                self._save(reached=index)
        self._save(phase=Phase.UNDONE, reached=0)

    def _save(self, **changes: Any) -> None:
        if self._halted.is_set():
            raise Halted
        record = msgspec.structs.replace(self._record, **changes)
        self._point("before a record")
        try:
            self._journal.write(record)
        except (OSError, VdsmError) as error:
            raise JournalBroken(str(error)) from error
        with self._lock:
            moved = record.phase is not self._record.phase
            self._record = record
        self._point("after a record")
        if moved:
            self._changed(self.view())

    def _progress(self) -> int:
        if self._record.phase is Phase.DONE:
            return 100
        weights = [step.weight for step in self._plan.steps]
        at = self._at
        done = sum(weights[:at]) + (weights[at] * self._fraction if at < len(weights) else 0.0)
        return min(99, int(100 * done / (sum(weights) or 1.0)))


class StepRun:
    """``kinds.Run`` of an execution."""

    def __init__(self, execution: Execution) -> None:
        self._execution: Final = execution

    @property
    def id(self) -> str:
        """See ``Run.id``."""
        return self._execution.record.id

    @property
    def notes(self) -> dict[str, Note]:
        """See ``Run.notes``."""
        return dict(self._execution.record.notes)

    def remember(self, **notes: Note) -> None:
        """See ``Run.remember``."""
        self._execution.remember(notes)

    def progress(self, fraction: float) -> None:
        """See ``Run.progress``."""
        self._execution.show(fraction)

    def check(self) -> None:
        """See ``Run.check``."""
        self._execution.check()

    def on_stop(self, function: Callable[[], object]) -> AbstractContextManager[None]:
        """See ``Run.on_stop``."""
        return self._execution.alarmed(function)

    def point(self, name: str) -> None:
        """See ``Run.point``."""
        self._execution.reach(name)
