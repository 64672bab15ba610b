"""Connections to one libvirt daemon: every call under a deadline, behind a bulkhead, and back again by itself.

    caller --call--> lane (few threads, a connection of its own) --> libvirtd
    watch thread: opens, asks for events, then asks the daemon something trivial every
                  second, and at once when a call takes a while

- A call that passes its deadline is *abandoned*: its thread stays in it (libvirt calls cannot be interrupted), its
  caller goes on. The lane's connection is replaced for new calls, because libvirtd serves only five requests at
  once on each; the old one is closed when its last call has come back.
- While the watch thread's own question has been out for too long the daemon is *silent*: calls fail at once, those
  under way fail now. Nothing is made up of it: the answer to the question ends the silence.
- A lost connection fails calls at once until the watch thread has a new one (with back-off).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import libvirt  # noqa: TID251 - vdsm.system.libvirt is its one place

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, NotResponding, Unfinished, Unreachable
from vdsm.system.libvirt import events
from vdsm.system.libvirt.errors import translate
from vdsm.system.libvirt.facts import Connected, Disconnected, Event, Health

log = logging.getLogger(__name__)

R = TypeVar("R")
Ask = Callable[[libvirt.virConnect], R]

PROBE_EVERY_S: Final = 1.0
# Whatever it is busy with, a healthy daemon tells its version in milliseconds: it has threads for just that.
SILENT_AFTER_S: Final = 0.7
BACKOFF_S: Final = (0.1, 5.0)
# libvirt closes a connection itself when this many pings, this many seconds apart, stay unanswered. It frees the
# threads in calls to a daemon that will never answer, and is far longer than a daemon is busy.
KEEPALIVE: Final = (10, 6)
# libvirtd serves five requests of one client at once, and beyond that does not even answer its pings.
CALLS_PER_LINK: Final = 4
# A waiting caller has the daemon asked after this, and looks as often whether it is silent.
_GLANCE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Lane:
    """A bulkhead: calls of one kind have their own threads and their own connections."""

    name: str
    workers: int
    queue: int


class _Link:
    """One libvirt connection of a lane."""

    __slots__ = ("calls", "conn", "retired")

    def __init__(self, conn: libvirt.virConnect) -> None:
        self.conn = conn
        self.calls = 0
        self.retired = False

    def unused(self) -> bool:
        """Whether nobody will ever use it again."""
        return self.retired and not self.calls


class _Call(Generic[R]):
    """One call on its way; its state belongs to its line's lock."""

    __slots__ = ("abandoned", "ask", "ended", "late", "link", "what")

    def __init__(self, ask: Ask[R], what: str, late: Callable[[], None] | None) -> None:
        self.ask = ask
        self.what = what
        self.late = late
        self.link: _Link | None = None
        self.abandoned = False
        self.ended = False


class _Line:
    """A lane at work."""

    def __init__(self, lane: Lane, connect: Callable[[], libvirt.virConnect]) -> None:
        self._connect = connect
        self._pool = threads.Pool(f"lv-{lane.name}", lane.workers, lane.queue)
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self.abandoned = 0

    def submit(self, call: _Call[R]) -> Future[R]:
        return self._pool.submit(self._perform, call)

    def _perform(self, call: _Call[R]) -> R:
        try:
            conn = self._borrow(call)
            try:
                return call.ask(conn)
            except libvirt.libvirtError as error:
                raise translate(error, call.what, alive=bool(conn.isAlive())) from error
        finally:
            self._end(call)

    def _borrow(self, call: _Call[Any]) -> libvirt.virConnect:
        with self._lock:
            if self._link is not None and self._link.calls < CALLS_PER_LINK and self._link.conn.isAlive():
                self._link.calls += 1
                call.link = self._link
                return self._link.conn
        fresh = _Link(self._connect())  # outside the lock: it may take for ever
        with self._lock:
            old, self._link = self._link, fresh
            fresh.calls += 1
            call.link = fresh
            if old is not None:
                old.retired = True
        if old is not None and old.unused():
            _close(old.conn)
        return fresh.conn

    def _end(self, call: _Call[Any]) -> None:
        link = call.link
        with self._lock:
            call.ended = True
            if call.abandoned:
                self.abandoned -= 1
            if link is not None:
                link.calls -= 1
        if link is not None and link.unused():
            _close(link.conn)
        if call.abandoned and call.late is not None:
            call.late()

    def abandon(self, call: _Call[Any]) -> bool:
        """Stop waiting for a call and use another connection from now on; False: it has just ended."""
        with self._lock:
            if call.ended:
                return False
            call.abandoned = True
            self.abandoned += 1
            if self._link is not None and call.link is self._link:
                self._link.retired = True
                self._link = None
            return True

    def stop(self, deadline_s: float) -> None:
        self._pool.stop(deadline_s)
        with self._lock:
            link, self._link = self._link, None
            if link is not None:
                link.retired = True
        if link is not None and link.unused():
            # In a thread of its own, which also keeps the object: closing is a request to the daemon.
            threads.start("lv-close", _close, link.conn).join(deadline_s)


def _close(conn: libvirt.virConnect) -> None:
    try:
        conn.close()
    except libvirt.libvirtError as error:
        log.debug("closing a libvirt connection: %s", error)


