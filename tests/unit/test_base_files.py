"""base.persist, base.retry and base.undo."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from vdsm.base import retry as retrying
from vdsm.base.errors import Failed, Unreachable, WrongState
from vdsm.base.persist import persist_file, read_file
from vdsm.base.retry import retry
from vdsm.base.undo import Undo

if TYPE_CHECKING:
    from pathlib import Path


def test_persisted_file_reads_back_with_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "a"
    old = os.umask(0o077)
    try:
        persist_file(file, b"one", 0o644)
        persist_file(file, b"two", 0o644)
    finally:
        os.umask(old)
    assert read_file(file) == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_files_are_private_by_default(tmp_path: Path) -> None:
    persist_file(tmp_path / "a", b"x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("broken", ["fsync", "rename"])
def test_failure_at_any_step_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    file = tmp_path / "a"
    persist_file(file, b"old")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    monkeypatch.setattr("pathlib.Path.rename", fail)
    with pytest.raises(OSError, match="No space"):
        persist_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_content_and_directory_reach_the_disk_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(stat.S_IFMT(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    persist_file(tmp_path / "a", b"x")
    assert synced == [stat.S_IFREG, stat.S_IFDIR]


def test_absent_file_is_none_and_a_huge_one_is_refused(tmp_path: Path) -> None:
    assert read_file(tmp_path / "none") is None
    (tmp_path / "a").write_bytes(bytes(101))
    assert read_file(tmp_path / "a", max_bytes=101) == bytes(101)
    with pytest.raises(Failed, match="more than 100 bytes"):
        read_file(tmp_path / "a", max_bytes=100)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(retrying, "monotonic_s", lambda: self.now)
        monkeypatch.setattr(retrying, "sleep_s", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def failing(times: int) -> tuple[list[int], object]:
    calls: list[int] = []

    def function() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise Unreachable("x", "down")
        return "ok"

    return calls, function


@pytest.mark.parametrize(("times", "attempts", "works"), [(0, 1, True), (2, 3, True), (3, 3, False)])
def test_retry_counts_attempts(monkeypatch: pytest.MonkeyPatch, times: int, attempts: int, works: bool) -> None:
    clock = Clock(monkeypatch)
    calls, function = failing(times)

    def go() -> str:
        return retry(function, expected=(Unreachable,), attempts=attempts, delay_s=2, deadline_s=100)  # type: ignore[arg-type]

    if works:
        assert go() == "ok"
    else:
        with pytest.raises(Unreachable):
            go()
    assert len(calls) == min(times + 1, attempts)
    assert clock.now == 2 * (len(calls) - 1)


def test_retry_does_not_sleep_past_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls, function = failing(100)
    with pytest.raises(Unreachable):
        retry(function, expected=(Unreachable,), attempts=100, delay_s=3, deadline_s=10)  # type: ignore[arg-type]
    assert (len(calls), clock.now) == (4, 9)


def test_retry_lets_other_errors_through(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)

    def function() -> None:
        raise WrongState("pause", "Down")

    with pytest.raises(WrongState):
        retry(function, expected=(Unreachable,), attempts=5, delay_s=1, deadline_s=10)


def test_failed_block_is_undone_in_reverse() -> None:
    undone: list[str] = []

    def block() -> None:
        with Undo() as undo:
            for step in ("a", "b", "c"):
                undo.add(undone.append, step)
            raise KeyError("the reason")

    with pytest.raises(KeyError, match="the reason"):
        block()
    assert undone == ["c", "b", "a"]


def test_block_that_ends_well_or_is_committed_keeps_its_steps() -> None:
    undone: list[str] = []
    with Undo() as undo:
        undo.add(undone.append, "a")
    assert undone == []

    def block() -> None:
        with Undo() as undo:
            undo.add(undone.append, "before")
            undo.commit()
            undo.add(undone.append, "after")
            raise KeyError

    with pytest.raises(KeyError):
        block()
    assert undone == ["after"]


def test_step_that_cannot_be_undone_is_logged_and_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    undone: list[str] = []

    def block() -> None:
        with Undo() as undo:
            undo.add(undone.append, "a")
            undo.add(int, "no number")
            raise KeyError

    with pytest.raises(KeyError):
        block()
    assert undone == ["a"]
    assert "could not undo a step (int)" in caplog.text
