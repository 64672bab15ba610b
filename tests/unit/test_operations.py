"""operations: how an operation runs, fails, is cancelled, waits, is explained and cleared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from toy_operations import DELETE, KINDS, MAKE, MAKE_ON, MAKE_ON_SEEING, MAKE_SEEING, PURGE, Thing, furnish, tree
from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.base.errors import AlreadyExists, BadParameter, Busy, Failed, Recovering, Unfinished, WrongState
from vdsm.operations.journal import MemoryJournal
from vdsm.operations.kinds import Kind, Kinds, Policy, Run, Step, Unsettled
from vdsm.operations.locks import Locks, Mode, Resource
from vdsm.operations.manager import NoSuchOperation, Operations
from vdsm.operations.records import (
    JobStatus,
    OperationView,
    Phase,
    Record,
    TaskResult,
    TaskState,
    job_status,
    task_words,
)

ID = "5b0f8a3e-0000-4000-8000-00000000000{}"


class Empty(msgspec.Struct, frozen=True):
    pass


class Count(msgspec.Struct, frozen=True):
    number: int = 0


class Bench:
    """Operations in memory, whose steps are called and can be held."""

    def __init__(self, **options: Any) -> None:
        self.journal = MemoryJournal()
        self.locks = Locks()
        self.calls: list[str] = []
        self.options = options
        self.made: list[Operations] = []

    def start(self, *kinds: Kind[Any], **options: Any) -> Operations:
        made = Operations(Kinds(kinds), self.journal, self.locks, **{"workers": 2, **self.options, **options})
        made.resume()
        self.made.append(made)
        return made

    def step(
        self, name: str, do: Callable[[Run], None] | None = None, undo: Callable[[Run], None] | None = None, **more: Any
    ) -> Step:
        def note(word: str, action: Callable[[Run], None] | None) -> Callable[[Run], None]:
            def call(run: Run) -> None:
                self.calls.append(f"{word} {name}")
                if action:
                    action(run)

            return call

        return Step(name, note("do", do), note("undo", undo), **more)

    def kind(self, *steps: Step, **more: Any) -> Kind[Empty]:
        return Kind("test", 1, Empty, lambda _: steps, **more)

    def records(self) -> list[Record]:
        return self.journal.load()[0]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for made in bench.made:
        assert made.stop(20)


def refuse(_: Run) -> None:
    raise OSError(28, "No space left on device")


def ended(running: Operations, view: OperationView) -> OperationView:
    return running.wait(view.id, 20)


class Gate:
    """A step that waits in the middle until it is let go."""

    def __init__(self, *, looks: bool = True) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.looks = looks

    def __call__(self, run: Run) -> None:
        self.reached.set()
        assert self.open.wait(20)
        if self.looks:
            run.check()


def test_runs_its_steps_in_order(bench: Bench) -> None:
    kind = bench.kind(bench.step("one"), bench.step("two"))
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Empty()))
    assert (view.phase, view.progress, view.step, view.fault) == (Phase.DONE, 100, "", None)
    assert bench.calls == ["do one", "do two"]
    assert (task_words(view), job_status(view)) == ((TaskState.FINISHED, TaskResult.SUCCESS), JobStatus.DONE)


def test_failure_undoes_what_was_touched_in_reverse(bench: Bench) -> None:
    kind = bench.kind(bench.step("one"), bench.step("two", refuse), bench.step("three"))
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Empty()))
    assert bench.calls == ["do one", "do two", "undo two", "undo one"]
    assert view.phase is Phase.UNDONE
    assert view.fault
    assert (view.fault.name, view.fault.text) == ("OSError", "[Errno 28] No space left on device")
    assert (task_words(view), job_status(view)) == ((TaskState.FINISHED, TaskResult.CLEAN_SUCCESS), JobStatus.FAILED)


def test_errors_keep_their_numbers(bench: Bench) -> None:
    def exists(_: Run) -> None:
        raise AlreadyExists("volume", "x")

    kind = bench.kind(bench.step("one", exists))
    running = bench.start(kind)
    fault = ended(running, running.submit(kind, Empty())).fault
    assert fault
    assert (fault.name, fault.code, fault.text) == ("already_exists", 4, "volume x already exists")


def test_undo_that_fails_keeps_its_locks_and_is_tried_again(bench: Bench) -> None:
    broken = threading.Event()
    broken.set()

    def undo(_: Run) -> None:
        if broken.is_set():
            raise OSError(5, "Input/output error")

    kind = bench.kind(
        bench.step("one", undo=undo), bench.step("two", refuse), wants=lambda _: [(Resource("a", "b"), Mode.SHARED)]
    )
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Empty()))
    assert view.phase is Phase.HALF_UNDONE
    assert task_words(view) == (TaskState.FINISHED, TaskResult.CLEAN_FAILURE)
    assert [use.owner for use in bench.locks.uses()] == [view.id]
    explained = running.explain(view.id)
    assert (explained.done, explained.uncertain, explained.left) == ((), ("one",), ("two",))
    assert explained.summary.endswith("undoing failed: [Errno 5] Input/output error")
    running.tend()  # it does not stall: only who knows that what it works on is there again says so
    assert ended(running, view).phase is Phase.HALF_UNDONE
    broken.clear()
    running.tend(ended=True)
    assert ended(running, view).phase is Phase.UNDONE
    assert bench.calls == ["do one", "do two", "undo two", "undo one", "undo one"]
    assert bench.locks.uses() == []
    with pytest.raises(WrongState):
        running.settle(view.id)


def test_what_must_be_finished_is_tried_again(bench: Bench) -> None:
    broken = threading.Event()
    broken.set()
    kind = bench.kind(
        bench.step("one"), bench.step("two", lambda run: refuse(run) if broken.is_set() else None), policy=Policy.FINISH
    )
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Empty()))
    assert view.phase is Phase.UNFINISHED
    assert task_words(view) == (TaskState.FINISHED, TaskResult.FAILURE)
    with pytest.raises(WrongState):
        running.cancel(view.id)
    broken.clear()
    running.settle(view.id)
    settled = ended(running, view)
    assert (settled.phase, settled.fault) == (Phase.DONE, None)
    assert bench.calls == ["do one", "do two", "do two"]


def test_after_the_pivot_there_is_no_way_back(bench: Bench) -> None:
    gate = Gate()
    kind = bench.kind(bench.step("one", pivot=True), bench.step("two", gate))
    running = bench.start(kind)
    view = running.submit(kind, Empty())
    assert gate.reached.wait(20)
    with pytest.raises(WrongState, match="it can only be finished"):
        running.cancel(view.id)
    gate.open.set()
    assert ended(running, view).phase is Phase.DONE


def test_cancel_inside_a_step(bench: Bench) -> None:
    gate = Gate()
    kind = bench.kind(bench.step("one"), bench.step("two", gate), bench.step("three"))
    running = bench.start(kind)
    view = running.submit(kind, Empty())
    assert gate.reached.wait(20)
    assert running.get(view.id).step == "two"
    assert task_words(running.cancel(view.id)) == (TaskState.ABORTING, TaskResult.NONE)
    gate.open.set()
    view = ended(running, view)
    assert bench.calls == ["do one", "do two", "undo two", "undo one"]
    assert (view.phase, view.cancelled, view.fault and view.fault.code) == (Phase.UNDONE, True, 411)
    assert job_status(view) is JobStatus.ABORTED
    with pytest.raises(WrongState):
        running.cancel(view.id)


def test_cancel_between_steps(bench: Bench) -> None:
    gate = Gate(looks=False)
    kind = bench.kind(bench.step("one", gate), bench.step("two"))
    running = bench.start(kind)
    view = running.submit(kind, Empty())
    assert gate.reached.wait(20)
    running.cancel(view.id)
    gate.open.set()
    assert ended(running, view).phase is Phase.UNDONE
    assert bench.calls == ["do one", "undo one"]


def test_cancel_calls_who_cannot_look(bench: Bench) -> None:
    reached, killed = threading.Event(), threading.Event()

    def do(run: Run) -> None:
        with run.on_stop(killed.set):
            reached.set()
            assert killed.wait(20)
        run.check()

    kind = bench.kind(bench.step("one", do))
    running = bench.start(kind)
    view = running.submit(kind, Empty())
    assert reached.wait(20)
    running.cancel(view.id)
    assert ended(running, view).phase is Phase.UNDONE


def locked_kind(bench: Bench, *steps: Step, **more: Any) -> Kind[Empty]:
    return bench.kind(*steps, wants=lambda _: [(Resource("image", "a"), Mode.EXCLUSIVE)], **more)


def test_waits_for_its_locks_and_holds_them(bench: Bench) -> None:
    kind = locked_kind(bench, bench.step("one"))
    running = bench.start(kind)
    other = bench.locks.claim("other", [(Resource("image", "a"), Mode.SHARED)], timeout_s=None)
    view = running.submit(kind, Empty())
    assert task_words(view) == (TaskState.INIT, TaskResult.NONE)
    assert job_status(view) is JobStatus.PENDING
    assert [lock.rsplit(" for ", 1)[0] for lock in running.explain(view.id).locks] == [
        "image a shared, held by other",
        f"image a exclusive, waited for by {view.id}",
    ]
    bench.locks.release(other)
    assert ended(running, view).phase is Phase.DONE
    assert bench.locks.uses() == []


def test_locks_that_do_not_come_in_time(bench: Bench) -> None:
    kind = locked_kind(bench, bench.step("one"), lock_timeout_s=0.01)
    running = bench.start(kind)
    bench.locks.claim("other", [(Resource("image", "a"), Mode.SHARED)], timeout_s=None)
    view = ended(running, running.submit(kind, Empty()))
    assert (view.phase, view.fault and view.fault.code, bench.calls) == (Phase.UNDONE, 851, [])


def test_cancelled_while_it_waits_it_never_begins(bench: Bench) -> None:
    kind = locked_kind(bench, bench.step("one"))
    running = bench.start(kind)
    bench.locks.claim("other", [(Resource("image", "a"), Mode.SHARED)], timeout_s=None)
    view = running.submit(kind, Empty())
    running.cancel(view.id)
    assert (ended(running, view).phase, bench.calls) == (Phase.UNDONE, [])
    assert [use.owner for use in bench.locks.uses()] == ["other"]


def interrupted(bench: Bench, kind: Kind[Empty], gate: Gate) -> str:
    """Stop the agent, as far as a test can without killing it, while the operation is at its gate."""
    running = bench.start(kind)
    view = running.submit(kind, Empty())
    assert gate.reached.wait(20)
    assert not running.stop(0.0)
    gate.open.set()
    assert ended(running, view).stalled
    return view.id


@pytest.mark.parametrize(
    ("policy", "phase", "calls"),
    [
        (Policy.UNDO, Phase.UNDONE, ["undo two", "undo one"]),
        (Policy.RESUME, Phase.DONE, ["do two", "do three"]),
        (Policy.FINISH, Phase.DONE, ["do two", "do three"]),
    ],
)
def test_next_start_settles_as_the_policy_says(bench: Bench, policy: Policy, phase: Phase, calls: list[str]) -> None:
    gate = Gate()
    steps = bench.step("one"), bench.step("two", gate), bench.step("three")
    kind = locked_kind(bench, *steps, policy=policy)
    ident = interrupted(bench, kind, gate)
    assert [(item.phase, item.reached) for item in bench.records()] == [(Phase.RUNNING, 1)]
    bench.calls.clear()
    again = bench.start(kind)
    assert again.wait(ident, 20).phase is phase
    assert bench.calls == calls
    assert bench.locks.uses() == []
    assert bench.start(kind).get(ident).phase is phase  # and stays until it is cleared


def test_steps_without_a_record_are_undone_with_the_next_that_has_one(bench: Bench) -> None:
    gate = Gate()
    steps = bench.step("one"), bench.step("two", recorded=False), bench.step("three", gate), bench.step("four")
    kind = bench.kind(*steps)
    ident = interrupted(bench, kind, gate)
    assert bench.records()[0].reached == 1
    bench.calls.clear()
    assert bench.start(kind).wait(ident, 20).phase is Phase.UNDONE
    assert bench.calls == ["undo three", "undo two", "undo one"]


def test_resumed_and_then_cancelled_undoes_what_may_have_been_touched(bench: Bench) -> None:
    gate, hold = Gate(), Resource("image", "a")
    kind = locked_kind(bench, bench.step("one"), bench.step("two", gate), policy=Policy.RESUME)
    ident = interrupted(bench, kind, gate)
    other = bench.locks.claim("other", [(hold, Mode.SHARED)], timeout_s=None)
    again = bench.start(kind)
    bench.calls.clear()
    again.cancel(ident)
    assert bench.calls == []  # it is undone under its lock, not before
    bench.locks.release(other)
    assert again.wait(ident, 20).phase is Phase.UNDONE
    assert bench.calls == ["undo two", "undo one"]


def test_decides_under_its_locks_what_it_will_do(bench: Bench) -> None:
    held: list[bool] = []

    def look(given: Count) -> Count:
        held.append(bench.locks.uses()[0].held)
        return Count(3)

    kind = Kind(
        "count", 1, Count, lambda count: [bench.step(str(number)) for number in range(count.number)],
        lambda _: [(Resource("a", "b"), Mode.SHARED)], look,
    )  # fmt: skip
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Count()))
    assert (view.phase, held, bench.calls) == (Phase.DONE, [True], ["do 0", "do 1", "do 2"])
    assert [(item.steps, bytes(item.arguments)) for item in bench.records()] == [(("0", "1", "2"), b'{"number":3}')]


@pytest.mark.parametrize("policy", list(Policy))
def test_what_is_refused_when_it_looks_was_never_begun(bench: Bench, policy: Policy) -> None:
    def look(_: Empty) -> Empty:
        raise AlreadyExists("volume", "x")

    kind = bench.kind(bench.step("one"), decide=look, policy=policy)
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Empty()))
    assert (view.phase, view.fault and view.fault.code, bench.calls) == (Phase.UNDONE, 4, [])
    assert bench.start(kind).get(view.id) == view


@pytest.mark.parametrize(
    ("policy", "phase"), [(Policy.UNDO, Phase.UNDONE), (Policy.RESUME, Phase.DONE), (Policy.FINISH, Phase.DONE)]
)
def test_interrupted_before_it_was_decided(bench: Bench, policy: Policy, phase: Phase) -> None:
    gate = Gate(looks=False)

    def look(given: Empty) -> Empty:
        gate.reached.set()
        assert gate.open.wait(20)
        return given

    kind = bench.kind(bench.step("one"), decide=look, policy=policy)
    ident = interrupted(bench, kind, gate)
    assert [(item.decided, item.steps) for item in bench.records()] == [(False, ())]
    assert bench.start(kind).wait(ident, 20).phase is phase
    assert bench.calls == (["do one"] if phase is Phase.DONE else [])


def test_notes_survive(bench: Bench) -> None:
    gate = Gate()
    found: list[object] = []

    def do(run: Run) -> None:
        run.remember(old="x", count=3)
        gate(run)

    kind = bench.kind(bench.step("one", do, lambda run: found.append(run.notes)))
    ident = interrupted(bench, kind, gate)
    bench.start(kind).wait(ident, 20)
    assert found == [{"old": "x", "count": 3}]


def test_unknown_kinds_and_other_steps_are_left_and_hold_their_locks(bench: Bench) -> None:
    gate = Gate()
    kind = locked_kind(bench, bench.step("one", gate))
    ident = interrupted(bench, kind, gate)
    for others in ([], [locked_kind(bench, bench.step("another"))]):
        again = bench.start(*others)
        assert again.get(ident).stalled
        assert "it keeps its locks" in again.explain(ident).next
        assert [use.owner for use in bench.locks.uses()] == [ident]
        with pytest.raises(Unsettled):
            again.settle(ident)
        assert again.stop(20)
    assert bench.records()[0].phase is Phase.RUNNING
    gate.open.set()
    assert bench.start(kind).wait(ident, 20).phase is Phase.UNDONE


def test_journal_that_breaks_stops_the_operation_where_it_is(bench: Bench) -> None:
    working = threading.Event()
    working.set()
    write = bench.journal.write

    def maybe(record: Record) -> None:
        if not working.is_set():
            raise OSError(5, "Input/output error")
        write(record)

    bench.journal.write = maybe  # type: ignore[method-assign]
    breaks = iter([working.clear])
    kind = bench.kind(bench.step("one", lambda _: next(breaks, list)()), bench.step("two"))
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Empty()))
    assert "Input/output error" in view.stalled
    assert (view.phase, bench.calls) == (Phase.RUNNING, ["do one"])
    with pytest.raises(Failed):
        running.submit(kind, Empty())
    assert len(running.views()) == 1
    running.tend()
    assert ended(running, view).stalled
    working.set()
    running.tend()
    assert ended(running, view).phase is Phase.DONE
    assert bench.calls == ["do one", "do one", "do one", "do two"]
    running.tend(ended=True)
    assert ended(running, view).phase is Phase.DONE


def test_clear(bench: Bench) -> None:
    gate = Gate()
    kind = bench.kind(bench.step("one", gate))
    running = bench.start(kind)
    view = running.submit(kind, Empty())
    assert gate.reached.wait(20)
    with pytest.raises(WrongState):
        running.clear(view.id)
    gate.open.set()
    ended(running, view)
    running.clear(view.id)
    with pytest.raises(NoSuchOperation):
        running.get(view.id)
    assert (running.views(), bench.records()) == ([], [])


def test_cleared_before_it_is_settled_it_is_hidden_and_goes_when_it_is(bench: Bench) -> None:
    broken = threading.Event()
    broken.set()
    kind = bench.kind(bench.step("one", lambda run: refuse(run) if broken.is_set() else None), policy=Policy.FINISH)
    running = bench.start(kind)
    view = ended(running, running.submit(kind, Empty()))
    running.clear(view.id)
    assert (running.views(), len(bench.records())) == ([], 1)
    assert running.stop(20)
    broken.clear()
    bench.start(kind)
    until = monotonic_s() + 20
    while bench.records() and monotonic_s() < until:
        sleep_s(0.001)
    assert bench.records() == []


def test_what_is_refused(bench: Bench) -> None:
    gate = Gate()
    kind = bench.kind(bench.step("one", gate))
    early = Operations(Kinds([kind]), bench.journal, bench.locks)
    with pytest.raises(Recovering):
        early.submit(kind, Empty())
    running = bench.start(kind, limit=1)
    with pytest.raises(BadParameter):
        running.submit(kind, Empty(), "../../etc/passwd")
    running.submit(kind, Empty(), ID.format(1))
    with pytest.raises(AlreadyExists):
        running.submit(kind, Empty(), ID.format(1))
    with pytest.raises(Busy):
        running.submit(kind, Empty())
    with pytest.raises(Unfinished):
        running.wait(ID.format(1), 0.0)
    with pytest.raises(ValueError, match="is not registered"):
        running.submit(bench.kind(), Empty())
    for call in (running.get, running.cancel, running.clear, running.settle, running.explain):
        with pytest.raises(NoSuchOperation):
            call(ID.format(9))
    gate.open.set()
    with pytest.raises(ValueError, match="two kinds"):
        Kinds([kind, kind])


def test_progress_counts_weights(bench: Bench) -> None:
    first, second = Gate(), Gate()

    def half(run: Run) -> None:
        run.progress(0.5)
        second(run)

    kind = bench.kind(bench.step("one", first), bench.step("two", half, weight=3.0))
    running = bench.start(kind)
    view = running.submit(kind, Empty())
    assert first.reached.wait(20)
    assert running.get(view.id).progress == 0
    first.open.set()
    assert second.reached.wait(20)
    assert running.get(view.id).progress == 62
    explained = running.explain(view.id)
    assert (explained.done, explained.uncertain) == (("one",), ("two",))
    second.open.set()


def test_changes_are_told(bench: Bench) -> None:
    told: list[Phase] = []
    kind = bench.kind(bench.step("one", refuse))
    running = bench.start(kind, changed=lambda view: told.append(view.phase))
    ended(running, running.submit(kind, Empty()))
    assert told == [Phase.UNDOING, Phase.UNDONE]


def cancelled_at(turn: int, kind: Kind[Thing], root: Path) -> tuple[Phase, int]:
    """How it ends when it is cancelled at one of its points, and how many it passed."""
    passed: list[str] = []

    def point(name: str) -> None:
        passed.append(name)
        if len(passed) == turn:
            with suppress(WrongState):
                running.cancel(ID.format(1))

    running = Operations(KINDS, MemoryJournal(), Locks(), workers=1, point=point)
    running.resume()
    running.submit(kind, Thing(str(root), "new"), ID.format(1))
    phase = running.wait(ID.format(1), 20).phase
    assert running.stop(20)
    return phase, len(passed)


@pytest.mark.parametrize(
    "kind", [MAKE, MAKE_ON, MAKE_SEEING, MAKE_ON_SEEING, DELETE, PURGE], ids=lambda kind: kind.name
)
def test_cancelled_at_every_point_it_is_before_or_after(tmp_path: Path, kind: Kind[Thing]) -> None:
    turn = 0
    while True:
        turn += 1
        furnish(tmp_path, "old", *(["new"] if kind in {DELETE, PURGE} else []))
        before = tree(tmp_path)
        phase, passed = cancelled_at(turn, kind, tmp_path)
        assert phase in {Phase.DONE, Phase.UNDONE}
        assert (tree(tmp_path) == before) == (phase is Phase.UNDONE)
        if passed < turn:
            return


@pytest.mark.parametrize("step", ["make the directory", "write the data", "share the data", "write the metadata"])
def test_step_that_fails_leaves_nothing(tmp_path: Path, step: str) -> None:
    furnish(tmp_path, "old")
    before = tree(tmp_path)
    running = Operations(KINDS, MemoryJournal(), Locks())
    running.resume()
    running.submit(MAKE, Thing(str(tmp_path), "new", fails_at=step), ID.format(1))
    assert running.wait(ID.format(1), 20).phase is Phase.UNDONE
    assert tree(tmp_path) == before
    assert running.stop(20)
