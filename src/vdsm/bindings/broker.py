"""STOMP destinations: which sessions subscribed to what, request queues, and the simple broker for all others.

Subscriptions are hierarchical: a subscriber of ``a.b`` also gets what is sent to ``a.b.c``. Lives on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from vdsm.bindings import stomp

# The destinations that mean the agent itself: of the Engine's general client and of its storage pool client.
REQUEST_QUEUES: Final = ("jms.topic.vdsm_requests", "jms.topic.vdsm_irs_requests")
EVENT_QUEUE: Final = "jms.queue.events"


class Subscriber(Protocol):
    """A session, as the broker sees it."""

    def deliver(self, frame: bytes) -> None:
        """Send it a frame by the rules."""


class Broker:
    """Knows all subscriptions."""

    def __init__(self, request_queues: tuple[str, ...] = REQUEST_QUEUES) -> None:
        self._request_queues = request_queues
        self._below = tuple(f"{queue}." for queue in request_queues)
        # Per destination an ordered set of subscriptions.
        self._subscriptions: dict[str, dict[tuple[Subscriber, str], None]] = {}

    def is_request_queue(self, destination: str) -> bool:
        """Whether what is sent there is a request to the agent: a request queue, or below one."""
        return destination in self._request_queues or destination.startswith(self._below)

    def subscribe(self, subscriber: Subscriber, ident: str, destination: str) -> None:
        """Let the subscriber have what is sent to the destination, or below it."""
        self._subscriptions.setdefault(destination, {})[subscriber, ident] = None

    def unsubscribe(self, subscriber: Subscriber, ident: str, destination: str) -> None:
        """End a subscription."""
        subscribers = self._subscriptions.get(destination, {})
        subscribers.pop((subscriber, ident), None)
        if not subscribers:
            self._subscriptions.pop(destination, None)

    def send(self, destination: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Send a MESSAGE to all subscriptions of the destination; returns to how many."""
        found = list(self._subscribers(destination))
        for subscriber, ident in found:
            head = stomp.message_head(destination, ident, headers)
            subscriber.deliver(stomp.message(head, body))
        return len(found)

    def _subscribers(self, destination: str) -> Iterator[tuple[Subscriber, str]]:
        for level in levels(destination):
            yield from self._subscriptions.get(level, ())


def levels(destination: str) -> Iterator[str]:
    """The destination and those above it: ``a.b.c``, ``a.b``, ``a``."""
    while destination:
        yield destination
        destination = destination.rpartition(".")[0]
