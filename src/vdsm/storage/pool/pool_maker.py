"""Pools are made, get another master, and let domains go, by a host that is not their SPM.

There is no master to keep a journal on, so it is this host's own. A lease of each domain that is written keeps SPMs
away; it ends with the process, so whoever goes on after a crash takes it again. What cannot be settled then, because
the storage is not connected yet, is tried again when the pool is next dealt with.

Source: storage format, section 3.5.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from vdsm.base.errors import VdsmError
from vdsm.operations.journal import JournalStore
from vdsm.operations.kinds import Kind, Kinds, Run, Step
from vdsm.operations.locks import Locks, Mode, Resource, Wants
from vdsm.operations.manager import Operations
from vdsm.operations.records import ENDED, SETTLED, OperationView, Phase
from vdsm.storage import wants
from vdsm.storage.formats.domain import DomainMetadata, LeaseParameters
from vdsm.storage.formats.leases import RESERVED_HOST_ID
from vdsm.storage.formats.pool import PoolMetadata
from vdsm.storage.ids import DomainId, PoolId
from vdsm.storage.kinds import AttachedStatus, DomainClass
from vdsm.storage.pool import master as masters
from vdsm.storage.pool import pool_edits
from vdsm.storage.pool.pool_edits import Edit
from vdsm.storage.pool.pool_errors import AlreadyAttached, CannotBeMaster, MixedVersions, error_of
from vdsm.storage.pool.pool_session import DomainSource
from vdsm.storage.pool.pool_writer import PoolWriter

log = logging.getLogger(__name__)

_WAIT_S: Final = 600.0


class MakePool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Writes on domains, under the SDM lease of the one that is or becomes master.

    Attributes:
        pool_id: the pool.
        master_id: whose lease is held from the first write to the last.
        host_id: under which id.
        clear: what an earlier pool left in the master's directory is removed before.
        edits: what is written, in this order.
    """

    pool_id: str
    master_id: DomainId
    host_id: int
    clear: bool = False
    edits: tuple[Edit, ...]


