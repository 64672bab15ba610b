"""Operations on images are killed at every point, and so are recoveries: before or after, nothing between or left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dooms import memory_directory
from needs import needs

pytestmark = needs("program:qemu-img", "program:qemu-io")

PROGRAM = Path(__file__).with_name("image_cases.py")
EXHAUSTIVE = bool(os.environ.get("VDSM_EXHAUSTIVE"))
# Some are variants of others.
ALWAYS = [
    *("create raw", "create from parent", "clone", "delete volume", "delete image"),
    *("extend", "resize", "prepare merge", "merge", "finalize merge", "update volume"),
]
SOMETIMES = ["clone again", "delete volumes", "delete clone"]
UNDONE = {"create raw", "create from parent", "clone", "clone again"}


@pytest.fixture
def base() -> Iterator[Path]:
    with memory_directory() as path:
        yield path / "base"


def hunt(base: Path, case: str, stride: int) -> dict[str, object]:
    argv = [sys.executable, PROGRAM, base, case, str(stride)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", ALWAYS + (SOMETIMES if EXHAUSTIVE else []))
def test_killed_at_every_point_it_is_before_or_after(base: Path, case: str) -> None:
    # Of one case the recovery is always killed, too: once for each kill, each time elsewhere.
    stride = 1 if EXHAUSTIVE else 1000 if case == "create from parent" else 0
    seen = hunt(base, case, stride)
    assert seen["points"] >= 20
    assert seen["kills"] > seen["points"] * 3 // 2 or not stride
    assert seen["before"] + seen["after"] == seen["points"]
    mostly, seldom = ("before", "after") if case in UNDONE else ("after", "before")
    assert seen[mostly] > seen["points"] * 3 // 4
    assert seen[seldom] > 0


def test_killed_while_data_is_merged_it_is_merged_at_the_next_start(base: Path) -> None:
    seen = hunt(base, "large merge", -5)
    assert seen["kills"] >= 1
    assert seen["before"] + seen["after"] == 5
