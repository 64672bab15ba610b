"""The lab for people, and what is kept of a failed test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .fixtures import NEEDS
from .image.build import PROJECT

pytestmark = [pytest.mark.node, pytest.mark.timeout(300), pytest.mark.needs(*NEEDS)]


@pytest.fixture
def run(tmp_path, lab):
    """``python -m tests.lab`` with a place of its own; what was started ends with the test."""
    lab.template()

    def call(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "VDSM_LAB_PLACE": str(tmp_path / "up")}
        words = [sys.executable, "-m", "tests.lab", *argv]
        return subprocess.run(
            words, cwd=PROJECT, env=environment, input=stdin, capture_output=True, text=True, timeout=200, check=False
        )

    yield call
    call("down")


def qemus(directories: set[str]) -> list[str]:
    """The QEMUs that have files in those directories."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().decode(errors="replace")
            if line.startswith("qemu-system") and any(directory in line for directory in directories):
                found.append(path.parent.name)
    return found


def test_lab_is_kept_reached_and_taken_down(run, tmp_path) -> None:
    assert run("list").returncode == 1
    up = run("up", "--nodes", "2", "--disk", "lun", "--network", "san")
    assert up.returncode == 0, up.stdout + up.stderr
    assert up.stdout == "2 nodes are up\n" + run("list").stdout
    members = json.loads((tmp_path / "up/state.json").read_text())["members"]
    places = {str(Path(member["channel"]).parent) for member in members}
    assert len(qemus(places)) == 2
    assert run("up", "--nodes", "1").returncode == 1  # there is one already

    other = re.search(r"node2 \(node\).*?san0 ([\d.]+)/", up.stdout, re.DOTALL).group(1)
    done = run("run", "node1", "--", "sh", "-c", f"ping -c1 {other} >/dev/null && hostname; echo no >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "node1\n", "no\n")
    device = re.search(r"(/dev/\S+) is the disk lun", up.stdout).group(1)
    assert run("run", "node1", "--", "test", "-b", device).returncode == 0
    assert run("run", "node3", "--", "true").returncode == 1

    assert run("down").returncode == 0
    assert not qemus(places)
    assert not any(Path(place).exists() for place in places)
    assert run("list").returncode == 1


def test_failed_test_leaves_consoles_and_logs(lab, tmp_path) -> None:
    lab.template()
    failing = tmp_path / "test_failing.py"
    failing.write_text(
        "def test_it(nodes):\n    (node,) = nodes(1)\n    node.run('echo seen > /dev/kmsg')\n    assert False\n"
    )
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "lab.fixtures", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "tests")}
    done = subprocess.run([*argv, failing], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    kept = Path(re.search(r"consoles and logs: (\S+)", done.stdout).group(1))
    (node,) = kept.iterdir()
    assert "seen" in (node / "inquest.txt").read_text()
    assert (node / "console.log").exists()
    assert (node / "qemu.log").exists()
    shutil.rmtree(kept)
