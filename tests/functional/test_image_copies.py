"""Copies and moves of images as operations: what they make, what they refuse, and what is left when they do not end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import copy_crash_harness as harness
import pytest

from domain_parts import bound, eventually, mounted
from dooms import memory_directory
from image_domains import COW, MIB, RAW, Storage, open_domain, refs
from needs import needs
from storage_domains import metadata
from vdsm.base import process
from vdsm.base.errors import WrongState
from vdsm.operations.host_journal import HostJournal
from vdsm.operations.kinds import Kind, Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import OperationView, Phase
from vdsm.services.storage_copies import copy_kinds
from vdsm.storage.domains.domain import Domain
from vdsm.storage.ids import ImageId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.copy_jobs import CopyData, copy_data
from vdsm.storage.images.copying import Copier, CopyVolume, MoveImage
from vdsm.storage.images.guarded_plan import Guard
from vdsm.storage.images.mover import Patience, QemuImages
from vdsm.storage.images.structure_copies import CloneStructure, Part, SyncData
from vdsm.storage.kinds import Allocation, Legality, StorageType, VolumeFormat, VolumeKind
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits

pytestmark = needs("program:qemu-img", "program:qemu-io")

HARNESS = Path(__file__).with_name("copy_crash_harness.py")
EXHAUSTIVE = bool(os.environ.get("VDSM_EXHAUSTIVE"))
# All of them, and kills of the recovery, take minutes; these always run, killed at each of their points.
KILLED = ("copy by force", "move", "clone", "sync", "data", *(("copy", "keep") if EXHAUSTIVE else ()))


class Agent:
    """Operations on some domains, with a journal of their own."""

    def __init__(self, folder: Path, storage: Storage, patience: Patience | None = None) -> None:
        self.storage = storage
        images = QemuImages(storage.find, patience=patience)
        copier = Copier(storage.find, images)
        guard = Guard(storage.find, images, lambda _: 1)
        kinds = [*copy_kinds(copier), copy_data(guard, images)]
        self.kinds: dict[type, Kind[Any]] = {kind.arguments: kind for kind in kinds}
        self.operations = Operations(Kinds(self.kinds.values()), HostJournal(folder / "journal"), Locks())
        self.operations.resume()

    def submit(self, arguments: Any) -> str:
        return self.operations.submit(self.kinds[type(arguments)], arguments).id

    def do(self, arguments: Any) -> OperationView:
        return self.operations.wait(self.submit(arguments), 100)


@pytest.fixture
def one(tmp_path: Path) -> Domain:
    return open_domain(tmp_path / "one")


@pytest.fixture
def two(tmp_path: Path) -> Domain:
    return open_domain(tmp_path / "two", metadata(StorageType.NFS))


@pytest.fixture
def agent(tmp_path: Path, one: Domain, two: Domain) -> Iterator[Agent]:
    agent = Agent(tmp_path, Storage(one, two))
    yield agent
    assert agent.operations.stop(60)


def move(image: VolumeRef, target: Domain, **how: Any) -> MoveImage:
    return MoveImage(domain_id=image.domain_id, image_id=image.image_id, target_domain_id=target.id, **how)


def copy(volume: VolumeRef, target: Domain, **how: Any) -> CopyVolume:
    return CopyVolume(
        domain_id=volume.domain_id,
        image_id=volume.image_id,
        volume_id=volume.volume_id,
        target_domain_id=target.id,
        target_image_id=ImageId(new_id()),
        target_volume_id=VolumeId(new_id()),
        **how,
    )


def failure(view: OperationView) -> tuple[Phase, int]:
    assert view.fault
    return view.phase, view.fault.code


def nothing_in(domain: Domain) -> bool:
    found = domain.backend.inventory()
    return not (found.images or found.half_made or found.removed or found.strays)


@pytest.mark.parametrize("keep", [False, True])
def test_moved_image_keeps_all_but_its_place(agent: Agent, one: Domain, two: Domain, keep: bool) -> None:
    chain = agent.storage.chain(one, RAW, COW, COW)
    before = [agent.storage.digest(volume) for volume in chain]
    described = [one.backend.volume(volume) for volume in chain]
    assert agent.do(move(chain[0], two, keep=keep)).phase is Phase.DONE
    there = refs(two, chain[0].image_id, chain)
    assert [agent.storage.digest(volume) for volume in there] == before
    assert [two.backend.volume(volume) for volume in there] == [replace(known, domain_id=two.id) for known in described]
    assert all(agent.storage.is_sound(volume) for volume in there)
    assert sum(two.backend.data(volume).allocated for volume in there) < 6 * MIB
    assert nothing_in(one) != keep


def test_image_moves_to_a_domain_of_an_older_version(agent: Agent, one: Domain, tmp_path: Path) -> None:
    old = open_domain(tmp_path / "old", metadata(StorageType.POSIXFS, 3))
    agent.storage.domains[old.id] = old
    chain = agent.storage.chain(one, COW, COW, COW)
    before = [agent.storage.digest(volume) for volume in chain]
    assert agent.do(move(chain[0], old)).phase is Phase.DONE
    there = refs(old, chain[0].image_id, chain)
    assert [agent.storage.digest(volume) for volume in there] == before
    assert all(agent.storage.is_sound(volume) for volume in there)
    assert {agent.storage.images.info(volume).compat for volume in there} == {"0.10"}


def test_image_on_a_template_moves_to_where_the_template_is(agent: Agent, one: Domain, two: Domain) -> None:
    storage = agent.storage
    template = storage.chain(one, RAW)[0]
    clone = VolumeRef(one.id, ImageId(new_id()), VolumeId(new_id()))
    storage.add(clone, parent=template)
    storage.write(clone, "write -P 5 5M 64k")
    before = storage.digest(clone)
    assert failure(agent.do(move(clone, two))) == (Phase.UNDONE, 263)
    assert failure(agent.do(move(template, two))) == (Phase.UNDONE, 266)
    assert agent.do(move(template, two, keep=True)).phase is Phase.DONE
    assert agent.do(move(clone, two)).phase is Phase.DONE
    there = VolumeRef(two.id, clone.image_id, clone.volume_id)
    assert storage.digest(there) == before
    linked = VolumeRef(two.id, clone.image_id, template.volume_id)
    at_home = VolumeRef(two.id, template.image_id, template.volume_id)
    assert Path(storage.path(linked)).samefile(storage.path(at_home))


@pytest.mark.parametrize("layout", [RAW, COW])
@pytest.mark.parametrize("allocation", [Allocation.SPARSE, Allocation.PREALLOCATED])
def test_chain_is_copied_into_one_volume(
    agent: Agent, one: Domain, two: Domain, layout: VolumeFormat, allocation: Allocation
) -> None:
    leaf = agent.storage.chain(one, RAW, COW, COW)[-1]
    wanted = copy(leaf, two, format=layout, allocation=allocation, shared=True, description="a template")
    assert agent.do(wanted).phase is Phase.DONE
    made = two.backend.volume(wanted.target)
    assert (made.format, made.allocation, made.kind) == (layout, allocation, VolumeKind.SHARED)
    assert (made.legality, made.parent, made.description) == (Legality.LEGAL, None, "a template")
    assert (made.capacity, made.domain_id, made.image_id) == (8 * MIB, two.id, wanted.target_image_id)
    assert agent.storage.digest(wanted.target) == agent.storage.digest(leaf)
    assert agent.storage.is_sound(wanted.target)


def test_what_is_in_the_way_goes_only_by_force(agent: Agent, one: Domain, two: Domain) -> None:
    leaf = agent.storage.chain(one, RAW, COW)[-1]
    (other,) = agent.storage.chain(two, COW)
    wanted = copy(leaf, two)
    wanted = type(wanted)(**{**as_dict(wanted), "target_image_id": other.image_id})
    assert failure(agent.do(wanted)) == (Phase.UNDONE, 265)
    assert agent.storage.is_sound(other)
    assert agent.do(type(wanted)(**{**as_dict(wanted), "force": True})).phase is Phase.DONE
    assert two.backend.inventory().images == {other.image_id: (wanted.target_volume_id,)}
    assert agent.storage.digest(wanted.target) == agent.storage.digest(leaf)


def as_dict(arguments: CopyVolume) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in arguments.__struct_fields__}


def test_refusals_touch_nothing(agent: Agent, one: Domain, two: Domain) -> None:
    chain = agent.storage.chain(one, RAW, COW)
    unknown = VolumeRef(one.id, ImageId(new_id()), VolumeId(new_id()))
    assert failure(agent.do(move(unknown, two))) == (Phase.UNDONE, 268)
    assert failure(agent.do(copy(replace(chain[0], volume_id=unknown.volume_id), two))) == (Phase.UNDONE, 201)
    assert failure(agent.do(move(chain[0], one))) == (Phase.UNDONE, 265)
    one.backend.rewrite(chain[1], replace(one.backend.volume(chain[1]), legality=Legality.ILLEGAL))
    assert failure(agent.do(copy(chain[1], two))) == (Phase.UNDONE, 227)
    assert failure(agent.do(move(chain[0], two))) == (Phase.UNDONE, 227)
    one.backend.rewrite(chain[1], replace(one.backend.volume(chain[1]), legality=Legality.LEGAL))
    subprocess.run(
        ["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", agent.storage.path(chain[1])],
        check=True,
        timeout=60,
    )
    assert failure(agent.do(move(chain[0], two))) == (Phase.UNDONE, 484)
    assert nothing_in(two)


def test_structure_is_cloned_and_its_data_follows(agent: Agent, one: Domain, two: Domain) -> None:
    chain = agent.storage.chain(one, COW, COW, COW)
    ids = {"domain_id": one.id, "image_id": chain[0].image_id, "target_domain_id": two.id}
    assert agent.do(CloneStructure(**ids)).phase is Phase.DONE
    there = refs(two, chain[0].image_id, chain)
    assert {two.backend.volume(volume).legality for volume in there} == {Legality.LEGAL}
    assert agent.do(SyncData(**ids, part=Part.INTERNAL)).phase is Phase.DONE
    digests = [agent.storage.digest(volume) for volume in chain]
    assert [agent.storage.digest(volume) for volume in there] == [*digests[:2], digests[1]]
    assert agent.do(SyncData(**ids, part=Part.LEAF)).phase is Phase.DONE
    assert agent.do(SyncData(**ids)).phase is Phase.DONE
    assert [agent.storage.digest(volume) for volume in there] == digests
    assert all(agent.storage.is_sound(volume) for volume in there)
    assert failure(agent.do(CloneStructure(**ids))) == (Phase.UNDONE, 265)


@pytest.mark.parametrize("layout", [RAW, COW])
def test_job_copies_data_and_counts_the_generation(
    agent: Agent, one: Domain, tmp_path: Path, layout: VolumeFormat
) -> None:
    leaf = agent.storage.chain(one, RAW, COW)[-1]
    target = VolumeRef(one.id, ImageId(new_id()), VolumeId(new_id()))
    agent.storage.add(target, format=layout, legality=Legality.ILLEGAL)
    agent.storage.write(target, "write -P 77 6M 1M")  # of an attempt that failed
    wanted = CopyData(
        domain_id=one.id,
        image_id=leaf.image_id,
        volume_id=leaf.volume_id,
        target_domain_id=one.id,
        target_image_id=target.image_id,
        target_volume_id=target.volume_id,
        requested=0,
    )
    assert agent.do(wanted).phase is Phase.DONE
    made = one.backend.volume(target)
    assert (made.legality, made.generation) == (Legality.LEGAL, 1)
    assert agent.storage.digest(target) == agent.storage.digest(leaf)
    assert failure(agent.do(wanted)) == (Phase.UNDONE, 911)


def big(agent: Agent, domain: Domain, size: int = 256 * MIB) -> VolumeRef:
    volume = VolumeRef(domain.id, ImageId(new_id()), VolumeId(new_id()))
    agent.storage.add(volume, format=RAW, capacity=size)
    agent.storage.write(volume, f"write -P 7 0 {size}")
    return volume


def test_cancelled_move_leaves_nothing_and_takes_nothing(agent: Agent, one: Domain, two: Domain) -> None:
    volume = big(agent, one)
    ident = agent.submit(move(volume, two))
    eventually(lambda: two.backend.homes(volume.volume_id))
    there = VolumeRef(two.id, volume.image_id, volume.volume_id)
    eventually(lambda: two.backend.data(there).allocated > MIB)
    assert two.backend.volume(there).legality is Legality.ILLEGAL
    agent.operations.cancel(ident)
    view = agent.operations.wait(ident, 60)
    assert failure(view) == (Phase.UNDONE, 411)
    assert nothing_in(two)
    assert one.backend.volume(volume).legality is Legality.LEGAL


def test_progress_is_told_while_it_goes_on(agent: Agent, one: Domain, two: Domain) -> None:
    volume = big(agent, one)
    seen: set[int] = set()
    ident = agent.submit(move(volume, two))
    while (view := agent.operations.get(ident)).phase is Phase.RUNNING:
        seen.add(view.progress)
    assert view.phase is Phase.DONE
    assert len(seen) > 3
    assert all(0 <= percent < 100 for percent in seen)


@needs("root")
def test_full_target_is_told_and_left_clean(agent: Agent, one: Domain, tmp_path: Path) -> None:
    chain = agent.storage.chain(one, RAW, COW, COW)
    before = [agent.storage.digest(volume) for volume in chain]
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1500k", "small"):
        small = open_domain(tmp_path / "small")
        agent.storage.domains[small.id] = small
        assert failure(agent.do(move(chain[0], small))) == (Phase.UNDONE, 397)
        assert failure(agent.do(copy(chain[-1], small, format=COW))) == (Phase.UNDONE, 397)
        wanted = copy(chain[0], small, allocation=Allocation.PREALLOCATED)
        assert failure(agent.do(wanted)) == (Phase.UNDONE, 397)
        assert nothing_in(small)
    assert [agent.storage.digest(volume) for volume in chain] == before


@needs("root", "fuse", "program:bindfs")
def test_frozen_target_costs_a_deadline_and_is_cleaned_when_it_is_back(one: Domain, tmp_path: Path) -> None:
    helpers = HelperPool(HelperLimits(timeout_s=3))
    try:
        with bound(tmp_path / "real", tmp_path / "mount") as server:
            frozen = open_domain(
                tmp_path / "real", metadata(StorageType.NFS), helpers.of("frozen"), mount=tmp_path / "mount"
            )
            agent = Agent(tmp_path, Storage(one, frozen), Patience(silence_s=4))
            volume = big(agent, one, 512 * MIB)
            ident = agent.submit(move(volume, frozen))
            data = tmp_path / "real" / frozen.id / "images" / volume.image_id / volume.volume_id
            eventually(lambda: data.exists() and data.stat().st_blocks > 2000)
            server.freeze()
            view = agent.operations.wait(ident, 100)
            assert view.phase is Phase.HALF_UNDONE
            assert view.fault
            assert view.fault.name == "unfinished"
            assert one.backend.volume(volume).legality is Legality.LEGAL
            server.thaw()
            eventually(lambda: settled(agent, ident) is Phase.UNDONE)
            eventually(lambda: process.abandoned() == 0)
            assert nothing_in(frozen)
            assert agent.operations.stop(60)
    finally:
        assert helpers.stop(60)


def settled(agent: Agent, ident: str) -> Phase:
    with suppress(Exception):
        agent.operations.settle(ident)
    return agent.operations.wait(ident, 60).phase


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    with memory_directory() as folder:
        yield folder


@pytest.mark.parametrize("kind", ["move", *(("copy", "keep", "clone") if EXHAUSTIVE else ())])
def test_cancelled_at_any_point_it_is_before_or_after(fast_folder: Path, kind: str) -> None:
    base, pristine = fast_folder / "world", fast_folder / "pristine"
    base.mkdir()
    harness.furnish(base, kind)
    base.rename(pristine)
    outcomes = []
    known: dict[Phase, object] = {}
    judged: harness.Judged = {}
    turn = 0
    while True:
        harness.restore(base, pristine)
        world = harness.World(base, kind)
        world.judged = judged
        known.setdefault(Phase.UNDONE, world.seen())
        phase, reached = cancelled_at(world, turn)
        # The first run is not cancelled, and neither is the one whose turn does not come any more.
        assert world.seen() == known.setdefault(phase, world.seen()), (turn, phase)
        assert phase in {Phase.DONE, Phase.UNDONE}
        outcomes.append(phase)
        if turn and not reached:
            break
        turn += 1 if EXHAUSTIVE else 5
    assert outcomes[0] == outcomes[-1] == Phase.DONE
    assert outcomes.count(Phase.UNDONE) >= 4


def cancelled_at(world: harness.World, turn: int) -> tuple[Phase, bool]:
    """Run the world's task and cancel it at a point; its end, and whether the point was reached."""
    canceller = Canceller(turn)
    name, arguments = world.task()
    kinds = world.kinds(canceller)
    operations = world.operations(kinds, canceller)
    canceller.operations = operations
    operations.resume()
    view = operations.wait(operations.submit(kinds[name], arguments, harness.ID).id, 60)
    assert operations.stop(60)
    return view.phase, canceller.passed >= turn


class Canceller(harness.Doom):
    """Cancels where the harness kills."""

    operations: Operations

    def point(self, _: str) -> None:
        self.passed += 1
        if self.passed == self.turn:
            with suppress(WrongState):
                self.operations.cancel(harness.ID)


@pytest.mark.timeout(2000)
@pytest.mark.parametrize("kind", KILLED)
def test_killed_at_every_point_it_is_before_or_after(fast_folder: Path, kind: str) -> None:
    argv = [sys.executable, HARNESS, fast_folder / "world", kind, "13" if EXHAUSTIVE else "0"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["points"] >= 15
    mostly, else_ = ("before", "after") if kind == "clone" else ("after", "before")
    assert seen[mostly] > seen[else_] > 0
    assert seen["before"] + seen["after"] >= seen["points"] - 4
    assert seen["kills"] >= seen["points"] - 4


@pytest.mark.parametrize("seed", range(4))
def test_random_chains_move_and_are_copied_as_they_are(agent: Agent, one: Domain, two: Domain, seed: int) -> None:
    """Any formats, sizes that grow upwards, data and zeros anywhere, also behind the end of what is beneath."""
    dice = random.Random(seed)
    storage = agent.storage
    image = ImageId(new_id())
    chain: list[VolumeRef] = []
    capacity = MIB
    for _ in range(dice.randint(1, 5)):
        volume = VolumeRef(one.id, image, VolumeId(new_id()))
        layout = dice.choice([RAW, COW]) if not chain else COW
        allocation = dice.choice([Allocation.SPARSE, Allocation.PREALLOCATED])
        capacity += dice.choice([0, 4096, MIB])
        storage.add(
            volume, parent=chain[-1] if chain else None, format=layout, allocation=allocation, capacity=capacity
        )
        for _ in range(dice.randint(0, 6)):
            length = dice.choice([512, 4096, 65536, 300 * 1024])
            at = dice.randrange(0, capacity - length, 512)
            storage.write(
                volume, dice.choice([f"write -P {dice.randint(0, 255)} {at} {length}", f"write -z {at} {length}"])
            )
        chain.append(volume)
    digests = [storage.digest(volume) for volume in chain]
    wanted = copy(dice.choice(chain), two, format=dice.choice([RAW, COW]))
    assert agent.do(wanted).phase is Phase.DONE
    assert storage.digest(wanted.target) == digests[[volume.volume_id for volume in chain].index(wanted.volume_id)]
    assert agent.do(move(chain[0], two)).phase is Phase.DONE
    there = refs(two, image, chain)
    assert [storage.digest(volume) for volume in there] == digests
    assert all(storage.is_sound(volume) for volume in there)
    assert nothing_in(one)
