"""Helper processes for storage domains, with real file systems that freeze and thaw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import domain_parts
from domain_parts import Bound, eventually
from needs import needs
from vdsm.base.errors import NotResponding, Unfinished, Unreachable, VdsmError
from vdsm.storage.access import FileAccess
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits, HelperStats

FROZEN = Path(__file__).with_name("frozen_mount.py")
LIMITS = HelperLimits(timeout_s=1.0, first_delay_s=0.2, longest_delay_s=0.5)


@pytest.fixture
def pool() -> Iterator[HelperPool]:
    pool = HelperPool(LIMITS)
    yield pool
    assert pool.stop(20)


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Bound]:
    # Names must be new to the kernel: it answers from memory for a second.
    with domain_parts.bound(tmp_path / "real", tmp_path / "mount") as made:
        yield made


def stats_of(pool: HelperPool, domain: str) -> HelperStats:
    return next(stats for stats in pool.stats() if stats.domain == domain)


def outcome(call: Callable[[], object]) -> type:
    try:
        return type(call())
    except VdsmError as error:
        return type(error)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def answers(files: FileAccess, path: Path) -> bool:
    try:
        files.create(str(path))
    except FileExistsError:
        return True
    except VdsmError:
        return False
    return True


@needs("root", "fuse", "program:bindfs")
def test_frozen_domain_fails_while_others_answer_and_recovers_by_itself(
    pool: HelperPool, bound: Bound, tmp_path: Path
) -> None:
    frozen, other = pool.of("frozen"), pool.of("other")
    frozen.create(f"{bound.mount}/before", b"kept")
    other.create(f"{tmp_path}/other")
    bound.freeze()
    with ThreadPoolExecutor(16) as callers:
        asked = [callers.submit(outcome, lambda: frozen.within(2).stat(f"{bound.mount}/new")) for _ in range(16)]
        eventually(lambda: stats_of(pool, "frozen").in_flight == 16)
        assert [other.read(f"{tmp_path}/other") for _ in range(50)] == [b""] * 50
        assert not any(future.done() for future in asked)
        assert {future.result(60) for future in asked} == {Unfinished}
    threads = threading.active_count()
    found = [outcome(lambda: frozen.stat(f"{bound.mount}/again")) for _ in range(20)]
    assert set(found) <= {Unfinished, NotResponding}
    assert NotResponding in found
    assert threading.active_count() <= threads + LIMITS.abandoned + 1
    assert stats_of(pool, "frozen").abandoned <= LIMITS.abandoned
    assert stats_of(pool, "frozen").not_responding_s is not None
    assert outcome(lambda: other.stat(str(tmp_path))) not in {Unfinished, NotResponding}
    bound.thaw()
    eventually(lambda: answers(frozen, bound.mount / "after"))
    assert frozen.read(f"{bound.mount}/before") == b"kept"
    eventually(lambda: stats_of(pool, "frozen").abandoned == 0)
    assert stats_of(pool, "frozen").not_responding_s is None


@needs("root", "fuse", "program:bindfs")
def test_a_change_that_was_late_is_whole_or_not_there(pool: HelperPool, bound: Bound) -> None:
    files = pool.of("frozen")
    files.replace(f"{bound.mount}/metadata", b"old" * 1000)
    bound.freeze()
    with pytest.raises(Unfinished):
        files.replace(f"{bound.mount}/metadata", b"new" * 1000)
    bound.thaw()
    eventually(lambda: answers(files, bound.mount / "x"))
    assert files.read(f"{bound.mount}/metadata") in {b"old" * 1000, b"new" * 1000}


def test_reads_survive_the_death_of_the_helper(pool: HelperPool, tmp_path: Path) -> None:
    files = pool.of("domain").within(30)
    files.create(f"{tmp_path}/file", b"content")
    pids = set()
    for _ in range(3):
        pid = stats_of(pool, "domain").pid
        assert pid
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
        assert files.read(f"{tmp_path}/file") == b"content"
        assert not alive(pid)
    assert len(pids) == 3
    assert stats_of(pool, "domain").abandoned == 0


def test_change_under_which_the_helper_dies_is_said_to_be_unknown(pool: HelperPool, tmp_path: Path) -> None:
    files = pool.of("domain").within(60)
    files.create(f"{tmp_path}/file")
    pid = stats_of(pool, "domain").pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(outcome, lambda: files.create(f"{tmp_path}/new"))
        eventually(lambda: stats_of(pool, "domain").in_flight == 1)
        os.kill(pid, signal.SIGKILL)
        assert asked.result(60) is Unfinished
    assert files.listdir(str(tmp_path)) == ["file"]


def test_stopped_helper_is_killed_and_replaced(pool: HelperPool, tmp_path: Path) -> None:
    files = pool.of("domain")
    files.create(f"{tmp_path}/file", b"content")
    pid = stats_of(pool, "domain").pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Unfinished):
        files.read(f"{tmp_path}/file")
    assert files.within(30).read(f"{tmp_path}/file") == b"content"
    eventually(lambda: not alive(pid))
    eventually(lambda: stats_of(pool, "domain").abandoned == 0)


def test_large_request_to_a_stopped_helper_has_its_deadline(pool: HelperPool, tmp_path: Path) -> None:
    files = pool.of("domain")
    files.listdir(str(tmp_path))
    os.kill(stats_of(pool, "domain").pid or 0, signal.SIGSTOP)
    with pytest.raises(Unfinished):
        files.create(f"{tmp_path}/file", bytes(4 << 20))
    assert files.within(30).listdir(str(tmp_path)) == []


def test_closed_domain_ends_its_helper_and_may_come_back(pool: HelperPool, tmp_path: Path) -> None:
    files = pool.of("domain").within(30)
    files.listdir(str(tmp_path))
    pid = stats_of(pool, "domain").pid
    assert pid
    pool.close("domain")
    eventually(lambda: not alive(pid))
    eventually(lambda: pool.stats() == [])
    assert files.listdir(str(tmp_path)) == []


def test_stopped_pool_starts_no_more(tmp_path: Path) -> None:
    pool = HelperPool(LIMITS)
    files = pool.of("domain")
    files.listdir(str(tmp_path))
    assert pool.stop(20)
    with pytest.raises(Unreachable):
        files.listdir(str(tmp_path))


def test_helper_is_small(pool: HelperPool, tmp_path: Path) -> None:
    files = pool.of("domain").within(30)
    files.create(f"{tmp_path}/file")
    files.scan(str(tmp_path))
    status = Path(f"/proc/{stats_of(pool, 'domain').pid}/status").read_text().split()
    assert int(status[status.index("VmRSS:") + 1]) < 16 * 1024


def test_helper_ends_with_the_agent(tmp_path: Path) -> None:
    program = (
        "from vdsm.storage.oop.pool import HelperPool\n"
        f"pool = HelperPool(); pool.of('domain').within(30).listdir({str(tmp_path)!r})\n"
        "print(pool.stats()[0].pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout
        pid = int(agent.stdout.readline())
        assert alive(pid)
        agent.kill()
    eventually(lambda: not alive(pid))


UNKILLABLE = """
import ctypes, json, sys, threading, time
from vdsm.base.errors import NotResponding, Unfinished
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits

