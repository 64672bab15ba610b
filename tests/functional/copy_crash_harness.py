"""A program: kills the agent at every fault point of a copy of images, and of what recovers it, and looks at the disks.

    python copy_crash_harness.py DIRECTORY KIND STRIDE

As ``crash_harness.py`` does with toys. Two domains on real files, real qemu-img, which dies with the agent; its
progress is a fault point, too, so it is killed while it writes. Afterwards every volume's content, structure, metadata
and name must be that of before or of after, and nothing else may be there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from crash_harness import ID, TornJournal

from dooms import Doom, in_child
from image_domains import COW, MIB, RAW, Storage, digest, open_domain, reopen, run
from vdsm.operations.kinds import Kind, Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import SETTLED, Phase
from vdsm.services.storage_copies import copy_kinds
from vdsm.storage.executor import Watch
from vdsm.storage.ids import ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.images.copy_jobs import CopyData, copy_data
from vdsm.storage.images.copying import Copier, CopyVolume, MoveImage
from vdsm.storage.images.guarded_plan import Guard
from vdsm.storage.images.mover import QemuImages
from vdsm.storage.images.structure_copies import CloneStructure, SyncData
from vdsm.storage.kinds import Legality

IMAGE = ImageId("5b0f8a3e-0000-4000-8000-0000000000a0")
TEMPLATE = ImageId("5b0f8a3e-0000-4000-8000-0000000000b0")
COPY = ImageId("5b0f8a3e-0000-4000-8000-0000000000c0")


def volume_id(number: int) -> VolumeId:
    return VolumeId(f"5b0f8a3e-0000-4000-8000-0000000000{number:02d}")


class DoomedImages(QemuImages):
    """Passes a point at each step of qemu-img's progress."""

    doom = Doom(0)

    def watched(self, watch: Watch) -> QemuImages:
        return super().watched(DoomedWatch(watch, self.doom))


class DoomedWatch:
    def __init__(self, watch: Watch, doom: Doom) -> None:
        self.watch = watch
        self.doom = doom
        self.passed = 0

    def progress(self, fraction: float) -> None:
        # How often it tells depends on the machine; twice it always does.
        self.passed += 1
        if self.passed <= 2:
            self.doom.point("progress")
        self.watch.progress(fraction)

    def check(self) -> None:
        self.watch.check()

    @contextlib.contextmanager
    def on_stop(self, function: Callable[[], object]) -> Iterator[None]:
        with self.watch.on_stop(function):
            yield


Judged = dict[frozenset[tuple[str, str]], dict[str, tuple[str, bool]]]


