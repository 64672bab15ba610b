"""How frames leave to one STOMP client.

The Engine's client library reads one TLS record each time its selector wakes up, and then sleeps up to a second: two
frames that it finds together cost that second. Hence, all measured:

- each frame goes out in one write, or in long runs of full TLS records while the client takes them;
- two frames are at least `GAP_S` apart. The exception is a client in full flow: each of its last `STREAK` requests came
  after our last frame went out, with nothing else of it in work or queued. Several threads that share a connection
  do not get that far, as the gaps make their requests overlap; one thread that asks without a pause does;
- a client may still have found frames together, when it was busy itself. After frames that went out close to others,
  some LFs (heart-beats) follow; each wakes the client up once more, and so brings it one frame.

What a client does not read is queued up to a limit; beyond it, or when nothing moves for a while, it is cut off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from vdsm.base.clock import monotonic_s
from vdsm.bindings.stomp import TLS_RECORD

GAP_S: Final = 0.005
STREAK: Final = 8
# A client that was silent for longer is no longer in full flow.
_PAUSE_S: Final = 0.1
# The LF comes a little later than a frame would, so that it never delays one.
WAKE_S: Final = 0.006
# Each further LF comes later by this factor, as a client that was busy for long finds the first ones together, too.
_WAKE_FACTOR: Final = 1.5
# Frames that are closer than this may be found together by a client that is busy.
_CLOSE_S: Final = 0.03
# At most so many frames are taken to be stuck in a client.
MAX_WAKES: Final = 8
# The client's selector sleeps so long at most; then it reads one record more.
_SELECT_S: Final = 1.0
LF: Final = b"\n"
RUN: Final = 16 * TLS_RECORD
# Timers have a resolution of a millisecond, and their clock may lag behind.
_TICK_S: Final = 0.001


class Sink(Protocol):
    """What is needed of a transport."""

    def write(self, data: bytes | memoryview) -> None:
        """Send, or buffer."""


class Timers(Protocol):
    """What is needed of an event loop."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Call back after ``delay`` seconds."""


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """What may wait for one reader.

    Attributes:
        total_bytes: what may be queued before the client is cut off.
        busy_bytes: what may be queued before no more requests of the client are taken.
        busy_frames: likewise, in frames.
        stall_s: seconds without any progress before the client is cut off.
    """

    total_bytes: int = 16 << 20
    busy_bytes: int = 4 << 20
    busy_frames: int = 64
    stall_s: float = 60.0


