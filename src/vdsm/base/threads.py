"""Threads: named daemon threads, the bounded Pool, and bounded parallel maps.

The only module that makes threads. A thread that hangs in the kernel must never keep the process from ending, so all
are daemons, and whoever waits for one has a deadline.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

Thread = threading.Thread  # noqa: TID251 - this module is its one place


def start(name: str, function: Callable[..., object], *args: object) -> Thread:
    """Run ``function(*args)`` in a daemon thread of its own; an exception that leaves it is logged.

    The name is shortened to the kernel's 15 characters in ps and top, so put what tells threads apart first.
    """

    def guarded() -> None:
        try:
            function(*args)
        except Exception:
            log.exception("thread %s died", name)

    thread = Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool is doing. ``oldest_s`` is how long the longest running job has been at it, in seconds."""

    name: str
    workers: int
    threads: int
    running: int
    waiting: int
    done: int
    refused: int
    oldest_s: float


class _Job(Generic[R]):
    __slots__ = ("_call", "_context", "future")

    def __init__(self, call: Callable[[], R]) -> None:
        self.future: Future[R] = Future()
        self._call = call
        self._context = contextvars.copy_context()

    def perform(self) -> Callable[[], None]:
        """Run the job; returns what settles its future. What the function raises goes to the one who asked."""
        try:
            result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - the one who asked gets it, whatever it is
            return partial(self.future.set_exception, error)
        return partial(self.future.set_result, result)


class Pool:
    """A bounded number of worker threads with a bounded queue; full means Busy, at once.

    ``workers`` jobs run and ``queue`` more wait. Threads are made when first needed and then kept. A job runs in a copy
    of its submitter's context (flow id, caller).
    """

    def __init__(self, name: str, workers: int, queue: int) -> None:
        if workers < 1 or queue < 0:
            msg = f"pool {name}: workers must be at least 1 and queue at least 0"
            raise ValueError(msg)
        self._name: Final = name
        self._workers: Final = workers
        self._capacity: Final = workers + queue
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._began: dict[int, float] = {}
        self._outstanding = 0
        self._done = 0
        self._refused = 0
        self._stopped = False

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Queue ``function(*args, **kwargs)``.

        Raises:
            Busy: all workers are taken and the queue is full, or the pool has been stopped.
        """
        job = _Job(lambda: function(*args, **kwargs))
        with self._lock:
            if self._stopped or self._outstanding >= self._capacity:
                self._refused += 1
                raise Busy(self._name)
            self._outstanding += 1
            if self._outstanding > len(self._threads) and len(self._threads) < self._workers:
                self._threads.append(start(f"{self._name}/{len(self._threads)}", self._work))
            self._jobs.put(job)
        return job.future

    def stats(self) -> PoolStats:
        """A consistent picture of the moment."""
        now = monotonic_s()
        with self._lock:
            running = len(self._began)
            return PoolStats(
                name=self._name,
                workers=self._workers,
                threads=len(self._threads),
                running=running,
                waiting=self._outstanding - running,
                done=self._done,
                refused=self._refused,
                oldest_s=now - min(self._began.values(), default=now),
            )

    def stop(self, deadline_s: float) -> bool:
        """Take no more jobs, cancel the waiting ones, give the running ones ``deadline_s`` seconds.

        Returns:
            Whether all workers have ended; the others are left behind (they are daemons).
        """
        until = monotonic_s() + deadline_s
        with self._lock:
            self._stopped = True
            threads = list(self._threads)
        for job in self._drain():
            job.future.cancel()
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - monotonic_s()))
        return not any(thread.is_alive() for thread in threads)

    def _drain(self) -> Iterator[_Job[Any]]:
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is not None:
                with self._lock:
                    self._outstanding -= 1
                yield job

    def _work(self) -> None:
        ident = threading.get_ident()
        while (job := self._jobs.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                with self._lock:
                    self._began[ident] = monotonic_s()
                self._perform(job, ident)
            else:
                with self._lock:
                    self._outstanding -= 1
            # The next get() may wait for long; a result must not be kept alive meanwhile.
            del job

    def _perform(self, job: _Job[Any], ident: int) -> None:
        # A future is settled last: whoever sees the result finds the worker free.
        settle: Final = job.perform()
        with self._lock:
            del self._began[ident]
            self._outstanding -= 1
            self._done += 1
        settle()


def itmap(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, timeout_s: float
) -> Iterator[tuple[T, Future[R]]]:
    """Apply ``function`` to every item in at most ``workers`` threads; yield (item, done future) as they finish.

    Raises:
        Unfinished: not all were done ``timeout_s`` seconds after the first was asked for; items that have not been
            begun are dropped, hanging calls are left behind.
    """
    todo: SimpleQueue[T] = SimpleQueue()
    done: SimpleQueue[tuple[T, Future[R]]] = SimpleQueue()
    count = 0
    for item in items:
        todo.put(item)
        count += 1
    given_up = threading.Event()

    def work() -> None:
        while not given_up.is_set():
            try:
                item = todo.get_nowait()
            except Empty:
                return
            job = _Job(lambda item=item: function(item))  # type: ignore[misc]  # mypy cannot infer such a lambda
            job.perform()()
            done.put((item, job.future))

    until = monotonic_s() + timeout_s
    context = contextvars.copy_context()
    name = getattr(function, "__name__", "function")
    for number in range(min(workers, count)):
        start(f"map-{name}/{number}", context.copy().run, work)
    try:
        for _ in range(count):
            try:
                yield done.get(timeout=max(0.0, until - monotonic_s()))
            except Empty:
                raise Unfinished(f"map of {name}", timeout_s) from None
    finally:
        given_up.set()


def tmap(function: Callable[[T], R], items: Iterable[T], *, workers: int, timeout_s: float) -> list[R]:
    """Like ``map``, in at most ``workers`` threads; results in the order of the items.

    Raises:
        Unfinished: not all were done within ``timeout_s`` seconds.
        Exception: what the first failing item (in the items' order) raised, after all have finished.
    """
    numbered = list(enumerate(items))
    outcomes: dict[int, Future[R]] = {}

    def call(pair: tuple[int, T]) -> R:
        return function(pair[1])

    for pair, future in itmap(call, numbered, workers=workers, timeout_s=timeout_s):
        outcomes[pair[0]] = future
    return [outcomes[number].result() for number, _ in numbered]
