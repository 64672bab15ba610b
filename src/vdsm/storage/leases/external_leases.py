"""External leases: leases of a domain that belong to no volume, for highly available VMs and for jobs.

    addLease       room - the lease - its value - its record       undone in the other order
    removeLease    its record - the lease                          finished, whatever happens
    rebuildLeases  see lease_index

One that is there already is added, one that is not there is removed: both are success, as the original's. A lease that
somebody has is not removed.

A lease can guard a job: its value then names the job, how far it is, and a generation, and whoever wants to do the job
must find what it was told. ``fence`` takes a job away from a host that does not answer: once its lease is free.

Source: storage format, sections 3.6 and 3.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec

from vdsm.base.clock import now_utc
from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Mode, Resource, Wants
from vdsm.storage import wants
from vdsm.storage.clusterlock import LeaseState
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import GenerationMismatch, LeaseFailed, LeaseHeld, NoSuchLease, WrongJob
from vdsm.storage.formats.leases import JobStatus, JobValue, LeaseRecord, encode_value, next_generation
from vdsm.storage.ids import DomainId, LeaseId, VolumeRef
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.leases.lease_index import LeaseAreas, LeaseIndex

# A step's name, what it does, and what takes it back.
_Part = tuple[str, Callable[[], object], Callable[[], object]]


class AddLease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that is to be.

    Attributes:
        domain_id: where.
        lease_id: its id.
        job: what its value is to say.
        number: of the record that it gets, once that is decided; None: it is there already.
    """

    domain_id: DomainId
    lease_id: LeaseId
    job: JobValue | None = None
    number: int | None = None


class RemoveLease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that is to go; ``number`` of its record, once that is decided. None: it is not there."""

    domain_id: DomainId
    lease_id: LeaseId
    number: int | None = None


class RebuildLeases(msgspec.Struct, frozen=True, kw_only=True):
    """An index that is to be mended."""

    domain_id: DomainId


@dataclass(frozen=True, slots=True)
class LeaseKinds:
    """The operations on external leases; the SPM's."""

    add: Kind[AddLease]
    remove: Kind[RemoveLease]
    rebuild: Kind[RebuildLeases]

    def __iter__(self) -> Iterator[Kind[AddLease] | Kind[RemoveLease] | Kind[RebuildLeases]]:
        return iter((self.add, self.remove, self.rebuild))


