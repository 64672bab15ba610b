"""Chains and the plans that change them: each refusal, and no data lost after each single step of random histories."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdsm.storage import plans
from vdsm.storage.chain import Difference, Fault, Image, differences, right_kind
from vdsm.storage.errors import (
    Damaged,
    IllegalParent,
    IllegalVolume,
    NoSuchImage,
    NoSuchVolume,
    NotLeaf,
    SharedVolume,
    VolumeExists,
    VolumeHasChildren,
    WrongChain,
    WrongFormat,
    WrongVolumeSize,
)
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.journaled import Entry, read_plan, write_plan
from vdsm.storage.kinds import Legality, VolumeFormat, VolumeKind
from vdsm.storage.plans import NewVolume
from vdsm.storage.steps import (
    Change,
    Commit,
    Delete,
    GrowData,
    Images,
    MakeData,
    Plan,
    Publish,
    PurgeImage,
    Rebase,
    RemoveImage,
    ShareTemplate,
    Step,
    apply,
    undoing,
)

DOMAIN = DomainId(str(uuid.UUID(int=1 << 100)))
MIB = 1 << 20


def image_ref(number: int) -> ImageRef:
    return ImageRef(DOMAIN, ImageId(str(uuid.UUID(int=(2 << 64) + number))))


def volume_ref(image: int, number: int) -> VolumeRef:
    return VolumeRef(DOMAIN, image_ref(image).image_id, VolumeId(str(uuid.UUID(int=(3 << 64) + number))))


def new(image: int, number: int, on: VolumeRef | None = None, **facts: object) -> NewVolume:
    return replace(NewVolume(volume_ref(image, number), MIB, 1795341752, parent=on), **facts)  # type: ignore[arg-type]


def run(images: Images, plan: Iterable[Step]) -> Images:
    for step in plan:
        images = apply(images, step)
    return images


def made(*volumes: NewVolume) -> Images:
    images: Images = {}
    for volume in volumes:
        images = run(images, plans.create(images, volume))
    return images


V1, V2, V3, V4 = (volume_ref(1, number) for number in (1, 2, 3, 4))
RAW = VolumeFormat.RAW
CHAIN = made(new(1, 1, format=RAW), new(1, 2, V1), new(1, 3, V2))
CLONE = run(made(new(1, 1)), plans.create(made(new(1, 1)), new(2, 2, V1)))


def change(images: Images, volume: VolumeRef, **facts: object) -> Images:
    image = images[volume.image]
    metadata = replace(image.volumes[volume.volume_id], **facts)  # type: ignore[arg-type]
    return {**images, volume.image: replace(image, volumes={**image.volumes, volume.volume_id: metadata})}


# What the plans are


def test_snapshot_of_a_leaf() -> None:
    images = made(new(1, 1))
    request = new(1, 2, V1, description=" name ", sequence=7)
    plan = plans.create(images, request)
    assert [type(step) for step in plan] == [Change, MakeData, Publish]
    assert plan[0] == Change(V1, kind=VolumeKind.INTERNAL)
    image = run(images, plan)[V1.image]
    assert image.chain() == (V1.volume_id, V2.volume_id)
    assert image.leaf() == V2.volume_id
    assert image.volumes[V2.volume_id].description == "name"
    assert image.volumes[V2.volume_id].sequence == 7
    assert differences(image) == ()


def test_clone_of_a_template() -> None:
    clone = volume_ref(2, 2)
    plan = plans.create(made(new(1, 1)), new(2, 2, V1))
    assert plan[:2] == (Change(V1, kind=VolumeKind.SHARED), ShareTemplate(V1, clone.image))
    image = CLONE[clone.image]
    assert image.template() == V1.volume_id
    assert image.chain() == (clone.volume_id,)
    assert CLONE[V1.image].volumes[V1.volume_id].kind is VolumeKind.SHARED
    assert [differences(each) for each in CLONE.values()] == [(), ()]
    assert plans.create(CLONE, new(3, 3, V1))[0] == ShareTemplate(V1, image_ref(3))


def test_deleting_a_leaf_makes_its_parent_the_leaf() -> None:
    plan = plans.delete(CHAIN, V3)
    assert plan == (
        Change(V3, legality=Legality.ILLEGAL),
        Change(V3, orphan=True),
        Change(V2, kind=VolumeKind.LEAF),
        Delete(V3),
    )
    assert run(CHAIN, plan)[V1.image].leaf() == V2.volume_id


def test_image_is_gone_with_its_last_volume() -> None:
    images = made(new(1, 1))
    assert run(images, plans.delete(images, V1)) == {}
    assert volume_ref(2, 2).image not in run(CLONE, plans.delete(CLONE, volume_ref(2, 2)))


def test_merge_of_a_larger_internal_volume_into_a_raw_base() -> None:
    images = change(change(CHAIN, V2, capacity=2 * MIB), V3, capacity=2 * MIB)
    with pytest.raises(WrongVolumeSize):
        plans.commit_merge(images, V1, V2)
    prepare = plans.prepare_merge(images, V1, V2)
    assert prepare == (GrowData(V1, 2 * MIB), Change(V1, capacity=2 * MIB))
    images = run(images, prepare)
    assert plans.prepare_merge(images, V1, V2) == ()
    commit = plans.commit_merge(images, V1, V2)
    assert commit == (Commit(V2, V1), Change(V1, generation=1))
    images = run(images, commit)
    finish = plans.finish_merge(images, V1, V2)
    assert [type(step) for step in finish] == [Change, Rebase, Change]
    images = run(images, finish)
    assert images[V1.image].chain() == (V1.volume_id, V3.volume_id)
    assert differences(images[V1.image]) == (Difference(V2.volume_id, Fault.LEFTOVER),)
    images = run(images, plans.delete(images, V2))
    assert differences(images[V1.image]) == ()


def test_generation_begins_again() -> None:
    images = change(CHAIN, V2, generation=999)
    assert plans.commit_merge(images, V2, V3)[1] == Change(V2, generation=0)


def test_removing_an_image_puts_it_aside_first() -> None:
    assert plans.remove(CHAIN, V1.image) == (RemoveImage(V1.image), PurgeImage(V1.image))
    assert run(CHAIN, plans.remove(CHAIN, V1.image)) == {}


# What is refused


@pytest.mark.parametrize(
    ("images", "request_", "error"),
    [
        (CHAIN, new(1, 3, V3), VolumeExists),
        (CLONE, new(2, 1, volume_ref(2, 2)), VolumeExists),
        (CHAIN, new(2, 3), VolumeExists),
        (CHAIN, new(1, 4), WrongChain),
        (CHAIN, new(1, 4, V2), NotLeaf),
        (CLONE, new(1, 4, V1), NotLeaf),
        (CHAIN, new(2, 4, V3), WrongChain),
        (CLONE, new(2, 4, V1), WrongChain),
        (CHAIN, new(1, 4, volume_ref(1, 9)), NoSuchVolume),
        (CHAIN, new(2, 4, volume_ref(5, 1)), NoSuchImage),
        (CHAIN, new(1, 4, V3, format=RAW), WrongFormat),
        (CHAIN, new(1, 4, V3, capacity=MIB - 4096), WrongVolumeSize),
        ({}, new(1, 1, capacity=0), WrongVolumeSize),
        (change(CHAIN, V3, legality=Legality.ILLEGAL), new(1, 4, V3), IllegalParent),
    ],
)
def test_what_cannot_be_created(images: Images, request_: NewVolume, error: type[Exception]) -> None:
    with pytest.raises(error):
        plans.create(images, request_)


def test_what_cannot_be_deleted() -> None:
    with pytest.raises(VolumeHasChildren) as refused:
        plans.delete(CHAIN, V2)
    assert V3.volume_id in str(refused.value)
    with pytest.raises(SharedVolume):
        plans.delete(CLONE, V1)
    with pytest.raises(SharedVolume):
        plans.remove(CLONE, V1.image)
    with pytest.raises(NoSuchVolume):
        plans.delete(CHAIN, V4)
    with pytest.raises(NoSuchImage):
        plans.remove(CHAIN, image_ref(9))
    assert plans.delete(CHAIN, V2, force=True)[-1] == Delete(V2)


@pytest.mark.parametrize(
    ("images", "base", "top", "error"),
    [
        (CHAIN, V1, V3, WrongChain),
        (CHAIN, V3, V2, WrongChain),
        (CLONE, V1, volume_ref(2, 2), WrongChain),
        (change(CHAIN, V2, kind=VolumeKind.SHARED), V2, V3, SharedVolume),
        (change(CHAIN, V3, legality=Legality.ILLEGAL), V2, V3, IllegalVolume),
        (CHAIN, V3, V4, NoSuchVolume),
    ],
)
def test_what_cannot_be_merged(images: Images, base: VolumeRef, top: VolumeRef, error: type[Exception]) -> None:
    for plan in (plans.prepare_merge, plans.commit_merge, plans.finish_merge):
        with pytest.raises(error):
            plan(images, base, top)


# What is found


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (change(CHAIN, V2, parent=V4.volume_id), {(V2, Fault.PARENT_MISSING), (V1, Fault.SECOND_LEAF)}),
        (change(CHAIN, V3, kind=VolumeKind.INTERNAL), {(V3, Fault.KIND)}),
        (change(CHAIN, V1, kind=VolumeKind.LEAF), {(V1, Fault.KIND)}),
        (change(CHAIN, V3, capacity=4096), {(V3, Fault.SMALLER)}),
        (change(CHAIN, V3, capacity=0), {(V3, Fault.EMPTY)}),
        (change(CHAIN, V3, format=RAW), {(V3, Fault.RAW_WITH_PARENT)}),
        (change(CHAIN, V3, kind=VolumeKind.SHARED), {(V3, Fault.SHARED_WITH_PARENT)}),
        (change(CHAIN, V1, image_id=image_ref(7).image_id), {(V1, Fault.HOME)}),
        (change(CHAIN, V3, legality=Legality.ILLEGAL), {(V3, Fault.LEFTOVER)}),
    ],
)
def test_differences(images: Images, found: set[tuple[VolumeRef, Fault]]) -> None:
    image = images[V1.image]
    assert {(item.volume_id, item.fault) for item in differences(image)} >= {
        (volume.volume_id, fault) for volume, fault in found
    }


def test_circle_is_found_and_not_followed_for_ever() -> None:
    image = change(CHAIN, V1, parent=V3.volume_id)[V1.image]
    assert {item.fault for item in differences(image)} >= {Fault.CYCLE}
    with pytest.raises(WrongChain):
        image.chain()
    with pytest.raises(WrongChain) as refused:
        image.chain(V2.volume_id)
    assert "itself" in str(refused.value)


def test_chain_with_a_hole_or_two_leaves_is_no_chain() -> None:
    with pytest.raises(WrongChain) as refused:
        change(CHAIN, V2, parent=V4.volume_id)[V1.image].chain(V3.volume_id)
    assert V4.volume_id in str(refused.value)
    with pytest.raises(WrongChain):
        change(CHAIN, V3, parent=V1.volume_id)[V1.image].leaf()
    with pytest.raises(NoSuchVolume):
        CHAIN[V1.image].chain(V4.volume_id)
    assert right_kind(CHAIN[V1.image], V2.volume_id) is VolumeKind.INTERNAL
    assert right_kind(CLONE[V1.image], V1.volume_id) is VolumeKind.SHARED
    assert Image(V1.image_id).template() is None


# Synchronizing


def test_synchronize_explains_one_merged_volume() -> None:
    first, second, third = V1.volume_id, V2.volume_id, V3.volume_id
    assert plans.synchronize(CHAIN, V1.image, [first, second, third]) == ()
    assert plans.synchronize(CHAIN, V1.image, [first, second]) == (Change(V3, legality=Legality.ILLEGAL),)
    assert plans.synchronize(CHAIN, V1.image, [first, third]) == (Change(V3, parent=first),)
    assert plans.synchronize(CHAIN, V1.image, [second, third]) == (Change(V2, orphan=True),)
    illegal = change(CHAIN, V3, legality=Legality.ILLEGAL)
    assert plans.synchronize(illegal, V1.image, [first, second, third]) == (Change(V3, legality=Legality.LEGAL),)
    assert plans.synchronize(illegal, V1.image, [first, second]) == ()
    for wrong in ([], [first], [third], [third, second, first], [first, second, third, V4.volume_id]):
        with pytest.raises(WrongChain):
            plans.synchronize(CHAIN, V1.image, wrong)


def test_reconcile_believes_the_headers() -> None:
    first, second, third = V1.volume_id, V2.volume_id, V3.volume_id
    assert plans.reconcile(CHAIN, V1.image, {second: first, third: second}) == ((first, second, third), ())
    merged = plans.reconcile(CHAIN, V1.image, {second: first, third: first})
    assert merged == ((first, third), (Change(V3, parent=first),))
    illegal = change(CHAIN, V3, legality=Legality.ILLEGAL)
    assert plans.reconcile(illegal, V1.image, {second: first, third: second}) == ((first, second), ())
    for wrong in ({second: third, third: second}, {second: V4.volume_id, third: second}, {}):
        with pytest.raises(WrongChain):
            plans.reconcile(CHAIN, V1.image, wrong)


# Random histories, cut off after each single step


class World:
    """A domain with its data: what a step does to data and headers, and what an image's content is."""

    def __init__(self) -> None:
        self.images: Images = {}
        self.data: dict[VolumeId, dict[int, int]] = {}
        self.headers: dict[VolumeId, VolumeId | None] = {}

    def copy(self) -> World:
        other = World()
        other.images = self.images
        other.data = {ident: dict(content) for ident, content in self.data.items()}
        other.headers = dict(self.headers)
        return other

    def perform(self, step: Step) -> None:
        self.images = apply(self.images, step)
        match step:
            case MakeData(volume, data):
                self.data[volume.volume_id] = {}
                self.headers[volume.volume_id] = data.backing.volume_id if data.backing else None
            case Commit(top, base):
                self.data[base.volume_id] |= self.data[top.volume_id]
            case Rebase(volume, backing):
                self.headers[volume.volume_id] = backing.volume_id
            case Delete(volume):
                self.data.pop(volume.volume_id, None)
                self.headers.pop(volume.volume_id, None)

    def content(self, ref: ImageRef) -> dict[int, int] | None:
        """What a VM would read after the chain was reconciled; None while there is nothing to read."""
        volumes = self.images[ref].volumes.values()
        if all(volume.legality is Legality.ILLEGAL for volume in volumes):
            return None
        actual, repairs = plans.reconcile(self.images, ref, self.headers)
        repaired = run(self.images, repairs)[ref]
        # A crash may leave a kind behind that does not fit; nothing else, and nobody reads by it.
        assert {item.fault for item in differences(repaired)} <= {Fault.KIND, Fault.LEFTOVER}
        found: dict[int, int] = {}
        template = self.headers[actual[0]]
        for ident in (*([template] if template else []), *actual):
            found |= self.data[ident]
        return found

    def contents(self) -> dict[ImageRef, dict[int, int] | None]:
        return {ref: self.content(ref) for ref in self.images}


