"""From a decoded request to a verb's outcome: readiness, roles, pools and deadlines.

Lives on the event loop. A verb of the inline pool is called right here, because it only reads memory: no thread, no
task, no timer. All others run in the bounded pool of their class, so that no verb keeps another class waiting; a full
pool is Busy at once, and a caller who waited for the deadline gets an answer while the verb goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, Generic, Protocol, TypeVar

from vdsm.api.contract import Pool, Role
from vdsm.base import logs
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, Denied, NoSuchVerb, Recovering, Unfinished, VdsmError
from vdsm.base.threads import Pool as Workers
from vdsm.bindings.peers import Caller

log = logging.getLogger(__name__)

# The Engine gives a call up after 180 s; an answer that says so is worth more.
DEADLINE_S: Final = 170.0

T = TypeVar("T")
R = TypeVar("R")
Observe = Callable[[str, str, float], None]
OK: Final = "ok"


def _unobserved(_verb: str, _outcome: str, _seconds: float) -> None:
    """Nobody counts."""


def outcome_name(outcome: object) -> str:
    """How a request ended, for counting: "ok" or the error's stable name."""
    if isinstance(outcome, VdsmError):
        return outcome.name
    return "unexpected" if isinstance(outcome, Exception) else OK


class BoundVerb(Protocol):
    """What the dispatcher needs to know of a verb."""

    @property
    def name(self) -> str:
        """The wire name, ``VM.getStats``."""

    @property
    def role(self) -> Role:
        """The least role that may call it."""

    @property
    def pool(self) -> Pool:
        """Which pool runs it."""

    @property
    def while_starting(self) -> bool:
        """Whether it answers before the agent is ready."""

    def call_wire(self, raw_params: bytes) -> bytes:
        """JSON of the parameters (or nothing) in, JSON of the result out."""


class Pending(Generic[T]):
    """An outcome that is not there yet. Belongs to the event loop: only there it is settled and looked at."""

    __slots__ = ("_listener", "_outcome", "_settled")

    def __init__(self) -> None:
        self._settled = False
        self._outcome: T | None = None
        self._listener: Callable[[T], None] | None = None

    @property
    def settled(self) -> bool:
        """Whether the outcome is there."""
        return self._settled

    def settle(self, outcome: T) -> None:
        """Give the outcome; only the first one counts."""
        if self._settled:
            return
        self._settled = True
        if self._listener is not None:
            self._listener(outcome)
        else:
            self._outcome = outcome

    def then(self, listener: Callable[[T], None]) -> None:
        """Call ``listener`` with the outcome, now or later; one listener at most."""
        if self._settled:
            listener(self._outcome)  # type: ignore[arg-type]  # it was settled with a T
        else:
            self._listener = listener


class _Entry:
    """A verb as the hot path wants it."""

    __slots__ = ("roles", "verb", "while_starting", "workers")

    def __init__(self, verb: BoundVerb, workers: Workers | None) -> None:
        self.verb = verb
        self.workers = workers
        self.roles = frozenset(role for role in Role if role.includes(verb.role))
        self.while_starting = verb.while_starting


Outcome = bytes | Exception


