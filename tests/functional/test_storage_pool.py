"""A pool's life on local domains with their real lock: made, joined, managed, dissolved; every refusal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from domain_parts import Place, bound, eventually
from needs import require
from pool_worlds import POOL, Host, places
from storage_domains import NOW_S
from vdsm.base.errors import VdsmError
from vdsm.storage.errors import NoSuchDomain, UnsupportedVersion
from vdsm.storage.executor import carry_out
from vdsm.storage.formats.domain import LeaseParameters
from vdsm.storage.ids import DomainId, ImageId, PoolId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.mover import QemuImages
from vdsm.storage.kinds import AttachedStatus, DomainClass, DomainRole, StorageType, VolumeFormat
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits
from vdsm.storage.plans import NewVolume, create
from vdsm.storage.pool.pool_errors import (
    AlreadyAttached,
    CannotBeMaster,
    DomainActive,
    IsSpm,
    MasterNotDetached,
    MixedVersions,
    NoMaster,
    NoSuchPool,
    NoSuchTask,
    NotInPool,
    NotSpm,
    OtherCanBeMaster,
    OtherPool,
    PoolConnected,
    PoolExists,
    PoolInUse,
    SpmNotStarted,
    WrongMaster,
)
from vdsm.storage.pool.spm import SpmRole

ACTIVE, ATTACHED = AttachedStatus.ACTIVE, AttachedStatus.ATTACHED


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, places(tmp_path, 3))
    yield made
    made.end()


@pytest.fixture
def ids(host: Host) -> list[DomainId]:
    return [host.new_domain(place) for place in host.places]


def links(host: Host) -> dict[str, str]:
    folder = Path(host.repository.pool_dir(POOL))
    return {path.name: str(path.readlink()) for path in folder.iterdir()} if folder.exists() else {}


def joined(host: Host, ids: list[DomainId], *states: AttachedStatus) -> None:
    """A pool of these domains, connected as the Engine does."""
    host.pools.create(POOL, "a pool", ids[0], 1, ids[: len(states)])
    host.pools.connect(POOL, 1, ids[0], 1, dict(zip(ids, states, strict=False)))


def managed(host: Host, ids: list[DomainId], *states: AttachedStatus) -> None:
    joined(host, ids, *states)
    assert host.become_spm().result == "success"


def test_pool_is_made_as_the_original_makes_it(host: Host, ids: list[DomainId]) -> None:
    before = host.metadata(ids[0]).pairs()
    host.pools.create(POOL, "a pool", ids[0], 1, ids[:2])
    master = host.metadata(ids[0])
    changed = {key: value for key, value in master.pairs().items() if before.get(key) != value}
    assert changed == {
        "LOCKPOLICY": "ON",
        "MASTER_VERSION": "1",
        "POOL_DESCRIPTION": "a pool",
        "POOL_DOMAINS": f"{ids[0]}:Active,{ids[1]}:Attached",
        "POOL_SPM_ID": "-1",
        "POOL_SPM_LVER": "-1",
        "POOL_UUID": POOL,
        "ROLE": "Master",
    }
    other = host.metadata(ids[1])
    assert (other.pools, other.role, other.pool) == ((POOL,), DomainRole.REGULAR, None)
    assert host.metadata(ids[2]).pools == ()
    assert not host.domains.find(ids[0]).lock.holds(host.domains.find(ids[0]).lock.sdm)
    assert host.pools._maker.operations.views() == []


def test_pool_with_the_engines_numbers(host: Host, ids: list[DomainId]) -> None:
    host.pools.create(POOL, "", ids[0], 7, (), LeaseParameters("", 5, 60, 10, 3))
    master = host.metadata(ids[0])
    assert (master.leases.policy, master.pool and master.pool.master_version) == ("", 7)


def test_what_cannot_be_a_pool(host: Host, ids: list[DomainId], tmp_path: Path) -> None:
    host.pools.create(POOL, "a pool", ids[0], 1)
    other = PoolId(new_id())
    untouched = host.metadata(ids[1])
    with pytest.raises(AlreadyAttached):
        host.pools.create(other, "", ids[1], 1, [ids[0]])
    with pytest.raises(NoSuchDomain):
        host.pools.create(other, "", ids[1], 1, [DomainId(new_id())])
    host.places += places(tmp_path, 5)[3:]
    old = host.new_domain(host.places[3], version=4)
    with pytest.raises(MixedVersions):
        host.pools.create(other, "", ids[1], 1, [old])
    iso = host.new_domain(host.places[4], domain_class=DomainClass.ISO)
    with pytest.raises(CannotBeMaster):
        host.pools.create(other, "", iso, 1)
    assert host.metadata(ids[1]) == untouched


def test_domain_whose_lease_is_taken_stays_as_it_was(host: Host, ids: list[DomainId], tmp_path: Path) -> None:
    stranger = Host(tmp_path, host.places, number=2)
    taken = stranger.domains.find(ids[1])
    taken.lock.join(9, wait_s=1)
    taken.lock.acquire(taken.lock.sdm, 9)
    before = [host.metadata(ident) for ident in ids]
    with pytest.raises(Exception, match="held by") as caught:
        host.pools.create(POOL, "a pool", ids[0], 1, ids)
    assert (caught.value.code, caught.value.name) == (651, "lease_held")  # type: ignore[attr-defined]
    assert [host.metadata(ident) for ident in ids] == before
    taken.lock.release(taken.lock.sdm)
    host.pools.create(POOL, "a pool", ids[0], 1, ids)
    stranger.end()


def test_host_joins_and_leaves(host: Host, ids: list[DomainId]) -> None:
    joined(host, ids, ACTIVE, ACTIVE, ATTACHED)
    paths = {ident: host.domains.find(ident).path for ident in ids}
    assert links(host) == {ids[0]: paths[ids[0]], ids[1]: paths[ids[1]], "mastersd": paths[ids[0]]}
    assert host.monitors.watched() == sorted(ids[:2])
    host.pools.connect(POOL, 1, ids[0], 1, {ids[0]: ACTIVE, ids[1]: ATTACHED})
    assert set(links(host)) == {ids[0], "mastersd"}
    assert host.monitors.watched() == [ids[0]]
    assert host.pools.current() == POOL
    host.pools.disconnect(POOL)
    host.pools.disconnect(POOL)
    assert (links(host), host.pools.current(), host.monitors.watched()) == ({}, None, [])
    with pytest.raises(NoSuchPool):
        host.pools.info(POOL)
    with pytest.raises(NoSuchPool):
        host.pools.spm_status(POOL)


def test_wrong_ways_in(host: Host, ids: list[DomainId]) -> None:
    host.pools.create(POOL, "a pool", ids[0], 3, ids[:2])
    with pytest.raises(NoMaster) as none:
        host.pools.connect(POOL, 1, DomainId(new_id()), 3, {})
    with pytest.raises(WrongMaster, match="Regular"):
        host.pools.connect(POOL, 1, ids[1], 3, {})
    with pytest.raises(WrongMaster, match="does not belong"):
        host.pools.connect(POOL, 1, ids[2], 3, {})
    with pytest.raises(WrongMaster, match="version is 3, not 2") as wrong:
        host.pools.connect(POOL, 1, ids[0], 2)
    assert (none.value.code, wrong.value.code) == (304, 324)
    assert host.pools.current() is None
    host.pools.connect(POOL, 1, ids[0], 3)
    with pytest.raises(WrongMaster):
        host.pools.connect(POOL, 1, ids[0], 2, {})
    with pytest.raises(PoolConnected):
        host.pools.connect(POOL, 2, ids[0], 3)
    other = PoolId(new_id())
    with pytest.raises(OtherPool) as elsewhere:
        host.pools.connect(other, 1, ids[0], 3)
    assert elsewhere.value.code == 323
    with pytest.raises(OtherPool):
        host.pools.create(other, "", ids[2], 1)
    with pytest.raises(PoolExists):
        host.pools.create(POOL, "", ids[2], 1)
    with pytest.raises(PoolInUse):
        host.pools.reconstruct_master(POOL, 1, "", ids[1], 4, {})


def test_info_says_what_the_engine_asks_for(host: Host, ids: list[DomainId]) -> None:
    joined(host, ids, ACTIVE, ACTIVE, ATTACHED)
    eventually(lambda: [item.actual for item in host.monitors.reports().values()] == [True, True])
    found = host.pools.info(POOL)
    assert (found.name, found.master_id, found.master_version, found.version) == ("No Description", ids[0], 1, 5)
    assert (found.lver, found.spm_id, found.type.value, found.iso_prefix) == (-1, -1, "LOCALFS", "")
    states = {ident: (item.status, item.version, item.space is not None) for ident, item in found.domains.items()}
    assert states == {ids[0]: (ACTIVE, 5, True), ids[1]: (ACTIVE, 5, True), ids[2]: (ATTACHED, -1, False)}


def test_iso_domain_has_a_prefix(host: Host, ids: list[DomainId], tmp_path: Path) -> None:
    managed(host, ids, ACTIVE)
    place = places(tmp_path, 4)[3]
    host.places.append(place)
    iso = host.new_domain(place, domain_class=DomainClass.ISO)
    host.pools.attach(iso, POOL)
    host.pools.activate(iso, POOL)
    end = "images/11111111-1111-1111-1111-111111111111"
    assert host.pools.info(POOL).iso_prefix == f"{host.repository.pool_dir(POOL)}/{iso}/{end}"
    host.pools.deactivate(iso, POOL)
    host.pools.detach(iso, POOL)
    assert host.metadata(iso).pools == ()


def test_spm_starts_and_stops(host: Host, ids: list[DomainId]) -> None:
    joined(host, ids, ACTIVE)
    with pytest.raises(NotSpm) as refused:
        host.tasks.statuses()
    assert refused.value.code == 654
    assert host.pools.spm_status(POOL).status is SpmRole.FREE
    task = host.pools.spm_start(POOL)
    status = host.ended(task)
    assert (status.state, status.result, status.code) == ("finished", "success", 0)
    assert status.message == "1 jobs completed successfully"
    assert host.tasks.info(task).verb == "spmStart"
    assert host.tasks.statuses() == []
    host.tasks.clear(task)
    with pytest.raises(NoSuchTask) as unknown:
        host.tasks.status(task)
    assert unknown.value.code == 401
    found = host.pools.spm_status(POOL)
    assert (found.status, found.lver, found.host_id) == (SpmRole.SPM, -1, 1)
    master = Path(host.domains.find(ids[0]).master_path)
    assert sorted(path.name for path in master.iterdir()) == ["operations", "tasks", "vms"]
    with pytest.raises(IsSpm) as twice:
        host.pools.spm_start(POOL)
    assert twice.value.code == 656
    with pytest.raises(IsSpm):
        host.pools.disconnect(POOL)
    host.pools.spm_stop(POOL)
    host.pools.spm_stop(POOL)
    assert host.pools.spm_status(POOL).status is SpmRole.FREE
    with pytest.raises(NotSpm):
        host.pools.spm(POOL)
    assert host.become_spm().result == "success"


def test_second_process_does_not_become_spm(host: Host, ids: list[DomainId], tmp_path: Path) -> None:
    managed(host, ids, ACTIVE)
    other = Host(tmp_path, host.places, number=2)
    other.pools.connect(POOL, 2, ids[0], 1, {ids[0]: ACTIVE})
    assert other.pools.spm_status(POOL).host_id == 0
    status = other.become_spm()
    assert (status.state, status.result, status.code) == ("finished", "cleanSuccess", 651)
    assert other.pools.spm_status(POOL).status is SpmRole.FREE
    host.pools.spm_stop(POOL)
    assert other.become_spm().result == "success"
    other.end()


def test_domains_come_and_go(host: Host, ids: list[DomainId]) -> None:
    managed(host, ids, ACTIVE)
    with pytest.raises(NotInPool):
        host.pools.activate(ids[1], POOL)
    host.pools.attach(ids[1], POOL)
    assert host.metadata(ids[1]).pools == (POOL,)
    assert host.pools.info(POOL).domains[ids[1]].status is ATTACHED
    with pytest.raises(AlreadyAttached) as twice:
        host.pools.attach(ids[1], POOL)
    assert twice.value.code == 380
    host.pools.activate(ids[1], POOL)
    host.pools.activate(ids[1], POOL)
    assert set(links(host)) == {ids[0], ids[1], "mastersd"}
    assert host.monitors.watched() == sorted(ids[:2])
    with pytest.raises(DomainActive):
        host.pools.detach(ids[1], POOL)
    with pytest.raises(MasterNotDetached):
        host.pools.detach(ids[0], POOL)
    with pytest.raises(OtherCanBeMaster):
        host.pools.deactivate(ids[0], POOL)
    host.pools.deactivate(ids[1], POOL)
    host.pools.deactivate(ids[1], POOL)
    assert set(links(host)) == {ids[0], "mastersd"}
    host.pools.detach(ids[1], POOL)
    assert host.metadata(ids[1]).pools == ()
    with pytest.raises(NotInPool):
        host.pools.detach(ids[1], POOL)
    host.pools.deactivate(ids[0], POOL)
    assert host.pools.info(POOL).domains[ids[0]].status is ATTACHED
    assert host.tasks.statuses() == []
    master = Path(host.domains.find(ids[0]).master_path)
    assert list((master / "operations").iterdir()) == []


def test_only_the_spm_changes_the_pool(host: Host, ids: list[DomainId]) -> None:
    joined(host, ids, ACTIVE, ATTACHED)
    before = [host.metadata(ident) for ident in ids]
    for refused in (
        lambda: host.pools.attach(ids[2], POOL),
        lambda: host.pools.detach(ids[1], POOL),
        lambda: host.pools.activate(ids[1], POOL),
        lambda: host.pools.deactivate(ids[0], POOL),
        lambda: host.pools.switch_master(POOL, ids[0], ids[1], 2),
        lambda: host.pools.destroy(POOL),
    ):
        with pytest.raises(NotSpm):
            refused()
    assert [host.metadata(ident) for ident in ids] == before


def test_list_kept_on_disk(host: Host, ids: list[DomainId]) -> None:
    host.pools.create(POOL, "kept", ids[0], 1)
    host.pools.connect(POOL, 1, ids[0], 1)
    assert host.pools.info(POOL).name == "kept"
    host.become_spm()
    host.pools.attach(ids[1], POOL)
    host.pools.activate(ids[1], POOL)
    master = host.metadata(ids[0]).pool
    assert master is not None
    assert master.domains == {ids[0]: ACTIVE, ids[1]: ACTIVE}
    host.pools.set_description(POOL, "renamed")
    assert host.pools.info(POOL).name == "renamed"
    host.ended(host.pools.switch_master(POOL, ids[0], ids[1], 2))
    moved = host.metadata(ids[1]).pool
    assert moved is not None
    assert (moved.master_version, moved.domains) == (2, master.domains)
    old = host.metadata(ids[0])
    assert (old.role, old.pool and old.pool.master_version) == (DomainRole.REGULAR, 0)
    host.pools.deactivate(ids[0], POOL)
    host.pools.detach(ids[0], POOL)
    host.pools.spm_stop(POOL)
    host.pools.disconnect(POOL)
    host.pools.connect(POOL, 1, ids[1], 2)
    assert set(host.pools.info(POOL).domains) == {ids[1]}


def test_pool_is_dissolved(host: Host, ids: list[DomainId]) -> None:
    before = [host.metadata(ident) for ident in ids]
    managed(host, ids, ACTIVE, ACTIVE, ATTACHED)
    host.pools.destroy(POOL)
    after = [host.metadata(ident) for ident in ids]
    assert [item.pairs() | {"LOCKPOLICY": ""} for item in after] == [item.pairs() for item in before]
    assert (host.pools.current(), links(host)) == (None, {})
    managed(host, ids, ACTIVE, ATTACHED)


def test_master_moves(host: Host, ids: list[DomainId]) -> None:
    managed(host, ids, ACTIVE, ACTIVE)
    old, new = (host.domains.find(ident) for ident in ids[:2])
    (Path(old.master_path) / "vms" / "a").mkdir()
    (Path(old.master_path) / "vms" / "a" / "a.ovf").write_text("a VM")
    with pytest.raises(WrongMaster):
        host.pools.switch_master(POOL, ids[1], ids[0], 2)
    with pytest.raises(WrongMaster):
        host.pools.switch_master(POOL, ids[0], ids[1], 1)
    with pytest.raises(NotInPool):
        host.pools.switch_master(POOL, ids[0], ids[2], 2)
    task = host.pools.switch_master(POOL, ids[0], ids[1], 2)
    assert (host.ended(task).result, host.tasks.info(task).verb) == ("success", "switchMaster")
    assert [status.id for status in host.tasks.statuses()] == [task]
    host.tasks.clear(task)
    assert [host.metadata(ident).role for ident in ids[:2]] == [DomainRole.REGULAR, DomainRole.MASTER]
    assert links(host)["mastersd"] == new.path
    assert (new.lock.holds(new.lock.sdm), old.lock.holds(old.lock.sdm)) == (True, False)
    assert (Path(new.master_path) / "vms" / "a" / "a.ovf").read_text() == "a VM"
    assert [path for part in Path(old.master_path).iterdir() for path in part.iterdir()] == []
    found = host.pools.info(POOL)
    assert (found.master_id, found.master_version) == (ids[1], 2)
    host.pools.deactivate(ids[0], POOL)
    host.pools.detach(ids[0], POOL)
    host.pools.spm_stop(POOL)
    host.pools.disconnect(POOL)
    host.pools.connect(POOL, 1, ids[1], 2, {ids[1]: ACTIVE})
    assert host.become_spm().result == "success"


def test_master_is_deactivated_by_naming_another(host: Host, ids: list[DomainId]) -> None:
    managed(host, ids, ACTIVE, ACTIVE)
    host.pools.deactivate(ids[0], POOL, ids[1], 2)
    found = host.pools.info(POOL)
    assert (found.master_id, found.domains[ids[0]].status) == (ids[1], ATTACHED)
    assert host.tasks.statuses() == []


def test_lost_master_is_replaced(host: Host, ids: list[DomainId]) -> None:
    joined(host, ids, ACTIVE, ACTIVE, ATTACHED)
    host.pools.disconnect(POOL)
    lost = host.places.pop(0)
    host.domains.forget_mount(lost.path)
    with pytest.raises(NoMaster):
        host.pools.connect(POOL, 1, ids[0], 1, {})
    listed = {ids[0]: ATTACHED, ids[1]: ACTIVE, ids[2]: ATTACHED}
    host.pools.reconstruct_master(POOL, 1, "again", ids[1], 2, listed)
    new = host.metadata(ids[1])
    assert (new.role, new.pools, new.pool and new.pool.domains) == (DomainRole.MASTER, (POOL,), listed)
    host.pools.connect(POOL, 1, ids[1], 2, listed)
    host.become_spm()
    # The old one comes back, and says that it is the master.
    host.places.append(lost)
    assert host.metadata(ids[0]).role is DomainRole.MASTER
    with pytest.raises(WrongMaster, match="is the SPM on"):
        host.pools.connect(POOL, 1, ids[0], 2, listed)
    host.pools.activate(ids[0], POOL)
    assert host.metadata(ids[0]).role is DomainRole.REGULAR


def test_second_master_is_set_right_when_it_is_seen(host: Host, ids: list[DomainId]) -> None:
    managed(host, ids, ACTIVE, ACTIVE)
    backend = host.domains.find(ids[1]).backend
    two = backend.read_domain()
    backend.write_domain(replace(two, role=DomainRole.MASTER))
    host.pools.domain_changed(ids[1])
    assert host.metadata(ids[1]).role is DomainRole.REGULAR
    assert host.metadata(ids[0]).role is DomainRole.MASTER


def test_foreign_domain_is_cleaned(host: Host, ids: list[DomainId]) -> None:
    host.pools.create(POOL, "elsewhere", ids[0], 1, ids[:2])
    host.pools.force_detach(ids[1], POOL)
    host.pools.force_detach(ids[0], None)
    for ident in ids[:2]:
        found = host.metadata(ident)
        assert (found.pools, found.role, found.pool) == ((), DomainRole.REGULAR, None)


def test_domain_that_is_gone_is_forgotten(host: Host, ids: list[DomainId]) -> None:
    managed(host, ids, ACTIVE, ACTIVE)
    gone = host.places.pop(1)
    host.domains.forget_mount(gone.path)
    host.pools.deactivate(ids[1], POOL)
    with pytest.raises(NoSuchDomain):
        host.pools.detach(ids[1], POOL)
    host.pools.force_detach(ids[1], POOL)
    assert set(host.pools.info(POOL).domains) == {ids[0]}
    with pytest.raises(MasterNotDetached):
        host.pools.force_detach(ids[0], POOL)


def test_old_pool_gets_todays_format(tmp_path: Path) -> None:
    host = Host(tmp_path, places(tmp_path, 3))
    ids = [host.new_domain(place, version=4) for place in host.places]
    volume = VolumeRef(ids[0], ImageId(new_id()), VolumeId(new_id()))
    backend = host.domains.find(ids[0]).backend
    wanted = NewVolume(volume, 1 << 20, NOW_S, format=VolumeFormat.RAW)
    for step in create({}, wanted):
        carry_out(step, backend, QemuImages(host.domains.find))
    before = backend.volume(volume)
    meta = Path(host.domains.find(ids[0]).path) / "images" / volume.image_id / f"{volume.volume_id}.meta"
    assert "SIZE=" in meta.read_text()
    host.pools.create(POOL, "old", ids[0], 1, ids)
    host.pools.connect(POOL, 1, ids[0], 1, {ids[0]: ACTIVE, ids[1]: ACTIVE, ids[2]: ATTACHED})
    with pytest.raises(SpmNotStarted):
        host.pools.spm_start(POOL, 3)
    task = host.pools.spm_start(POOL, 5)
    assert host.ended(task).result == "success"
    assert [host.metadata(ident).version for ident in ids] == [5, 5, 4]
    pairs = host.metadata(ids[0]).pairs()
    assert (pairs["ALIGNMENT"], pairs["BLOCK_SIZE"], pairs["ROLE"]) == ("1048576", "512", "Master")
    assert "CAP=1048576" in meta.read_text()
    assert host.domains.find(ids[0]).backend.volume(volume) == before
    assert host.pools.info(POOL).version == 5
    host.pools.activate(ids[2], POOL)
    assert host.metadata(ids[2]).version == 5
    host.pools.upgrade(POOL, 5)
    with pytest.raises(UnsupportedVersion):
        host.pools.upgrade(POOL, 4)
    assert host.tasks.statuses() == []
    host.end()


@pytest.mark.timeout(180)
def test_silent_domain_keeps_back_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("root", "fuse", "program:bindfs")
    place, real = Place(str(tmp_path / "seen"), StorageType.LOCALFS, "seen"), tmp_path / "real"
    doors = HelperPool(HelperLimits(timeout_s=2.0))
    host = Host(tmp_path, places(tmp_path, 2), doors=doors, timeout_s=2.0)
    with bound(real, tmp_path / "seen") as mount:
        host.places.append(place)
        ids = [host.new_domain(item) for item in host.places]
        managed(host, ids, ACTIVE, ATTACHED, ACTIVE)
        mount.freeze()
        eventually(lambda: not host.monitors.reports()[ids[2]].valid)
        with monkeypatch.context() as patch:
            # What is only asked for touches no domain, whether it answers or not.
            patch.setattr(host.pools, "_domains", None)
            found = host.pools.info(POOL)
            assert host.pools.spm_status(POOL).status is SpmRole.SPM
            assert host.tasks.statuses() == []
        assert [found.domains[ident].valid for ident in ids] == [True, True, False]
        host.pools.activate(ids[1], POOL)
        host.domains.forget(ids[2])
        host.pools.refresh(POOL)
        assert set(links(host)) == {ids[0], ids[1], "mastersd"}
        with pytest.raises(VdsmError):
            host.pools.detach(ids[2], POOL)
        mount.thaw()
        eventually(lambda: host.monitors.reports()[ids[2]].valid)
        host.pools.domain_changed(ids[2])
        assert set(links(host)) == {*ids, "mastersd"}
        host.end()
        doors.stop(10.0)
