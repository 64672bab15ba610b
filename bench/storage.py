"""The image repository on a local directory, through the whole agent: times as a manager sees them.

    python -m bench.storage                     all of it, with 1,000 volumes
    python -m bench.storage --part volumes      of volumes, repository, growth, helper
    python -m bench.storage --part growth       with 1,000 and 10,000 volumes: some minutes

Making volumes is compared, by turns, with what a script would do: ``qemu-img create``, and the metadata written so that
it outlasts a loss of power. Lists are of volumes that were written right into the domain.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import data_centre
from bench.agents import Agent, Helper, Place, place
from bench.data_centre import COW, MIB, RAW, DataCentre
from bench.figures import Figure, end_on_signals, finish, median_of, progress
from bench.quiet import rest
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.oop.pool import HelperPool

CAPACITY = 1024 * MIB
VOLUMES = 1000
MANY = 10_000
# Lists of names are kept once a directory has not changed for so long.
_FRESH_S = 3.0
_NAMES = {RAW: "raw", COW: "qcow2"}


@contextmanager
def host() -> Iterator[Place]:
    """A place with its root helper."""
    with place() as where, Helper(where):
        yield where


def figures(*, runs: int = 30) -> list[Figure]:
    return [*volume_figures(runs), *repository_figures(), *helper_figures()]


# -- making


def volume_figures(runs: int = 30) -> list[Figure]:
    """Volume.create beside a script, and StorageDomain.create."""
    found = []
    with host() as where:
        progress("StorageDomain.create")
        found += _domain_figures(where)
        progress(f"Volume.create, {runs} times by turns")
        with Agent(where, 0) as agent:
            agent.wait_ready()
            centre = data_centre.make(agent.connect(), where.directory / "data")
            for kind in (RAW, COW):
                found += _volume_figures(centre, kind, runs)
    return found


def _domain_figures(where: Place) -> list[Figure]:
    first, later = [], []
    for number in range(5):
        with Agent(where, 0) as agent:
            agent.wait_ready()
            connection = agent.connect()
            rest(0.5)
            first.append(data_centre.create_domain(connection, where.directory / f"first-{number}")[0])
            later.append(data_centre.create_domain(connection, where.directory / f"later-{number}")[0])
    return [
        median_of("StorageDomain.create, the first of an agent", first, "s", 0.3, note="the original 2.2"),
        median_of("StorageDomain.create, a later one", later, "s", 0.3),
    ]


def _volume_figures(centre: DataCentre, kind: int, runs: int) -> list[Figure]:
    name = _NAMES[kind]
    scripted, ours, pairs = [], [], []
    for number in range(runs + 3):
        rest(0.05)
        theirs = script(centre.images, name)
        took, image = centre.create_volume(kind, CAPACITY)
        centre.delete_image(image)
        if number >= 3:
            scripted.append(theirs * 1000)
            ours.append(took * 1000)
            pairs.append(took / theirs)
    original = {"raw": 139, "qcow2": 135}[name]
    return [
        median_of(f"qemu-img create {name} and the metadata, by a script", scripted, "ms"),
        median_of(f"Volume.create {name}", ours, "ms", note=f"the original {original}"),
        median_of(f"Volume.create {name} beside the script", pairs, "x", 2.0),
    ]


def script(images: Path, name: str) -> float:
    """Make a volume without an agent, durably, and remove it; the seconds of the first."""
    image = images / str(uuid.uuid4())
    volume = image / str(uuid.uuid4())
    meta = volume.with_suffix(".meta")
    began_s = time.perf_counter()
    image.mkdir(mode=0o755)
    _sync(images)
    volume.touch(mode=0o660)
    _sync(image)
    subprocess.run(["qemu-img", "create", "-q", "-f", name, volume, str(CAPACITY)], check=True)
    _sync(volume)
    with meta.with_suffix(".new").open("wb") as file:
        file.write(b"x" * 400)
        file.flush()
        os.fsync(file.fileno())
    meta.with_suffix(".new").rename(meta)
    _sync(image)
    took_s = time.perf_counter() - began_s
    shutil.rmtree(image)
    return took_s


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# -- lists


def repository_figures(counts: Sequence[int] = (VOLUMES,)) -> list[Figure]:
    """Questions to domains of so many volumes; the first figure of each has the bound, the others its multiple."""
    found, base = [], {}
    for count in counts:
        progress(f"a domain of {count:,} volumes")
        took = _repository(count)
        for name, (seconds, bound, original) in took.items():
            base.setdefault(name, statistics.median(seconds) / count)
            factor = count / counts[0]
            note = original if factor == 1 else f"{statistics.median(seconds) / count / base[name]:.2f}x per volume"
            found.append(median_of(f"{name}, {count:,} volumes", seconds, "s", bound * factor, note=note))
    return found


def _repository(count: int) -> dict[str, tuple[list[float], float, str]]:
    with host() as where, ExitStack() as cleaning:
        with Agent(where, 0) as agent:
            agent.wait_ready()
            centre = data_centre.make(agent.connect(), where.directory / "data")
            cleaning.callback(shutil.rmtree, centre.place)
            data_centre.fill(centre, count)
            centre.timed("StorageDomain.getImages")
            questions: dict[str, Callable[[], float]] = {
                "StorageDomain.getVolumes": lambda: centre.timed("StorageDomain.getVolumes"),
                "StorageDomain.getImages": lambda: centre.timed("StorageDomain.getImages"),
                "StorageDomain.dump, warm": lambda: _dump(centre),
            }
            bounds = {
                "StorageDomain.getVolumes": (0.05, "the original 0.06 to 0.07"),
                "StorageDomain.getImages": (0.05, "the original 0.21 to 0.36"),
                "StorageDomain.dump, warm": (1.0, ""),
            }
            found = {name: (_several(ask), *bounds[name]) for name, ask in questions.items()}
            found["Volume.create raw"] = ([_made(centre) for _ in range(10)], 0.1, "")
        cold, spm = [], []
        for _ in range(5):
            with Agent(where, 0) as agent:
                agent.wait_ready()
                again = DataCentre(agent.connect(), centre.place, centre.pool_id, centre.domain_id)
                again.connect()
                rest(0.3)
                spm.append(again.start_spm())
                again.stop_spm()
            with Agent(where, 0) as agent:
                agent.wait_ready()
                again = DataCentre(agent.connect(), centre.place, centre.pool_id, centre.domain_id)
                data_centre.connect_storage(again.connection, centre.place)
                drop_caches()
                rest(0.3)
                cold.append(_dump(again))
        found["StorageDomain.dump, cold"] = (cold, 1.0, "")
        found["StoragePool.spmStart, polled"] = (spm, 0.5, "the original 6.6 to 10")
        return found


def _several(ask: Callable[[], float], runs: int = 15) -> list[float]:
    ask()
    rest(_FRESH_S)
    ask()
    return [ask() for _ in range(runs)]


def _made(centre: DataCentre) -> float:
    took, image = centre.create_volume(RAW, CAPACITY)
    centre.delete_image(image)
    return took


def _dump(centre: DataCentre) -> float:
    began_s = time.perf_counter()
    centre.connection.ask("StorageDomain.dump", {"sd_id": centre.domain_id, "full": True})
    return time.perf_counter() - began_s


def drop_caches() -> None:
    """Forget what was read of all file systems."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


# -- the helper process


def helper_figures(rounds: int = 2000) -> list[Figure]:
    """A file's facts asked for by way of a helper process, and right here."""
    pool = HelperPool()
    try:
        there, here = pool.of("bench"), LocalFiles()
        there.stat("/")
        took: dict[str, list[float]] = {"there": [], "here": []}
        for _ in range(9):
            rest(0.1)
            for name, files in (("there", there), ("here", here)):
                began_s = time.perf_counter()
                for _ in range(rounds // 9):
                    files.stat("/")
                took[name].append((time.perf_counter() - began_s) / (rounds // 9) * 1000)
        more = [one - two for one, two in zip(took["there"], took["here"], strict=True)]
        return [median_of("a call through the helper process, more than without", more, "ms", 1.0)]
    finally:
        pool.stop(5.0)


PARTS: dict[str, Callable[[], list[Figure]]] = {
    "volumes": volume_figures,
    "repository": repository_figures,
    "growth": lambda: repository_figures((VOLUMES, MANY)),
    "helper": helper_figures,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS))
    options = parser.parse_args(argv)
    end_on_signals()
    return finish(PARTS[options.part]() if options.part else figures())


if __name__ == "__main__":
    sys.exit(main())