class World:
    """Two domains in ``base``, and what is done there."""

    def __init__(self, base: Path, kind: str) -> None:
        self.base = base
        self.judged: Judged = {}  # what qemu-img says of data files, byte for byte the same
        self.kind = kind
        self.storage = Storage(reopen(base / "one"), reopen(base / "two"))
        self.one, self.two = self.storage.domains.values()

    def kinds(self, doom: Doom) -> dict[str, Kind[Any]]:
        images = DoomedImages(self.storage.find)
        images.doom = doom
        copier = Copier(self.storage.find, images)
        guard = Guard(self.storage.find, images, lambda _: 1)
        return {kind.name: kind for kind in [*copy_kinds(copier), copy_data(guard, images)]}

    def task(self) -> tuple[str, Any]:
        one, two = self.one.id, self.two.id
        both = {"domain_id": one, "image_id": IMAGE, "target_domain_id": two}
        copy = {**both, "volume_id": volume_id(3), "target_image_id": COPY, "target_volume_id": volume_id(9)}
        match self.kind:
            case "copy" | "copy by force":
                return "copyImage", CopyVolume(**copy, format=COW, force=self.kind == "copy by force")
            case "move" | "keep":
                return "moveImage", MoveImage(**both, keep=self.kind == "keep")
            case "clone":
                return "cloneImageStructure", CloneStructure(**both)
            case "sync":
                return "syncImageData", SyncData(**both)
            case _:
                return "copy_data", CopyData(**copy)

    def operations(self, kinds: dict[str, Kind[Any]], doom: Doom) -> Operations:
        journal = TornJournal(self.base / "slots", doom)
        return Operations(Kinds(kinds.values()), journal, Locks(), workers=2, point=doom.point)

    def perform(self, doom: Doom) -> None:
        kinds = self.kinds(doom)
        running = self.operations(kinds, doom)
        running.resume()
        name, arguments = self.task()
        running.submit(kinds[name], arguments, ID)
        running.wait(ID, 60)

    def recover(self, doom: Doom) -> None:
        running = self.operations(self.kinds(doom), doom)
        for view in running.resume():
            running.wait(view.id, 60)

    def phase(self) -> str:
        records, damaged = TornJournal(self.base / "slots", Doom(0)).load()
        assert not damaged
        return str(records[0].phase) if records else "none"

    def seen(self) -> dict[str, object]:
        """All that is on the disks: names, metadata, contents; what is ILLEGAL may have any content."""
        found: dict[str, object] = {}
        told = self.judged.setdefault(self.bytes(), {})
        for domain in (self.one, self.two):
            images = Path(domain.path) / "images"
            found |= {str(path.relative_to(self.base)): "there" for path in images.rglob("*")}
            for ref, image in domain.backend.images().images.items():
                for ident, metadata in image.volumes.items():
                    volume = VolumeRef(*astuple(ref), ident)
                    path = self.storage.path(volume)
                    illegal = metadata.legality is Legality.ILLEGAL
                    if not illegal and path not in told:
                        told[path] = digest(path, metadata.format.qemu), self.storage.is_sound(volume)
                    content, sound = ("any", True) if illegal else told[path]
                    found[path] = (replace(metadata, created_s=0), content, sound)
        return found

    def bytes(self) -> frozenset[tuple[str, str]]:
        """The hashes of all data files."""
        files = [path for path in self.base.glob("*/*/images/*/*") if not path.suffix and path.is_file()]
        return frozenset((str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)


def astuple(image: ImageRef) -> tuple[Any, Any]:
    return image.domain_id, image.image_id


def furnish(base: Path, kind: str) -> None:
    """A template in both domains; an image of two volumes on it; what the kind needs."""
    for name in ("one", "two"):
        open_domain(base / name)
    world = World(base, kind)
    storage = world.storage
    template = [VolumeRef(domain.id, TEMPLATE, volume_id(1)) for domain in (world.one, world.two)]
    for volume in template:
        storage.add(volume, format=RAW, capacity=MIB)
        storage.write(volume, "write -P 1 0 128k")
    below = template[0]
    for number in (2, 3):
        volume = VolumeRef(world.one.id, IMAGE, volume_id(number))
        storage.add(volume, parent=below, format=COW, capacity=MIB)
        storage.write(volume, f"write -P {number} {number * 64}k 96k")
        below = volume
    if kind == "sync":
        below = template[1]
        for number in (2, 3):
            below = storage.add(
                VolumeRef(world.two.id, IMAGE, volume_id(number)), parent=below, format=COW, capacity=MIB
            )
    elif kind == "copy by force":
        storage.add(VolumeRef(world.two.id, COPY, volume_id(8)), format=RAW, capacity=MIB)
    elif kind == "data":
        storage.add(VolumeRef(world.two.id, COPY, volume_id(9)), format=RAW, capacity=MIB)
    elif kind != "copy":
        # The second domain's template has to be one already.
        clone = VolumeRef(world.two.id, ImageId(str(COPY)), volume_id(7))
        storage.add(clone, parent=template[1], format=COW, capacity=MIB)


def restore(base: Path, pristine: Path) -> None:
    shutil.rmtree(base, ignore_errors=True)
    run("cp", "-a", "--sparse=always", str(pristine), str(base))


def main() -> int:
    base, kind, stride = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    pristine = base.with_name(base.name + ".pristine")
    base.mkdir()
    furnish(base, kind)
    base.rename(pristine)
    restore(base, pristine)
    world = World(base, kind)
    known = {"before": world.seen()}
    killed, points = in_child(world.perform, Doom(0))
    assert not killed
    assert world.phase() == "done", world.phase()
    known["after"] = world.seen()
    assert known["before"] != known["after"]
    seen = {"points": points, "before": 0, "after": 0, "between": 0, "kills": 0}
    for turn in range(1, points + 1):
        again = 0
        while True:
            restore(base, pristine)
            killed, _ = in_child(world.perform, Doom(turn))
            if not killed:
                break  # qemu-img told of its progress less often this time
            cut, _ = in_child(world.recover, Doom(again))
            if cut:
                in_child(world.recover, Doom(0))
            seen["kills"] += 1 + cut
            phase, found = world.phase(), world.seen()
            assert phase == "none" or Phase(phase) in SETTLED, (turn, again, phase)
            outcome = "after" if phase == Phase.DONE else "before"
            assert found == known[outcome], (turn, again, phase, differences(found, known[outcome]))
            seen[outcome] += again == 0
            if stride == 0 or (again and not cut):
                break
            again += stride if again else 1 + turn % stride
    print(json.dumps(seen))
    return 0


def differences(found: dict[str, object], wanted: dict[str, object]) -> list[object]:
    return [
        (name, found.get(name), wanted.get(name)) for name in {*found, *wanted} if found.get(name) != wanted.get(name)
    ]


if __name__ == "__main__":
    sys.exit(main())
