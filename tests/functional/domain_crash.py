"""A program: kills processes at every point of making and formatting a domain, and of what recovers that.

    python domain_crash.py DIRECTORY make|format|bare STRIDE

make and format go through the host's journal: what is killed is settled by the next agent's start, which is killed at
each STRIDEth of its points, too. bare has no journal: what is killed is taken away by making or formatting again. It
prints what it saw as JSON. Points are before and after each change of a file, and those of operations.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from domain_parts import LocalDoors, PaperLocks, Place, registry
from dooms import Doom, in_child
from vdsm.operations.host_journal import HostJournal
from vdsm.operations.kinds import Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import SETTLED
from vdsm.storage.domains.domain_maker import NewDomain
from vdsm.storage.domains.domain_work import DomainKinds, DomainWork
from vdsm.storage.domains.domains import Domains
from vdsm.storage.errors import DomainExists, NoSuchDomain
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import DomainClass, StorageType

ID = DomainId("5b0f8a3e-0000-4000-8000-00000000d0a1")
CHANGES = {"create", "replace", "write_at", "truncate", "mkdir", "rmdir", "unlink", "rename"}


class DoomedFiles:
    """Files in this process, with a point before and after each change."""

    def __init__(self, doom: Doom) -> None:
        self._doom = doom
        self._files = LocalFiles()

    def within(self, _: float) -> DoomedFiles:
        return self

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._files, name)
        if name not in CHANGES:
            return call

        def doomed(*arguments: Any, **options: Any) -> Any:
            self._doom.point(f"before {name}")
            result = call(*arguments, **options)
            self._doom.point(f"after {name}")
            return result

        return doomed


class Agent:
    """What one process has of the agent."""

    def __init__(self, base: Path, doom: Doom) -> None:
        self.place = Place.of(base / "mount", StorageType.NFS, "server:/x")
        doors = LocalDoors(DoomedFiles(doom))
        self.domains: Domains = registry([self.place], doors, PaperLocks())
        self.kinds = DomainKinds(self.domains)
        journal = HostJournal(base / "journal")
        self.operations = Operations(Kinds(self.kinds.all), journal, Locks(), workers=2, point=doom.point)
        self.work = DomainWork(self.domains, self.kinds, self.operations, timeout_s=60)

    def perform(self, what: str) -> None:
        self.operations.resume()
        if what == "format":
            self.work.format(ID)
        else:
            self.work.create(wanted(self.place))

    def recover(self) -> None:
        for view in self.operations.resume():
            assert self.operations.wait(view.id, 60).phase in SETTLED
        self.work.settle()  # forgets what nobody waits for


def wanted(place: Place) -> NewDomain:
    return NewDomain(ID, place.type, place.spec, name="crash", domain_class=DomainClass.ISO)


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_size for path in sorted(root.rglob("*"))}


def fresh(base: Path, what: str) -> None:
    shutil.rmtree(base, ignore_errors=True)
    (base / "journal").mkdir(parents=True)
    agent = Agent(base, Doom(0))
    if what == "format":
        agent.domains.create(wanted(agent.place))
        for name in ("images/i/v", "master/tasks/t/t.task", "master/vms/v/v.ovf"):
            path = base / "mount" / ID / name
            path.parent.mkdir(parents=True)
            path.write_text("x")


def journaled(base: Path, what: str, stride: int) -> dict[str, int]:
    fresh(base, what)
    before = tree(base / "mount")
    _, points = in_child(lambda doom: Agent(base, doom).perform(what), Doom(0))
    after = tree(base / "mount")
    assert before != after
    seen = {"points": points, "before": 0, "after": 0, "kills": 0}
    for turn in range(1, points + 1):
        fresh(base, what)
        killed, _ = in_child(lambda doom: Agent(base, doom).perform(what), Doom(turn))
        assert killed, turn
        again = 1 + turn % stride
        while in_child(lambda doom: Agent(base, doom).recover(), Doom(again))[0]:
            seen["kills"] += 1
            again += stride
        found = tree(base / "mount")
        assert found in (before, after), (turn, sorted(found))
        assert list((base / "journal").iterdir()) == [], turn
        seen["before" if found == before else "after"] += 1
        seen["kills"] += 1
    return seen


def found(base: Path) -> bool:
    """Whether a host that comes now takes it for a domain."""
    try:
        Agent(base, Doom(0)).domains.find(ID)
    except NoSuchDomain:
        return False
    return True


def bare(base: Path) -> dict[str, int]:
    """Without a journal: what is left by a killed making is made again or formatted, and so is a killed formatting."""
    fresh(base, "make")

    def create(doom: Doom) -> None:
        agent = Agent(base, doom)
        agent.domains.create(wanted(agent.place))

    def take_away(doom: Doom) -> None:
        Agent(base, doom).domains.format(ID)

    _, points = in_child(create, Doom(0))
    whole = tree(base / "mount")
    seen = {"points": points, "made": 0, "there": 0, "kills": 0}
    for turn in range(1, points + 1):
        fresh(base, "make")
        assert in_child(create, Doom(turn))[0]
        if found(base):
            # A domain from its metadata on, with all its files; only the directory of images may not be there yet.
            assert {name for name in whole if "/images" not in name} <= set(tree(base / "mount")), turn
        agent = Agent(base, Doom(0))
        try:
            agent.domains.create(wanted(agent.place))
        except DomainExists:
            seen["there"] += 1
        else:
            seen["made"] += 1
            assert tree(base / "mount") == whole, turn
        whole_now = tree(base / "mount")
        last = 1 + turn % 5
        while in_child(take_away, Doom(last))[0]:
            seen["kills"] += 1
            last += 5
            left = tree(base / "mount")
            assert not found(base) or left == whole_now, (turn, sorted(left))
            if not left:
                break
        assert found(base) or tree(base / "mount") == {}, turn
    return seen


def main() -> int:
    base, what, stride = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    print(json.dumps(bare(base) if what == "bare" else journaled(base, what, stride)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