mount, calm = sys.argv[1:]
pool = HelperPool(HelperLimits(timeout_s=0.5, abandoned=2, first_delay_s=0.1, longest_delay_s=0.2))
frozen, other = pool.of("frozen"), pool.of("other").within(30)
other.listdir(calm)

def ask():
    try:
        return frozen.stat(mount + "/x").kind
    except (NotResponding, Unfinished, FileNotFoundError) as error:
        return type(error).__name__

said = []
until = time.monotonic() + 30
while said.count("Unfinished") < 2 and time.monotonic() < until:
    said.append(ask())
    time.sleep(0.02)
threads = threading.active_count()
refused = {ask() for _ in range(50)}
time.sleep(0.5)  # back-off has passed: as long as two helpers hang, nobody is let through
refused |= {ask() for _ in range(50)}
stats = next(item for item in pool.stats() if item.domain == "frozen")
answer = {
    "late": said.count("Unfinished"), "refused": sorted(refused), "abandoned": stats.abandoned,
    "started": stats.started, "more_threads": threading.active_count() - threads, "other": other.listdir(calm),
}
for flag in (1, 2):  # MNT_FORCE gives all who wait an error, and then says "busy"; MNT_DETACH
    ctypes.CDLL(None).umount2(mount.encode(), flag)
until = time.monotonic() + 30
while (now := ask()) != "FileNotFoundError" and time.monotonic() < until:
    time.sleep(0.02)
stats = next(item for item in pool.stats() if item.domain == "frozen")
answer |= {"after": now, "left": stats.abandoned, "healthy": stats.not_responding_s is None, "stopped": pool.stop(20)}
print(json.dumps(answer))
"""


@needs("root", "fuse")
def test_helpers_that_cannot_be_killed_are_left_and_few(tmp_path: Path) -> None:
    mount, calm = tmp_path / "frozen", tmp_path / "calm"
    mount.mkdir()
    calm.mkdir()
    done = subprocess.run(
        [sys.executable, FROZEN, mount, sys.executable, "-c", UNKILLABLE, mount, calm],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "late": 2,
        "refused": ["NotResponding"],
        "abandoned": 2,
        "started": 2,
        "more_threads": 0,
        "other": [],
        "after": "FileNotFoundError",
        "left": 0,
        "healthy": True,
        "stopped": True,
    }
