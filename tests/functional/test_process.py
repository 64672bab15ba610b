"""base.process with real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vdsm.base import process
from vdsm.base.errors import CommandFailed, Unfinished
from vdsm.base.process import Limits, run, spawn

FROZEN = Path(__file__).with_name("frozen_mount.py")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_gives_both_outputs_and_the_status() -> None:
    done = run(["sh", "-c", "cat; echo bad >&2; exit 3"], timeout_s=20, stdin=b"in", ok=(0, 3))
    assert done == process.Completed(b"in", b"bad\n", 3)


def test_large_input_and_output_cross_without_a_deadlock() -> None:
    data = os.urandom(1 << 20)
    assert run(["cat"], timeout_s=20, stdin=data).stdout == data


def test_program_that_does_not_read_its_input_is_no_error() -> None:
    assert run(["true"], timeout_s=20, stdin=bytes(1 << 20)).code == 0


def test_unexpected_status_carries_argv_status_and_output() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo out; echo why >&2; exit 7"], timeout_s=20)
    assert caught.value.facts() == {
        "argv": "sh -c 'echo out; echo why >&2; exit 7'",
        "status_code": 7,
        "stdout": "out",
        "stderr": "why",
    }


@pytest.mark.parametrize(("program", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_program_that_cannot_be_started(program: str, status: int) -> None:
    with pytest.raises(CommandFailed) as caught:
        run([program], timeout_s=20)
    assert caught.value.status_code == status


def test_environment_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_X", "leaks")
    lines = run(["env"], timeout_s=20, env={"EXTRA": "1"}).stdout.decode().split()
    assert {line.partition("=")[0] for line in lines} == {"PATH", "LC_ALL", "HOME", "EXTRA"}


def test_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(Unfinished):
        run(["sh", "-c", f"sleep 1000 & echo $! $$ > {pids}; wait"], timeout_s=0.5)
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_grandchild_that_keeps_the_pipe_does_not_outlive_the_deadline(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(Unfinished):
        run(["sh", "-c", f"sleep 1000 & echo $! > {pid}"], timeout_s=0.5)
    assert gone(int(pid.read_text()))


def test_too_much_output_is_cut_off() -> None:
    with pytest.raises(CommandFailed, match="more than 1000 bytes"):
        run(["yes"], timeout_s=20, max_output=1000)


def test_limits_hold() -> None:
    script = "ulimit -v; ulimit -t; ulimit -f; ulimit -c; grep -E 'CapEff|NoNewPrivs' /proc/self/status"
    limits = Limits(address_space=1 << 30, cpu_s=5, file_size=512, keep_capabilities=("dac_override",))
    words = run(["sh", "-c", script], timeout_s=20, limits=limits).stdout.decode().split()
    # dash counts files in blocks of 512 bytes; dac_override is capability 1.
    assert words == ["1048576", "5", "1", "0", "CapEff:", "0000000000000002", "NoNewPrivs:", "1"]


def test_processor_time_is_limited() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "while :; do :; done"], timeout_s=60, limits=Limits(cpu_s=1))
    assert caught.value.status_code in {-signal.SIGXCPU, -signal.SIGKILL}


def test_child_dies_with_its_caller() -> None:
    program = (
        "from vdsm.base.process import Limits, spawn\n"
        "child = spawn(['sleep', '1000'], limits=Limits(dies_with_caller=True))\n"
        "print(child.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout
        pid = int(caller.stdout.readline())
        assert alive(pid)
        # setpriv is started and must have set the signal before it becomes sleep.
        until = time.monotonic() + 20
        while "sleep" not in Path(f"/proc/{pid}/comm").read_text() and time.monotonic() < until:
            time.sleep(0.01)
        caller.kill()
    assert gone(pid)


def test_spawned_child_is_stopped_even_if_it_ignores_the_polite_signal() -> None:
    child = spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    assert child.stdout
    assert child.stdout.readline() == b"ready\n"
    assert child.poll() is None
    child.stop(0.3)
    assert child.poll() == -signal.SIGKILL
    child.stop(0.3)  # again does no harm


def test_waiting_for_a_child_has_a_deadline() -> None:
    child = spawn(["sleep", "1000"])
    with pytest.raises(Unfinished):
        child.wait(0.05)
    child.stop(5)
    assert child.wait(5) == -signal.SIGTERM


@pytest.mark.skipif(os.getuid() != 0, reason="mounts")
def test_unkillable_child_is_abandoned_and_counted(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from vdsm.base.errors import Unfinished\n"
        "from vdsm.base import process\n"
        "try: process.run(['stat', sys.argv[1]], timeout_s=0.5)\n"
        "except Unfinished: print('unfinished', process.abandoned())\n"
        "print(process.run(['echo', 'others go on'], timeout_s=20).stdout.decode().strip())\n"
    )
    mount = tmp_path / "frozen"
    mount.mkdir()
    done = subprocess.run(
        [sys.executable, FROZEN, mount, sys.executable, "-c", program, mount / "x"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["unfinished 1", "others go on"]