def plan_for(world: World, kind: int, image: int, fresh: int, pick: int) -> list[Plan]:
    """The plans of one operation, each made when it is its turn; none when it is refused."""
    refs = [image_ref(1), image_ref(2), *sorted(world.images)]
    ref = refs[image % len(refs)]
    present = world.images.get(ref)
    chain = present.chain() if present else ()
    volumes = [VolumeRef(DOMAIN, ref.image_id, ident) for ident in chain]
    if kind == 0:
        on = volumes[-1] if volumes else None
        first = {"format": RAW} if on is None and pick % 2 else {}
        request = replace(
            new(1, fresh, on, **first), volume=VolumeRef(DOMAIN, ref.image_id, new(1, fresh).volume.volume_id)
        )
        return [plans.create(world.images, replace(request, capacity=MIB * (60 + fresh if pick > 4 else 1)))]
    if kind == 1 and volumes:
        return [plans.create(world.images, new(100 + fresh, fresh, volumes[0], capacity=64 * MIB))]
    if kind == 2 and volumes:
        return [plans.delete(world.images, volumes[pick % len(volumes)])]
    if kind == 3 and volumes:
        return [plans.remove(world.images, ref)]
    if kind == 4 and len(volumes) > 1:
        top = 1 + pick % (len(volumes) - 1)
        base, over = volumes[top - 1], volumes[top]
        images = world.images
        found: list[Plan] = []
        for make in (plans.prepare_merge, plans.commit_merge, plans.finish_merge):
            found.append(make(images, base, over))
            images = run(images, found[-1])
        return [*found, plans.delete(images, over)]
    return []


