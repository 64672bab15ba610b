"""A strand: a bounded inbox whose entries run one at a time, in order, on a pool shared by many strands.

So that every VM has one writer, and five hundred VMs do not have five hundred threads.

    idle --entry--> queued in the pool --worker--> running entries until the inbox is empty --> idle
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, ParamSpec, TypeVar

from vdsm.base.errors import Busy
from vdsm.base.threads import Pool

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_Entry = Callable[[], None]

# News are few and short; somebody who makes a domain emit thousands a second must not fill the memory.
MAX_NEWS: Final = 1000
# After so many entries a worker goes on to another strand.
_TURN: Final = 32


class Strand:
    """One inbox. ``limit`` requests may wait in it."""

    __slots__ = ("_entries", "_limit", "_lock", "_pool", "_scheduled", "_what")

    def __init__(self, pool: Pool, what: str, limit: int = 32) -> None:
        self._pool = pool
        self._what = what
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()
        self._scheduled = False

    def ask(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Queue a request; its outcome comes through the future, which may be cancelled while it waits.

        Raises:
            Busy: too many wait.
        """
        return self._ask(lambda: function(*args, **kwargs), first=False)

    def urge(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Like ``ask``, before everything else that waits."""
        return self._ask(lambda: function(*args, **kwargs), first=True)

    def _ask(self, function: Callable[[], R], *, first: bool) -> Future[R]:
        future: Future[R] = Future()
        context = contextvars.copy_context()

        def entry() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(context.run(function))
            except Exception as error:  # noqa: BLE001 - the one who asked gets it
                future.set_exception(error)

        with self._lock:
            if len(self._entries) >= self._limit and not first:
                raise Busy(self._what)
            if first:
                self._entries.appendleft(entry)
            else:
                self._entries.append(entry)
        try:
            self._kick()
        except Busy:
            with self._lock:
                if entry in self._entries:
                    self._entries.remove(entry)
                    raise
        return future

    def tell(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Queue news; False: there are so many that these are dropped."""

        def entry() -> None:
            try:
                function(*args, **kwargs)
            except Exception:
                log.exception("%s: news were not understood", self._what)

        with self._lock:
            if len(self._entries) >= MAX_NEWS:
                return False
            self._entries.append(entry)
        self.nudge()
        return True

    def nudge(self) -> None:
        """Get the entries run if any wait and the pool has room; else they wait for the next nudge."""
        try:
            self._kick()
        except Busy:
            log.debug("%s: the pool is full", self._what)

    def _kick(self) -> None:
        with self._lock:
            if self._scheduled or not self._entries:
                return
            self._scheduled = True
        try:
            self._pool.submit(self._run)
        except Busy:
            with self._lock:
                self._scheduled = False
            raise

    def _run(self) -> None:
        for _ in range(_TURN):
            with self._lock:
                if not self._entries:
                    self._scheduled = False
                    return
                entry = self._entries.popleft()
            # The context of whoever happened to schedule the strand is not this entry's.
            contextvars.Context().run(entry)
        with self._lock:
            self._scheduled = False
        self.nudge()
