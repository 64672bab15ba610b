"""What a test needs of the machine: absent, it is skipped at home and fails in CI (VDSM_CI=1).

pytestmark = needs("root", "libvirt")        for a module or a test
require("root", "program:qemu-img")          inside a test or a fixture
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

LIBVIRT_SOCKETS = (Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/virtqemud-sock"))

CHECKS: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "qemu": lambda: shutil.which("qemu-system-x86_64") is not None,
    "libvirt": lambda: any(path.is_socket() for path in LIBVIRT_SOCKETS),
    "fuse": lambda: Path("/dev/fuse").exists(),
    "busybox": lambda: Path("/bin/busybox").exists(),
}


def missing(things: tuple[str, ...]) -> list[str]:
    """Those of the named needs that this machine does not meet; ``program:NAME`` asks for a program."""
    return [thing for thing in things if not _is_there(thing)]


def require(*things: str) -> None:
    """Skip the running test, or fail it in CI, when something is missing."""
    if absent := missing(things):
        refuse = pytest.fail if os.environ.get("VDSM_CI") else pytest.skip
        refuse(f"needs {', '.join(absent)}")


def needs(*things: str) -> pytest.MarkDecorator:
    """A mark that calls ``require`` before the test's own fixtures are made."""
    return pytest.mark.needs(*things)


def _is_there(thing: str) -> bool:
    if thing.startswith("program:"):
        return shutil.which(thing.removeprefix("program:")) is not None
    return CHECKS[thing]()
