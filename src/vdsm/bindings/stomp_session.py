"""One STOMP connection: frames in, subscriptions, requests to JSON-RPC, heart-beats, answers out.

    bytes -> stomp.Parser -> handle one frame -> JsonRpc -> (now or later) -> pacing.Outbox -> bytes

The order of the opening frames is free: SUBSCRIBE and SEND may come before CONNECT, which the Engine's client may even
lose. An answer goes to the asking connection only, whether or not it subscribed to the reply-to: ids of other clients
that share a reply queue are of no use to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, cast

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, VdsmError
from vdsm.bindings import stomp
from vdsm.bindings.broker import Broker, levels
from vdsm.bindings.dispatch import Pending
from vdsm.bindings.pacing import Outbox, OutputLimits
from vdsm.bindings.peers import Caller

log = logging.getLogger(__name__)

VERSION: Final = "1.2"
FLOW_HEADER: Final = "ovirtCorrelationId"
_MAX_HEADS: Final = 32
_MAX_FLOW: Final = 80
# What the kernel has not taken waits in the outbox, not in the transport: with TLS, one byte there means stop, as
# there is the buffer of the transport beneath as well.
_HIGH_WATER: Final = 1
# No request arrived this many frames ago: a count that never matches.
_LONG_AGO: Final = -1
# The Engine's client gives up after 1.5 times the agreed interval; being a little early costs nothing.
_EARLY: Final = 0.9
_SOON_S: Final = 0.05
# A client that is being refused may go on sending what it has begun: seconds, and how many times.
_LINGER_S: Final = 1.0
_LINGERS: Final = 10
_CLOSE_S: Final = 5.0
_MAX_BEAT_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class StompLimits:
    """What one STOMP client may do.

    Attributes:
        frame_bytes: the largest body that is read.
        requests: how many requests may be in work at a time; more are answered Busy.
        subscriptions: how many there may be.
        min_beat_ms: shorter heart-beat intervals are lifted to this.
        grace: a client that promised heart-beats is cut off after this many intervals of silence.
        output: what may wait for a slow reader.
    """

    frame_bytes: int = 8 << 20
    requests: int = 100
    subscriptions: int = 100
    min_beat_ms: int = 1000
    grace: float = 2.0
    output: OutputLimits = field(default_factory=OutputLimits)


class Rpc(Protocol):
    """What a session needs of JSON-RPC."""

    def handle(self, body: bytes, caller: Caller, flow: str = "") -> bytes | Pending[bytes | None] | None:
        """Serve one message: the answer now, none, or later."""

    def refuse(self, body: bytes, error: VdsmError) -> bytes | None:
        """The answer to a message that is not served."""


class StompSession(asyncio.Protocol):
    """One client.

    Args:
        rpc: serves the requests.
        broker: knows who subscribed to what.
        caller: who the client is.
        limits: what it may do.
        lost: called once when the connection has ended.
    """

    def __init__(
        self,
        *,
        rpc: Rpc,
        broker: Broker,
        caller: Caller,
        limits: StompLimits,
        lost: Callable[[], None],
    ) -> None:
        self._rpc = rpc
        self._broker = broker
        self._caller = caller
        self._limits = limits
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox
        self._parser = stomp.Parser(limits.frame_bytes)
        self._waiting: deque[stomp.Frame] = deque()
        self._subscriptions: dict[str, str] = {}
        # The beginnings of answers, per reply-to.
        self._heads: dict[str, bytes] = {}
        self._in_work = 0
        self._ending = False
        self._heard_s = monotonic_s()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._handlers = {
            "CONNECT": self._on_connect,
            "STOMP": self._on_connect,
            "SUBSCRIBE": self._on_subscribe,
            "UNSUBSCRIBE": self._on_unsubscribe,
            "DISCONNECT": self._on_disconnect,
            "ACK": self._on_nothing,
            "NACK": self._on_nothing,
        }

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("sslcontext"):
            self._transport.set_write_buffer_limits(high=_HIGH_WATER, low=0)
        self._outbox = Outbox(self._transport, self._loop, self._limits.output, cut_off=self._cut_off)
        self._check()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._heard_s = monotonic_s()
        if self._ending:
            return
        arrived = self._outbox.sent
        frames = self._parser.feed(data)
        if self._waiting:
            self._waiting.extend(frames)
        else:
            for number, frame in enumerate(frames):
                if self._outbox.busy:
                    self._wait(frames[number:])
                    break
                self._handle(frame, arrived)
        if self._parser.error is not None and not self._ending:
            self._fail(str(self._parser.error))

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """The kernel takes more."""
        self._outbox.resume()

    def eof_received(self) -> None:
        """The client has gone: there is nobody to answer to."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; what it asked for goes on."""
        log.debug("STOMP connection of %s ended%s", self._caller, f": {exc}" if exc else "")
        self._ending = True
        self._transport = None
        self._outbox.close()
        self._waiting.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for ident, destination in self._subscriptions.items():
            self._broker.unsubscribe(self, ident, destination)
        self._lost()

    # What others call.

    def deliver(self, frame: bytes) -> None:
        """Send a frame that nobody asked for: an event, or what another client sent."""
        if not self._ending:
            self._outbox.send(frame)

    def finish(self) -> None:
        """End the connection after what is queued."""
        self._ending = True
        self._outbox.finish(self._close)

    # Frames.

    def _wait(self, frames: list[stomp.Frame]) -> None:
        """Take no more from a client that has too many answers to read."""
        self._waiting.extend(frames)
        if self._transport is not None:
            self._transport.pause_reading()
            self._outbox.relax(self._go_on)

    def _go_on(self) -> None:
        while self._waiting and not self._ending:
            if self._outbox.busy:
                self._outbox.relax(self._go_on)
                return
            self._handle(self._waiting.popleft(), _LONG_AGO)
        if self._transport is not None:
            self._heard_s = monotonic_s()
            self._transport.resume_reading()

    def _handle(self, frame: stomp.Frame, arrived: int) -> None:
        if frame.command == "SEND":
            self._on_send(frame, arrived)
        elif frame.command in self._handlers:
            self._handlers[frame.command](frame)
        else:
            self._fail(f"{frame.command} is not understood here")
        if "receipt" in frame.headers and not self._ending and frame.command not in {"CONNECT", "STOMP"}:
            self._outbox.send(stomp.encode("RECEIPT", {"receipt-id": frame.headers["receipt"]}))

    def _on_send(self, frame: stomp.Frame, arrived: int) -> None:
        headers = frame.headers
        destination = headers.get("destination", "")
        if not self._broker.is_request_queue(destination):
            self._forward(destination, frame)
            return
        reply_to = headers.get("reply-to") or destination
        if self._in_work >= self._limits.requests:
            refusal = self._rpc.refuse(frame.body, Busy(f"of one client's {self._in_work}"))
            self._reply(reply_to, arrived, refusal)
            return
        answer = self._rpc.handle(frame.body, self._caller, headers.get(FLOW_HEADER, "")[:_MAX_FLOW])
        if type(answer) is Pending:
            self._in_work += 1
            answer.then(partial(self._on_answer, reply_to, arrived))
        else:
            self._reply(reply_to, arrived, cast("bytes | None", answer))

    def _on_answer(self, reply_to: str, arrived: int, answer: bytes | None) -> None:
        self._in_work -= 1
        self._reply(reply_to, arrived, answer)

    def _reply(self, reply_to: str, arrived: int, answer: bytes | None) -> None:
        if answer is None or self._ending:
            return
        head = self._heads.get(reply_to) or self._head(reply_to)
        # It waits for this answer alone when it asked after our last frame and nothing else of it is in work.
        awaited = arrived == self._outbox.sent and not self._in_work
        self._outbox.send(stomp.message(head, answer), awaited=awaited)

    def _head(self, reply_to: str) -> bytes:
        idents = {destination: ident for ident, destination in self._subscriptions.items()}
        ident = next((idents[level] for level in levels(reply_to) if level in idents), None)
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        head = self._heads[reply_to] = stomp.message_head(reply_to, ident)
        return head

    def _forward(self, destination: str, frame: stomp.Frame) -> None:
        """Be a simple broker for what is not for the agent."""
        passed = {name: frame.headers[name] for name in ("content-type", "reply-to") if name in frame.headers}
        if not self._broker.send(destination, frame.body, passed):
            self._error("Subscription not available", f"nobody has subscribed to {destination!r}")

    def _on_connect(self, frame: stomp.Frame) -> None:
        offered = frame.headers.get("accept-version", "1.0").replace(" ", "").split(",")
        if VERSION not in offered:
            self._fail("Version unsupported", f"this server speaks {VERSION}")
            return
        client_sends_ms, client_wants_ms = heart_beats(frame.headers.get("heart-beat", "0,0"))
        sends_ms = self._lifted(client_wants_ms)
        expects_ms = self._lifted(client_sends_ms)
        self._outbox.send(stomp.encode("CONNECTED", {"version": VERSION, "heart-beat": f"{sends_ms},{expects_ms}"}))
        self._stop_timer("beat")
        self._stop_timer("listen")
        if sends_ms:
            self._beat(sends_ms / 1000 * _EARLY)
        if expects_ms:
            self._listen(expects_ms / 1000 * self._limits.grace)

    def _on_subscribe(self, frame: stomp.Frame) -> None:
        destination = frame.headers.get("destination")
        ident = frame.headers.get("id")
        if not destination or ident is None:
            self._fail("SUBSCRIBE needs a destination and an id")
            return
        if ident not in self._subscriptions and len(self._subscriptions) >= self._limits.subscriptions:
            self._fail(f"more than {self._limits.subscriptions} subscriptions")
            return
        self._unsubscribe(ident)
        self._subscriptions[ident] = destination
        self._broker.subscribe(self, ident, destination)
        self._heads.clear()

    def _on_unsubscribe(self, frame: stomp.Frame) -> None:
        self._unsubscribe(frame.headers.get("id", ""))

    def _unsubscribe(self, ident: str) -> None:
        destination = self._subscriptions.pop(ident, None)
        if destination is not None:
            self._broker.unsubscribe(self, ident, destination)
            self._heads.clear()

    def _on_disconnect(self, frame: stomp.Frame) -> None:
        if "receipt" in frame.headers:
            self._outbox.send(stomp.encode("RECEIPT", {"receipt-id": frame.headers["receipt"]}))
        self.finish()

    def _on_nothing(self, frame: stomp.Frame) -> None:
        """Accept what has no meaning with ``ack:auto``."""

    # Heart-beats.

    def _lifted(self, interval_ms: int) -> int:
        return max(interval_ms, self._limits.min_beat_ms) if interval_ms else 0

    def _beat(self, interval_s: float) -> None:
        """Send a LF whenever nothing was sent for the interval."""
        self._outbox.beat(interval_s)
        due_s = self._outbox.last_s + interval_s - monotonic_s()
        self._timer("beat", max(due_s, _SOON_S), partial(self._beat, interval_s))

    def _listen(self, patience_s: float) -> None:
        """Cut off a client that promised heart-beats and is silent."""
        silent_s = monotonic_s() - self._heard_s
        if silent_s >= patience_s and not self._waiting:
            self._cut_off(f"no heart-beat for {silent_s:.1f} s")
            return
        self._timer("listen", max(patience_s - silent_s, _SOON_S), partial(self._listen, patience_s))

    def _check(self) -> None:
        self._outbox.check()
        self._timer("check", self._limits.output.stall_s / 4, self._check)

    def _timer(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        if not self._ending:
            self._timers[name] = self._loop.call_later(delay_s, callback)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # The end.

    def _error(self, message: str, text: str = "") -> None:
        headers = {"message": message, "content-type": "text/plain"}
        self._outbox.send(stomp.encode("ERROR", headers, (text or message).encode()))

    def _fail(self, message: str, text: str = "") -> None:
        """Say what is wrong, and close: after this the stream cannot be understood."""
        log.info("STOMP client %s: %s", self._caller, message)
        self._error(message, text)
        self._ending = True
        # Closing with unread bytes would reset the connection, and the client might never see why.
        self._outbox.finish(self._linger)

    def _linger(self, left: int = _LINGERS) -> None:
        """Close once the client sends no more, or has sent for too long."""
        if left and monotonic_s() - self._heard_s < _LINGER_S:
            self._loop.call_later(_LINGER_S, self._linger, left - 1)
        else:
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_CLOSE_S, self._transport.abort)

    def _cut_off(self, reason: str) -> None:
        log.warning("STOMP client %s is cut off: %s", self._caller, reason)
        self._ending = True
        self._outbox.close()
        if self._transport is not None:
            self._transport.abort()


def heart_beats(text: str) -> tuple[int, int]:
    """The pair of a heart-beat header, milliseconds; "0,0" where it makes no sense."""
    first, _, second = text.replace(" ", "").partition(",")
    if first.isascii() and first.isdigit() and second.isascii() and second.isdigit():
        return min(int(first), _MAX_BEAT_MS), min(int(second), _MAX_BEAT_MS)
    return 0, 0
