"""Changes of what domains say of their pool, as data."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.base.errors import WrongState
from vdsm.storage.errors import InvalidParameter
from vdsm.storage.formats.domain import DomainMetadata, decode_domain, encode_domain
from vdsm.storage.formats.pool import PoolMetadata
from vdsm.storage.ids import DomainId, PoolId, new_id
from vdsm.storage.kinds import AttachedStatus, DomainRole, StorageType
from vdsm.storage.pool import pool_edits
from vdsm.storage.pool.pool_edits import Edit
from vdsm.storage.pool.pools import read_domain_map

POOL = PoolId("5bb00001-0000-4000-8000-000000000001")


def domain(**facts: object) -> DomainMetadata:
    made = DomainMetadata(DomainId(new_id()), StorageType.NFS, description="a", others={"STRANGE": "kept"})
    return replace(made, **facts)  # type: ignore[arg-type]


def described() -> PoolMetadata:
    return PoolMetadata(3, "a pool")


def carried_out(edits: list[Edit], domains: dict[DomainId, DomainMetadata]) -> dict[DomainId, DomainMetadata]:
    for edit in edits:
        domains = {**domains, edit.domain_id: pool_edits.applied(domains[edit.domain_id], edit)}
    return domains


def test_every_prefix_of_a_pools_making_can_be_taken_back() -> None:
    made = [domain() for _ in range(3)]
    before = {item.domain_id: item for item in made}
    edits = pool_edits.creating(made[0], made[1:], POOL, described(), 250)
    assert {edit.leased_as for edit in edits} == {250}
    for count in range(len(edits) + 1):
        now = carried_out(edits[:count], before)
        # One more may have been done than is known, and each may be taken back twice.
        for edit in [*reversed(edits[: count + 1]), *reversed(edits[:count])]:
            now = {**now, edit.domain_id: pool_edits.taken_back(now[edit.domain_id], edit)}
        assert now == before, count
    after = carried_out(edits, before)
    master = after[made[0].domain_id]
    assert (master.role, master.pools, master.others) == (DomainRole.MASTER, (POOL,), {"STRANGE": "kept"})
    assert master.pool is not None
    assert list(master.pool.domains.values()) == [AttachedStatus.ACTIVE, *[AttachedStatus.ATTACHED] * 2]
    assert carried_out(edits[-1:], after) == after


def test_edit_goes_through_a_journal() -> None:
    edit = pool_edits.attaching(domain(), POOL, 7)
    assert msgspec.json.decode(msgspec.json.encode(edit), type=Edit) == edit


def test_what_others_wrote_is_not_written_over() -> None:
    one, other = domain(), PoolId(new_id())
    edit = pool_edits.attaching(one, POOL, 7)
    taken = replace(one, pools=(other,))
    with pytest.raises(WrongState):
        pool_edits.applied(taken, edit)
    assert pool_edits.taken_back(taken, edit) == taken
    renamed = replace(pool_edits.applied(one, edit), description="renamed meanwhile")
    assert pool_edits.taken_back(renamed, edit) == replace(one, description="renamed meanwhile")


def test_master_that_is_let_go_forgets_the_pool() -> None:
    master = domain(role=DomainRole.MASTER, pools=(POOL,), pool=described())
    edit = pool_edits.detaching(master, POOL)
    gone = pool_edits.applied(master, edit)
    assert (gone.role, gone.pools, gone.pool) == (DomainRole.REGULAR, (), None)
    assert "MASTER_VERSION" not in gone.pairs()
    assert pool_edits.taken_back(gone, edit) == master


def test_iso_domain_keeps_its_other_pools() -> None:
    other = PoolId(new_id())
    iso = domain(pools=(other, POOL))
    assert pool_edits.applied(iso, pool_edits.detaching(iso, POOL)).pools == (other,)
    assert pool_edits.applied(iso, pool_edits.detaching(iso, None)).pools == ()
    assert pool_edits.with_pool(iso, POOL) == f"{other},{POOL}"


@given(st.text(max_size=50).filter(lambda text: "\0" not in text and "".join(text.splitlines()) == text))
def test_any_name_that_fits_comes_back(name: str) -> None:
    one = domain()
    described = PoolMetadata(1, name)
    try:
        edits = pool_edits.creating(one, [], POOL, described, 250)
        found = carried_out(edits, {one.domain_id: one})[one.domain_id]
        data = encode_domain(found)
    except InvalidParameter:
        return
    read = decode_domain(data, "it")
    assert read.pool is not None
    assert read.pool.description == name


def test_managers_list_is_read() -> None:
    one, two = new_id(), new_id()
    found = read_domain_map({one: "active", two: "Attached"})
    assert found == {one: AttachedStatus.ACTIVE, two: AttachedStatus.ATTACHED}
    for words in ({one: "odd"}, {"../..": "active"}):
        with pytest.raises(InvalidParameter):
            read_domain_map(words)
