"""All domains' helpers, and the door to each domain's files."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.base.errors import Unreachable
from vdsm.storage import guard
from vdsm.storage.oop import frames
from vdsm.storage.oop.files import HelperFiles
from vdsm.storage.oop.supervisor import HelperLimits, HelperStats, Supervisor

if TYPE_CHECKING:
    from vdsm.storage.access import FileAccess


class HelperPool:
    """The helper processes of all storage domains: one for each that was asked for and used, none shared."""

    def __init__(self, limits: HelperLimits | None = None) -> None:
        self._limits: Final = limits or HelperLimits()
        self._lock = threading.Lock()
        self._domains: dict[str, Supervisor] = {}
        self._left: list[Supervisor] = []
        self._stopped = False

    def of(self, domain_key: str) -> FileAccess:
        """The files of a domain, or of whatever else may hang by itself: a mount point, an export that is tried.

        Starts nothing: the first call does. What is got here stays good after ``close``; then it starts a new helper.
        """
        return HelperFiles(partial(self.call, domain_key), self._limits.timeout_s)

    def close(self, domain_key: str) -> None:
        """End a domain's helpers: it is disconnected. Calls under way fail; helpers that hang still count."""
        with self._lock:
            supervisor = self._domains.pop(domain_key, None)
            if supervisor is not None:
                self._left.append(supervisor)
        if supervisor is not None:
            supervisor.close()

    def stop(self, deadline_s: float) -> bool:
        """End all helpers, and start no more.

        Returns:
            Whether all were gone within ``deadline_s`` seconds; the others are left behind.
        """
        until = monotonic_s() + deadline_s
        with self._lock:
            self._stopped = True
            names = list(self._domains)
        for name in names:
            self.close(name)
        while any(_remains(stats) for stats in self._left_stats()):
            if monotonic_s() >= until:
                return False
            sleep_s(0.01)
        return True

    def stats(self) -> list[HelperStats]:
        """One for each domain that was used, and for each that was closed while helpers of it are still there."""
        with self._lock:
            supervisors = list(self._domains.values())
        return [*(supervisor.stats() for supervisor in supervisors), *filter(_remains, self._left_stats())]

    def call(self, domain_key: str, name: str, arguments: list[Any], options: dict[str, Any], timeout_s: float) -> Any:
        """Have a call done; see ``Supervisor.call``. For the doors that ``of`` gives out.

        Asks whoever guards the work (``storage.guard``) before each change.
        """
        if name not in frames.READS:
            guard.check()
        with self._lock:
            if self._stopped:
                raise Unreachable(f"storage domain {domain_key}", "the agent is stopping")
            supervisor = self._domains.get(domain_key)
            if supervisor is None:
                supervisor = self._domains[domain_key] = Supervisor(domain_key, self._limits)
        return supervisor.call(name, arguments, options, timeout_s)

    def _left_stats(self) -> list[HelperStats]:
        with self._lock:
            left = list(self._left)
        found = [supervisor.stats() for supervisor in left]
        with self._lock:
            done = {id(item) for item, stats in zip(left, found, strict=True) if not _remains(stats)}
            self._left = [item for item in self._left if id(item) not in done]
        return found


def _remains(stats: HelperStats) -> bool:
    return stats.abandoned > 0
