"""Changes of a pool are killed at every point, and so is their recovery: before or after, never between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dooms import memory_directory

HARNESS = Path(__file__).with_name("pool_crash_harness.py")
# The whole square of kills and kills of the recovery takes minutes; a part of it always runs.
STRIDE = 1 if os.environ.get("VDSM_EXHAUSTIVE") else 0


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    ("scenario", "manager", "fewest"),
    [
        ("create", "old", 40),
        ("reconstruct", "old", 15),
        ("clean", "old", 10),
        ("attach", "old", 10),
        ("attach on disk", "old", 20),
        ("detach", "old", 10),
        ("activate", "old", 10),
        ("destroy", "old", 15),
        ("upgrade", "old", 15),
        ("inherit", "old", 40),
        ("switch", "old", 60),
        ("switch", "new", 60),
    ],
)
def test_killed_at_every_point_the_pool_is_as_before_or_after(scenario: str, manager: str, fewest: int) -> None:
    stride = STRIDE or (11 if scenario in {"reconstruct", "attach on disk"} else 0)
    with memory_directory() as base:
        argv = [sys.executable, HARNESS, f"{base}/pool", scenario, str(stride), manager]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["points"] >= fewest
    assert seen["before"] + seen["after"] == seen["points"]
    # What hosts of the original left is settled whenever somebody becomes the SPM.
    assert seen["after"] > 0
    assert seen["before"] > 0 or scenario == "inherit"
    assert seen["kills"] > seen["points"] or not stride