class PoolMaker:
    """Pools' beginnings and repairs; may be used by many threads at once.

    Args:
        domains: finds them.
        journal: this host's.
        locks: shared with all who lock domains.
        writer: carries out edits.
        point: for tests.
    """

    def __init__(
        self,
        domains: DomainSource,
        journal: JournalStore,
        locks: Locks,
        writer: PoolWriter,
        *,
        point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._domains: Final = domains
        self._writer: Final = writer
        self._kinds: Final = {
            name: Kind(name, 1, MakePool, self._steps, _wants)
            for name in ("createPool", "reconstructMaster", "cleanDomain")
        }
        self.operations: Final = Operations(Kinds(self._kinds.values()), journal, locks, workers=2, point=point)

    def resume(self) -> None:
        """Read the journal, and begin to settle what the last process left; before anything else."""
        self.operations.resume()

    def settle(self) -> None:
        """Try again what could not be settled, and wait for it; forget what is."""
        for view in self.operations.views():
            if view.phase in ENDED - SETTLED or view.stalled:
                try:
                    self.operations.settle(view.id)
                except VdsmError as error:
                    log.warning("%s %s is not settled: %s", view.kind, view.id, error)
            self._end(view.id)

    def create(
        self, pool_id: PoolId, described: PoolMetadata, domains: Sequence[DomainId], leases: LeaseParameters | None
    ) -> None:
        """Make a pool of unattached domains; the first is its master.

        Raises:
            NoSuchDomain: one of them is not connected.
            AlreadyAttached: one of them belongs to a pool.
            CannotBeMaster: the first is no data domain.
            MixedVersions: data domains are of several versions.
            LeaseHeld, LeaseFailed, HostIdFailed: another host is at work on one of them.
        """
        self.settle()
        read = [self._domains.find(ident).backend.read_domain() for ident in domains]
        for domain in read:
            if domain.pools:
                raise AlreadyAttached(domain.domain_id, ", ".join(domain.pools))
        master, *others = read
        _check_master(master)
        for other in others:
            if other.domain_class is DomainClass.DATA and other.version != master.version:
                raise MixedVersions(other.domain_id, other.version, master.version)
        edits = pool_edits.creating(master, others, pool_id, described, RESERVED_HOST_ID, leases)
        self._perform("createPool", pool_id, master.domain_id, RESERVED_HOST_ID, edits, clear=True)

    def reconstruct(
        self,
        pool_id: PoolId,
        host_id: int,
        master_id: DomainId,
        described: PoolMetadata,
        leases: LeaseParameters | None,
    ) -> None:
        """Make one of a pool's domains its master, whatever the old one says.

        Raises:
            NoSuchDomain: it is not connected.
            AlreadyAttached: it belongs to another pool.
            CannotBeMaster: it is no data domain.
            LeaseHeld, LeaseFailed, HostIdFailed: another host is at work on it.
        """
        self.settle()
        master = self._domains.find(master_id).backend.read_domain()
        _check_master(master)
        if set(master.pools) - {pool_id}:
            raise AlreadyAttached(master_id, ", ".join(master.pools))
        edits = pool_edits.reconstructing(master, pool_id, described, host_id, leases)
        self._perform("reconstructMaster", pool_id, master_id, host_id, edits)

    def clean(self, domain_id: DomainId, pool_id: PoolId | None, host_id: int = RESERVED_HOST_ID) -> None:
        """Have a domain forget a pool, or all (None), although that pool's SPM does not know of it.

        Raises:
            NoSuchDomain: it is not connected.
            LeaseHeld, LeaseFailed, HostIdFailed: another host is at work on it.
        """
        self.settle()
        domain = self._domains.find(domain_id).backend.read_domain()
        edit = pool_edits.detaching(domain, pool_id, host_id)
        self._perform("cleanDomain", pool_id or PoolId(""), domain_id, host_id, [edit])

    def stop(self, deadline_s: float) -> bool:
        """Stop where everything is; see ``Operations.stop``."""
        return self.operations.stop(deadline_s)

    def _perform(
        self,
        name: str,
        pool_id: PoolId,
        master_id: DomainId,
        host_id: int,
        edits: Sequence[Edit],
        *,
        clear: bool = False,
    ) -> None:
        arguments = MakePool(pool_id=pool_id, master_id=master_id, host_id=host_id, clear=clear, edits=tuple(edits))
        view = self.operations.submit(self._kinds[name], arguments)
        view = self.operations.wait(view.id, _WAIT_S)
        self._end(view.id)
        if view.phase is not Phase.DONE and view.fault is not None:
            raise error_of(view.fault, name)

    def _steps(self, given: MakePool) -> list[Step]:
        steps = self._writer.steps(given.edits)
        if given.clear:
            steps = [Step("clear what an earlier pool left", self._clearing(given), recorded=False), *steps]
        return self._writer.holding(given.master_id, given.host_id, steps)

    def _clearing(self, given: MakePool) -> Callable[[Run], None]:
        def clear(_: Run) -> None:
            masters.wipe(self._domains.find(given.master_id))

        return clear

    def _end(self, operation_id: str) -> OperationView | None:
        """Wait for an operation, and forget it when it is settled: its caller is told, or has gone."""
        try:
            view = self.operations.wait(operation_id, _WAIT_S)
            if view.phase in SETTLED:
                self.operations.clear(operation_id)
        except VdsmError as error:
            log.warning("operation %s of a pool stays: %s", operation_id, error)
            return None
        return view


def described(name: str, version: int, domains: Mapping[DomainId, AttachedStatus]) -> PoolMetadata:
    """What a master is to say of its pool."""
    return PoolMetadata(master_version=version, description=name, domains=dict(domains))


def _check_master(master: DomainMetadata) -> None:
    if master.domain_class is not DomainClass.DATA:
        raise CannotBeMaster(master.domain_id, master.domain_class.value)


def _wants(given: Any) -> Wants:
    touched = dict.fromkeys([given.master_id, *(edit.domain_id for edit in given.edits)])
    resources = [want for ident in touched for want in wants.of_domain(ident, Mode.EXCLUSIVE)]
    return [*resources, (Resource("pool", given.pool_id), Mode.EXCLUSIVE)]
