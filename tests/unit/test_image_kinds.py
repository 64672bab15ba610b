"""Operations on images in memory: what they refuse, what they undo, what they lock."""

from __future__ import annotations

import threading

import pytest

from image_memory import MIB, MemoryWorld, chain, create, new, run
from vdsm.base.errors import Failed
from vdsm.operations.journal import MemoryJournal
from vdsm.operations.locks import Mode, Resource
from vdsm.operations.records import Fault, Phase, TaskResult, TaskState, task_words
from vdsm.storage.errors import NoSpace, NoSuchImage, SharedVolume, WrongChain
from vdsm.storage.ids import ImageId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.image_kinds import DeleteImage
from vdsm.storage.images.images import ImageChanges
from vdsm.storage.images.merge_kinds import Subchain
from vdsm.storage.images.volume_kinds import DeleteVolumes, ExtendVolume
from vdsm.storage.kinds import Allocation, Legality, VolumeFormat, VolumeKind


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


def test_kinds_have_the_original_s_words(world: MemoryWorld) -> None:
    assert [kind.name for kind in world.kinds] == [
        *("createVolume", "deleteVolume", "deleteImage", "extendImageSize"),
        *("updateVolumeSize", "prepareMerge", "finalizeMerge"),
    ]


def test_volume_is_as_it_was_asked_for(world: MemoryWorld) -> None:
    ref = create(
        world,
        world.ref(1, 1),
        capacity=MIB - 1,
        format=VolumeFormat.RAW,
        allocation=Allocation.PREALLOCATED,
        description="x" * 300,
        disk_type="OVFS",
        sequence=7,
        legal=False,
    )
    made = world.backend.volume(ref)
    assert (made.capacity, made.format, made.allocation) == (MIB, VolumeFormat.RAW, Allocation.PREALLOCATED)
    assert (made.description, made.disk_type, made.sequence) == ("x" * 210, "OVFS", 7)
    assert (made.legality, made.kind, made.parent) == (Legality.ILLEGAL, VolumeKind.LEAF, None)
    assert made.created_s > 1_700_000_000


def test_refusal_of_a_volume_is_a_task_that_was_cleaned(world: MemoryWorld) -> None:
    """As an Engine sees it."""
    ref = create(world, world.ref(1, 1))
    view = run(world, world.kinds.create_volume, new(ref))
    assert task_words(view) == (TaskState.FINISHED, TaskResult.CLEAN_SUCCESS)
    assert view.fault == Fault("volume_exists", 212, f"volume {ref.volume_id} already exists")


def test_what_cannot_be_written_is_refused_before_anything_is_made(world: MemoryWorld) -> None:
    view = run(world, world.kinds.create_volume, new(world.ref(1, 1), description="ü" * 210))
    assert view.fault is not None
    assert view.fault.code == 756
    assert world.backend.inventory().half_made == ()


def test_unknown_domain_is_named(world: MemoryWorld) -> None:
    other = VolumeRef(MemoryWorld().domain.id, ImageId(new_id()), VolumeId(new_id()))
    view = run(world, world.kinds.create_volume, new(other))
    assert view.fault is not None
    assert view.fault.code == 358


def test_full_domain_leaves_parent_and_template_as_they_were() -> None:
    world = MemoryWorld(total=3 * 196_616)
    leaf, template = create(world, world.ref(1, 1)), create(world, world.ref(2, 1))
    before = world.backend.images()
    for parent, ref in ((leaf, world.ref(1, 2)), (template, world.ref(3, 1))):
        facts = {"capacity": 2 * MIB, "allocation": Allocation.PREALLOCATED}
        view = run(world, world.kinds.create_volume, new(ref, parent, **facts))
        assert (view.phase, view.fault and view.fault.code) == (Phase.UNDONE, NoSpace.code)
        assert world.backend.images() == before


