"""The master moves to another domain of the pool, while the pool's work goes on.

    1  the new domain's SDM lease
    2  vms/ and tasks/ are copied; from now on each record of the journal is on both domains
    3  new: ROLE=Master
    4  (pivot) the new one is the master: here in memory, links and watchdog follow
    5  old: ROLE=Regular
    6  what the old one has of the pool is removed, its lease given back

Which of the two is the master after a crash is not ours to say: the manager connects a host with one of them, and both
have the journal from 2 to 6. So wherever the operation is found again, forward or back, it asks which one is the
pool's master now, and takes the role and the pool's data from the other.

Source: storage format, section 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from vdsm.operations.kinds import Kind, Run, Step
from vdsm.operations.locks import Mode, Resource, Wants
from vdsm.storage.domains.domain import Domain
from vdsm.storage.formats import pool
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.ids import DomainId, PoolId
from vdsm.storage.kinds import DomainRole
from vdsm.storage.pool import master as masters
from vdsm.storage.pool import pool_edits
from vdsm.storage.pool.pool_session import DomainSource
from vdsm.storage.pool.pool_writer import PoolWriter


class SwitchMaster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another domain is to be the master.

    Attributes:
        pool_id: the pool.
        host_id: of the SPM, for the new master's lease.
        old_id: the master.
        new_id: another active domain.
        version: the master's version afterwards.
        keys: the pool's keys in the metadata of the master, where they are kept up; they move, too.
    """

    pool_id: PoolId
    host_id: int
    old_id: DomainId
    new_id: DomainId
    version: int
    keys: dict[str, str] = {}


class Mover(Protocol):
    """The SPM's part of it; ``Spm``."""

    @property
    def master_id(self) -> DomainId:
        """The pool's master now."""

    def copy_journal(self, new: Domain) -> None:
        """Keep the journal on another domain, too."""

    def settle_journal(self) -> None:
        """Keep the journal only where the master is."""

    def move_to(self, new: Domain, version: int) -> None:
        """Let another domain, whose lease is held, be the master."""


FindSpm = Callable[[], Mover]


def switch_kind(domains: DomainSource, writer: PoolWriter, spm: FindSpm) -> Kind[SwitchMaster]:
    """The kind switchMaster; see ``pool_kinds``."""
    return Kind("switchMaster", 1, SwitchMaster, lambda given: _Switch(domains, writer, spm, given).steps(), _wants)


class _Switch:
    def __init__(self, domains: DomainSource, writer: PoolWriter, spm: FindSpm, given: SwitchMaster) -> None:
        self._domains: Final = domains
        self._writer: Final = writer
        self._spm: Final = spm
        self._given: Final = given

    def steps(self) -> list[Step]:
        return [
            Step("take the new master's lease", self._take, self._give_other, recorded=False),
            Step("copy the pool's data", self._copy, self._clear_other),
            Step("write the new master's role", self._promote, self._demote_other),
            Step("work with the new master", self._move, pivot=True),
            Step("take the old master's role", self._demote_other),
            Step("remove the pool's data from the old master", self._leave),
        ]

    def _take(self, _: Run) -> None:
        self._writer.take(self._new(), self._given.host_id)

    def _copy(self, run: Run) -> None:
        new = self._new()
        self._spm().settle_journal()
        masters.prepare(new)
        masters.wipe(new)
        run.point("the new master is empty")
        masters.copy(self._domains.find(self._given.old_id), new)
        run.point("others' data is copied")
        self._spm().copy_journal(new)

    def _promote(self, _: Run) -> None:
        keys = {**self._given.keys, pool.MASTER_VERSION: str(self._given.version)} if self._given.keys else {}
        self._role(self._given.new_id, DomainRole.MASTER, keys)

    def _move(self, _: Run) -> None:
        new = self._new()
        self._writer.take(new, self._given.host_id)
        self._spm().move_to(new, self._given.version)

    def _demote_other(self, _: Run) -> None:
        keys = {pool.MASTER_VERSION: "0"} if self._given.keys else {}
        self._role(self._other(), DomainRole.REGULAR, keys)

    def _leave(self, run: Run) -> None:
        other = self._domains.find(self._other())
        self._spm().settle_journal()
        run.point("the old master has no journal")
        masters.wipe(other)
        other.lock.release(other.lock.sdm)

    def _clear_other(self, run: Run) -> None:
        other = self._domains.find(self._other())
        self._spm().settle_journal()
        run.point("the journal is where it was")
        masters.wipe(other)

    def _give_other(self, _: Run) -> None:
        other = self._domains.find(self._other())
        other.lock.release(other.lock.sdm)

    def _new(self) -> Domain:
        return self._domains.find(self._given.new_id)

    def _other(self) -> DomainId:
        """The one of the two that is not the pool's master."""
        return self._given.old_id if self._spm().master_id == self._given.new_id else self._given.new_id

    def _role(self, domain_id: DomainId, role: DomainRole, keys: dict[str, str]) -> None:
        def change(metadata: DomainMetadata) -> DomainMetadata:
            if role is DomainRole.REGULAR and metadata.role is DomainRole.REGULAR:
                return metadata
            return pool_edits.amended(metadata, {pool_edits.ROLE: role.value, **keys})

        self._domains.update(domain_id, change)


def _wants(given: SwitchMaster) -> Wants:
    return [(Resource("pool", given.pool_id), Mode.EXCLUSIVE)]
