"""A program: kills processes at every fault point of the operations on images. See image_crash.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from image_crash import ID, Case, Doom, DoomedFiles, Opened, main
from image_worlds import DOMAIN, MIB, World, file_journal, make_world, open_world, volume
from vdsm.operations.kinds import Kind
from vdsm.storage.executor import carry_out
from vdsm.storage.images.image_kinds import DeleteImage
from vdsm.storage.images.job_kinds import MergeJob, UpdateVolume
from vdsm.storage.images.merge_kinds import Subchain
from vdsm.storage.images.volume_kinds import CreateVolume, DeleteVolumes, ExtendVolume
from vdsm.storage.kinds import Allocation, Legality, VolumeFormat
from vdsm.storage.steps import Change

BASE, MIDDLE, LEAF = volume(1, 1), volume(1, 2), volume(1, 3)
TEMPLATE, CLONE = volume(2, 1), volume(3, 1)
OTHER = volume(4, 1)
OF_IMAGE = {"domain_id": DOMAIN, "image_id": BASE.image_id}


def furnish(base: Path, then: Callable[[World], None] = lambda world: None) -> None:
    """A chain of three with other content in each, a template, and an image that nothing is done to."""
    world = make_world(base)
    world.fill(world.make(BASE, format=VolumeFormat.RAW), 1, length=MIB)
    world.fill(world.make(MIDDLE, BASE), 2, offset=MIB // 4)
    world.fill(world.make(LEAF, MIDDLE), 3, offset=MIB // 2)
    world.fill(world.make(TEMPLATE), 4)
    world.fill(world.make(OTHER, format=VolumeFormat.RAW), 5)
    then(world)


def committed(world: World) -> None:
    world.mover.commit(MIDDLE, BASE)


def larger_top(world: World) -> None:
    carry_out(Change(LEAF, capacity=0), world.domain.backend, world.mover)
    world.mover.resize(LEAF, 2 * MIB)
    carry_out(Change(LEAF, capacity=2 * MIB), world.domain.backend, world.mover)
    for ref in (MIDDLE,):
        world.mover.resize(ref, 2 * MIB)
        carry_out(Change(ref, capacity=2 * MIB), world.domain.backend, world.mover)


def furnish_large(base: Path) -> None:
    """Enough data that merging it takes a while."""
    world = make_world(base)
    world.fill(world.make(BASE, format=VolumeFormat.RAW, capacity=64 * MIB), 1, length=64 * MIB)
    world.fill(world.make(MIDDLE, BASE, capacity=64 * MIB), 2, offset=MIB, length=62 * MIB)


def with_clone(world: World) -> None:
    world.make(CLONE, TEMPLATE)


def case(
    kind: Callable[[World], Kind[Any]],
    arguments: Any,
    mostly: str,
    then: Callable[[World], None] = lambda world: None,
) -> Case:
    def open_(base: Path, doom: Doom) -> Opened:
        files = DoomedFiles(doom)
        world = open_world(base, files)
        running = world.operations(file_journal(base, files), doom.point)
        return running, lambda: running.submit(kind(world), arguments, ID)

    return Case(partial(furnish, then=then), open_, mostly)


def create(ref: Any, **facts: Any) -> CreateVolume:
    return CreateVolume(
        domain_id=DOMAIN, image_id=ref.image_id, volume_id=ref.volume_id, capacity=MIB, description="new", **facts
    )


NEW = volume(5, 1)
MERGE = MergeJob(**OF_IMAGE, base_id=BASE.volume_id, top_id=MIDDLE.volume_id)
CASES = {
    "large merge": replace(case(lambda world: world.jobs.merge, MERGE, "after"), furnish=furnish_large),
    "create raw": case(
        lambda world: world.kinds.create_volume,
        create(NEW, format=VolumeFormat.RAW, allocation=Allocation.PREALLOCATED),
        "before",
    ),
    "create from parent": case(
        lambda world: world.kinds.create_volume, create(volume(1, 4), parent_id=LEAF.volume_id), "before"
    ),
    "clone": case(
        lambda world: world.kinds.create_volume,
        create(NEW, parent_image_id=TEMPLATE.image_id, parent_id=TEMPLATE.volume_id),
        "before",
    ),
    "clone again": case(
        lambda world: world.kinds.create_volume,
        create(NEW, parent_image_id=TEMPLATE.image_id, parent_id=TEMPLATE.volume_id),
        "before",
        with_clone,
    ),
    "delete volume": case(
        lambda world: world.kinds.delete_volumes, DeleteVolumes(**OF_IMAGE, volume_ids=[LEAF.volume_id]), "after"
    ),
    "delete volumes": case(
        lambda world: world.kinds.delete_volumes,
        DeleteVolumes(**OF_IMAGE, volume_ids=[LEAF.volume_id, MIDDLE.volume_id, BASE.volume_id]),
        "after",
    ),
    "delete image": case(lambda world: world.kinds.delete_image, DeleteImage(**OF_IMAGE), "after"),
    "delete clone": case(
        lambda world: world.kinds.delete_image,
        DeleteImage(domain_id=DOMAIN, image_id=CLONE.image_id),
        "after",
        with_clone,
    ),
    "extend": case(
        lambda world: world.kinds.extend_volume,
        ExtendVolume(**OF_IMAGE, volume_id=BASE.volume_id, capacity=3 * MIB),
        "after",
    ),
    "resize": case(
        lambda world: world.kinds.resize_volume,
        ExtendVolume(**OF_IMAGE, volume_id=LEAF.volume_id, capacity=3 * MIB),
        "after",
    ),
    "prepare merge": case(
        lambda world: world.kinds.prepare_merge,
        Subchain(**OF_IMAGE, base_id=BASE.volume_id, top_id=MIDDLE.volume_id),
        "after",
        larger_top,
    ),
    "merge": case(lambda world: world.jobs.merge, MERGE, "after"),
    "finalize merge": case(
        lambda world: world.kinds.finalize_merge,
        Subchain(**OF_IMAGE, base_id=BASE.volume_id, top_id=MIDDLE.volume_id),
        "after",
        committed,
    ),
    "update volume": case(
        lambda world: world.jobs.update_volume,
        UpdateVolume(**OF_IMAGE, volume_id=LEAF.volume_id, legality=Legality.ILLEGAL, description="x", requested=0),
        "after",
    ),
}

if __name__ == "__main__":
    sys.exit(main(CASES))
