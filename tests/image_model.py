"""A simple model of images, and random operations on it and on a real domain: both must agree after each.

The model knows of each image its volumes, base first, and what was written into each; a VM sees the topmost write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from msgspec import Struct

from vdsm.operations.kinds import Kind
from vdsm.operations.manager import Operations
from vdsm.operations.records import Phase
from vdsm.storage.chain import differences
from vdsm.storage.domains.domain import Domain
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef
from vdsm.storage.images.image_kinds import DeleteImage, ImageKinds
from vdsm.storage.images.job_kinds import JobKinds, MergeJob
from vdsm.storage.images.merge_kinds import Subchain
from vdsm.storage.images.volume_kinds import CreateVolume, DeleteVolumes, ExtendVolume
from vdsm.storage.kinds import VolumeFormat, VolumeKind

BLOCK = 65536
SIZE = 16 * BLOCK
Blocks = dict[int, int]


class Bench(Protocol):
    """A domain on which operations run and data can be written and seen as a VM does."""

    domain: Domain
    kinds: ImageKinds
    jobs: JobKinds

    def write(self, ref: VolumeRef, block: int, value: int) -> None: ...

    def see(self, ref: VolumeRef) -> Blocks:
        """The blocks that are not zero, by number."""


@dataclass
class Volume:
    id: VolumeId
    format: VolumeFormat
    capacity: int
    blocks: Blocks = field(default_factory=dict)


@dataclass
class Image:
    """Its own volumes, base first; and the template that it stands on."""

    volumes: list[Volume]
    template: ImageId | None = None
    shared: bool = False


class Model:
    def __init__(self) -> None:
        self.images: dict[ImageId, Image] = {}
        self._numbers = 0

    def fresh(self, letter: str) -> str:
        self._numbers += 1
        return f"{letter}0000000-0000-4000-8000-{self._numbers:012d}"

    def seen(self, image: Image, top: int | None = None) -> Blocks:
        found: Blocks = {} if image.template is None else dict(self.seen(self.images[image.template]))
        for volume in image.volumes[: None if top is None else top + 1]:
            found |= volume.blocks
        return found

    def clones(self, image_id: ImageId) -> list[ImageId]:
        return [other for other, image in self.images.items() if image.template == image_id]


class Player:
    """Makes one random move after the other, on both."""

    def __init__(self, bench: Bench, operations: Operations, seed: int) -> None:
        # Hypothesis' own choices are too often the first: chains would hardly grow.
        self.random = Random(seed)
        self.bench = bench
        self.operations = operations
        self.model = Model()
        self.domain_id: DomainId = bench.domain.id

    def play(self, moves: int) -> None:
        known: list[Callable[[], None]] = [
            *(self.create, self.snapshot, self.snapshot, self.clone, self.write, self.write, self.write),
            *(self.delete_volume, self.delete_image, self.merge, self.merge, self.extend, self.resize, self.misuse),
        ]
        self.create()
        for _ in range(moves):
            move = self.random.choice(known)
            move()
            self.compare()

    # Moves

    def create(self) -> None:
        layout = self.random.choice(list(VolumeFormat))
        image_id, volume_id = ImageId(self.model.fresh("a")), VolumeId(self.model.fresh("b"))
        self._run(self.bench.kinds.create_volume, self._new(image_id, volume_id, format=layout))
        self.model.images[image_id] = Image([Volume(volume_id, layout, SIZE)])

    def snapshot(self) -> None:
        if (picked := self._pick()) is None:
            return
        image_id, image = picked
        leaf, volume_id = image.volumes[-1], VolumeId(self.model.fresh("b"))
        given = self._new(image_id, volume_id, parent_id=leaf.id, capacity=leaf.capacity)
        if image.shared:
            self._run(self.bench.kinds.create_volume, given, 224)
            return
        self._run(self.bench.kinds.create_volume, given)
        image.volumes.append(Volume(volume_id, VolumeFormat.COW, leaf.capacity))

    def clone(self) -> None:
        if (picked := self._pick()) is None:
            return
        template_id, template = picked
        base = template.volumes[0]
        image_id, volume_id = ImageId(self.model.fresh("a")), VolumeId(self.model.fresh("b"))
        facts = {"parent_image_id": template_id, "parent_id": base.id, "capacity": base.capacity}
        given = self._new(image_id, volume_id, **facts)
        if len(template.volumes) > 1 or template.template is not None:
            self._run(self.bench.kinds.create_volume, given, 262)
            return
        self._run(self.bench.kinds.create_volume, given)
        template.shared = True
        self.model.images[image_id] = Image([Volume(volume_id, VolumeFormat.COW, base.capacity)], template_id)

    def write(self) -> None:
        if (picked := self._pick()) is None or picked[1].shared:
            return
        image_id, image = picked
        leaf = image.volumes[-1]
        block = self.random.randint(0, leaf.capacity // BLOCK - 1)
        value = self.random.randint(1, 255)
        self.bench.write(self._ref(image_id, leaf), block, value)
        leaf.blocks[block] = value

    def delete_volume(self) -> None:
        if (picked := self._pick()) is None:
            return
        image_id, image = picked
        index = self.random.randint(0, len(image.volumes) - 1)
        given = DeleteVolumes(domain_id=self.domain_id, image_id=image_id, volume_ids=[image.volumes[index].id])
        code = 223 if image.shared else 204 if index + 1 < len(image.volumes) else 0
        self._run(self.bench.kinds.delete_volumes, given, code)
        if not code:
            image.volumes.pop()
            if not image.volumes:
                del self.model.images[image_id]

    def delete_image(self) -> None:
        if (picked := self._pick()) is None:
            return
        image_id, _ = picked
        code = 223 if self.model.clones(image_id) else 0
        self._run(self.bench.kinds.delete_image, DeleteImage(domain_id=self.domain_id, image_id=image_id), code)
        if not code:
            del self.model.images[image_id]

    def merge(self) -> None:
        """A whole cold merge, as an Engine does it."""
        long = [(ident, image) for ident, image in self.model.images.items() if len(image.volumes) > 1]
        if not long:
            return
        image_id, image = self.random.choice(long)
        index = self.random.randint(0, len(image.volumes) - 2)
        base, top = image.volumes[index], image.volumes[index + 1]
        ids = {"domain_id": self.domain_id, "image_id": image_id, "base_id": base.id, "top_id": top.id}
        self._run(self.bench.kinds.prepare_merge, Subchain(**ids))
        generation = self.bench.domain.backend.volume(self._ref(image_id, base)).generation
        self._run(self.bench.jobs.merge, MergeJob(**ids, base_generation=(generation + 1) % 1000), 911)
        self._run(self.bench.jobs.merge, MergeJob(**ids, base_generation=generation))
        self._run(self.bench.kinds.finalize_merge, Subchain(**ids))
        given = DeleteVolumes(domain_id=self.domain_id, image_id=image_id, volume_ids=[top.id])
        self._run(self.bench.kinds.delete_volumes, given)
        base.blocks |= top.blocks
        base.capacity = max(base.capacity, top.capacity)
        image.volumes.remove(top)

    def extend(self) -> None:
        """Raw volumes grow."""
        if (picked := self._pick()) is None:
            return
        image_id, image = picked
        volume = self.random.choice(image.volumes)
        capacity = volume.capacity + self.random.choice([-BLOCK, 0, BLOCK])
        code = 213 if image.shared else 0
        if not code and volume.format is VolumeFormat.RAW and capacity < volume.capacity:
            code = 232
        given = ExtendVolume(
            domain_id=self.domain_id, image_id=image_id, volume_id=volume.id, capacity=max(1, capacity)
        )
        # What stands on a base must not become smaller than it: the leaf of raw alone is extended here.
        if not code and len(image.volumes) > 1:
            return
        self._run(self.bench.kinds.extend_volume, given, code)
        if not code and volume.format is VolumeFormat.RAW:
            volume.capacity = capacity

    def resize(self) -> None:
        """The leaf's qcow2 header grows."""
        if (picked := self._pick()) is None or picked[1].shared:
            return
        image_id, image = picked
        leaf = image.volumes[-1]
        capacity = leaf.capacity + BLOCK
        given = ExtendVolume(domain_id=self.domain_id, image_id=image_id, volume_id=leaf.id, capacity=capacity)
        code = 2009 if leaf.format is VolumeFormat.RAW else 0
        self._run(self.bench.kinds.resize_volume, given, code)
        if not code:
            leaf.capacity = capacity

    def misuse(self) -> None:
        """Requests that are always refused."""
        if (picked := self._pick()) is None:
            return
        image_id, image = picked
        first, fresh = image.volumes[0], VolumeId(self.model.fresh("b"))
        kinds = self.bench.kinds
        self._run(kinds.create_volume, self._new(image_id, first.id), 212)
        self._run(kinds.create_volume, self._new(ImageId(self.model.fresh("a")), first.id), 212)
        self._run(kinds.create_volume, self._new(image_id, fresh), 262)
        self._run(kinds.create_volume, self._new(image_id, fresh, parent_id=fresh), 201)
        if len(image.volumes) > 1:
            self._run(kinds.create_volume, self._new(image_id, fresh, parent_id=first.id, capacity=2 * SIZE), 224)
        gone = {"domain_id": self.domain_id, "image_id": ImageId(fresh)}
        self._run(kinds.delete_image, DeleteImage(**gone), 268)
        self._run(kinds.delete_volumes, DeleteVolumes(**gone, volume_ids=[fresh]), 268)
        given = DeleteVolumes(domain_id=self.domain_id, image_id=image_id, volume_ids=[fresh])
        self._run(kinds.delete_volumes, given, 201)
        given = DeleteVolumes(domain_id=self.domain_id, image_id=image_id, volume_ids=[first.id], discard=True)
        self._run(kinds.delete_volumes, given, 349)

    # Both compared

    def compare(self) -> None:
        contents = self.bench.domain.backend.images()
        assert not contents.damaged
        inventory = self.bench.domain.backend.inventory()
        assert (inventory.half_made, inventory.removed, inventory.strays) == ((), (), ())
        assert sorted(ref.image_id for ref in contents.images) == sorted(self.model.images)
        for ref, found in contents.images.items():
            image = self.model.images[ref.image_id]
            assert list(found.chain()) == [volume.id for volume in image.volumes]
            assert [found.volumes[volume.id].capacity for volume in image.volumes] == [
                volume.capacity for volume in image.volumes
            ]
            assert differences(found) == ()
            assert (found.volumes[image.volumes[0].id].kind is VolumeKind.SHARED) == image.shared
            assert self.bench.see(self._ref(ref.image_id, image.volumes[-1])) == self.model.seen(image)

    def _run(self, kind: Kind[Any], given: Struct, code: int = 0) -> None:
        view = self.operations.wait(self.operations.submit(kind, given).id, 120)
        if code:
            assert (view.phase, view.fault and view.fault.code) == (Phase.UNDONE, code), (given, view)
        else:
            assert view.phase is Phase.DONE, (given, view)
        self.operations.clear(view.id)

    def _new(self, image_id: ImageId, volume_id: VolumeId, **facts: Any) -> CreateVolume:
        ids = {"domain_id": self.domain_id, "image_id": image_id, "volume_id": volume_id}
        return CreateVolume(**{"capacity": SIZE, **ids, **facts})

    def _pick(self) -> tuple[ImageId, Image] | None:
        if not self.model.images:
            return None
        image_id = self.random.choice(sorted(self.model.images))
        return image_id, self.model.images[image_id]

    def _ref(self, image_id: ImageId, volume: Volume) -> VolumeRef:
        return VolumeRef(self.domain_id, image_id, volume.id)


def shown(found: bytes) -> Blocks:
    """Which blocks of a raw image are not zero; each is of one value."""
    blocks = {index: found[index * BLOCK] for index in range(len(found) // BLOCK)}
    return {index: value for index, value in blocks.items() if value}
