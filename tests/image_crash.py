"""Kills a process at every fault point of an operation on images, and of its recovery; looks at what is on the disk.

A program that has cases calls ``main(CASES)`` (functional/image_cases.py):

    python image_cases.py DIRECTORY CASE STRIDE

For each point k of an undisturbed run: the storage is laid out afresh, a child runs the operation and is killed there
(SIGKILL, by itself); another recovers, as the next start of the agent does. Then the same again, and the recovery, too,
is killed, at each STRIDEth of its points (at each with 1, at none with 0), and one more recovers. What must be there
then is what was there before the operation, or after an undisturbed one, as the record says, and nothing else: names,
modes, links, metadata but for its time, and the content that a VM would see. It forks from a process of one thread.

Fault points are those of operations, and both sides of every change that goes through ``DoomedFiles``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dooms import Doom, in_child
from vdsm.base import persist
from vdsm.operations.journal import FileJournal
from vdsm.operations.manager import Operations
from vdsm.operations.records import SETTLED, Phase
from vdsm.storage.files.localfiles import LocalFiles

ID = "5b0f8a3e-0000-4000-8000-000000000002"
Facts = dict[str, object]
Opened = tuple[Operations, Callable[[], object]]


class DoomedFiles(LocalFiles):
    """Changes files with a point before and after each change, and in the middle of replacing one."""

    def __init__(self, doom: Doom) -> None:
        self.doom = doom

    def replace(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        fresh = Path(f"{path}.new")
        fresh.unlink(missing_ok=True)
        self.doom.point("nothing of a file")
        fresh.write_bytes(data[: len(data) // 2])
        self.doom.point("half a file")
        fresh.write_bytes(data)
        fresh.chmod(mode)
        self.doom.point("a file without its name")
        fresh.rename(path)
        persist.sync_directory(fresh.parent)
        self.doom.point("a file in place")


def _doomed(name: str) -> Callable[..., Any]:
    def call(self: DoomedFiles, *args: Any, **kwargs: Any) -> Any:
        self.doom.point(f"before {name}")
        result = getattr(LocalFiles, name)(self, *args, **kwargs)
        self.doom.point(f"after {name}")
        return result

    return call


for _name in (
    *("create", "write_at", "truncate", "allocate", "touch", "mkdir", "rmdir"),
    *("rename", "link", "unlink", "chmod", "fsync"),
):
    setattr(DoomedFiles, _name, _doomed(_name))


@dataclass(frozen=True)
class Case:
    """One operation that is killed.

    Attributes:
        furnish: lays the storage out in an empty directory; once.
        open: operations on the storage in a directory, with a journal in DIRECTORY/journal, not resumed; and what
            begins the one operation, under ``ID``.
        left: what of the directory does not count, as a pattern of relative paths.
        mostly: what nearly every kill must lead to: "before" for what is undone, "after" for what goes on.
    """

    furnish: Callable[[Path], None]
    open: Callable[[Path, Doom], Opened]
    mostly: str
    left: str = r"journal(/.*)?"


@dataclass
class Seen:
    """What came of a case."""

    points: int = 0
    kills: int = 0
    before: int = 0
    after: int = 0
    phases: set[str] = field(default_factory=set)


def hunt(case: Case, base: Path, stride: int) -> Seen:
    """Kill the case at each of its points.

    Raises:
        AssertionError: something is neither as before nor as after, or not settled.
    """
    furnished, now = base / "furnished", base / "now"
    furnished.mkdir(parents=True)
    (furnished / "journal").mkdir()
    case.furnish(furnished)
    _lay_out(furnished, now)
    known = {"before": _Known(now, case)}
    known["before"].look()
    points = _in_child(lambda doom: _perform(case, now, doom), Doom())
    assert points, "the operation was killed or failed without being touched"
    assert _phase(now) == Phase.DONE
    known["after"] = _Known(now, case)
    known["after"].look()
    assert not known["after"].same_as(known["before"]), "it changes nothing"
    seen = Seen(points)
    for turn in range(1, points + 1):
        again = 0
        while True:
            cut = _strike(case, furnished, now, turn, again)
            seen.kills += 1 + cut
            outcome = _judge(case, now, known, f"killed at {turn}, recovery at {again}")
            if not again:
                setattr(seen, outcome, getattr(seen, outcome) + 1)
                seen.phases.add(_phase(now))
            if stride == 0 or (again and not cut):
                break
            # Begun elsewhere for each turn, so that the points that are left out are others each time.
            again += stride if again else 1 + turn % stride
    return seen


def hunt_in_time(case: Case, base: Path, kills: int) -> Seen:
    """Kill the case at moments spread over its run: in the middle of what other programs do for it.

    Raises:
        AssertionError: as of ``hunt``.
    """
    furnished, now = base / "furnished", base / "now"
    furnished.mkdir(parents=True)
    (furnished / "journal").mkdir()
    case.furnish(furnished)
    _lay_out(furnished, now)
    known = {"before": _Known(now, case)}
    known["before"].look()
    began_s = time.monotonic()
    assert _in_child(lambda doom: _perform(case, now, doom), Doom())
    took_s = time.monotonic() - began_s
    known["after"] = _Known(now, case)
    known["after"].look()
    seen = Seen()
    for number in range(kills):
        _lay_out(furnished, now)
        late_s = took_s * (number + 1) / (kills + 1)
        killed = _in_child(lambda doom, late_s=late_s: _perform_until(case, now, doom, late_s), Doom()) == 0
        assert _in_child(lambda doom: _recover(case, now, doom), Doom()) > 0
        seen.kills += killed
        outcome = _judge(case, now, known, f"killed after {late_s} of {took_s} s")
        setattr(seen, outcome, getattr(seen, outcome) + 1)
    return seen


def _perform_until(case: Case, base: Path, doom: Doom, late_s: float) -> None:
    timer = threading.Timer(late_s, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    _perform(case, base, doom)
    timer.cancel()


def main(cases: Mapping[str, Case]) -> int:
    """The program: see the module. With a negative STRIDE so many kills are spread over the time that it takes."""
    base, name, stride = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    seen = hunt(cases[name], base, stride) if stride >= 0 else hunt_in_time(cases[name], base, -stride)
    print(json.dumps({**vars(seen), "phases": sorted(seen.phases)}))
    return 0


def _strike(case: Case, furnished: Path, now: Path, turn: int, again: int) -> bool:
    """Kill it once, and recover; whether the first recovery was killed, too."""
    _lay_out(furnished, now)
    assert _in_child(lambda doom: _perform(case, now, doom), Doom(turn)) == 0, f"not killed at {turn}"
    cut = _in_child(lambda doom: _recover(case, now, doom), Doom(again)) == 0
    if cut:
        assert _in_child(lambda doom: _recover(case, now, doom), Doom()) > 0
    return cut


def _perform(case: Case, base: Path, doom: Doom) -> None:
    running, begin = case.open(base, doom)
    running.resume()
    begin()
    running.wait(ID, 120)


def _recover(case: Case, base: Path, doom: Doom) -> None:
    doom.point("a start")
    running, _ = case.open(base, doom)
    for view in running.resume():
        running.wait(view.id, 120)


def _in_child(function: Callable[[Doom], None], doom: Doom) -> int:
    """Run it in a child: how many points it passed; 0 when it was killed."""
    return in_child(function, doom)[1]


def _lay_out(furnished: Path, now: Path) -> None:
    shutil.rmtree(now, ignore_errors=True)
    subprocess.run(["cp", "-a", "--sparse=always", furnished, now], check=True, timeout=60)


def _phase(base: Path) -> str:
    """The phase of the only record, or "none"."""
    records, damaged = FileJournal(LocalFiles(), str(base / "journal")).load()
    assert not damaged
    assert len(records) <= 1
    return str(records[0].phase) if records else "none"


def _judge(case: Case, base: Path, known: Mapping[str, _Known], where: str) -> str:
    """What became of it: "before" or "after", and nothing between."""
    phase = _phase(base)
    assert phase == "none" or Phase(phase) in SETTLED, (where, phase)
    outcome = "after" if phase == Phase.DONE else "before"
    found, wanted = _Known(base, case), known[outcome]
    assert found.same_as(wanted), (where, phase, found.unlike(wanted))
    return outcome


class _Known:
    """A picture of the storage in a directory; contents are only compared as a VM sees them if bytes differ."""

    def __init__(self, base: Path, case: Case) -> None:
        paths = [path for path in sorted(base.rglob("*")) if not re.fullmatch(case.left, str(path.relative_to(base)))]
        self.facts: Facts = {}
        links: dict[int, list[str]] = {}
        for path in paths:
            name = str(path.relative_to(base))
            self.facts[name] = (path.lstat().st_mode, _content(path))
            if path.is_file():
                links.setdefault(path.stat().st_ino, []).append(name)
        self.facts["links"] = sorted(names for names in links.values() if len(names) > 1)
        self._base = base
        self.seen: Facts = {}

    def same_as(self, other: _Known) -> bool:
        if self.facts == other.facts:
            return True
        self.look()
        images = self.seen.keys() | other.seen.keys()
        others = {name for name in self.facts.keys() | other.facts.keys() if name not in images}
        return self.seen == other.seen and all(self.facts.get(name) == other.facts.get(name) for name in others)

    def unlike(self, other: _Known) -> list[str]:
        names = sorted(self.facts.keys() | other.facts.keys())
        return [name for name in names if self.facts.get(name) != other.facts.get(name)]

    def look(self) -> None:
        """Learn what a VM sees of each qcow2 image, while the directory is still as it was; they must be sound."""
        for name in self.facts if not self.seen else ():
            path = self._base / name
            if name != "links" and path.is_file() and path.stat().st_size > 4 and _head(path) == b"QFI\xfb":
                self.seen[name] = seen_by_a_vm(path)


def seen_by_a_vm(path: Path) -> str:
    """The hash of a qcow2 image's content with all that it stands on, after it was checked.

    Raises:
        AssertionError: qemu-img finds errors or leaks in it.
    """
    check = subprocess.run(
        ["qemu-img", "check", "-q", "-f", "qcow2", path], capture_output=True, timeout=60, check=False
    )
    assert check.returncode == 0, (path, check.stdout, check.stderr)
    copy = path.parent / "seen"
    try:
        argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, copy]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        return hashlib.sha256(copy.read_bytes()).hexdigest()
    finally:
        copy.unlink(missing_ok=True)


def _content(path: Path) -> str:
    if not path.is_file():
        return ""
    data = path.read_bytes()
    if path.suffix == ".meta":
        return re.sub(r"CTIME=\d+", "CTIME=", data.decode())
    return hashlib.sha256(data).hexdigest()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)