OPERATIONS = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 4]), st.integers(0, 9), st.integers(0, 9)), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_no_step_of_any_history_loses_data(operations: list[tuple[int, int, int]]) -> None:
    world = World()
    for fresh, (kind, image, pick) in enumerate(operations, start=10):
        before = world.contents()
        try:
            todo = plan_for(world, kind, image, fresh, pick)
        except (NotLeaf, WrongChain, WrongVolumeSize, SharedVolume, VolumeHasChildren):
            assert world.contents() == before
            continue
        after = world.copy()
        for step in (step for plan in todo for step in plan):
            after.perform(step)
        wanted = after.contents()
        for step in (step for plan in todo for step in plan):
            world.perform(step)
            again = world.copy()
            again.perform(step)  # nobody knows whether it was done before the crash
            assert again.images == world.images
            assert again.data == world.data
            for ref, content in again.contents().items():
                assert content in (before.get(ref), wanted.get(ref))
        assert world.contents() == wanted
        assert [differences(found) for found in world.images.values()] == [()] * len(world.images)
        for found in world.images.values():
            if found.volumes[found.leaf()].kind is VolumeKind.LEAF:
                world.data[found.leaf()][pick] = fresh
        if kind in {0, 1, 4}:
            assert {ref: wanted[ref] for ref in before} == before


