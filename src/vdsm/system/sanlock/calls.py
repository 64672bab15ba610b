"""How the daemon is asked: by workers, under deadlines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any, Final, TypeVar

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Unfinished
from vdsm.base.threads import Pool
from vdsm.system.sanlock.facts import Deadlines, SanlockFailed

R = TypeVar("R")


class Calls:
    """Calls of python3-sanlock's functions; any number of threads may ask.

    Args:
        deadlines: of the calls.
        workers: how many calls may wait for storage at the same time; as many more may wait for a worker.
    """

    def __init__(self, deadlines: Deadlines, workers: int) -> None:
        self.deadlines: Final = deadlines
        self._memory: Final = Pool("sanlock", 4, 64)
        self._storage: Final = Pool("sanlock-disk", workers, workers)
        self._lock = threading.Lock()
        self._module: ModuleType | None = None
        self._abandoned = 0

    @property
    def abandoned(self) -> int:
        """How many calls were given up and have not come back."""
        with self._lock:
            return self._abandoned

    def stop(self, deadline_s: float) -> bool:
        """Take no more calls; whether all workers ended within ``deadline_s`` seconds."""
        until = monotonic_s() + deadline_s
        stopped = [pool.stop(max(0.0, until - monotonic_s())) for pool in (self._memory, self._storage)]
        return all(stopped)

    def quick(self, what: str, call: Callable[[ModuleType], R], *, come_late: Callable[[], object] | None = None) -> R:
        """Do what the daemon answers from memory. ``come_late`` is called when a call given up comes back.

        Raises:
            SanlockFailed: it refused, or is not there.
            Unfinished: it did not answer in time.
            Busy: too many calls wait.
        """
        return self._do(self._memory, what, call, self.deadlines.memory_s, come_late)

    def slow(
        self,
        what: str,
        call: Callable[[ModuleType], R],
        *,
        timeout_s: float | None = None,
        come_late: Callable[[], object] | None = None,
    ) -> R:
        """Do what waits for storage; see ``quick``."""
        seconds = self.deadlines.storage_s if timeout_s is None else timeout_s
        return self._do(self._storage, what, call, seconds, come_late)

    def _do(
        self,
        pool: Pool,
        what: str,
        call: Callable[[ModuleType], R],
        timeout_s: float,
        come_late: Callable[[], object] | None,
    ) -> R:
        future = pool.submit(self._perform, what, call)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.cancel():
                if come_late is not None:
                    come_late()
            else:
                self._abandon(future, come_late)
            raise Unfinished(what, timeout_s) from None

    def _perform(self, what: str, call: Callable[[ModuleType], R]) -> R:
        module = self._loaded()
        try:
            return call(module)
        except module.SanlockException as error:
            number = error.errno
            raise SanlockFailed(what, _reason(error), number) from error

    def _abandon(self, future: Future[R], come_late: Callable[[], object] | None) -> None:
        with self._lock:
            self._abandoned += 1

        def came_back(_: Future[R]) -> None:
            with self._lock:
                self._abandoned -= 1
            if come_late is not None:
                come_late()

        future.add_done_callback(came_back)

    def _loaded(self) -> ModuleType:
        with self._lock:
            if self._module is None:
                try:
                    import sanlock  # noqa: PLC0415 - machines without it work as long as nobody needs it
                except ImportError as error:
                    raise SanlockFailed("using sanlock", f"python3-sanlock cannot be loaded: {error}") from error
                self._module = sanlock
            return self._module


def _reason(error: Any) -> str:
    """``(number, what, text)``."""
    return ", ".join(str(part) for part in error.args[1:]) or str(error)
