"""Who listens on a TCP port: proc(5), /proc/net/tcp and /proc/PID/fd."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

LISTEN = "0A"


def holder(port: int) -> str | None:
    """The process that listens on a port, as "name (pid N)"; None when nobody does."""
    inodes = {inode for name in ("tcp", "tcp6") for inode in _listening(Path("/proc/net") / name, port)}
    if not inodes:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        if inodes & _sockets(folder / "fd"):
            name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
            return f"{name} (pid {folder.name})"
    return "a process that cannot be seen from here"


def _listening(table: Path, port: int) -> list[str]:
    """The socket inodes that listen on a port: columns 1 (address:port in hex), 3 (state) and 9 (inode)."""
    if not table.exists():
        return []
    rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    return [row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _sockets(folder: Path) -> set[str]:
    found = set()
    with suppress(OSError):  # the process or the descriptor is gone
        for link in folder.iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    return found
