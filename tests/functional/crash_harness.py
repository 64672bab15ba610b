"""A program: kills processes at every fault point of a toy operation, and of what recovers it, and looks at the files.

    python crash_harness.py DIRECTORY/slots|files KIND STRIDE

For each point k of an undisturbed run: a child runs the operation and is killed there (SIGKILL, by itself: at once,
with nothing flushed or closed); another recovers. Then the same again, and the recovery, too, is killed, at each
STRIDEth of its points (at each with 1, at none with 0), and one more recovers. It prints what it saw as JSON. It forks
from a process of one thread. The directory's name says which journal it is: this host's, or a storage domain's.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dooms import Doom, in_child
from toy_operations import (
    DELETE,
    MAKE,
    MAKE_ON,
    MAKE_ON_SEEING,
    MAKE_SEEING,
    PURGE,
    Thing,
    furnish,
    make_steps,
    tree,
)
from vdsm.base import persist
from vdsm.operations.host_journal import HostJournal
from vdsm.operations.journal import FileJournal, JournalStore
from vdsm.operations.kinds import Kind, Kinds, Step, nothing
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import SETTLED, Phase, Record
from vdsm.storage.files.localfiles import LocalFiles


def forgetful_steps(thing: Thing) -> list[Step]:
    """Steps of which one cannot be undone: the harness must find that."""
    return [
        dataclasses.replace(step, undo=nothing) if step.name == "share the data" else step for step in make_steps(thing)
    ]


FORGETFUL = Kind("forgetful", 1, Thing, forgetful_steps)
TOYS = {kind.name: kind for kind in (MAKE, MAKE_ON, MAKE_SEEING, MAKE_ON_SEEING, DELETE, PURGE, FORGETFUL)}
KINDS = Kinds(TOYS.values())
ID = "5b0f8a3e-0000-4000-8000-000000000001"


class TornFiles(LocalFiles):
    """Replaces files with points in the middle."""

    def __init__(self, doom: Doom) -> None:
        self.doom = doom

    def replace(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        fresh = Path(f"{path}.new")
        fresh.write_bytes(data[: len(data) // 2])
        self.doom.point("half a record")
        fresh.write_bytes(data)
        self.doom.point("a record without its name")
        fresh.chmod(mode)
        fresh.rename(path)
        persist.sync_directory(fresh.parent)
        self.doom.point("a record in place")


class TornJournal(HostJournal):
    """Overwrites slots with points in the middle."""

    def __init__(self, directory: Path, doom: Doom) -> None:
        super().__init__(directory)
        self.doom = doom

    def write(self, record: Record) -> None:
        self.doom.point("no record yet")
        super().write(record)

    def overwrite(self, path: Path, content: bytes, offset: int) -> None:
        super().overwrite(path, content[: len(content) // 2], offset)
        self.doom.point("half a record")
        super().overwrite(path, content, offset)
        self.doom.point("a record in place")


def journal(base: Path, doom: Doom) -> JournalStore:
    if base.name == "slots":
        return TornJournal(base / "journal", doom)
    return FileJournal(TornFiles(doom), str(base / "journal"))


def operations(base: Path, doom: Doom) -> Operations:
    return Operations(KINDS, journal(base, doom), Locks(), workers=2, point=doom.point)


def perform(base: Path, kind: str, doom: Doom) -> None:
    running = operations(base, doom)
    running.resume()
    running.submit(TOYS[kind], Thing(str(base / "root"), "new"), ID)
    running.wait(ID, 60)


def recover(base: Path, kind: str, doom: Doom) -> None:
    running = operations(base, doom)
    for view in running.resume():
        explained = running.explain(view.id)
        steps = tuple(step.name for step in TOYS[kind].plan(Thing(str(base / "root"), "new")))
        if not explained.done + explained.uncertain + explained.left:
            steps = ()  # it was not decided
        assert explained.done + explained.uncertain + explained.left == steps, explained
        running.wait(view.id, 60)


def state(base: Path) -> str:
    """The phase of the only record, or "none"."""
    records, damaged = journal(base, Doom(0)).load()
    assert not damaged
    return str(records[0].phase) if records else "none"


def judge(base: Path, kind: str, known: dict[str, dict[str, bytes | None]], where: str) -> str:
    """What became of it: "before" or "after", and nothing between."""
    names = [path.name for path in (base / "journal").iterdir()]
    assert names in ([], [f"{ID}.json"], [f"{ID}.op"]), (where, names)
    phase, found = state(base), tree(base / "root")
    assert phase == "none" or Phase(phase) in SETTLED, (where, phase)
    outcome = "after" if phase == Phase.DONE else "before"
    assert found == known[outcome], (where, phase, sorted(found), sorted(known[outcome]))
    return outcome


def fresh(base: Path, kind: str) -> None:
    furnish(base / "root", "old", *(["new"] if kind in {"delete", "purge"} else []))
    for path in (base / "journal").glob("*"):
        path.unlink()
    (base / "journal").mkdir(exist_ok=True)


def main() -> int:
    base, kind, stride = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    base.mkdir(exist_ok=True)
    fresh(base, kind)
    known = {"before": tree(base / "root")}
    killed, points = in_child(lambda doom: perform(base, kind, doom), Doom(0))
    assert not killed
    known["after"] = tree(base / "root")
    assert known["before"] != known["after"]
    seen = {"points": points, "before": 0, "after": 0, "kills": 0, "phases": []}
    phases = set()
    for turn in range(1, points + 1):
        again = 0
        while True:
            fresh(base, kind)
            killed, _ = in_child(lambda doom: perform(base, kind, doom), Doom(turn))
            assert killed, turn
            phases.add(state_quietly(base))
            cut, _ = in_child(lambda doom: recover(base, kind, doom), Doom(again))
            if cut:
                in_child(lambda doom: recover(base, kind, doom), Doom(0))
            seen["kills"] += 1 + cut
            outcome = judge(base, kind, known, f"killed at {turn}, recovery at {again}")
            seen[outcome] += again == 0
            if stride == 0 or (again and not cut):
                break
            # Begun elsewhere for each turn, so that the points that are left out are others each time.
            again += stride if again else 1 + turn % stride
    print(json.dumps({**seen, "phases": sorted(phases)}))
    return 0


def state_quietly(base: Path) -> str:
    """The phase before recovery, without removing what a torn write has left."""
    with tempfile.TemporaryDirectory() as copied:
        copy = Path(copied) / base.name
        shutil.copytree(base / "journal", copy / "journal")
        return state(copy)


if __name__ == "__main__":
    sys.exit(main())
