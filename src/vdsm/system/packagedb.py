"""The package database of the operating system: dpkg or rpm, whichever is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vdsm.base import process

DPKG_STATUS: Final = Path("/var/lib/dpkg/status")
RPM_DATABASES: Final = (Path("/usr/lib/sysimage/rpm"), Path("/var/lib/rpm"))
_DPKG_FORMAT: Final = "${db:Status-Status}\t${Package}\t${Version}\n"
_RPM_FORMAT: Final = "%{NAME}\t%{VERSION}\t%{RELEASE}\t%{BUILDTIME}\n"


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed package."""

    name: str
    version: str
    """Without Debian's epoch."""
    release: str
    """The packager's revision, "1" where the distribution has none."""
    build_time_s: int | None


def split_version(text: str) -> tuple[str, str]:
    """Debian's epoch:upstream-revision as (upstream, revision)."""
    _, colon, rest = text.partition(":")
    upstream, dash, revision = (rest if colon else text).rpartition("-")
    return (upstream, revision) if dash else (revision, "1")


def parse_dpkg(text: bytes) -> tuple[Installed, ...]:
    """Parse the lines of our dpkg-query format; packages that are only known or half removed are left out."""
    found = []
    for line in text.decode("utf-8", "replace").splitlines():
        status, name, version = line.split("\t")
        if status == "installed":
            found.append(Installed(name, *split_version(version), build_time_s=None))
    return tuple(found)


def parse_rpm(text: bytes) -> tuple[Installed, ...]:
    """Parse the lines of our rpm query format; "package X is not installed" lines are passed over."""
    found = []
    for line in text.decode("utf-8", "replace").splitlines():
        cells = line.split("\t")
        if len(cells) == 4:
            found.append(Installed(cells[0], cells[1], cells[2], int(cells[3]) if cells[3].isdigit() else None))
    return tuple(found)


def stamp() -> tuple[int, ...]:
    """Changes whenever packages were installed or removed; empty when there is no package database."""
    stamps = []
    for path in (DPKG_STATUS, *RPM_DATABASES):
        try:
            stamps.append(path.stat().st_mtime_ns)
        except OSError:
            continue  # the other kind of system
    return tuple(stamps)


def query(names: Sequence[str], *, timeout_s: float = 10.0) -> tuple[Installed, ...]:
    """Those of ``names`` that are installed; empty on a host without a package database.

    Raises:
        CommandFailed: the database is broken.
        Unfinished: no answer in time.
    """
    if DPKG_STATUS.exists():
        argv = ["dpkg-query", "--show", f"--showformat={_DPKG_FORMAT}", *names]
        return parse_dpkg(process.run(argv, timeout_s=timeout_s, ok=(0, 1)).stdout)
    if any(os.access(path, os.R_OK) for path in RPM_DATABASES):
        argv = ["rpm", "--query", f"--queryformat={_RPM_FORMAT}", *names]
        # rpm's status is the number of names that are not installed
        return parse_rpm(process.run(argv, timeout_s=timeout_s, ok=range(len(names) + 1)).stdout)
    return ()
