"""Events on their way from any thread to the event loop, and from there to everyone who wants them.

publish (any thread) -> bounded line -> the loop -> sinks in their order: STOMP subscribers, the log of SSE
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from vdsm.api.events import NO_ID, Event
from vdsm.bindings.broker import EVENT_QUEUE, Broker
from vdsm.bindings.forms import Convert, Dialect, Forms

log = logging.getLogger(__name__)

# Events that may wait for the loop. It is behind by milliseconds at most, unless it is stuck.
CAPACITY: Final = 10_000
_NOTIFY_TIME: Final = "notify_time"


class EventHub:
    """Takes events from any thread and hands them to sinks on the event loop, in one order for all."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._line: deque[Event] = deque()
        self._capacity = capacity
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sinks: list[Callable[[Event], None]] = []
        self._scheduled = False
        self.lost = 0
        """How many events were dropped because the loop did not take them."""

    def start(self, *sinks: Callable[[Event], None]) -> None:
        """Hand events to ``sinks`` from now on, those that were published before included; call it on the loop."""
        self._sinks = list(sinks)
        with self._lock:
            self._loop = asyncio.get_running_loop()
            waiting = bool(self._line)
            self._scheduled = waiting
        if waiting:
            self._loop.call_soon(self._hand_over)

    def stop(self) -> None:
        """Drop what comes from now on."""
        with self._lock:
            self._loop = None
            self._capacity = 0
            self._line.clear()

    def publish(self, event: Event) -> None:
        """Take an event; never waits."""
        with self._lock:
            if len(self._line) >= self._capacity:
                self.lost += 1
                return
            self._line.append(event)
            if self._scheduled or self._loop is None:
                return
            self._scheduled = True
            loop = self._loop
        try:
            loop.call_soon_threadsafe(self._hand_over)
        except RuntimeError:
            log.debug("the loop has ended: %s is dropped", event.operation)

    def _hand_over(self) -> None:
        with self._lock:
            events = list(self._line)
            self._line.clear()
            self._scheduled = False
        for event in events:
            for sink in self._sinks:
                try:
                    sink(event)
                except Exception:
                    log.exception("an event was not delivered: %s", event.operation)


class StompEvents:
    """Sends events to the subscribers of the event queue, as notifications.

    Before the agent is ready nothing is sent: an Engine would not know what to do with it.
    """

    def __init__(self, broker: Broker, ready: Callable[[], bool], destination: str = EVENT_QUEUE) -> None:
        self._broker = broker
        self._ready = ready
        self._destination = destination
        self._forms = Forms(Dialect.WIRE)
        self._leave: dict[type[Event], Convert | None] = {}

    def deliver(self, event: Event) -> None:
        """Send one event; a sink of the hub."""
        if self._ready():
            self._broker.send(self._destination, self.encode(event))

    def encode(self, event: Event) -> bytes:
        """The notification: always four fields of which only the first is empty, and ``notify_time`` outermost."""
        kind = type(event)
        if kind not in self._leave:
            self._leave[kind] = self._forms.shape(kind).leave
        leave = self._leave[kind]
        shown = leave(event) if leave else msgspec.to_builtins(event)
        notify_time = shown.pop(_NOTIFY_TIME)
        params = {event.ident: shown} if event.by_id else shown
        return msgspec.json.encode({
            "jsonrpc": "2.0",
            "method": method(event.component, event.operation, event.ident),
            "params": {**params, _NOTIFY_TIME: notify_time},
        })


def method(component: str, operation: str, ident: str) -> str:
    """The event's name: ``|component|operation|id``.

    The Engine's client splits it and needs exactly four fields; a trailing empty one would be lost.
    """
    return "|" + "|".join(field.replace("|", "_") or NO_ID for field in (component, operation, ident))
