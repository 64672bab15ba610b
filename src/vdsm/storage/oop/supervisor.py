"""Who has the helper processes of one domain: starts them, gives them up, and knows when not to ask at all.

    HEALTHY  --a call is late--> DOUBTFUL  --one call at a time is let through, with back-off--
       ^                             ^                      |                     |
       +---------- it is answered ---|----------------------+                     |
                                     +------------------ it is late --------------+

    DOUBTFUL with as many given-up helpers still there as are allowed: every call fails at once

A helper with a late call is retired: it gets no new calls, and once nobody waits for it any more it is killed. One that
does not die of that hangs in the kernel (state D); it is left behind and counted until the file system lets it go.
Whoever comes while the domain is doubtful waits a moment for the call that is let through, and then fails.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, CommandFailed, Failed, NotResponding, Unfinished, Unreachable
from vdsm.storage.oop import frames
from vdsm.storage.oop.client import HelperClient, Late, Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HelperLimits:
    """What the helpers of one domain may use.

    Attributes:
        timeout_s: seconds for a call whose caller gives no deadline.
        calls: how many calls may be under way; more are Busy.
        abandoned: how many helpers that do not die may be there before calls fail at once.
        patience_s: seconds to wait for the call that finds out whether a doubtful domain answers again.
        first_delay_s: seconds between the first two such calls; it doubles with each.
        longest_delay_s: seconds that it grows to.
    """

    timeout_s: float = 10.0
    calls: int = 32
    abandoned: int = 3
    patience_s: float = 0.5
    first_delay_s: float = 1.0
    longest_delay_s: float = 30.0


@dataclass(frozen=True, slots=True)
class HelperStats:
    """What the helpers of one domain are doing, for metrics and for people.

    Attributes:
        domain: whose they are.
        pid: the one that is asked; None when there is none.
        in_flight: calls under way.
        calls: calls made so far.
        late: those that had no answer within their deadline.
        refused: those that were not made because the domain does not respond, or too many were under way.
        started: helpers started so far.
        abandoned: helpers that were given up and are still there.
        not_responding_s: seconds since the call began that first found the domain doubtful; None while it is healthy.
    """

    domain: str
    pid: int | None
    in_flight: int
    calls: int
    late: int
    refused: int
    started: int
    abandoned: int
    not_responding_s: float | None


class Supervisor:
    """The helpers of one domain; used by many threads at once. ``start`` makes a helper for the domain's name."""

    def __init__(self, domain: str, limits: HelperLimits, start: Callable[[str], HelperClient] = HelperClient) -> None:
        self._domain: Final = domain
        self._limits: Final = limits
        self._start: Final = start
        self._changed = threading.Condition()
        self._helper: HelperClient | None = None
        self._retired: list[HelperClient] = []
        self._doubtful_since_s: float | None = None
        self._probing = False
        self._failures = 0
        self._next_s = 0.0
        self._in_flight = self._calls = self._late = self._refused = self._started = 0
        self._closed = False

    def call(self, name: str, arguments: list[Any], options: dict[str, Any], timeout_s: float) -> Any:
        """Have a call done by the domain's helper.

        A call that only looks is made once more when the helper dies under it.

        Raises:
            OSError: the file system's answer.
            NotResponding: the domain does not answer; the call was not made.
            Unfinished: no answer within ``timeout_s`` seconds, or the helper died: a change may still happen.
            Busy: too many calls are under way.
            Unreachable: helpers cannot be started, or die at once.
        """
        began = monotonic_s()
        what = f"{name} on storage domain {self._domain}"
        attempts = 2 if name in frames.READS else 1
        for attempt in range(attempts):
            try:
                with self._admitted(began, began + timeout_s) as helper:
                    return helper.call(name, arguments, options, began + timeout_s)
            except Late:
                raise Unfinished(what, timeout_s) from None
            except Lost:
                log.warning("the helper of storage domain %s died during %s", self._domain, name)
                if attempt + 1 == attempts:
                    raise Unfinished(what, monotonic_s() - began) from None
        raise AssertionError  # the loop returns or raises

    def stats(self) -> HelperStats:
        """A consistent picture of the moment."""
        with self._changed:
            self._forget_gone()
            since = self._doubtful_since_s
            return HelperStats(
                domain=self._domain,
                pid=self._helper.pid if self._helper else None,
                in_flight=self._in_flight,
                calls=self._calls,
                late=self._late,
                refused=self._refused,
                started=self._started,
                abandoned=len(self._retired),
                not_responding_s=None if since is None else monotonic_s() - since,
            )

    def close(self) -> None:
        """Kill the helpers, without waiting; calls under way fail, and later ones are Unreachable."""
        with self._changed:
            self._closed = True
            if self._helper is not None:
                self._retired.append(self._helper)
                self._helper = None
            for helper in self._retired:
                helper.close()
            self._changed.notify_all()

    @contextmanager
    def _admitted(self, began_s: float, until_s: float) -> Iterator[HelperClient]:
        """The helper to ask, while the call is counted; its outcome is what the block raises."""
        with self._changed:
            probe = self._enter(until_s)
            helper = self._helper
            assert helper is not None  # noqa: S101 - for the type checker: _enter has seen to it
            self._in_flight += 1
            self._calls += 1
        answered = False
        try:
            yield helper
            answered = True
        except (OSError, Failed):
            answered = True  # an error is an answer too
            raise
        except Late:
            self._note_late(helper, began_s)
            raise
        except Lost:
            self._note_lost(helper)
            raise
        finally:
            with self._changed:
                self._in_flight -= 1
                if answered and helper is self._helper:
                    self._note_answer()
                self._probing = self._probing and not probe
                self._kill_unused()
                self._changed.notify_all()

    def _enter(self, until_s: float) -> bool:
        """Wait until a call may be made, and see to a helper; whether the call is the one let through in doubt."""
        if self._in_flight >= self._limits.calls:
            self._refused += 1
            raise Busy(f"storage domain {self._domain} file")
        patience_until = min(until_s, monotonic_s() + self._limits.patience_s)
        while True:
            if self._closed:
                raise Unreachable(f"storage domain {self._domain}", "it is being disconnected")
            if self._doubtful_since_s is None:
                break
            now = monotonic_s()
            self._forget_gone()
            hopeless = len(self._retired) >= self._limits.abandoned
            if not self._probing and not hopeless and now >= self._next_s:
                break
            if not self._probing or now >= patience_until:
                self._refused += 1
                raise NotResponding(f"storage domain {self._domain}", now - self._doubtful_since_s)
            self._changed.wait(patience_until - now)
        if self._helper is None:
            self._begin_helper()
        self._probing = self._doubtful_since_s is not None
        return self._probing

    def _begin_helper(self) -> None:
        now = monotonic_s()
        if now < self._next_s:
            self._refused += 1
            reason = f"its helper failed {self._failures} times, the next is started in {self._next_s - now:.1f} s"
            raise Unreachable(f"storage domain {self._domain}", reason)
        try:
            self._helper = self._start(self._domain)
        except (CommandFailed, OSError) as error:
            self._delay_next()
            raise Unreachable(f"storage domain {self._domain}", f"its helper cannot be started: {error}") from error
        self._started += 1
        log.info("started helper %d of storage domain %s", self._helper.pid, self._domain)

    def _note_answer(self) -> None:
        if self._doubtful_since_s is not None:
            seconds = monotonic_s() - self._doubtful_since_s
            log.warning("storage domain %s answers again, after %.1f s", self._domain, seconds)
        self._doubtful_since_s = None
        self._failures = 0
        self._next_s = 0.0

    def _note_late(self, helper: HelperClient, began_s: float) -> None:
        with self._changed:
            self._late += 1
            if helper is not self._helper:
                return  # it is retired already: this call is as old as the one that did it
            self._helper = None
            self._retired.append(helper)
            if self._doubtful_since_s is None:
                self._doubtful_since_s = began_s
            log.error("helper %d of storage domain %s does not answer: it is given up", helper.pid, self._domain)
            self._delay_next()

    def _note_lost(self, helper: HelperClient) -> None:
        with self._changed:
            if helper is self._helper:
                self._helper = None
                self._delay_next()

    def _delay_next(self) -> None:
        """The first successor starts at once, the second after a while, and so on."""
        limits = self._limits
        delay = limits.first_delay_s * 2 ** (self._failures - 1) if self._failures else 0.0
        self._next_s = monotonic_s() + min(limits.longest_delay_s, delay)
        self._failures += 1

    def _kill_unused(self) -> None:
        """Kill retired helpers that nobody waits for any more."""
        for helper in self._retired:
            if helper.in_flight == 0:
                helper.close()

    def _forget_gone(self) -> None:
        self._retired = [helper for helper in self._retired if not helper.gone]
