"""Changes of what domains say of their pool, as data: before and after, so that each can be done again and taken back.

An ``Edit`` names some keys of one domain's metadata. It is one write, and so atomic; an operation is a list of them.

    create        master: the pool's keys | lease numbers, POOL_UUID, ROLE=Master
                  each other: POOL_UUID | master: POOL_DOMAINS
    reconstruct   master: the pool's keys | POOL_UUID, ROLE=Master
    attach        POOL_UUID (under the domain's own SDM lease)      detach    ROLE=Regular and POOL_UUID in one
    activate      ROLE=Regular

The pool's own keys (POOL_DOMAINS, MASTER_VERSION, ...) are kept up only in a pool that was connected without the
manager's list of domains ("disk"); otherwise they keep what they had when the pool was made.

Source: storage format, section 3.5. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from vdsm.base.errors import WrongState
from vdsm.storage.formats import pool
from vdsm.storage.formats.domain import DomainMetadata, LeaseParameters, parse_domain
from vdsm.storage.formats.pool import PoolMetadata
from vdsm.storage.ids import DomainId, PoolId
from vdsm.storage.kinds import AttachedStatus, DomainRole

Keys = Mapping[str, str | None]

ROLE: Final = "ROLE"
POOLS: Final = "POOL_UUID"
DESCRIPTION: Final = pool.DESCRIPTION
_LEASE_KEYS: Final = ("IOOPTIMEOUTSEC", "LEASERETRIES", "LEASETIMESEC", "LOCKPOLICY", "LOCKRENEWALINTERVALSEC")


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One write of one domain's metadata; a value of None is a key that is not there.

    Attributes:
        domain_id: the domain.
        before: the keys and what they had.
        after: the same keys and what they get.
        leased_as: the host id under which the domain's SDM lease is taken for it; 0 where the lease is not needed,
            because this host is the SPM of the pool that the domain belongs to.
    """

    domain_id: DomainId
    before: dict[str, str | None]
    after: dict[str, str | None]
    leased_as: int = 0


def edit(metadata: DomainMetadata, after: Keys, *, leased_as: int = 0) -> Edit:
    """The edit that gives the keys these values."""
    now = metadata.pairs()
    return Edit(metadata.domain_id, {key: now.get(key) for key in after}, dict(after), leased_as)


def applied(metadata: DomainMetadata, wanted: Edit) -> DomainMetadata:
    """The metadata after an edit; the same when it is there already.

    Raises:
        WrongState: the keys have neither the values from before nor those after: somebody else wrote.
    """
    now = _now(metadata, wanted)
    if now not in (wanted.before, wanted.after):
        raise WrongState(f"write the metadata of domain {metadata.domain_id}", "others have written it")
    return amended(metadata, wanted.after)


def taken_back(metadata: DomainMetadata, done: Edit) -> DomainMetadata:
    """The metadata without an edit; as it is when others have written these keys since."""
    return amended(metadata, done.before) if _now(metadata, done) == done.after else metadata


def amended(metadata: DomainMetadata, keys: Keys) -> DomainMetadata:
    """The metadata with other values of some keys."""
    pairs = {**metadata.pairs(), **keys}
    return parse_domain({key: value for key, value in pairs.items() if value is not None}, str(metadata.domain_id))


def creating(
    master: DomainMetadata,
    others: list[DomainMetadata],
    pool_id: PoolId,
    described: PoolMetadata,
    host_id: int,
    leases: LeaseParameters | None = None,
) -> list[Edit]:
    """Make a pool of domains that belong to none."""
    first = replace(described, domains={master.domain_id: AttachedStatus.ACTIVE})
    edits = [
        edit(master, dict(first.pairs()), leased_as=host_id),
        _mastering(master, pool_id, host_id, leases),
    ]
    known = first
    for other in others:
        edits.append(edit(other, {POOLS: with_pool(other, pool_id)}, leased_as=host_id))
        last, known = known, replace(known, domains={**known.domains, other.domain_id: AttachedStatus.ATTACHED})
        edits.append(listing(master.domain_id, last, known, leased_as=host_id))
    return edits


def reconstructing(
    master: DomainMetadata,
    pool_id: PoolId,
    described: PoolMetadata,
    host_id: int,
    leases: LeaseParameters | None = None,
) -> list[Edit]:
    """Make a domain of a pool its master."""
    return [
        edit(master, dict(described.pairs()), leased_as=host_id),
        _mastering(master, pool_id, host_id, leases),
    ]


def listing(master_id: DomainId, before: PoolMetadata, after: PoolMetadata, *, leased_as: int = 0) -> Edit:
    """Change the list of domains in the master's metadata."""
    key = pool.DOMAINS
    return Edit(master_id, {key: before.pairs()[key]}, {key: after.pairs()[key]}, leased_as)


def attaching(domain: DomainMetadata, pool_id: PoolId, host_id: int) -> Edit:
    """Add a pool to those that a domain belongs to."""
    return edit(domain, {POOLS: with_pool(domain, pool_id)}, leased_as=host_id)


def detaching(domain: DomainMetadata, pool_id: PoolId | None, host_id: int = 0) -> Edit:
    """Take a domain out of a pool, or of all: its role and its list in one write; of a master the pool's keys, too."""
    left = [] if pool_id is None else [item for item in domain.pools if item != pool_id]
    gone: dict[str, str | None] = {} if domain.pool is None or left else dict.fromkeys(domain.pool.pairs())
    return edit(domain, {**gone, ROLE: DomainRole.REGULAR.value, POOLS: ",".join(left)}, leased_as=host_id)


def role(domain: DomainMetadata, wanted: DomainRole, more: Keys | None = None) -> Edit:
    """Change a domain's role, and other keys with it."""
    return edit(domain, {ROLE: wanted.value, **(more or {})})


def with_pool(domain: DomainMetadata, pool_id: PoolId) -> str:
    """The list of pools with one more; twice is once."""
    return ",".join(dict.fromkeys([*domain.pools, pool_id]))


def _now(metadata: DomainMetadata, wanted: Edit) -> dict[str, str | None]:
    pairs = metadata.pairs()
    return {key: pairs.get(key) for key in wanted.after}


def _mastering(master: DomainMetadata, pool_id: PoolId, host_id: int, leases: LeaseParameters | None) -> Edit:
    # The lease manager of long ago is "ON" in pools that were made without its numbers; they matter to nobody.
    given = replace(master, leases=leases or LeaseParameters(policy="ON")).pairs()
    keys = {key: given[key] for key in _LEASE_KEYS}
    return edit(master, {**keys, POOLS: pool_id, ROLE: DomainRole.MASTER.value}, leased_as=host_id)