@settings(max_examples=100, deadline=None)
@given(OPERATIONS)
def test_creations_cut_off_anywhere_are_taken_back_without_a_trace(operations: list[tuple[int, int, int]]) -> None:
    world = World()
    for fresh, (kind, image, pick) in enumerate(operations, start=10):
        try:
            todo = plan_for(world, kind, image, fresh, pick)
        except (NotLeaf, WrongChain, WrongVolumeSize, SharedVolume, VolumeHasChildren):
            continue
        for plan in todo if kind in {0, 1} else ():
            for cut in range(len(plan) + 1):
                cut_off(world, plan, cut)
        for step in (step for plan in todo for step in plan):
            world.perform(step)


def cut_off(world: World, plan: Plan, cut: int) -> None:
    """Carry out the first steps, take them back, and the one after that was perhaps not begun."""
    other, back = world.copy(), []
    for number, step in enumerate(plan[: cut + 1]):
        back.append(undoing(other.images, step))
        if number < cut:
            other.perform(step)
    for taken_back in reversed(back):
        if taken_back is not None:
            other.perform(taken_back)
    assert other.images == world.images
    assert other.data == world.data
    assert other.headers == world.headers


@given(OPERATIONS)
@settings(max_examples=50, deadline=None)
def test_every_plan_comes_back_from_the_journal(operations: list[tuple[int, int, int]]) -> None:
    world = World()
    for fresh, (kind, image, pick) in enumerate(operations, start=10):
        try:
            todo = plan_for(world, kind, image, fresh, pick)
        except (NotLeaf, WrongChain, WrongVolumeSize, SharedVolume, VolumeHasChildren):
            continue
        for plan in todo:
            text = msgspec.json.encode(write_plan(plan))
            assert read_plan(msgspec.json.decode(text, type=list[Entry])) == plan
            for step in plan:
                world.perform(step)