class Dispatcher:
    """Runs verbs for callers.

    Args:
        verbs: all verbs by wire name.
        pools: the worker pool of each class except the inline one.
        ready: whether the agent knows its VMs; until then verbs answer Recovering.
        deadline_s: how long a caller waits for a verb that runs in a pool.
        observe: is told of each request that is done: the verb, "ok" or the error's name, and the seconds it took.
    """

    def __init__(
        self,
        verbs: Mapping[str, BoundVerb],
        pools: Mapping[Pool, Workers],
        ready: Callable[[], bool],
        deadline_s: float = DEADLINE_S,
        observe: Observe = _unobserved,
    ) -> None:
        self._entries = {
            name: _Entry(verb, None if verb.pool is Pool.INLINE else pools[verb.pool]) for name, verb in verbs.items()
        }
        self._ready = ready
        self._deadline_s = deadline_s
        self._observe = observe

    def call(self, name: str, raw_params: bytes, caller: Caller, flow: str = "") -> bytes | Pending[Outcome]:
        """Run a verb with its parameters in wire form.

        Returns:
            The result as JSON, or the pending outcome of a verb that runs in a pool.

        Raises:
            VdsmError: it was refused, or it is inline and failed.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise NoSuchVerb(name[:200])
        return self._run(entry, entry.verb.call_wire, raw_params, caller, flow)

    def run(
        self, name: str, function: Callable[[T], R], argument: T, caller: Caller, flow: str = ""
    ) -> R | Pending[R | Exception]:
        """Run a function in place of a verb, as the verb would run: its role, its pool, its deadline.

        For bindings with another form of parameters and results.

        Raises:
            VdsmError: it was refused, or it is inline and failed.
        """
        return self._run(self._entries[name], function, argument, caller, flow)

    def _check(self, entry: _Entry, caller: Caller) -> None:
        if not (entry.while_starting or self._ready()):
            raise Recovering
        if caller.role not in entry.roles:
            raise Denied(entry.verb.name, entry.verb.role)

    def _run(
        self, entry: _Entry, function: Callable[[T], R], argument: T, caller: Caller, flow: str
    ) -> R | Pending[Any]:
        name, began_s = entry.verb.name, monotonic_s()
        flow_token = logs.flow_id.set(flow)
        caller_token = logs.caller.set(caller.name)
        try:
            self._check(entry, caller)
            if entry.workers is not None:
                return _Job(entry.verb, function, argument, self._observe).start(entry.workers, self._deadline_s)
            result = function(argument)
        except Exception as error:
            self._observe(name, outcome_name(error), monotonic_s() - began_s)
            raise
        finally:
            logs.caller.reset(caller_token)
            logs.flow_id.reset(flow_token)
        self._observe(name, OK, monotonic_s() - began_s)
        return result


class _Job(Generic[T, R]):
    """One call of a verb in a worker; settles its pending outcome on the loop."""

    def __init__(self, verb: BoundVerb, function: Callable[[T], R], argument: T, observe: Observe) -> None:
        self._pending: Pending[R | Exception] = Pending()
        self._observe = observe
        self._began_s = monotonic_s()
        self._verb = verb
        self._function = function
        self._argument = argument
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, workers: Workers, deadline_s: float) -> Pending[R | Exception]:
        """Queue the call; nobody waits for it longer than ``deadline_s``.

        Raises:
            Busy: the pool is full.
        """
        future = workers.submit(self._perform)
        self._timer = self._loop.call_later(deadline_s, self._give_up, future, deadline_s)
        return self._pending

    def _perform(self) -> None:
        level = logging.DEBUG if self._verb.role is Role.VIEWER else logging.INFO
        began_s = monotonic_s()
        log.log(level, "%s begins for %s", self._verb.name, logs.caller.get())
        outcome: R | Exception
        try:
            outcome = self._function(self._argument)
        except Exception as error:  # noqa: BLE001 - the one who asked gets it
            outcome = error
        log.log(level, "%s took %.3f s%s", self._verb.name, monotonic_s() - began_s, _ending(outcome))
        try:
            self._loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:
            log.info("%s has nobody to answer to: the agent is stopping", self._verb.name)

    def _settle(self, outcome: R | Exception) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._finish(outcome)

    def _finish(self, outcome: R | Exception) -> None:
        if not self._pending.settled:
            self._observe(self._verb.name, outcome_name(outcome), monotonic_s() - self._began_s)
            self._pending.settle(outcome)

    def _give_up(self, future: Future[None], deadline_s: float) -> None:
        not_begun = future.cancel()
        self._finish(Busy(self._verb.pool) if not_begun else Unfinished(self._verb.name, deadline_s))


def _ending(outcome: object) -> str:
    return f": {type(outcome).__name__}: {outcome}" if isinstance(outcome, Exception) else ""
