from __future__ import annotations

import heapq
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.bindings.pacing import LF, MAX_WAKES, RUN, STREAK, Outbox, OutputLimits
from vdsm.bindings.stomp import TLS_RECORD

# Two instants that differ by less are the same: sums of floats.
EPSILON = 1e-9
# What the Engine's client needs between two frames, and until it is woken up, in seconds.
GAP_S = 0.005
WAKE_S = 0.005


class Timer:
    def __init__(self, callback) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None


class World:
    """A clock that moves when told, timers that fire in their order, a transport that notes what is written when."""

    def __init__(self, limits: OutputLimits | None = None) -> None:
        self.now = 100.0
        self.written: list[tuple[float, bytes]] = []
        self.cuts: list[str] = []
        self._due: list = []
        self._order = count()
        self.takes = 1 << 40
        self.outbox = Outbox(self, self, limits or OutputLimits(), cut_off=self.cuts.append, clock=lambda: self.now)

    def call_later(self, delay, callback):
        timer = Timer(callback)
        heapq.heappush(self._due, (self.now + delay, next(self._order), timer))
        return timer

    def write(self, data) -> None:
        self.written.append((self.now, bytes(data)))
        self.takes -= len(data)
        if self.takes < 0:
            self.outbox.pause()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._due)
            if timer.callback is not None:
                timer.callback()
        self.now = until

    @property
    def frames(self) -> list[bytes]:
        return [data for _, data in self.written if data != LF]


def test_a_burst_of_events_is_spread() -> None:
    world = World()
    for number in range(10):
        world.outbox.send(b"event %d" % number)
    world.run(1.0)
    assert world.frames == [b"event %d" % number for number in range(10)]
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(world.written)]
    assert min(gaps) >= GAP_S - EPSILON
    assert max(gaps[:9]) <= 2 * GAP_S


def test_line_ends_follow_a_burst_one_for_each_frame_that_may_be_stuck() -> None:
    world = World()
    for number in range(4):
        world.outbox.send(b"event %d" % number)
    world.run(1.0)
    assert [data for _, data in world.written[4:]] == [LF] * 3


def test_what_may_be_stuck_is_forgotten_as_the_client_reads_on_by_itself() -> None:
    world = World()
    for _ in range(3):
        world.outbox.send(b"event")
    world.run(1.5)
    world.outbox.send(b"event")
    world.run(1.5)
    world.outbox.send(b"event")
    world.run(1.5)
    assert [data for _, data in world.written] == [b"event"] * 3 + [LF] * 2 + [b"event", LF, b"event"]


def test_a_frame_does_not_wait_for_a_late_line_end() -> None:
    world = World()
    for _ in range(MAX_WAKES + 1):
        world.outbox.send(b"burst")
    while len(world.written) < 2 * MAX_WAKES:
        world.run(0.001)
    # The last LF is due after about a tenth of a second; the client has just had one.
    began = world.written[-1][0]
    assert world.written[-1][1] == LF
    world.outbox.send(b"answer")
    world.run(0.5)
    assert next(at for at, data in world.written if data == b"answer") - began <= GAP_S + 0.002


def test_the_first_frame_after_silence_goes_at_once() -> None:
    world = World()
    world.outbox.send(b"event")
    assert world.written == [(100.0, b"event")]


def answer_at_once(world: World, count: int) -> None:
    """Play a client that asks again as soon as it has its answer."""
    for _ in range(count):
        before = len(world.frames)
        world.outbox.send(b"answer", awaited=True)
        while len(world.frames) == before:
            world.run(0.0001)
        world.now += 0.0001


def test_a_client_in_full_flow_gets_its_answers_at_once() -> None:
    world = World()
    answer_at_once(world, STREAK + 1)
    began_s = world.now
    answer_at_once(world, 100)
    assert world.now - began_s <= 100 * 0.0001 + EPSILON


def test_a_client_that_has_just_begun_is_not_in_full_flow() -> None:
    world = World()
    answer_at_once(world, STREAK + 1)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(world.written)]
    assert min(gaps) >= GAP_S - EPSILON


@pytest.mark.parametrize("what", ["event", "pause"])
def test_full_flow_ends_with_an_event_or_a_pause(what: str) -> None:
    world = World()
    answer_at_once(world, 50)
    if what == "event":
        world.outbox.send(b"event")
    world.run(0.5)
    begun = len(world.written)
    answer_at_once(world, STREAK)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(world.written[begun:])]
    assert min(gaps) >= GAP_S - EPSILON


def test_threads_that_share_a_connection_never_get_into_full_flow() -> None:
    world = World()
    for number in range(100):
        # The second one's request comes while the first one's answer waits for its gap.
        world.outbox.send(b"%d" % number, awaited=True)
        world.outbox.send(b"%d" % number, awaited=not world.outbox._queue)
        world.run(0.012)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(world.written)]
    assert min(gaps) >= GAP_S - EPSILON