def test_journal_with_an_unknown_step_is_refused() -> None:
    for damaged in (Entry("Fly", {}), Entry("Delete", {}), Entry("Change", {"volume": 1})):
        with pytest.raises(Damaged):
            read_plan([damaged])


def test_changes_are_taken_back_field_by_field() -> None:
    assert undoing(CHAIN, Change(V3, legality=Legality.ILLEGAL)) == Change(V3, legality=Legality.LEGAL)
    assert undoing(CHAIN, Change(V3, orphan=True)) == Change(V3, parent=V2.volume_id)
    assert undoing(CHAIN, Change(V1, parent=V4.volume_id)) == Change(V1, orphan=True)
    assert undoing(CHAIN, Delete(V3)) is None
    with pytest.raises(NoSuchVolume):
        undoing(CHAIN, Change(V4))


def test_histories_reach_what_they_are_there_for() -> None:
    """The operations of the random test do happen: a snapshot, a clone, merges of a leaf and of an internal volume."""
    world = World()
    done = []
    # The images are at 0 and 1 by their number, later also by their place: 2 the template, 3 its clone.
    orders = [(0, 0, 0), (1, 0, 0), (0, 3, 9), (0, 3, 9), (4, 3, 0), (4, 3, 0), (2, 3, 0), (3, 0, 0)]
    for fresh, (kind, image, pick) in enumerate(orders, start=10):
        todo = plan_for(world, kind, image, fresh, pick)
        done.append(sum(len(plan) for plan in todo))
        for step in (step for plan in todo for step in plan):
            world.perform(step)
    assert done == [2, 4, 3, 3, 9, 8, 3, 2]
    assert world.images == {}
