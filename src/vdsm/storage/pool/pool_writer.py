"""Writes what domains say of their pool, under the right lease; the steps of operations that do so."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from vdsm.operations.kinds import Run, Step
from vdsm.storage.clusterlock import Membership
from vdsm.storage.domains.domain import Domain
from vdsm.storage.ids import DomainId
from vdsm.storage.pool import pool_edits
from vdsm.storage.pool.pool_edits import Edit
from vdsm.storage.pool.pool_session import DomainSource

log = logging.getLogger(__name__)


class PoolWriter:
    """Carries out edits, and takes them back.

    Args:
        domains: finds them.
        join_s: seconds until this host must show as alive on a domain whose lease is needed.
    """

    def __init__(self, domains: DomainSource, *, join_s: float = 180.0) -> None:
        self._domains: Final = domains
        self._join_s: Final = join_s

    def steps(self, edits: Sequence[Edit], *, pivot_last: bool = False) -> list[Step]:
        """One step for each edit."""
        return [
            Step(
                f"write {', '.join(sorted(item.after))} of domain {item.domain_id}",
                partial(self._do, item),
                partial(self._undo, item),
                pivot=pivot_last and number == len(edits),
            )
            for number, item in enumerate(edits, 1)
        ]

    def holding(self, domain_id: DomainId, host_id: int, steps: list[Step]) -> list[Step]:
        """The steps, with the domain's SDM lease kept from the first to the last."""

        def take(_: Run) -> None:
            self.take(self._domains.find(domain_id), host_id)

        def give(_: Run) -> None:
            self.give(self._domains.find(domain_id), host_id)

        # Neither lasts longer than the process, so neither needs a record.
        first = Step(f"take the SPM's lease of domain {domain_id}", take, give, recorded=False)
        return [first, *steps, Step(f"give back the SPM's lease of domain {domain_id}", give)]

    def take(self, domain: Domain, host_id: int) -> None:
        """Take a domain's SDM lease; twice is once.

        Raises:
            HostIdFailed, LeaseHeld, LeaseFailed: it cannot be had.
        """
        if not domain.lock.holds(domain.lock.sdm):
            domain.lock.join(host_id, wait_s=self._join_s)
            domain.lock.acquire(domain.lock.sdm, host_id)

    def give(self, domain: Domain, host_id: int) -> None:
        """Give a domain's SDM lease back, and leave its lockspace.

        Raises:
            LeaseFailed, HostIdFailed: it may still be held.
        """
        domain.lock.release(domain.lock.sdm)
        domain.lock.leave(host_id)

    @contextmanager
    def leased(self, domain: Domain, host_id: int) -> Iterator[None]:
        """Hold the SDM lease for a block; 0: nothing is needed. What was held or joined before stays so."""
        if host_id == 0 or domain.lock.holds(domain.lock.sdm):
            yield
            return
        joined = domain.lock.membership(host_id) is not Membership.NO
        domain.lock.join(host_id, wait_s=self._join_s)
        try:
            domain.lock.acquire(domain.lock.sdm, host_id)
            try:
                yield
            finally:
                domain.lock.release(domain.lock.sdm)
        finally:
            if not joined:
                domain.lock.leave(host_id)

    def write(self, wanted: Edit) -> None:
        """Carry out an edit; nothing if it is there already.

        Raises:
            WrongState: others have written these keys meanwhile.
        """
        domain = self._domains.find(wanted.domain_id)
        with self.leased(domain, wanted.leased_as):
            self._domains.update(domain.id, partial(pool_edits.applied, wanted=wanted))

    def take_back(self, done: Edit) -> None:
        """Take an edit back, if it was done and nobody has written its keys since."""
        domain = self._domains.find(done.domain_id)
        now = domain.backend.read_domain()
        if pool_edits.taken_back(now, done) == now:
            # No lease is needed for that: it may have been the one that could not be had.
            return
        with self.leased(domain, done.leased_as):
            self._domains.update(domain.id, partial(pool_edits.taken_back, done=done))

    def _do(self, wanted: Edit, run: Run) -> None:
        run.check()
        self.write(wanted)

    def _undo(self, done: Edit, _: Run) -> None:
        self.take_back(done)
