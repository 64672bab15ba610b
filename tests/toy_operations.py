"""Small operations on real files, for tests: make, replace and delete a thing in a catalogue.

ROOT/catalogue          the names of all things, a line each
ROOT/NAME/data, meta    a thing
ROOT/shared/NAME        a second name of its data
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from vdsm.base.errors import AlreadyExists
from vdsm.operations.kinds import Kind, Kinds, Policy, Run, Step
from vdsm.operations.locks import Mode, Resource, Wants

CHUNKS = 3


class Thing(msgspec.Struct, frozen=True):
    root: str
    name: str
    fails_at: str = ""
    old: str | None = None

    def path(self, *parts: str) -> Path:
        return Path(self.root, *parts)


def swap(path: Path, text: str, run: Run) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    run.point(f"{path.name} is written and has no name")
    fresh.rename(path)
    run.point(f"{path.name} is in place")


def make_steps(thing: Thing) -> list[Step]:
    home, catalogue = thing.path(thing.name), thing.path("catalogue")

    def failing(do: Callable[[Run], None], name: str) -> Callable[[Run], None]:
        def step(run: Run) -> None:
            do(run)
            if thing.fails_at == name:
                raise OSError(28, "No space left on device")

        return step

    def make_home(run: Run) -> None:
        home.mkdir(exist_ok=True)

    def remove_home(run: Run) -> None:
        if home.exists():
            home.rmdir()

    def write_data(run: Run) -> None:
        with (home / "data").open("wb") as file:
            for number in range(CHUNKS):
                run.check()
                file.write(b"%d" % number * 1000)
                file.flush()
                run.progress((number + 1) / CHUNKS)
                run.point(f"{number + 1} parts are written")

    def remove_data(run: Run) -> None:
        (home / "data").unlink(missing_ok=True)
        run.point("the data is removed")

    def share(run: Run) -> None:
        if not thing.path("shared", thing.name).exists():
            os.link(home / "data", thing.path("shared", thing.name))

    def unshare(run: Run) -> None:
        thing.path("shared", thing.name).unlink(missing_ok=True)

    def enter(run: Run) -> None:
        if thing.old is None and "old" not in run.notes:
            run.remember(old=catalogue.read_text())
        run.point("the old catalogue is remembered")
        swap(catalogue, f"{run.notes['old'] if thing.old is None else thing.old}{thing.name}\n", run)

    def leave(run: Run) -> None:
        thing.path("catalogue.new").unlink(missing_ok=True)
        if thing.old is not None or "old" in run.notes:
            swap(catalogue, thing.old if thing.old is not None else str(run.notes["old"]), run)

    def write_meta(run: Run) -> None:
        swap(home / "meta", f"legal {thing.name}\n", run)

    def remove_meta(run: Run) -> None:
        for name in ("meta.new", "meta"):
            (home / name).unlink(missing_ok=True)

    plan = [
        ("make the directory", make_home, remove_home, True),
        ("write the data", write_data, remove_data, True),
        ("share the data", share, unshare, False),
        ("enter it in the catalogue", enter, leave, True),
        ("write the metadata", write_meta, remove_meta, True),
    ]
    return [Step(name, failing(do, name), undo, recorded=recorded) for name, do, undo, recorded in plan]


def delete_steps(thing: Thing) -> list[Step]:
    home, doomed, catalogue = thing.path(thing.name), thing.path(f"_remove_me_{thing.name}"), thing.path("catalogue")

    def leave(run: Run) -> None:
        lines = [line for line in catalogue.read_text().splitlines(keepends=True) if line != f"{thing.name}\n"]
        swap(catalogue, "".join(lines), run)

    def doom(run: Run) -> None:
        if home.exists():
            home.rename(doomed)

    def revive(run: Run) -> None:
        if doomed.exists():
            doomed.rename(home)

    def unshare(run: Run) -> None:
        thing.path("shared", thing.name).unlink(missing_ok=True)

    def destroy(run: Run) -> None:
        for name in ("data", "meta"):
            (doomed / name).unlink(missing_ok=True)
            run.point(f"{name} is gone")
        if thing.fails_at == "destroy":
            raise OSError(5, "Input/output error")
        if doomed.exists():
            doomed.rmdir()

    return [
        Step("put it aside", doom, revive, pivot=True),
        Step("take it out of the catalogue", leave, recorded=False),
        Step("take its second name", unshare),
        Step("destroy it", destroy),
    ]


def wants(thing: Thing) -> Wants:
    return [(Resource("thing", thing.name), Mode.EXCLUSIVE), (Resource("catalogue", thing.root), Mode.EXCLUSIVE)]


def look(thing: Thing) -> Thing:
    old = thing.path("catalogue").read_text()
    if thing.name in old.splitlines():
        raise AlreadyExists("thing", thing.name)
    return msgspec.structs.replace(thing, old=old)


MAKE = Kind("make", 1, Thing, make_steps, wants)
MAKE_ON = Kind("make on", 1, Thing, make_steps, wants, policy=Policy.RESUME)
MAKE_SEEING = Kind("make seeing", 1, Thing, make_steps, wants, look)
MAKE_ON_SEEING = Kind("make on seeing", 1, Thing, make_steps, wants, look, Policy.RESUME)
DELETE = Kind("delete", 1, Thing, delete_steps, wants)
PURGE = Kind("purge", 1, Thing, delete_steps, wants, policy=Policy.FINISH)
KINDS = Kinds([MAKE, MAKE_ON, MAKE_SEEING, MAKE_ON_SEEING, DELETE, PURGE])


def furnish(root: Path, *names: str) -> None:
    """A catalogue with a thing of each name."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "shared").mkdir(parents=True)
    (root / "catalogue").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        (root / name).mkdir()
        (root / name / "data").write_bytes(b"".join(b"%d" % number * 1000 for number in range(CHUNKS)))
        (root / name / "meta").write_text(f"legal {name}\n")
        os.link(root / name / "data", root / "shared" / name)


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a directory; a directory is None."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }
