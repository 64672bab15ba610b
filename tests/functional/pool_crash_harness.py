"""A program: kills a host at every fault point of a change of its pool, and of what recovers it, and looks at the disk.

    python pool_crash_harness.py DIRECTORY SCENARIO STRIDE [old|new]

As ``crash_harness``: killed (SIGKILL) at each point of the journal, of the steps, and of each write of metadata;
another process recovers, and is killed too at each STRIDEth of its points; one more recovers. The domains are local
ones with their real lock. The last word says with which master domain the manager tries first after a crash.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from crash_harness import TornFiles

from domain_parts import LocalDoors, eventually
from dooms import Doom, in_child
from pool_worlds import POOL, Host, places
from storage_domains import NOW_S
from vdsm.operations.records import SETTLED
from vdsm.storage.executor import carry_out
from vdsm.storage.formats.tasks import Job, Rollback, TaskRecord, TaskState, encode_task
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.mover import QemuImages
from vdsm.storage.kinds import AttachedStatus, VolumeFormat
from vdsm.storage.plans import NewVolume
from vdsm.storage.plans import create as plan_create
from vdsm.storage.pool.pool_edits import amended
from vdsm.storage.pool.pool_errors import WrongMaster

ACTIVE, ATTACHED = AttachedStatus.ACTIVE, AttachedStatus.ATTACHED
Ids = list[DomainId]
TASK = "0c000000-0000-4000-8000-000000000001"


class Sleeping(Doom):
    """Counts and kills only once it was woken."""

    def __init__(self, turn: int) -> None:
        super().__init__(turn)
        self.awake = False

    def point(self, name: str) -> None:
        if self.awake:
            super().point(name)


class PointedFiles(TornFiles):
    """Points after each change of a name, too."""

    def create(self, path: str, data: bytes = b"", *, mode: int = 0o644) -> None:
        super().create(path, data, mode=mode)
        self.doom.point(f"created {path}")

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        super().mkdir(path, mode=mode)
        self.doom.point(f"made {path}")

    def rename(self, path: str, target: str) -> None:
        super().rename(path, target)
        self.doom.point(f"renamed {path}")

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.doom.point(f"removed {path}")

    def rmdir(self, path: str) -> None:
        super().rmdir(path)
        self.doom.point(f"removed {path}")


@dataclass
class World:
    base: Path
    doom: Sleeping
    prefers: str = "old"

    names: bool = False

    def host(self) -> Host:
        files = PointedFiles(self.doom) if self.names else TornFiles(self.doom)
        doors = LocalDoors(files)
        return Host(self.base, places(self.base, 3), doors=doors, options={"point": self.doom.point})

    def ids(self) -> Ids:
        return [DomainId(line) for line in (self.base / "ids").read_text().split()]


def manage(host: Host, ids: Ids, *states: AttachedStatus) -> None:
    host.pools.connect(POOL, 1, ids[0], 1, dict(zip(ids, states, strict=False)))
    assert host.become_spm().result == "success"


def furnish(world: World) -> None:
    host = world.host()
    ids = [host.new_domain(place) for place in host.places]
    (world.base / "ids").write_text("\n".join(ids))
    host.end()


def furnish_pool(world: World) -> None:
    furnish(world)
    host, ids = world.host(), world.ids()
    host.pools.create(POOL, "a pool", ids[0], 1, ids[:2])
    manage(host, ids, ACTIVE, ACTIVE)
    master = Path(host.domains.find(ids[0]).master_path)
    (master / "vms" / "a").mkdir()
    (master / "vms" / "a" / "a.ovf").write_text("a VM")
    host.pools.spm_stop(POOL)
    host.end()


def furnish_masters(world: World) -> None:
    """Two domains that say that they are the master."""
    furnish_pool(world)
    host, ids = world.host(), world.ids()
    host.domains.update(ids[1], lambda metadata: amended(metadata, {"ROLE": "Master"}))
    host.end()


def furnish_old(world: World) -> None:
    """A pool of the version before, with volumes."""
    host = world.host()
    ids = [host.new_domain(place, version=4) for place in host.places]
    (world.base / "ids").write_text("\n".join(ids))
    backend = host.domains.find(ids[0]).backend
    for _ in range(2):
        volume = VolumeRef(ids[0], ImageId(new_id()), VolumeId(new_id()))
        for step in plan_create({}, NewVolume(volume, 1 << 20, NOW_S, format=VolumeFormat.RAW)):
            carry_out(step, backend, QemuImages(host.domains.find))
    host.pools.create(POOL, "a pool", ids[0], 1)
    manage(host, ids, ACTIVE)
    host.pools.spm_stop(POOL)
    host.end()


def furnish_foreign(world: World) -> None:
    """A host of the original died while it made a volume, all of whose parts are there."""
    furnish_pool(world)
    host, ids = world.host(), world.ids()
    domain = host.domains.find(ids[0])
    volume = VolumeRef(ids[0], ImageId(new_id()), VolumeId(new_id()))
    for step in plan_create({}, NewVolume(volume, 4096, NOW_S, format=VolumeFormat.RAW)):
        carry_out(step, domain.backend, QemuImages(host.domains.find))
    image = f"{domain.path}/images/{volume.image_id}"
    path, three = f"{image}/{volume.volume_id}", (ids[0], volume.image_id, volume.volume_id)
    file = "fileVolume", "FileVolume"
    rollbacks = (
        Rollback("image", "sd", "StorageDomain", "create_image_rollback", (image,)),
        Rollback("sentinel", *file, "startCreateVolumeRollback", three),
        Rollback("half", *file, "halfbakedVolumeRollback", (ids[0], volume.volume_id, path)),
        Rollback("metadata", *file, "createVolumeMetadataRollback", (path,)),
    )
    task = TaskRecord(TASK, "createVolume", TaskState.RUNNING, "/tasks", (Job("createVolume"),), rollbacks)
    home = Path(domain.master_path) / "tasks" / TASK
    home.mkdir()
    for name, data in encode_task(task).items():
        (home / name).write_bytes(data)
    host.end()


def inherit(host: Host, ids: Ids) -> None:
    manage(host, ids, ACTIVE, ACTIVE)
    assert host.tasks.status(TASK).result == "cleanSuccess"
    host.tasks.clear(TASK)
    host.pools.spm_stop(POOL)


def upgrade(host: Host, ids: Ids) -> None:
    host.pools.upgrade(POOL, 5)


def create(host: Host, ids: Ids) -> None:
    host.pools.create(POOL, "a pool", ids[0], 1, ids)


def reconstruct(host: Host, ids: Ids) -> None:
    host.pools.reconstruct_master(POOL, 1, "again", ids[1], 2, {ids[0]: ATTACHED, ids[1]: ACTIVE})


def clean(host: Host, ids: Ids) -> None:
    host.pools.force_detach(ids[0], POOL)


def attach(host: Host, ids: Ids) -> None:
    host.pools.attach(ids[2], POOL)


def detach(host: Host, ids: Ids) -> None:
    host.pools.detach(ids[1], POOL)


def activate(host: Host, ids: Ids) -> None:
    host.pools.activate(ids[1], POOL)


def destroy(host: Host, ids: Ids) -> None:
    host.pools.destroy(POOL)


def switch(host: Host, ids: Ids) -> None:
    task = host.pools.switch_master(POOL, ids[0], ids[1], 2)
    host.ended(task)
    host.tasks.clear(task)


@dataclass(frozen=True)
class Scenario:
    furnish: Callable[[World], None]
    act: Callable[[Host, Ids], None]
    states: tuple[AttachedStatus, ...] = ()  # with which this host is the SPM; empty: in no pool
    on_disk: bool = False
    names: bool = False  # killed after each change of a name as well; it makes this host the SPM itself


SCENARIOS = {
    "create": Scenario(furnish, create),
    "reconstruct": Scenario(furnish_pool, reconstruct),
    "clean": Scenario(furnish_pool, clean),
    "attach": Scenario(furnish_pool, attach, (ACTIVE, ACTIVE)),
    "attach on disk": Scenario(furnish_pool, attach, (ACTIVE, ACTIVE), on_disk=True),
    "detach": Scenario(furnish_pool, detach, (ACTIVE, ATTACHED)),
    "activate": Scenario(furnish_masters, activate, (ACTIVE, ATTACHED)),
    "destroy": Scenario(furnish_pool, destroy, (ACTIVE, ACTIVE)),
    "inherit": Scenario(furnish_foreign, inherit, (ACTIVE, ACTIVE), names=True),
    "upgrade": Scenario(furnish_old, upgrade, (ACTIVE,)),
    "switch": Scenario(furnish_pool, switch, (ACTIVE, ACTIVE)),
}


def perform(world: World, scenario: Scenario) -> None:
    host, ids = world.host(), world.ids()
    if scenario.names:
        pass
    elif scenario.states and scenario.on_disk:
        host.pools.connect(POOL, 1, ids[0], 1)
        host.become_spm()
    elif scenario.states:
        manage(host, ids, *scenario.states)
    world.doom.awake = True
    scenario.act(host, ids)
    world.doom.awake = False
    host.end()


def recover(world: World, scenario: Scenario) -> None:
    world.doom.awake = True
    host, ids = world.host(), world.ids()
    eventually(lambda: all(view.phase in SETTLED for view in host.pools._maker.operations.views()))
    host.pools._maker.settle()
    if scenario.states:
        reconnect(world, host, ids, scenario)
    world.doom.awake = False
    host.end()


def reconnect(world: World, host: Host, ids: Ids, scenario: Scenario) -> None:
    """As the manager would: with the master that it believes in, and otherwise with the other one."""
    masters = [(ids[0], 1), (ids[1], 2)]
    for master, version in masters if world.prefers == "old" else reversed(masters):
        listed = None if scenario.on_disk else dict(zip(ids, scenario.states, strict=False))
        try:
            host.pools.connect(POOL, 1, master, version, listed)
        except WrongMaster:
            continue
        assert host.become_spm().result == "success"
        eventually(lambda: not host.pools.spm(POOL).busy())
        assert all(view.phase in SETTLED for view in host.pools.spm(POOL).operations.views())
        for status in host.tasks.statuses():
            host.tasks.clear(status.id)
        host.pools.spm_stop(POOL)
        return
    assert scenario.act is destroy, "no domain is the master"


def picture(base: Path, scenario: Scenario) -> dict[str, str]:
    """What the domains say, and what is in their master directories; names that a torn write leaves do not count."""
    paths = [*base.glob("storage*/*/dom_md/metadata"), *base.glob("storage*/*/images/*/*")]
    if scenario.act is not destroy:
        # What a dissolved pool leaves there belongs to nobody, and goes when the domain gets another pool.
        paths += [*base.glob("storage*/*/master/*/*/*"), *base.glob("storage*/*/master/*/*")]
    return {
        str(path.relative_to(base)): path.read_text() if path.is_file() else ""
        for path in paths
        if not path.name.endswith(".new")
    }


def judge(base: Path, scenario: Scenario, known: dict[str, dict[str, str]], where: str) -> str:
    found = picture(base, scenario)
    for outcome, expected in known.items():
        if found == expected:
            assert list((base / "journal1").iterdir()) == [], where
            return outcome
    every = {*found, *(key for item in known.values() for key in item)}
    differing = {key: (found.get(key), [item.get(key) for item in known.values()]) for key in every}
    raise AssertionError(where, {key: item for key, item in differing.items() if item[0] not in item[1]})


def main() -> int:
    root, name, stride = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    prefers = sys.argv[4] if len(sys.argv) > 4 else "old"
    scenario = SCENARIOS[name]
    made, base = root / "made", root / "at"
    made.mkdir(parents=True)
    in_child(lambda doom: scenario.furnish(World(made, Sleeping(0))), Doom(0))

    for mailbox in made.glob("storage*/*/dom_md/*box"):
        os.truncate(mailbox, 0)  # local domains have them for their names only, and 32 MiB take time to copy

    def fresh() -> None:
        # In one place, as paths are remembered.
        shutil.rmtree(base, ignore_errors=True)
        shutil.copytree(made, base, symlinks=True)

    def run(function: Callable[[World, Scenario], None], turn: int) -> tuple[bool, int]:
        doom = Sleeping(turn)
        return in_child(lambda doom: function(World(base, doom, prefers, scenario.names), scenario), doom)  # type: ignore[arg-type,misc]

    fresh()
    known = {"before": picture(base, scenario)}
    _, points = run(perform, 0)
    known["after"] = picture(base, scenario)
    assert known["before"] != known["after"]
    seen = {"points": points, "before": 0, "after": 0, "kills": 0}
    for turn in range(1, points + 1):
        again = 0
        while True:
            fresh()
            assert run(perform, turn)[0], turn
            cut, _ = run(recover, again)
            if cut:
                run(recover, 0)
            seen["kills"] += 1 + cut
            outcome = judge(base, scenario, known, f"killed at {turn}, recovery at {again}")
            seen[outcome] += again == 0
            if stride == 0 or (again and not cut):
                break
            again += stride if again else 1 + turn % stride
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
