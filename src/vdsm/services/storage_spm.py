"""The way to the pool's tasks: which pool is meant, and whether this host may do it."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from vdsm.operations.kinds import Kind
from vdsm.storage.domains.domains import Domains
from vdsm.storage.ids import BLANK, DomainId, PoolId, parse_pool_id
from vdsm.storage.pool.pool_errors import NotSpm
from vdsm.storage.pool.pools import Pools
from vdsm.storage.pool.spm import Spm

A = TypeVar("A", bound=msgspec.Struct)


class SpmDoor:
    """Leads to the SPM's operations, if this host is the SPM."""

    def __init__(self, pools: Pools, domains: Domains) -> None:
        self._pools: Final = pools
        self._domains: Final = domains

    def pool(self, text: str) -> PoolId:
        """The pool that is meant; the blank id is the one that this host is in.

        Raises:
            InvalidParameter: it is no id.
            NotSpm: this host is in no pool.
        """
        if text != BLANK:
            return parse_pool_id(text)
        current = self._pools.current()
        if current is None:
            raise NotSpm(BLANK)
        return current

    def spm(self, pool: str) -> Spm:
        """The pool's manager.

        Raises:
            NotSpm, NoSuchPool: this host is not it.
        """
        return self._pools.spm(self.pool(pool))

    def submit(self, pool: str, kind: Kind[A], arguments: A) -> str:
        """Begin a task; its id.

        Raises:
            NotSpm, NoSuchPool: this host may not.
            VdsmError: the task is refused.
        """
        return self.spm(pool).submit(kind, arguments)

    def may_write(self, domain_id: DomainId) -> None:
        """See that nobody else may write a domain's metadata: it is in no pool, or this host is the pool's SPM.

        Raises:
            NotSpm, NoSuchPool: this host may not.
        """
        pools = self._domains.info(domain_id).pools
        if pools:
            self.spm(pools[0])