def test_of_two_at_once_with_one_id_one_is_refused(world: MemoryWorld) -> None:
    operations = world.operations()
    same = VolumeId(new_id())
    refs = [VolumeRef(world.domain.id, ImageId(new_id()), same) for _ in range(6)]
    ready = threading.Barrier(6)
    ids: list[str] = []

    def submit(ref: VolumeRef) -> None:
        ready.wait(30)
        ids.append(operations.submit(world.kinds.create_volume, new(ref)).id)

    threads = [threading.Thread(target=submit, args=(ref,)) for ref in refs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    views = [operations.wait(ident, 30) for ident in ids]
    assert sorted(str(view.phase) for view in views) == ["done", *["undone"] * 5]
    assert {view.fault.code for view in views if view.fault} == {212}
    assert len(world.backend.homes(same)) == 1
    assert operations.stop(30)


def test_clones_of_one_template_wait_for_one_another_but_not_for_its_readers(world: MemoryWorld) -> None:
    template = world.ref(2, 1)
    wants = dict(world.kinds.create_volume.wants(new(world.ref(1, 1), template)))
    image = Resource("image", f"{template.domain_id}/{template.image_id}")
    assert wants[image] is Mode.SHARED
    assert wants[Resource("template", f"{template.domain_id}/{template.image_id}")] is Mode.EXCLUSIVE


def test_several_volumes_are_deleted_in_the_order_given(world: MemoryWorld) -> None:
    base, middle, leaf = chain(world, 3)
    ids = {"domain_id": base.domain_id, "image_id": base.image_id}
    wrong = run(world, world.kinds.delete_volumes, DeleteVolumes(**ids, volume_ids=[middle.volume_id, leaf.volume_id]))
    assert wrong.fault is not None
    assert wrong.fault.code == 204
    right = run(world, world.kinds.delete_volumes, DeleteVolumes(**ids, volume_ids=[leaf.volume_id, middle.volume_id]))
    assert right.phase is Phase.DONE
    image = world.backend.image(base.image_id)
    assert {ident: volume.kind for ident, volume in image.volumes.items()} == {base.volume_id: VolumeKind.LEAF}


def test_template_is_deleted_when_nothing_stands_on_it_any_more(world: MemoryWorld) -> None:
    template, clone = create(world, world.ref(1, 1)), world.ref(2, 1)
    create(world, clone, template)
    given = DeleteImage(domain_id=template.domain_id, image_id=template.image_id)
    refused = run(world, world.kinds.delete_image, given)
    assert refused.fault is not None
    assert refused.fault.code == SharedVolume.code
    for ref in (clone, template):
        given = DeleteImage(domain_id=ref.domain_id, image_id=ref.image_id)
        assert run(world, world.kinds.delete_image, given).phase is Phase.DONE
    assert world.backend.images().images == {}


def test_failed_rebase_makes_the_top_legal_again(world: MemoryWorld) -> None:
    base, middle, _ = chain(world, 3)
    ids = {"domain_id": base.domain_id, "image_id": base.image_id}
    before = world.backend.images()
    world.mover.fails = Failed("rebasing", "no")
    given = Subchain(**ids, base_id=base.volume_id, top_id=middle.volume_id)
    assert run(world, world.kinds.finalize_merge, given).phase is Phase.UNDONE
    assert world.backend.images() == before


def test_failed_resize_keeps_the_capacity(world: MemoryWorld) -> None:
    ref = create(world, world.ref(1, 1))
    world.mover.fails = Failed("resizing", "no")
    ids = {"domain_id": ref.domain_id, "image_id": ref.image_id, "volume_id": ref.volume_id}
    view = run(world, world.kinds.resize_volume, ExtendVolume(**ids, capacity=2 * MIB))
    assert view.phase is Phase.UNDONE
    assert world.backend.volume(ref).capacity == MIB


def test_qcow2_is_not_extended_by_the_spm(world: MemoryWorld) -> None:
    ref = create(world, world.ref(1, 1))
    ids = {"domain_id": ref.domain_id, "image_id": ref.image_id, "volume_id": ref.volume_id}
    view = run(world, world.kinds.extend_volume, ExtendVolume(**ids, capacity=2 * MIB))
    assert view.phase is Phase.DONE
    assert world.backend.volume(ref).capacity == MIB


def test_operation_is_settled_by_another_process_from_its_journal_alone(world: MemoryWorld) -> None:
    """The arguments in the journal say everything; no process remembers."""
    ref = create(world, world.ref(1, 1))
    journal = MemoryJournal()
    operations = world.operations(journal)
    view = operations.submit(
        world.kinds.delete_volumes,
        DeleteVolumes(domain_id=ref.domain_id, image_id=ref.image_id, volume_ids=[ref.volume_id]),
    )
    operations.wait(view.id, 30)
    explained = operations.explain(view.id)
    assert explained.done == (
        f"change the metadata of {ref.volume_id}",
        f"delete {ref.volume_id}",
    )
    assert operations.stop(30)
    again = world.operations(journal)
    assert again.explain(view.id).done == explained.done
    assert again.stop(30)


def changes(world: MemoryWorld) -> ImageChanges:
    return ImageChanges(world.find, world.mover, world.locks, world.mover, timeout_s=5)


def test_description_and_legality_are_set_at_once(world: MemoryWorld) -> None:
    ref = create(world, world.ref(1, 1))
    changes(world).set_description(ref, f"  {'y' * 300}")
    changes(world).set_legality(ref, Legality.ILLEGAL)
    made = world.backend.volume(ref)
    assert (made.description, made.legality) == (f"  {'y' * 300}"[:210].strip(), Legality.ILLEGAL)


def test_chain_is_reconciled_with_the_headers(world: MemoryWorld) -> None:
    base, middle, leaf = chain(world, 3)
    template = create(world, world.ref(2, 1))
    clone = create(world, world.ref(3, 1), template)
    known = changes(world)
    ids = tuple(ref.volume_id for ref in (base, middle, leaf))
    assert known.reconcile(leaf.image, leaf.volume_id) == ids
    assert known.reconcile(clone.image, clone.volume_id) == (template.volume_id, clone.volume_id)
    # A merge of the middle was cut off after the header was rewritten.
    world.mover.rebased[leaf.volume_id] = base.volume_id
    assert known.reconcile(leaf.image, leaf.volume_id) == (base.volume_id, leaf.volume_id)
    assert world.backend.volume(leaf).parent == base.volume_id
    # The leaf was merged and marked.
    known.set_legality(leaf, Legality.ILLEGAL)
    assert known.reconcile(leaf.image, leaf.volume_id) == (base.volume_id,)


def test_live_merge_is_written_down_from_what_the_hypervisor_knows(world: MemoryWorld) -> None:
    base, middle, leaf = chain(world, 3)
    known = changes(world)
    known.synchronize(leaf.image, [base.volume_id, leaf.volume_id])
    assert world.backend.volume(leaf).parent == base.volume_id
    with pytest.raises(WrongChain):
        known.synchronize(leaf.image, [leaf.volume_id, base.volume_id])
    with pytest.raises(NoSuchImage):
        known.synchronize(world.ref(9, 1).image, [middle.volume_id])


def test_new_volume_gets_the_bitmaps_that_are_asked_for(world: MemoryWorld) -> None:
    parent = create(world, world.ref(1, 1))
    child = create(world, world.ref(1, 2), parent, inherit_bitmaps=True, bitmap="backup")
    assert world.mover.called == [("inherit", parent, child), ("add", child, "backup")]
    for wrong in ({"inherit_bitmaps": True}, {"bitmap": "b", "format": VolumeFormat.RAW}):
        view = run(world, world.kinds.create_volume, new(world.ref(2, 1), **wrong))
        assert view.fault is not None
        assert view.fault.code == 2009
    world.mover.fails = Failed("adding", "no")
    view = run(world, world.kinds.create_volume, new(world.ref(3, 1), bitmap="b"))
    assert view.phase is Phase.UNDONE
    assert world.backend.homes(world.ref(3, 1).volume_id) == ()
