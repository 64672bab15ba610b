"""The contract of storage back ends: on a directory, through a helper process, and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from needs import require
from storage_domains import NOW_S, Areas, file_domain, metadata
from vdsm.storage import plans
from vdsm.storage.backend import Area, Backend, Inventory
from vdsm.storage.chain import differences
from vdsm.storage.errors import (
    InvalidParameter,
    MetadataOverflow,
    NoSuchImage,
    NoSuchVolume,
    NotLeaf,
    SharedVolume,
    VolumeExists,
    VolumeHasChildren,
    WrongChain,
    WrongFormat,
)
from vdsm.storage.executor import carry_out
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef, new_id
from vdsm.storage.kinds import Allocation, DomainRole, Legality, StorageType, VolumeFormat, VolumeKind
from vdsm.storage.memory import MemoryBackend
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.plans import NewVolume
from vdsm.storage.steps import Backing, Change, NewData, Plan, ShareTemplate, apply, undoing

MIB = 1 << 20
RAW = NewData(VolumeFormat.RAW, Allocation.SPARSE, MIB)
QCOW2 = NewData(VolumeFormat.COW, Allocation.SPARSE, MIB)


class Mover:
    """Plans that move data are not carried out here."""

    def commit(self, top: VolumeRef, base: VolumeRef) -> None:
        raise AssertionError

    def rebase(self, volume: VolumeRef, backing: Backing) -> None:
        raise AssertionError


def in_memory(kind: StorageType) -> Callable[[Path], Backend]:
    return lambda _root: MemoryBackend(metadata(kind))


def on_files(kind: StorageType, version: int = 5) -> Callable[[Path], Backend]:
    def make(root: Path) -> Backend:
        require("program:qemu-img")
        return file_domain(LocalFiles(), root, metadata(kind, version), Areas() if kind.is_shared else None)

    return make


KINDS = {
    "memory": in_memory(StorageType.LOCALFS),
    "memory-shared": in_memory(StorageType.NFS),
    "files": on_files(StorageType.LOCALFS),
    "files-shared": on_files(StorageType.NFS),
    "files-v4": on_files(StorageType.POSIXFS, 4),
    "files-v3": on_files(StorageType.POSIXFS, 3),
}


@pytest.fixture(scope="module")
def helpers() -> Iterator[HelperPool]:
    pool = HelperPool()
    yield pool
    assert pool.stop(30)


@pytest.fixture(params=[*KINDS, "files-helper"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "files-helper":
        require("program:qemu-img")
        files = request.getfixturevalue("helpers").of(str(tmp_path))
        return file_domain(files, tmp_path, metadata(StorageType.GLUSTERFS), Areas())
    return KINDS[request.param](tmp_path)


def address(backend: Backend, image: str | None = None) -> VolumeRef:
    return VolumeRef(domain_of(backend), ImageId(image or new_id()), VolumeId(new_id()))


def domain_of(backend: Backend) -> DomainId:
    return backend.read_domain().domain_id


def do(backend: Backend, plan: Plan) -> None:
    for step in plan:
        carry_out(step, backend, Mover())
        carry_out(step, backend, Mover())  # nobody knows whether it was done before a crash


def create(backend: Backend, request: NewVolume) -> VolumeRef:
    images = backend.images()
    assert images.damaged == {}
    do(backend, plans.create(images.images, request))
    return request.volume


def first(backend: Backend, **facts: object) -> VolumeRef:
    return create(backend, replace(NewVolume(address(backend), MIB, NOW_S), **facts))  # type: ignore[arg-type]


def snapshot(backend: Backend, parent: VolumeRef) -> VolumeRef:
    return create(backend, NewVolume(address(backend, parent.image_id), MIB, NOW_S, parent=parent))


def clone(backend: Backend, parent: VolumeRef) -> VolumeRef:
    return create(backend, NewVolume(address(backend), MIB, NOW_S, parent=parent))


# The domain


def test_domain_s_metadata_is_replaced(backend: Backend) -> None:
    before = backend.read_domain()
    backend.write_domain(replace(before, role=DomainRole.MASTER, description="ü"))
    assert backend.read_domain() == replace(before, role=DomainRole.MASTER, description="ü")
    with pytest.raises(InvalidParameter):
        backend.write_domain(replace(before, domain_id=DomainId(new_id())))
    with pytest.raises(InvalidParameter):
        backend.write_domain(replace(before, description="two\nlines"))
    assert backend.read_domain().role is DomainRole.MASTER


def test_fresh_domain_is_empty_and_has_room(backend: Backend) -> None:
    assert backend.inventory() == Inventory()
    assert backend.images().images == {}
    space = backend.space()
    assert 0 < space.free <= space.total
    assert not space.read_only


def test_areas_are_read_and_written_in_place(backend: Backend) -> None:
    area = backend.area(Area.INBOX)
    assert area.size() == 16 * MIB
    assert area.read(4096, 512) == bytes(512)
    area.write(4096, b"x" * 4096)
    assert area.read(4096, 4608) == b"x" * 4096 + bytes(512)
    assert area.read(16 * MIB - 512, 4096) == bytes(512)
    area.grow(MIB)
    assert area.size() == 16 * MIB
    leases = backend.area(Area.LEASES)
    before = leases.size()
    leases.grow(before + MIB)
    assert leases.size() == before + MIB


# Volumes


def test_volume_is_nobody_s_until_it_is_published(backend: Backend) -> None:
    volume = address(backend)
    backend.make_data(volume, RAW)
    assert backend.inventory().half_made == (volume,)
    assert backend.images().images == {}
    for ask in (backend.volume, backend.volume_lease):
        with pytest.raises(NoSuchVolume):
            ask(volume)
    with pytest.raises(NoSuchImage):
        backend.image(volume.image_id)
    backend.make_data(volume, QCOW2)
    backend.make_data(volume, RAW)
    described = NewVolume(volume, MIB, NOW_S, VolumeFormat.RAW).metadata()
    backend.publish(volume, described)
    assert backend.volume(volume) == described
    assert backend.inventory() == Inventory(images={volume.image_id: (volume.volume_id,)})
    assert backend.data(volume).apparent == MIB
    with pytest.raises(VolumeExists):
        backend.make_data(volume, RAW)


def test_half_made_volume_is_deleted_with_its_image(backend: Backend) -> None:
    volume = address(backend)
    backend.make_data(volume, QCOW2)
    backend.delete(volume)
    assert backend.inventory() == Inventory()
    backend.delete(volume)


def test_preallocated_volume_takes_its_room(backend: Backend) -> None:
    full = first(backend, format=VolumeFormat.RAW, allocation=Allocation.PREALLOCATED)
    thin = first(backend, format=VolumeFormat.RAW)
    assert backend.data(full).allocated >= MIB
    assert backend.data(thin).allocated < MIB
    assert backend.data(thin).apparent == MIB
    cow = first(backend, allocation=Allocation.PREALLOCATED, capacity=4 * MIB)
    assert backend.data(cow).apparent >= 4 * MIB


def test_volume_grows_and_never_shrinks(backend: Backend) -> None:
    for allocation in (Allocation.SPARSE, Allocation.PREALLOCATED):
        volume = first(backend, format=VolumeFormat.RAW, allocation=allocation)
        backend.grow(volume, 3 * MIB)
        assert backend.data(volume).apparent == 3 * MIB
        assert (backend.data(volume).allocated >= 3 * MIB) is (allocation is Allocation.PREALLOCATED)
        backend.grow(volume, MIB)
        assert backend.data(volume).apparent == 3 * MIB


def test_what_is_not_there_is_said_to_be(backend: Backend) -> None:
    volume = address(backend)
    described = NewVolume(volume, MIB, NOW_S).metadata()
    for call in (
        lambda: backend.volume(volume),
        lambda: backend.data(volume),
        lambda: backend.rewrite(volume, described),
        lambda: backend.publish(volume, described),
        lambda: backend.grow(volume, MIB),
        lambda: backend.volume_lease(volume),
        lambda: backend.share(volume, ImageId(new_id())),
    ):
        with pytest.raises(NoSuchVolume):
            call()
    for call in (
        lambda: backend.image(volume.image_id),
        lambda: backend.prepare(volume.image_id),
        lambda: backend.remove_image(volume.image_id),
    ):
        with pytest.raises(NoSuchImage):
            call()
    backend.delete(volume)
    backend.purge_image(volume.image_id)
    backend.teardown(volume.image_id)
    assert backend.inventory() == Inventory()


def test_metadata_that_cannot_be_written_changes_nothing(backend: Backend) -> None:
    volume = first(backend)
    before = backend.volume(volume)
    with pytest.raises(MetadataOverflow):
        backend.rewrite(volume, replace(before, description="ü" * 210))
    with pytest.raises(InvalidParameter):
        backend.rewrite(volume, replace(before, description="a\nb"))
    assert backend.volume(volume) == before
    with pytest.raises(WrongFormat):
        backend.make_data(address(backend), replace(RAW, backing=Backing(volume.volume_id, VolumeFormat.RAW)))


def test_leases_are_where_the_domain_has_them(backend: Backend) -> None:
    volume = first(backend)
    shared = backend.read_domain().storage_type.is_shared
    lease = backend.volume_lease(volume)
    assert (lease is not None) is shared
    if lease is not None:
        assert (lease.lockspace, lease.resource, lease.offset) == (volume.domain_id, volume.volume_id, 0)


def test_prepared_volumes_are_side_by_side_under_their_ids(backend: Backend) -> None:
    template = first(backend)
    leaf = snapshot(backend, clone(backend, template))
    paths = backend.prepare(leaf.image_id)
    assert len(paths) == 3
    assert len({path.rpartition("/")[0] for path in paths.values()}) == 1
    assert {path.rpartition("/")[2] for path in paths.values()} == set(paths)
    assert template.volume_id in paths
    backend.teardown(leaf.image_id)


# Images


def test_chain_is_made_and_taken_apart(backend: Backend) -> None:
    base = first(backend, format=VolumeFormat.RAW)
    middle = snapshot(backend, base)
    leaf = snapshot(backend, middle)
    image = backend.image(base.image_id)
    assert image.chain() == (base.volume_id, middle.volume_id, leaf.volume_id)
    assert differences(image) == ()
    with pytest.raises(VolumeHasChildren):
        plans.delete(backend.images().images, middle)
    do(backend, plans.delete(backend.images().images, leaf))
    do(backend, plans.delete(backend.images().images, middle))
    assert backend.image(base.image_id).chain() == (base.volume_id,)
    assert backend.volume(base).kind is VolumeKind.LEAF
    do(backend, plans.delete(backend.images().images, base))
    assert backend.inventory() == Inventory()


def test_template_is_linked_and_stays_when_its_clones_go(backend: Backend) -> None:
    template = first(backend)
    one, other = clone(backend, template), clone(backend, template)
    image = backend.image(one.image_id)
    assert image.template() == template.volume_id
    assert image.shared[template.volume_id].kind is VolumeKind.SHARED
    assert backend.inventory().images[one.image_id] == tuple(sorted([one.volume_id, template.volume_id]))
    with pytest.raises(SharedVolume):
        plans.remove(backend.images().images, template.image)
    do(backend, plans.delete(backend.images().images, one))
    with pytest.raises(NoSuchImage):
        backend.image(one.image_id)
    assert backend.data(template).apparent > 0
    do(backend, plans.remove(backend.images().images, other.image))
    do(backend, plans.remove(backend.images().images, template.image))
    assert backend.inventory() == Inventory()


def test_removed_image_is_no_image_and_its_id_can_be_used_again(backend: Backend) -> None:
    volume = first(backend)
    backend.remove_image(volume.image_id)
    assert backend.inventory() == Inventory(removed=(volume.image_id,))
    assert backend.images().images == {}
    with pytest.raises(NoSuchVolume):
        backend.volume(volume)
    again = create(backend, NewVolume(address(backend, volume.image_id), MIB, NOW_S))
    assert backend.inventory().images == {volume.image_id: (again.volume_id,)}
    backend.remove_image(volume.image_id)
    backend.purge_image(volume.image_id)
    assert backend.inventory() == Inventory()


def test_change_keeps_what_it_does_not_name(backend: Backend) -> None:
    volume = first(backend, description="kept", sequence=7)
    do(backend, (Change(volume, legality=Legality.ILLEGAL, generation=5),))
    found = backend.volume(volume)
    assert (found.legality, found.generation, found.description) == (Legality.ILLEGAL, 5, "kept")
    with pytest.raises(NoSuchVolume):
        do(backend, (Change(address(backend)),))


def test_share_again_changes_nothing(backend: Backend) -> None:
    template = first(backend)
    mine = clone(backend, template)
    before = backend.images()
    do(backend, (ShareTemplate(template, mine.image),))
    assert backend.images() == before


def test_share_is_taken_back_whole_or_cut_off(backend: Backend) -> None:
    template = first(backend)
    do(backend, (Change(template, kind=VolumeKind.SHARED),))
    image = ImageId(new_id())
    share = ShareTemplate(template, ImageRef(template.domain_id, image))
    before = backend.images()
    do(backend, (share,))
    assert backend.image(image).shared
    back = undoing(before.images, share)
    assert back is not None
    do(backend, (back,))
    assert backend.images() == before
    assert backend.data(template).apparent > 0
    own = first(backend)
    with pytest.raises(WrongChain):
        backend.unshare(VolumeRef(own.domain_id, image, own.volume_id), own.image_id)
    assert backend.volume(own).parent is None


def test_creations_are_taken_back_after_each_step(backend: Backend) -> None:
    base = first(backend)
    template = first(backend)
    for request in (
        NewVolume(address(backend), MIB, NOW_S),
        NewVolume(address(backend, base.image_id), MIB, NOW_S, parent=base),
        NewVolume(address(backend), MIB, NOW_S, parent=template),
    ):
        before = backend.images().images
        plan = plans.create(before, request)
        for cut in range(len(plan) + 1):
            back, model = [], before
            for number, step in enumerate(plan[: cut + 1]):
                back.append(undoing(model, step))
                if number < cut:
                    do(backend, (step,))
                    model = apply(model, step)
            do(backend, tuple(step for step in reversed(back) if step is not None))
            assert backend.images().images == before
            assert backend.inventory().half_made == ()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["create", "create", "clone", "delete", "remove"]), st.integers(0, 9)), max_size=12
    )
)
@pytest.mark.parametrize("kind", ["memory-shared", "files-shared"])
def test_any_history_leaves_what_the_model_says(
    kind: str, steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    backend = KINDS[kind](tmp_path_factory.mktemp("history"))
    for what, pick in steps:
        images = backend.images().images
        try:
            plan = history(backend, what, pick)
        except (WrongChain, VolumeHasChildren, SharedVolume, NotLeaf):
            assert backend.images().images == images
            continue
        model = images
        for step in plan:
            model = apply(model, step)
        do(backend, plan)
        found = backend.images()
        assert found.damaged == {}
        assert found.images == model
        assert [differences(image) for image in model.values()] == [()] * len(model)
        inventory = backend.inventory()
        assert (inventory.half_made, inventory.removed, inventory.strays) == ((), (), ())


def history(backend: Backend, what: str, pick: int) -> Plan:
    images = backend.images().images
    refs = sorted(images)
    if not refs or (what == "create" and pick < 3):
        return plans.create(images, NewVolume(address(backend), MIB, NOW_S))
    ref: ImageRef = refs[pick % len(refs)]
    chain = images[ref].chain()
    volume = VolumeRef(ref.domain_id, ref.image_id, chain[pick % len(chain)])
    match what:
        case "create":
            return plans.create(images, NewVolume(address(backend, ref.image_id), MIB, NOW_S, parent=volume))
        case "clone":
            return plans.create(images, NewVolume(address(backend), MIB, NOW_S, parent=volume))
        case "delete":
            return plans.delete(images, volume)
        case _:
            return plans.remove(images, ref)


# By names alone


def test_names_tell_where_volumes_are(backend: Backend) -> None:
    template = first(backend)
    child = clone(backend, template)
    other = first(backend)
    assert backend.image_ids() == tuple(sorted([template.image_id, child.image_id, other.image_id]))
    assert backend.volume_ids(child.image_id) == tuple(sorted([template.volume_id, child.volume_id]))
    assert backend.volume_ids(ImageId(new_id())) == ()
    assert backend.homes(template.volume_id) == tuple(sorted([template.image_id, child.image_id]))
    assert backend.homes(VolumeId(new_id())) == ()
    half = address(backend)
    backend.make_data(half, RAW)
    assert backend.homes(half.volume_id) == ()
    assert backend.volume_ids(half.image_id) == ()


def test_sizes_are_those_of_each_container(backend: Backend) -> None:
    template = first(backend)
    child = clone(backend, template)
    full = first(backend, format=VolumeFormat.RAW, allocation=Allocation.PREALLOCATED)
    linked = VolumeRef(child.domain_id, child.image_id, template.volume_id)
    assert backend.sizes() == {ref: backend.data(ref) for ref in (template, child, full, linked)}


def test_nothing_to_tidy_is_no_harm(backend: Backend) -> None:
    volume = first(backend)
    before = backend.volume(volume)
    backend.tidy(volume)
    assert backend.volume(volume) == before
