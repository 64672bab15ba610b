"""Programs of Debian packages that need not be installed: unpacked into a cache directory and used from there."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vds_bootstrap import packages

PROJECT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = PROJECT / ".run" / "cache" / "hosts"
GUEST: Final = PROJECT / ".run" / "cache" / "guest" / "out"
"""Where the tiny guest is, once it was built."""
_LIBRARIES: Final = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


@dataclass(frozen=True)
class Program:
    """A program's file and the variables that it needs."""

    path: Path
    env: dict[str, str]


def bindfs() -> Program:
    """A pass-through file system.

    Raises:
        ProgramFailed: apt could not deliver it.
    """
    root = _unpacked("bindfs")
    archive = next((CACHE / "packages").glob("bindfs_*.deb"))
    libraries = [_unpacked(name) for name in packages.dependencies(archive) if name.startswith("libfuse")]
    folders = ":".join(str(library / folder) for library in libraries for folder in _LIBRARIES)
    return Program(root / "usr/bin/bindfs", {"LD_LIBRARY_PATH": folders})


def faketime() -> Path:
    """The library that shows a program another time of day.

    Raises:
        ProgramFailed: apt could not deliver it.
    """
    return _unpacked("libfaketime") / "usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def _unpacked(name: str) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return packages.unpacked(name, CACHE)