class Outbox:
    """The frames to one client.

    Args:
        sink: where frames are written.
        timers: the event loop.
        limits: what may wait.
        cut_off: called with a reason when the client is too slow.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        sink: Sink,
        timers: Timers,
        limits: OutputLimits,
        *,
        cut_off: Callable[[str], None],
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self.sent = 0
        """How many writes there were; a request notes it on arrival."""
        self.last_s = clock() - 1.0
        """When the last write was, in monotonic seconds."""
        self._sink = sink
        self._timers = timers
        self._limits = limits
        self._cut_off = cut_off
        self._clock = clock
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._streak = 0
        # How many frames may be stuck in the client, and how many LFs are to follow the last frame.
        self._stuck = 0
        self._wakes = 0
        self._wake_s = WAKE_S
        self._timer: asyncio.TimerHandle | None = None
        # When the timer goes off.
        self._due_s = 0.0
        self._writable = True
        self._when_empty: Callable[[], None] | None = None
        self._when_relaxed: Callable[[], None] | None = None
        # What is left of a frame that the transport did not take at once.
        self._rest = memoryview(b"")
        self._moved_s = clock()

    @property
    def busy(self) -> bool:
        """Whether so much is waiting that the client's next requests should wait, too."""
        waiting_bytes = self._queued_bytes + len(self._rest)
        return len(self._queue) > self._limits.busy_frames or waiting_bytes > self._limits.busy_bytes

    def send(self, frame: bytes, *, awaited: bool = False) -> None:
        """Send a frame by the rules.

        Args:
            frame: the whole frame.
            awaited: whether the client has nothing else to wait for and asked after our last frame.
        """
        now = self._clock()
        silent_s = now - self.last_s
        self._streak = self._streak + 1 if awaited and not self._queue and silent_s < _PAUSE_S else 0
        if not self._queue and self._writable and (silent_s >= GAP_S or self._streak > STREAK):
            self._write(frame, now)
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        if self._queued_bytes > self._limits.total_bytes:
            self._cut_off(f"{self._queued_bytes} bytes wait for a reader who is too slow")
        elif self._writable:
            self._arm(GAP_S - silent_s)

    def beat(self, interval_s: float) -> None:
        """Send a heart-beat if nothing was sent for ``interval_s`` seconds."""
        now = self._clock()
        if self._writable and not self._queue and now - self.last_s >= interval_s:
            self._write_beat(now)

    def finish(self, when_empty: Callable[[], None]) -> None:
        """Call ``when_empty`` once all that is queued has been written."""
        if self._queue or self._rest:
            self._when_empty = when_empty
        else:
            when_empty()

    def relax(self, when_relaxed: Callable[[], None]) -> None:
        """Call ``when_relaxed`` once the outbox is no longer busy."""
        self._when_relaxed = when_relaxed

    def pause(self) -> None:
        """The transport takes no more."""
        self._writable = False

    def resume(self) -> None:
        """The transport takes more."""
        self._writable = True
        self.last_s = self._moved_s = self._clock()
        self._write_rest()
        self._tell()
        if self._writable and (self._queue or self._wakes):
            self._arm(GAP_S)

    def check(self) -> None:
        """Cut the client off if it has not taken anything for too long; to be called now and then."""
        stalled_s = self._clock() - self._moved_s
        if not self._writable and stalled_s >= self._limits.stall_s:
            self._cut_off(f"the client has not read for {stalled_s:.0f} s")

    def close(self) -> None:
        """Forget everything."""
        self._queue.clear()
        self._rest = memoryview(b"")
        self._queued_bytes = 0
        self._wakes = 0
        self._writable = False
        self._when_empty = self._when_relaxed = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self, frame: bytes, now: float) -> None:
        silent_s = now - self.last_s
        if silent_s < _CLOSE_S:
            if self._stuck < MAX_WAKES:
                self._stuck += 1
        elif self._stuck and silent_s >= _SELECT_S:
            self._stuck = max(0, self._stuck - int(silent_s / _SELECT_S))
        self._wakes = self._stuck
        self._wake_s = WAKE_S
        if self._wakes:
            self._arm(WAKE_S)
        self.last_s = self._moved_s = now
        self.sent += 1
        if len(frame) <= RUN:
            self._sink.write(frame)
        else:
            self._rest = memoryview(frame)
            self._write_rest()

    def _write_beat(self, now: float) -> None:
        self.last_s = self._moved_s = now
        self.sent += 1
        self._sink.write(LF)

    def _write_rest(self) -> None:
        """Write a long frame in runs, so that the transport never holds much that the client has not taken."""
        while self._writable and self._rest:
            run, self._rest = self._rest[:RUN], self._rest[RUN:]
            self._sink.write(run)

    def _arm(self, delay_s: float) -> None:
        """Have the timer go off after ``delay_s``, or earlier as it was; a frame must not wait for a late LF."""
        delay_s = max(delay_s, _TICK_S)
        due_s = self._clock() + delay_s
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._timers.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._writable:
            return
        now = self._clock()
        silent_s = now - self.last_s
        if self._queue:
            if silent_s >= GAP_S:
                self._write_next(now)
                silent_s = 0.0
        elif self._wakes and silent_s >= self._wake_s:
            self._wakes -= 1
            self._wake_s *= _WAKE_FACTOR
            self._write_beat(now)
            silent_s = 0.0
        if self._queue:
            self._arm(GAP_S - silent_s)
        elif self._wakes:
            self._arm(self._wake_s - silent_s)

    def _write_next(self, now: float) -> None:
        frame = self._queue.popleft()
        self._queued_bytes -= len(frame)
        self._write(frame, now)
        self._tell()

    def _tell(self) -> None:
        """Call those who wait for less to be queued."""
        if self._when_relaxed is not None and not self.busy:
            when_relaxed, self._when_relaxed = self._when_relaxed, None
            when_relaxed()
        if self._when_empty is not None and not self._queue and not self._rest:
            when_empty, self._when_empty = self._when_empty, None
            when_empty()
