"""Server-sent events: one bounded ring of encoded events, and a cursor into it per reader.

    id: 5f3a09c2-17            the epoch of this agent's run, and the event's number in it
    event: VM_status           the event's operation
    data: {"vm_id": ...}       clean JSON

A reader comes back with Last-Event-ID and goes on where it was; when the ring does not hold that any more, or it was
another run of the agent, it gets one ``event: reset`` and must ask for the state anew. A reader has no queue of its
own: one that is too slow falls behind the ring and is cut off, as is one whose connection takes nothing for a while.
Everything here lives on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from vdsm.api.events import EVENTS, Event
from vdsm.base.errors import BadParameter, Busy
from vdsm.bindings.forms import Convert, Dialect, Forms

log = logging.getLogger(__name__)

CAPACITY: Final = 2048
MAX_READERS: Final = 64
KEEP_ALIVE_S: Final = 15.0
SEND_DEADLINE_S: Final = 20.0
_RETRY_MS: Final = 2000
_ABORT_S: Final = 1.0
_MOST_AT_ONCE: Final = 128
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    type: str
    vm_id: str | None
    text: bytes


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a reader wants; None: all."""

    types: frozenset[str] | None = None
    vm_id: str | None = None

    def wants(self, entry: _Entry) -> bool:
        """Whether the reader gets this event."""
        return (self.types is None or entry.type in self.types) and (self.vm_id is None or entry.vm_id == self.vm_id)


@dataclass(frozen=True, slots=True)
class EventLogStats:
    """What the log has done. ``cut`` counts readers that were too slow."""

    published: int
    readers: int
    cut: int


class EventLog:
    """The last events, encoded once for all readers.

    Args:
        capacity: how many events are kept.
        keep_alive_s: seconds of silence until a reader gets a comment.
        send_deadline_s: seconds that a connection may take nothing.
    """

    def __init__(
        self,
        capacity: int = CAPACITY,
        keep_alive_s: float = KEEP_ALIVE_S,
        send_deadline_s: float = SEND_DEADLINE_S,
    ) -> None:
        self.keep_alive_s: Final = keep_alive_s
        self.send_deadline_s: Final = send_deadline_s
        self._epoch: Final = secrets.token_hex(4)
        self._ring: deque[_Entry] = deque(maxlen=capacity)
        self._forms = Forms(Dialect.CLEAN)
        self._leave: dict[type[Event], Convert | None] = {}
        self._encode = msgspec.json.Encoder().encode
        self._last = 0
        self._readers: set[Reader] = set()
        self._cut = 0
        self._stopped = False

    def publish(self, event: Event) -> None:
        """Keep an event and wake the readers."""
        self._last += 1
        data = self._encode(self._clean(event))
        text = b"id: %s\nevent: %s\ndata: %s\n\n" % (self.ident(self._last), event.operation.encode(), data)
        self._ring.append(_Entry(self._last, event.operation, getattr(event, "vm_id", None), text))
        for reader in self._readers:
            reader.wake()

    def stats(self) -> EventLogStats:
        """Counters of this run."""
        return EventLogStats(self._last, len(self._readers), self._cut)

    def stop(self) -> None:
        """End all readers' streams, and those that come from now on at once."""
        self._stopped = True
        for reader in self._readers:
            reader.wake()

    @property
    def stopped(self) -> bool:
        """Whether no more events will come."""
        return self._stopped

    def ident(self, number: int) -> bytes:
        """The id of an event."""
        return f"{self._epoch}-{number}".encode()

    def stream(self, query: Iterable[tuple[str, str]], last_event_id: str | None) -> EventStream:
        """An answer that streams events, as its query and its Last-Event-ID header ask.

        Raises:
            BadParameter: the query's fault.
            Busy: there are too many readers.
        """
        if len(self._readers) >= MAX_READERS:
            raise Busy("event stream")
        chosen, ident = _parse(query)
        return EventStream(self, chosen, last_event_id or ident)

    def join(self, chosen: Filter, last_event_id: str | None) -> tuple[Reader, bytes]:
        """A new reader, and the text that its stream begins with."""
        known = last_event_id is None
        after = self._last
        if last_event_id:
            number = self._number(last_event_id)
            oldest = self._ring[0].number if self._ring else self._last + 1
            known = number is not None and oldest - 1 <= number <= self._last
            after = number if known and number is not None else self._last
        # An id without data sets where a reader resumes even if no event ever comes.
        head = b"retry: %d\nid: %s\n\n" % (_RETRY_MS, self.ident(after))
        if not known:
            head += b"id: %s\nevent: reset\ndata: {}\n\n" % self.ident(after)
        reader = Reader(self, chosen, after)
        self._readers.add(reader)
        return reader, head

    def leave(self, reader: Reader, *, cut: bool) -> None:
        """Forget a reader; ``cut`` says that it was too slow."""
        self._readers.discard(reader)
        self._cut += cut

    def after(self, number: int) -> Sequence[_Entry] | None:
        """The next events after this one, some at a time; None when they are not kept any more."""
        if number >= self._last:
            return ()
        first = self._ring[0].number
        if number + 1 < first:
            return None
        start = number + 1 - first
        return list(islice(self._ring, start, start + _MOST_AT_ONCE))

    def _clean(self, event: Event) -> object:
        kind = type(event)
        if kind not in self._leave:
            self._leave[kind] = self._forms.shape(kind).leave
        leave = self._leave[kind]
        return leave(event) if leave else event

    def _number(self, ident: str) -> int | None:
        epoch, _, number = ident.rpartition("-")
        return int(number) if epoch == self._epoch and number.isdecimal() and len(number) < 19 else None


