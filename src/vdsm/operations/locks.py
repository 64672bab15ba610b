"""Named things that are locked shared or exclusively (ResourceManager's descendant).

    claim  --nobody before it is in its way--> held --release--> gone
      |                                                            ^
      +-- waiting -- (same, later) --> held    deadline, release --+

A claim names all that its owner needs, at once. Claims stand in one order, that in which they came, in the queue of
each resource; one is held as soon as no claim before it in any of its queues is in its way. So nobody is overtaken by
somebody who is in his way, a waiting claim holds nothing, a holder never waits, and a deadlock cannot be formed. That
is why an owner may not claim twice.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Rejected, WrongState


class Mode(StrEnum):
    """How a resource is used."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True, order=True)
class Resource:
    """A thing that can be locked; the order is only for people."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace} {self.name}"


Wants = Iterable[tuple[Resource, Mode]]


@dataclass(eq=False)
class Locked(Rejected):
    """What is needed was used by others until the deadline; nothing was begun."""

    name = "locked"
    code = 851
    status = 409
    message = "{resources} still used by {holders} after {seconds:.1f} s"
    resources: str
    holders: str
    seconds: float


def _nothing(_: Claim) -> None:
    """The callback of a claim that nobody is told about."""


@dataclass(eq=False)
class Claim:
    """One owner's claim, to be given back with ``Locks.release``. Made by ``Locks`` only."""

    owner: str
    wants: Mapping[Resource, Mode]
    number: int
    since_s: float
    deadline_s: float | None
    ready: Callable[[Claim], None] = _nothing
    expired: Callable[[Claim], None] = _nothing
    held: bool = False
    over: bool = False
    settled: threading.Event = field(default_factory=threading.Event)
    refusal: Locked | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """Who uses, or waits for, a resource."""

    resource: Resource
    owner: str
    mode: Mode
    held: bool
    seconds: float


class Locks:
    """All locks of an agent, or of a pool of storage."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queues: dict[Resource, list[Claim]] = {}
        self._claims: dict[str, Claim] = {}
        self._numbers = itertools.count(1)
        self._watched = False

    def claim(
        self,
        owner: str,
        wants: Wants,
        *,
        timeout_s: float | None,
        ready: Callable[[Claim], None] = _nothing,
        expired: Callable[[Claim], None] = _nothing,
    ) -> Claim:
        """Stand in line for all of ``wants``, and come back at once.

        Args:
            owner: who; must have no other claim.
            wants: what, in any order; twice the same is once, exclusively if one of the two is.
            timeout_s: seconds to wait; None is for work that must be done whenever it can.
            ready: called when it is held, here or in the thread that gives way; must not wait.
            expired: called when the deadline has passed; the claim is gone then.

        Raises:
            WrongState: the owner has a claim.
        """
        now = monotonic_s()
        deadline = None if timeout_s is None else now + timeout_s
        claim = Claim(owner, _merged(wants), next(self._numbers), now, deadline, ready, expired)
        with self._changed:
            if owner in self._claims:
                raise WrongState("claim more locks", f"{owner} has or waits for others")
            self._claims[owner] = claim
            for resource in claim.wants:
                self._queues.setdefault(resource, []).append(claim)
            granted = self._grant([claim])
            if not granted and deadline is not None:
                self._watch_deadlines()
        _tell(granted)
        return claim

    def release(self, claim: Claim) -> None:
        """Give back what is held, or leave the line. Again does no harm."""
        with self._changed:
            granted = self._remove(claim)
        _tell(granted)

    @contextmanager
    def hold(self, owner: str, wants: Wants, *, timeout_s: float) -> Iterator[Claim]:
        """Wait for all of ``wants`` and hold it for a block.

        Raises:
            Locked: it was not to be had within ``timeout_s`` seconds.
            WrongState: the owner has a claim.
        """
        claim = self.claim(owner, wants, timeout_s=timeout_s)
        try:
            # The claim's own deadline settles it; the second is for a machine that is slow to run that thread.
            claim.settled.wait(timeout_s + 1.0)
            if not claim.held:
                raise self.refusal(claim)
            yield claim
        finally:
            self.release(claim)

    def refusal(self, claim: Claim) -> Locked:
        """The error that says what a claim waited for, and who has it, or had it at its deadline."""
        with self._changed:
            return claim.refusal or self._refusal(claim)

    def uses(self) -> list[Use]:
        """Everything that is held or waited for, by resource, in the order of the claims."""
        with self._changed:
            return self._uses()

    def _uses(self) -> list[Use]:
        now = monotonic_s()
        return [
            Use(resource, claim.owner, claim.wants[resource], claim.held, now - claim.since_s)
            for resource in sorted(self._queues)
            for claim in self._queues[resource]
        ]

    def _refusal(self, claim: Claim) -> Locked:
        others = [use for use in self._uses() if use.resource in claim.wants and use.held]
        names = ", ".join(sorted({str(use.resource) for use in others}) or map(str, claim.wants))
        owners = ", ".join(sorted({use.owner for use in others})) or "others"
        return Locked(names, owners, monotonic_s() - claim.since_s)

    def _grant(self, candidates: Iterable[Claim]) -> list[Claim]:
        granted = []
        for claim in candidates:
            if not claim.held and not claim.over and all(self._is_free(claim, item) for item in claim.wants):
                claim.held = True
                claim.settled.set()
                granted.append(claim)
        return granted

    def _is_free(self, claim: Claim, resource: Resource) -> bool:
        """Whether nobody before it in the queue is in its way."""
        for other in self._queues[resource]:
            if other is claim:
                return True
            if Mode.EXCLUSIVE in {claim.wants[resource], other.wants[resource]}:
                return False
        raise AssertionError  # a claim stands in all its queues until it is over

    def _remove(self, claim: Claim) -> list[Claim]:
        """Take a claim out of its queues; those who are held because of that."""
        if claim.over:
            return []
        claim.over = True
        claim.settled.set()
        del self._claims[claim.owner]
        behind: dict[int, Claim] = {}
        for resource in claim.wants:
            queue = self._queues[resource]
            queue.remove(claim)
            behind.update((other.number, other) for other in queue)
            if not queue:
                del self._queues[resource]
        self._changed.notify_all()
        return self._grant(behind[number] for number in sorted(behind))

    def _watch_deadlines(self) -> None:
        """There is a thread for deadlines only while somebody waits with one."""
        if self._watched:
            self._changed.notify_all()
        else:
            self._watched = True
            threads.start("lock-deadlines", self._expire)

    def _expire(self) -> None:
        while True:
            with self._changed:
                waiting = [claim for claim in self._claims.values() if not claim.held and claim.deadline_s is not None]
                if not waiting:
                    self._watched = False
                    return
                first = min(waiting, key=_deadline)
                left = _deadline(first) - monotonic_s()
                if left > 0:
                    self._changed.wait(left)
                    continue
                first.refusal = self._refusal(first)
                granted = self._remove(first)
            first.expired(first)
            _tell(granted)


def _deadline(claim: Claim) -> float:
    return float("inf") if claim.deadline_s is None else claim.deadline_s


def _merged(wants: Wants) -> Mapping[Resource, Mode]:
    found: dict[Resource, Mode] = {}
    for resource, mode in wants:
        found[resource] = Mode.EXCLUSIVE if Mode.EXCLUSIVE in {mode, found.get(resource)} else mode
    return MappingProxyType({resource: found[resource] for resource in sorted(found)})


def _tell(granted: Iterable[Claim]) -> None:
    for claim in granted:
        claim.ready(claim)
