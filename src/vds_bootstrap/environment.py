"""The virtual environment at the project's root: ``.venv``, with the commands in ``.venv/bin``.

It sees the system's packages, because libvirt's Python binding comes from the operating system. A stamp holds what it
was made from, so that a second run finds in milliseconds that there is nothing to do.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vds_bootstrap.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SYSTEM_PYTHON = "/usr/bin/python3"
PIP_TIMEOUT_S = 1200.0


def ensure(project: Path, *, dev: bool) -> str:
    """Make ``.venv`` and install the project into it, or find it so; returns what was found or done.

    Args:
        project: the directory with pyproject.toml.
        dev: also install what tests and checks need.

    Raises:
        ProgramFailed: no venv could be made, or pip could not get a package.
    """
    outcome = _install(project, dev=dev)
    # The agent's user cannot write beside the modules, and compiling them at each start costs a second and 15 MiB.
    compileall.compile_dir(project / "src", quiet=1)
    return outcome


def _install(project: Path, *, dev: bool) -> str:
    if is_ready(project, dev=dev):
        return "all there"
    with _only_one(project):
        venv = project / ".venv"
        if not (venv / "bin" / "pip").exists():
            run([SYSTEM_PYTHON, "-m", "venv", "--clear", "--system-site-packages", venv], timeout_s=180)
        wanted_dev = dev or _stamped(project).get("dev") is True
        what = f"{project}[dev]" if wanted_dev else str(project)
        options = ["--disable-pip-version-check", "--no-input", "--quiet"]
        run([venv / "bin" / "pip", "install", *options, "--editable", what], timeout_s=PIP_TIMEOUT_S)
        _stamp(project).write_text(json.dumps({"made_from": _recipe(project), "dev": wanted_dev}), encoding="utf-8")
    return "installed, with what tests need" if dev else "installed"


def is_ready(project: Path, *, dev: bool) -> bool:
    """Whether ``ensure`` would find everything done."""
    stamped = _stamped(project)
    return stamped.get("made_from") == _recipe(project) and (stamped.get("dev") is True or not dev)


def _recipe(project: Path) -> str:
    """What the environment depends on: the project's declaration, its place, and Python's version."""
    digest = hashlib.sha256((project / "pyproject.toml").read_bytes())
    digest.update(f"{project}\0{sys.version}".encode())
    return digest.hexdigest()


def _stamped(project: Path) -> dict[str, object]:
    try:
        found = json.loads(_stamp(project).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and (project / ".venv" / "bin" / "vdsmd").exists() else {}


def _stamp(project: Path) -> Path:
    return project / ".venv" / "made-from.json"


@contextmanager
def _only_one(project: Path) -> Iterator[None]:
    folder = project / ".run"
    folder.mkdir(exist_ok=True)
    with (folder / "venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
