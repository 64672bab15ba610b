"""Plans that are carried out by any host, under a volume's lease, and told apart by the volume's generation.

    the lease is taken -> the generation is what was asked for?  -> steps -> generation + 1 -> the lease is given back

The last step's write of the generation is the sign that all is done: who finds the old one knows that it is not, and
may do it again. A host that goes on after a crash looks at it first: with the next generation everything was done, with
another one somebody else has taken over, and nothing may be touched any more.

Source: storage format, sections 3.3 and 7.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.operations.kinds import Run, Step
from vdsm.storage.clusterlock import Membership
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import GenerationMismatch, LeaseFailed
from vdsm.storage.executor import DataMover, carry_out
from vdsm.storage.ids import DomainId, VolumeRef
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.images.planned import written
from vdsm.storage.images.usage import wait_until_free
from vdsm.storage.journaled import Entry, read_plan

# How long the original waits for the host's id.
_JOIN_S: Final = 180.0
_LOOK_S: Final = 0.5

HostIds = Callable[[DomainId], int]
"""The id under which this host shows on a domain that it is alive."""


def _nothing() -> None:
    """What is done before the end where nothing is."""


class Guard:
    """Carries plans out under leases.

    Args:
        find: the handle on a domain.
        mover: who changes the data of images.
        host_id: see HostIds.
    """

    def __init__(self, find: FindDomain, mover: DataMover, host_id: HostIds) -> None:
        self.find: Final = find
        self.mover: Final = mover
        self._host_id: Final = host_id

    @contextmanager
    def leased(self, volume: VolumeRef, run: Run) -> Iterator[Domain]:
        """Hold a volume's lease while the block runs; nothing where there are no leases.

        Raises:
            LeaseHeld: another host has it.
            LeaseFailed: this host has not joined the domain's lockspace, or the storage does not answer.
        """
        domain = self.find(volume.domain_id)
        lease = domain.backend.volume_lease(volume)
        if lease is None:
            yield domain
            return
        host_id = self._host_id(volume.domain_id)
        _wait_for_membership(domain, host_id, run)
        domain.lock.acquire(lease, host_id)
        try:
            yield domain
        finally:
            domain.lock.release(lease)

    def step(
        self,
        name: str,
        volume: VolumeRef,
        entries: list[Entry],
        generations: tuple[int, int],
        before_last: Callable[[], None] = _nothing,
    ) -> Step:
        """One step of an operation that carries out a whole plan under a lease.

        Args:
            name: what it does.
            volume: whose lease and generation guard it.
            entries: the plan; its last step writes the generation.
            generations: the one before it, and the one after it.
            before_last: done before the generation is written.
        """
        before, after = generations

        def do(run: Run) -> None:
            with self.leased(volume, run) as domain:
                actual = domain.backend.volume(volume).generation
                if before != after == actual:
                    return  # done, before a crash
                check_generation(before, actual)
                *steps, last = read_plan(entries)
                for step in steps:
                    run.check()
                    wait_until_free(domain, written(step), run.check)
                    carry_out(step, domain.backend, self.mover.watched(run))
                    run.point(f"{type(step).__name__} is done")
                before_last()
                carry_out(last, domain.backend, self.mover)

        return Step(name, do)


def check_generation(requested: int | None, actual: int) -> None:
    """Refuse when somebody has changed the volume since its generation was asked for.

    Raises:
        GenerationMismatch: it is another one.
    """
    if requested is not None and requested != actual:
        raise GenerationMismatch(requested, actual)


def _wait_for_membership(domain: Domain, host_id: int, run: Run) -> None:
    """Wait until the host shows that it is alive: after a start that takes sanlock a while."""
    until_s = monotonic_s() + _JOIN_S
    while (found := domain.lock.membership(host_id)) is not Membership.YES:
        if found is Membership.NO or monotonic_s() > until_s:
            raise LeaseFailed(
                f"taking a lease of domain {domain.id}", f"the host has not joined its lockspace as {host_id}"
            )
        run.check()
        sleep_s(_LOOK_S)