def test_wakes_are_bounded() -> None:
    world = World()
    answer_at_once(world, 1000)
    world.run(10.0)
    assert sum(data == LF for _, data in world.written) == MAX_WAKES


def test_answers_with_time_between_them_need_no_wake() -> None:
    world = World()
    for _ in range(5):
        world.outbox.send(b"answer", awaited=True)
        world.run(0.05)
    assert world.frames == [b"answer"] * 5
    assert len(world.written) == 5


def test_an_awaited_answer_waits_behind_what_is_queued() -> None:
    world = World()
    world.outbox.send(b"1")
    world.outbox.send(b"2")
    world.outbox.send(b"3", awaited=True)
    world.run(1.0)
    assert world.frames == [b"1", b"2", b"3"]
    assert world.written[2][0] - world.written[1][0] >= GAP_S - EPSILON


@given(st.lists(st.tuples(st.booleans(), st.floats(min_value=0, max_value=0.02)), max_size=60))
def test_only_awaited_answers_come_close_to_another_frame(plan: list[tuple[bool, float]]) -> None:
    world = World()
    awaited = set()
    for number, (is_awaited, pause_s) in enumerate(plan):
        if is_awaited:
            awaited.add(b"%d" % number)
        world.outbox.send(b"%d" % number, awaited=is_awaited)
        world.run(pause_s)
    world.run(10.0)
    assert world.frames == [b"%d" % number for number in range(len(plan))]
    for (earlier, _), (later, data) in pairwise(world.written):
        assert data in awaited or later - earlier >= GAP_S - EPSILON


def test_a_long_frame_leaves_in_full_records() -> None:
    world = World()
    frame = bytes(range(256)) * 5000
    world.outbox.send(frame)
    assert b"".join(data for _, data in world.written) == frame
    assert all(len(data) % TLS_RECORD == 0 for _, data in world.written[:-1])


def test_a_long_frame_waits_for_a_reader_and_nothing_gets_between() -> None:
    world = World()
    world.takes = RUN
    frame = b"x" * (3 * RUN)
    world.outbox.send(frame)
    world.outbox.send(b"next")
    world.outbox.beat(0.0)
    world.run(5.0)
    held = sum(len(data) for _, data in world.written)
    assert held == 2 * RUN
    world.takes = 1 << 40
    world.outbox.resume()
    world.run(1.0)
    assert b"".join(world.frames) == frame + b"next"


def test_a_heart_beat_is_sent_only_after_silence() -> None:
    world = World()
    world.outbox.send(b"frame")
    world.run(14.0)
    world.outbox.beat(15.0)
    assert len(world.written) == 1
    world.run(1.0)
    world.outbox.beat(15.0)
    assert world.written[1:] == [(115.0, LF)]


def test_a_reader_who_is_too_slow_is_cut_off_at_the_limit() -> None:
    world = World(OutputLimits(total_bytes=1000))
    world.outbox.pause()
    for _ in range(10):
        world.outbox.send(b"x" * 100)
    assert world.cuts == []
    world.outbox.send(b"x")
    assert "1001 bytes" in world.cuts[0]


def test_a_reader_who_takes_nothing_is_cut_off_in_time() -> None:
    world = World(OutputLimits(stall_s=60.0))
    world.takes = 0
    world.outbox.send(b"frame")
    world.run(59.0)
    world.outbox.check()
    assert world.cuts == []
    world.run(1.0)
    world.outbox.check()
    assert "not read for 60 s" in world.cuts[0]


def test_a_reader_who_is_slow_but_goes_on_is_not_cut_off() -> None:
    world = World(OutputLimits(stall_s=60.0))
    world.takes = 0
    world.outbox.send(b"x" * (10 * RUN))
    for _ in range(9):
        world.run(50.0)
        world.outbox.check()
        world.takes = 0
        world.outbox.resume()
    assert world.cuts == []
    assert sum(len(data) for _, data in world.written) == 10 * RUN


@pytest.mark.parametrize("frame", [b"x" * 20, b"x" * 2000])
def test_it_is_busy_while_much_waits_and_tells_when_not(frame: bytes) -> None:
    world = World(OutputLimits(busy_bytes=5000, busy_frames=10))
    told: list[float] = []
    for _ in range(14):
        world.outbox.send(frame)
    assert world.outbox.busy
    world.outbox.relax(lambda: told.append(world.now))
    world.run(1.0)
    assert not world.outbox.busy
    assert len(told) == 1


def test_finish_waits_for_all_that_is_queued() -> None:
    world = World()
    told: list[int] = []
    for _ in range(3):
        world.outbox.send(b"frame")
    world.outbox.finish(lambda: told.append(len(world.frames)))
    assert told == []
    world.run(1.0)
    assert told == [3]


def test_nothing_is_written_after_close() -> None:
    world = World()
    for _ in range(3):
        world.outbox.send(b"frame")
    world.outbox.close()
    world.run(1.0)
    assert len(world.written) == 1
