"""The pool's own operations, on the SPM's journal: changes of what domains say, and the move of the master.

changePool     attach, detach, activate: a few writes; undone when it does not run through
destroyPool    its domains are let go one after the other, the master last; it only goes forward
switchMaster   see ``switching``
upgradeDomain  see ``upgrading``

They are no tasks but for switchMaster: the caller waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vdsm.operations.kinds import Kind, Policy
from vdsm.operations.locks import Mode, Resource, Wants
from vdsm.storage import wants
from vdsm.storage.ids import DomainId, PoolId
from vdsm.storage.pool.pool_edits import Edit
from vdsm.storage.pool.pool_session import DomainSource
from vdsm.storage.pool.pool_writer import PoolWriter
from vdsm.storage.pool.switching import FindSpm, SwitchMaster, switch_kind
from vdsm.storage.pool.upgrading import UPGRADE, UpgradeDomain, upgrade_kind

INTERNAL: Final = frozenset({"changePool", "destroyPool", UPGRADE})
"""Kinds that no client sees as tasks."""


class ChangePool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Writes on domains of a pool, in their order, by its SPM.

    Attributes:
        pool_id: the pool.
        what: for people.
        domains: those that nobody may use meanwhile.
        edits: what is written.
    """

    pool_id: PoolId
    what: str
    domains: tuple[DomainId, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class PoolKinds:
    """The kinds, to be registered with those of images."""

    change: Kind[ChangePool]
    destroy: Kind[ChangePool]
    switch: Kind[SwitchMaster]
    upgrade: Kind[UpgradeDomain]

    def all(self) -> list[Kind[Any]]:
        """For the registry."""
        return [self.change, self.destroy, self.switch, self.upgrade]


def pool_kinds(domains: DomainSource, writer: PoolWriter, spm: FindSpm) -> PoolKinds:
    """Make the kinds.

    Args:
        domains: finds domains.
        writer: carries out edits.
        spm: this host as the SPM, whose journal the operation is on.
    """
    return PoolKinds(
        Kind("changePool", 1, ChangePool, lambda given: writer.steps(given.edits), _wants),
        Kind("destroyPool", 1, ChangePool, lambda given: writer.steps(given.edits), _wants, policy=Policy.FINISH),
        switch_kind(domains, writer, spm),
        upgrade_kind(domains, writer),
    )


def _wants(given: ChangePool) -> Wants:
    resources = [want for ident in given.domains for want in wants.of_domain(ident, Mode.EXCLUSIVE)]
    return [*resources, (Resource("pool", given.pool_id), Mode.EXCLUSIVE)]