class Reader:
    """One reader's place in the log."""

    def __init__(self, events: EventLog, chosen: Filter, after: int) -> None:
        self._events = events
        self._chosen = chosen
        self._after = after
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    async def next(self) -> bytes | None:
        """What is to be sent next; a comment when nothing happened for a while; None when the stream is over."""
        while True:
            self._woken.clear()
            entries = self._events.after(self._after)
            if entries is None:
                raise FellBehind
            if entries:
                self._after = entries[-1].number
                text = b"".join(entry.text for entry in entries if self._chosen.wants(entry))
                if text:
                    return text
            elif self._events.stopped:
                return None
            else:
                try:
                    async with asyncio.timeout(self._events.keep_alive_s):
                        await self._woken.wait()
                except TimeoutError:
                    return b": alive\n\n"


class FellBehind(Exception):
    """A reader was slower than the ring is long."""


class EventStream:
    """The ASGI answer that feeds one reader until it goes away, is too slow, or the agent stops."""

    def __init__(self, events: EventLog, chosen: Filter, last_event_id: str | None) -> None:
        self._events = events
        self._chosen = chosen
        self._last_event_id = last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream."""
        reader, head = self._events.join(self._chosen, self._last_event_id)
        feeding = asyncio.ensure_future(self._feed(reader, head, send))
        leaving = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({feeding, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (feeding, leaving):
                task.cancel()
            outcome = (await asyncio.gather(feeding, leaving, return_exceptions=True))[0]
            slow = isinstance(outcome, FellBehind | TimeoutError)
            self._events.leave(reader, cut=slow)
        if slow:
            log.info("cut off a reader of events that was too slow")
            await _abort(scope, receive)
        elif isinstance(outcome, Exception):
            raise outcome

    async def _feed(self, reader: Reader, head: bytes, send: Send) -> None:
        async def put(body: bytes, *, more: bool) -> None:
            async with asyncio.timeout(self._events.send_deadline_s):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await put(head, more=True)
        while (text := await reader.next()) is not None:
            await put(text, more=True)
        await put(b"", more=False)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _abort(scope: Scope, receive: Receive) -> None:
    """Close the connection without waiting for its reader, where the listener offers that."""
    abort: Callable[[], object] | None = scope.get("state", {}).get("abort")
    if abort is not None:
        abort()
        # The server must see that the connection is gone before it sees that the answer has no end.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ABORT_S):
                await _disconnect(receive)


def _parse(query: Iterable[tuple[str, str]]) -> tuple[Filter, str | None]:
    types: set[str] = set()
    single: dict[str, str] = {}
    known = {event.operation for event in EVENTS}
    for name, text in query:
        if name == "types":
            for word in text.split(","):
                if word not in known:
                    raise BadParameter("types", f"{word[:80]!r} is none of {', '.join(sorted(known))}")
                types.add(word)
        elif name not in {"vm_id", "last_event_id"}:
            raise BadParameter(name[:200], "is not a known parameter of the query")
        elif name in single:
            raise BadParameter(name, "is given twice")
        else:
            single[name] = text
    return Filter(frozenset(types) or None, single.get("vm_id")), single.get("last_event_id")
