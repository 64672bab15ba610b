"""Debian packages: which are missing, installing them, and unpacking some without installing them.

A kernel and a guest agent belong into the tiny guest, not onto the host: their packages are downloaded through
the machine's own apt (its sources, its keys) and unpacked into a cache directory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vds_bootstrap.programs import ProgramFailed, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DPKG_STATUS = Path("/var/lib/dpkg/status")
APT_TIMEOUT_S = 900.0


def installed(status: Path = DPKG_STATUS) -> set[str]:
    """The names of the installed packages, read from dpkg's own database (no program is started)."""
    if not status.exists():
        return set()
    text = status.read_text(encoding="utf-8", errors="replace")
    return set(re.findall(r"^Package: (\S+)\nStatus: \S+ ok installed$", text, re.MULTILINE))


def missing(wanted: Iterable[str], status: Path = DPKG_STATUS) -> list[str]:
    """Those of the wanted packages that are not installed, in the order given."""
    present = installed(status)
    return [name for name in wanted if name not in present]


def update() -> None:
    """Fetch the package lists of the machine's own sources."""
    run(["apt-get", "update", "-q"], timeout_s=APT_TIMEOUT_S)


def install(names: Sequence[str]) -> None:
    """Install packages without their recommendations and without questions.

    Raises:
        ProgramFailed: apt could not do it; its words are in the error.
    """
    run(
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *names],
        timeout_s=APT_TIMEOUT_S,
        env={"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"},
    )


def real_name(name: str) -> str:
    """The package behind a meta package: ``linux-image-cloud-amd64`` stands for the newest ``linux-image-6.1...``."""
    answer = run(["apt-cache", "depends", "--no-recommends", "--no-suggests", name])
    found = re.search(r"^ *Depends: (linux-image-\S+)$", answer, re.MULTILINE)
    return found.group(1) if found else name


def unpacked(name: str, cache: Path) -> Path:
    """The directory with the content of a package that is not installed; downloaded when the cache lacks it.

    Raises:
        ProgramFailed: apt knows no such package or cannot reach its source.
    """
    target = cache / "unpacked" / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    archive = download(name, cache / "packages")
    partial = target.with_name(f"{name}.partial")
    run(["rm", "-rf", partial])
    run(["dpkg-deb", "-x", archive, partial], timeout_s=120)
    partial.rename(target)
    return target


def download(name: str, folder: Path) -> Path:
    """Download a package's file into a folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{name}_*.deb"):
        stale.unlink()
    # Run as root in a folder of root's: apt's own unprivileged user could not write there.
    argv = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name]
    try:
        run(argv, timeout_s=APT_TIMEOUT_S, cwd=folder)
    except ProgramFailed:
        # The lists are absent, or older than what the mirror still has.
        update()
        run(argv, timeout_s=APT_TIMEOUT_S, cwd=folder)
    return next(iter(sorted(folder.glob(f"{name}_*.deb"))))


def dependencies(archive: Path) -> list[str]:
    """The names in a package file's Depends field; of alternatives the first."""
    field = run(["dpkg-deb", "-f", archive, "Depends"])
    return [match.group() for item in field.split(",") if (match := re.match(r"[a-z0-9][a-z0-9.+-]*", item.strip()))]