class Connection:
    """All connections to the daemon at ``uri``. Events go to the listener given to ``start``, from libvirt's thread."""

    def __init__(
        self,
        uri: str,
        lanes: tuple[Lane, ...],
        *,
        probe_every_s: float = PROBE_EVERY_S,
        silent_after_s: float = SILENT_AFTER_S,
        keepalive: tuple[int, int] = KEEPALIVE,
    ) -> None:
        self._uri = uri
        self._probe_every_s = probe_every_s
        self._silent_after_s = silent_after_s
        self._keepalive = keepalive
        self._lines = {lane.name: _Line(lane, self._open) for lane in lanes}
        self._loop = events.EventLoop()
        self._listener: Callable[[Event], None] = _ignore
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._connected = False
        self._reason = "not connected yet"
        self._asked_s: float | None = None

    def start(self, listener: Callable[[Event], None]) -> None:
        """Begin to connect; ``Connected`` tells when there is a connection."""
        self._listener = listener
        self._loop.start()
        threads.start("lv-watch", self._watch)

    def stop(self, deadline_s: float = 2.0) -> None:
        """Close everything; calls that hang are left behind."""
        self._stopping.set()
        self._wake.set()
        until = monotonic_s() + deadline_s
        for line in self._lines.values():
            line.stop(max(0.0, until - monotonic_s()))
        self._loop.stop()

    # -- health

    def silent_s(self) -> float:
        """For how long the daemon has owed an answer; 0.0 while it answers in time."""
        asked = self._asked_s
        waiting = 0.0 if asked is None else monotonic_s() - asked
        return waiting if waiting > self._silent_after_s else 0.0

    def health(self) -> Health:
        """The state of the moment."""
        return Health(
            reachable=self._connected,
            silent_s=self.silent_s(),
            abandoned=sum(line.abandoned for line in self._lines.values()),
            reason=self._reason,
        )

    def _admit(self) -> None:
        if silent_s := self.silent_s():
            raise NotResponding("libvirt", silent_s)
        if not self._connected:
            raise Unreachable("libvirt", self._reason)

    # -- calls

    def call(
        self,
        lane: Lane,
        ask: Ask[R],
        *,
        what: str,
        deadline_s: float,
        late: Callable[[], None] | None = None,
    ) -> R:
        """Run ``ask`` on a connection of the lane.

        Args:
            lane: whose threads and connection to use.
            ask: makes the calls; it should be over soon, but need not.
            what: the call and its object, for messages.
            deadline_s: seconds to wait.
            late: called from the lane's thread when the call comes back after all.

        Raises:
            Unreachable: there is no connection, or it was lost during the call.
            NotResponding: the daemon is silent, or the domain was held by another call for too long.
            Unfinished: no outcome within the deadline.
            Busy: the lane's threads were all taken until the deadline, nothing was done.
            NotFound: there is no such domain.
            HypervisorFailed: libvirt refused.
        """
        self._admit()
        line = self._lines[lane.name]
        call = _Call(ask, what, late)
        future = line.submit(call)
        until = monotonic_s() + deadline_s
        while True:
            try:
                return future.result(timeout=max(0.0, min(_GLANCE_S, until - monotonic_s())))
            except TimeoutError:
                silent_s = self.silent_s()
                if not silent_s and monotonic_s() < until:
                    self._wake.set()
                    continue
            if future.cancel():
                raise NotResponding("libvirt", silent_s) if silent_s else Busy(f"libvirt {lane.name}")
            if line.abandon(call):
                log.warning("gave up waiting: %s (%s)", what, "libvirt is silent" if silent_s else "deadline")
                raise NotResponding("libvirt", silent_s) if silent_s else Unfinished(what, deadline_s)

    def submit(self, lane: Lane, ask: Ask[R], *, what: str) -> Future[R]:
        """Run ``ask`` without a deadline: for what takes long by nature, and tells its end through the future.

        Raises:
            Unreachable, NotResponding: as in ``call``.
            Busy: too many wait already.
        """
        self._admit()
        return self._lines[lane.name].submit(_Call(ask, what, None))

    def _open(self) -> libvirt.virConnect:
        try:
            conn = libvirt.open(self._uri)
            conn.setKeepAlive(*self._keepalive)
        except libvirt.libvirtError as error:
            raise Unreachable("libvirt", error.get_error_message() or str(error)) from error
        return conn

    # -- the watch thread

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._asked_s = monotonic_s()
        try:
            yield
        finally:
            self._asked_s = None

    def _watch(self) -> None:
        pause_s = BACKOFF_S[0]
        while not self._stopping.is_set():
            try:
                with self._asking():
                    conn = self._open()
                    events.subscribe(conn, self._listener, self._closed)
            except (Unreachable, libvirt.libvirtError) as error:
                self._reason = error.reason if isinstance(error, Unreachable) else str(error)
                log.warning("no libvirt: %s; trying again in %.1f s", self._reason, pause_s)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_S[1])
                continue
            pause_s = BACKOFF_S[0]
            self._attend(conn)
            del conn

    def _attend(self, conn: libvirt.virConnect) -> None:
        log.info("connected to libvirt at %s", self._uri)
        self._reason, self._connected = "", True
        self._listener(Connected())
        while conn.isAlive() and not self._stopping.is_set():
            try:
                with self._asking():
                    conn.getLibVersion()
            except libvirt.libvirtError as error:
                if not conn.isAlive():
                    self._reason = error.get_error_message() or str(error)
                    break
                log.warning("libvirt does not tell its version: %s", error)
            self._wake.wait(self._probe_every_s)
            self._wake.clear()
        self._connected = False
        self._reason = self._reason or "the connection was closed"
        if not self._stopping.is_set():
            log.warning("lost libvirt: %s", self._reason)
            self._listener(Disconnected(self._reason))
        _close(conn)

    def _closed(self, reason: str) -> None:
        self._reason = reason
        self._connected = False
        self._wake.set()


def _ignore(_event: Event) -> None:
    """Before ``start`` there is nobody to tell."""
