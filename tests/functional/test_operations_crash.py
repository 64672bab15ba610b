"""Operations are killed at every point, and so is their recovery: before or after, nothing between, nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dooms import memory_directory

HARNESS = Path(__file__).with_name("crash_harness.py")
# The whole square of kills and kills of the recovery takes minutes; one or two of them for each kill always run.
STRIDE = 1 if os.environ.get("VDSM_EXHAUSTIVE") else 29


def harness(journal: str, kind: str, stride: int) -> subprocess.CompletedProcess[str]:
    with memory_directory() as place:
        argv = [sys.executable, HARNESS, place / journal, kind, str(stride)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("journal", ["slots", "files"])
@pytest.mark.parametrize(
    ("kind", "mostly", "else_"),
    [
        ("make", "before", "after"),  # undone, but for the kills after the last record
        ("make on", "after", "before"),  # finished, but for the kills before the first record
        ("make seeing", "before", "after"),  # the same, for what is planned under the locks
        ("make on seeing", "after", "before"),
        ("delete", "after", "before"),  # finished from the record of the step without a way back
        ("purge", "after", "before"),
    ],
)
def test_killed_at_every_point_it_is_before_or_after(kind: str, mostly: str, else_: str, journal: str) -> None:
    done = harness(journal, kind, STRIDE)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["points"] >= 25
    assert seen[mostly] + seen[else_] == seen["points"]
    assert seen[mostly] > seen[else_] > 0
    assert seen["kills"] > 2 * seen["points"]
    assert seen["phases"] == ["done", "none", "running"]


def test_harness_finds_a_step_that_cannot_be_undone() -> None:
    done = harness("slots", "forgetful", 0)
    assert done.returncode == 1
    assert "AssertionError: ('killed at" in done.stderr
