"""The lock of a local domain between real processes, and with hosts of the original, which take the same flock."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domain_parts import bound, eventually
from lab.agent_host import short_directory
from needs import needs
from vdsm.storage.errors import LeaseFailed, LeaseHeld
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.ids import DomainId, new_id
from vdsm.storage.locks.local_lock import LocalLock

DOMAIN = DomainId(new_id())
# Takes the lock, starts a child that outlives it, and waits to be killed.
HOLDER = """
import subprocess, sys, time
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.locks.local_lock import LocalLock
lock = LocalLock(sys.argv[1], sys.argv[2], "", Geometry())
lock.join(1, wait_s=1)
lock.acquire(lock.sdm, 1)
child = subprocess.Popen(["/bin/sleep", "100"])
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    path = tmp_path / "ids"
    path.touch()
    return path


def lock_on(ids: Path) -> LocalLock:
    lock = LocalLock(DOMAIN, str(ids), "", Geometry())
    lock.join(1, wait_s=1)
    return lock


def test_lock_is_free_once_its_process_is_killed_even_if_children_live(ids: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, DOMAIN, ids], stdout=subprocess.PIPE)
    child = 0
    try:
        child = int(holder.stdout.readline())
        lock = lock_on(ids)
        with pytest.raises(LeaseHeld):
            lock.acquire(lock.sdm, 1)
        assert len(lock.inspect(lock.sdm).owners) == 1
        holder.send_signal(signal.SIGSTOP)  # a process that stands still keeps it
        with pytest.raises(LeaseHeld):
            lock.acquire(lock.sdm, 1)
        holder.kill()
        holder.wait(60)
        os.kill(child, 0)
        lock.acquire(lock.sdm, 1)
        assert lock.holds(lock.sdm)
    finally:
        holder.kill()
        holder.wait(60)
        if child:
            os.kill(child, signal.SIGKILL)


def test_a_process_of_the_original_keeps_ours_out_and_the_other_way_round(ids: Path) -> None:
    lock = lock_on(ids)
    with ids.open("r+b") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(LeaseHeld):
            lock.acquire(lock.sdm, 1)
        fcntl.flock(theirs, fcntl.LOCK_UN)
        lock.acquire(lock.sdm, 1)
        with pytest.raises(BlockingIOError):
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.release(lock.sdm)
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_file_that_was_replaced_or_removed_is_not_the_lock(ids: Path) -> None:
    lock = lock_on(ids)
    lock.acquire(lock.sdm, 1)
    fresh = ids.with_name("fresh")
    fresh.touch()
    fresh.rename(ids)
    assert not lock.holds(lock.sdm)
    lock.release(lock.sdm)
    ids.unlink()
    with pytest.raises(LeaseFailed):
        lock.acquire(lock.sdm, 1)
    target = ids.with_name("target")
    target.touch()
    ids.symlink_to(target)  # links are not followed
    with pytest.raises(LeaseFailed):
        lock.acquire(lock.sdm, 1)


@needs("root", "program:bindfs")
def test_file_system_that_does_not_answer_costs_a_deadline() -> None:
    with short_directory() as place, bound(place / "real", place / "mount") as frozen:
        path = frozen.mount / "ids"
        path.touch()
        lock = LocalLock(DOMAIN, str(path), "", Geometry(), deadline_s=1.0)
        lock.join(1, wait_s=1)
        lock.acquire(lock.sdm, 1)
        assert lock.holds(lock.sdm)
        frozen.freeze()
        time.sleep(1.1)  # until then the kernel knows the file's attributes itself
        with pytest.raises(LeaseFailed, match="no answer within 1 s"):
            lock.holds(lock.sdm)
        with pytest.raises(LeaseFailed, match="an earlier look has had no answer yet"):
            lock.holds(lock.sdm)
        lock.release(lock.sdm)
        frozen.thaw()
        other = lock_on(path)
        other.acquire(other.sdm, 1)
        other.release(other.sdm)
        eventually(lambda: not lock.inspect(lock.sdm).owners)