class ExternalLeases:
    """See the module.

    Args:
        find: the handle on a domain.
        areas: who formats lease areas.
        host_id: under which this host has joined its domains; asked when a lease's value is written.
    """

    def __init__(self, find: FindDomain, areas: LeaseAreas, host_id: Callable[[], int]) -> None:
        self._find: Final = find
        self._areas: Final = areas
        self._host_id: Final = host_id

    def info(self, domain_id: DomainId, lease_id: LeaseId) -> LeaseRecord:
        """Where a lease is.

        Raises:
            NoSuchLease: there is none.
            Damaged: the index has to be rebuilt.
        """
        return self._index(domain_id).find(lease_id)

    def status(self, domain_id: DomainId, lease_id: LeaseId) -> tuple[LeaseState, JobValue | None]:
        """Who has a lease, and what it says of its job.

        Raises:
            NoSuchLease: there is none.
            LeaseFailed: it cannot be read.
        """
        index = self._index(domain_id)
        lease = index.find(lease_id)
        return self._find(domain_id).lock.inspect(lease), index.read_value(lease)

    def fence(self, domain_id: DomainId, lease_id: LeaseId, job: JobValue) -> None:
        """Take a pending job away from whoever had it: the job that is found must be this one.

        Raises:
            NoSuchLease: there is none.
            LeaseHeld: a host has it: the job may be running.
            WrongJob: it is another job's, or its job is not pending.
            GenerationMismatch: the job is of another generation.
        """
        lease = self.info(domain_id, lease_id)
        index, lock = self._index(domain_id), self._find(domain_id).lock
        with self._taken(domain_id, lease):
            found = index.read_value(lease)
            _check_pending(lease_id, found, job)
            fenced = replace(
                job,
                status=JobStatus.FENCED,
                generation=next_generation(job.generation),
                modified_s=int(now_utc().timestamp()),
            )
            lock.write_value(lease, encode_value(fenced))

    def create(self, domain_id: DomainId, lease_id: LeaseId, job: JobValue | None = None) -> None:
        """What ``addLease`` does, without a journal."""
        wanted = self._decide_add(AddLease(domain_id=domain_id, lease_id=lease_id, job=job))
        for _, do, _ in self._adding(wanted):
            do()

    def delete(self, domain_id: DomainId, lease_id: LeaseId) -> None:
        """What ``removeLease`` does, without a journal."""
        for _, do, _ in self._removing(self._decide_remove(RemoveLease(domain_id=domain_id, lease_id=lease_id))):
            do()

    def rebuild(self, domain_id: DomainId) -> None:
        """What ``rebuildLeases`` does, without a journal."""
        self._index(domain_id).rebuild(int(now_utc().timestamp()))

    def kinds(self) -> LeaseKinds:
        """The operations that change leases."""
        return LeaseKinds(
            Kind(
                "addLease", 1, AddLease,
                plan=lambda wanted: _steps(self._adding(wanted)),
                wants=_wants, decide=self._decide_add,
            ),
            Kind(
                "removeLease", 1, RemoveLease,
                plan=lambda wanted: _steps(self._removing(wanted)),
                wants=_wants, decide=self._decide_remove, policy=Policy.FINISH,
            ),
            Kind(
                "rebuildLeases", 1, RebuildLeases,
                plan=lambda wanted: [Step("rebuild the index", lambda _: self.rebuild(wanted.domain_id))],
                wants=_wants, policy=Policy.RESUME,
            ),
        )  # fmt: skip

    def _decide_add(self, wanted: AddLease) -> AddLease:
        number = self._index(wanted.domain_id).place_for(wanted.lease_id)
        return msgspec.structs.replace(wanted, number=number)

    def _adding(self, wanted: AddLease) -> list[_Part]:
        number, lease_id = wanted.number, wanted.lease_id
        if number is None:
            return []
        index = partial(self._index, wanted.domain_id)
        room = ("make room for the lease", lambda: index().grow(number), _nothing)
        lease = (
            "write the lease",
            lambda: index().write_lease(number, lease_id),
            lambda: index().clear_lease(number, lease_id),
        )
        value = ("write its value", lambda: self._put_value(wanted, number), _nothing)
        record = (
            "write its record",
            lambda: index().write_record(number, lease_id),
            lambda: index().remove_record(lease_id),
        )
        return [room, lease, record] if wanted.job is None else [room, lease, value, record]

    def _decide_remove(self, wanted: RemoveLease) -> RemoveLease:
        index = self._index(wanted.domain_id)
        try:
            number = index.read().find(wanted.lease_id).number
        except NoSuchLease:
            return msgspec.structs.replace(wanted, number=None)
        # Damaged, or nobody of this host has joined: no reason to keep it.
        with suppress(LeaseFailed):
            owners = self._find(wanted.domain_id).lock.inspect(index.at(number, wanted.lease_id)).owners
            if owners:
                raise LeaseHeld(wanted.lease_id, wanted.domain_id, f"host {owners[0]}")
        return msgspec.structs.replace(wanted, number=number)

    def _removing(self, wanted: RemoveLease) -> list[_Part]:
        number, lease_id = wanted.number, wanted.lease_id
        if number is None:
            return []
        index = partial(self._index, wanted.domain_id)
        return [
            ("remove its record", lambda: index().remove_record(lease_id), _nothing),
            ("clear the lease", lambda: index().clear_lease(number, lease_id), _nothing),
        ]

    def _put_value(self, wanted: AddLease, number: int) -> None:
        lease = self._index(wanted.domain_id).at(number, wanted.lease_id)
        with self._taken(wanted.domain_id, lease):
            self._find(wanted.domain_id).lock.write_value(lease, encode_value(wanted.job))

    @contextmanager
    def _taken(self, domain_id: DomainId, lease: LeaseRecord) -> Iterator[None]:
        """Hold a lease with its value; that is on the storage after the block."""
        lock = self._find(domain_id).lock
        lock.acquire(lease, self._host_id(), value=True)
        try:
            yield
        finally:
            lock.release(lease)

    def _index(self, domain_id: DomainId) -> LeaseIndex:
        return LeaseIndex(self._find(domain_id), self._areas)


def volume_lease(domain: Domain, volume: VolumeRef) -> tuple[LeaseRecord, LeaseState] | None:
    """A volume's lease and who has it; None when the domain has none.

    Raises:
        NoSuchVolume: it is not there.
        LeaseFailed: it cannot be looked at: it is damaged, or of another volume, or this host has not joined.
    """
    lease = domain.backend.volume_lease(volume)
    return None if lease is None else (lease, domain.lock.inspect(lease))


def _wants(wanted: AddLease | RemoveLease | RebuildLeases) -> Wants:
    index = Resource("external leases", wanted.domain_id)
    return [*wants.of_domain(wanted.domain_id), (index, Mode.EXCLUSIVE)]


def _steps(parts: Sequence[_Part]) -> list[Step]:
    return [Step(name, _ignoring(do), _ignoring(undo)) for name, do, undo in parts]


def _ignoring(call: Callable[[], object]) -> Callable[[Run], None]:
    def step(_: Run) -> None:
        call()

    return step


def _nothing() -> None:
    """What is not taken back: room that was made, and the value of a lease that is cleared."""


def _check_pending(lease_id: LeaseId, found: JobValue | None, wanted: JobValue) -> None:
    if found is None or found.job_id != wanted.job_id:
        raise WrongJob(lease_id, "it does not guard the job" if found is None else f"it guards job {found.job_id}")
    if found.generation != wanted.generation:
        raise GenerationMismatch(wanted.generation, found.generation)
    if found.status is not JobStatus.PENDING or wanted.status is not JobStatus.PENDING:
        raise WrongJob(lease_id, f"its job is {found.status.value}, not PENDING")
