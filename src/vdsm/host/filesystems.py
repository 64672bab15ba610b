"""Free space of a few directories, never waiting for a network: only local file systems are asked.

The path is walked one component and link at a time. Where each step lies on a local file system, the result may be
asked; where anything else is on the way, the directory is left out.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

from vdsm.system import procfs
from vdsm.system.procfs import Mount

# Those that answer without asking anybody. A list of what is known to be local, since what is not on it may hang.
LOCAL_TYPES: Final = frozenset({
    "bcachefs", "btrfs", "devtmpfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "rootfs",
    "squashfs", "tmpfs", "vfat", "xfs", "zfs",
})  # fmt: skip
_MAX_LINKS: Final = 40  # as the kernel
_MIB: Final = 1024 * 1024


def mount_of(path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """The mount that an absolute path without links lies on; of mounts over one another the last."""
    best: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def local_path(path: str, mounts: tuple[Mount, ...]) -> str | None:
    """The real path, or None when it, or a link on the way to it, is not on a local file system."""
    done = "/"
    todo = deque(path.split("/"))
    links = 0
    while todo:
        part = todo.popleft()
        if part in {"", "."}:
            continue
        here = os.path.dirname(done) if part == ".." else os.path.join(done, part)  # noqa: PTH118, PTH120 - text only
        mount = mount_of(here, mounts)
        if mount is None or mount.fs_type not in LOCAL_TYPES or links > _MAX_LINKS:
            return None
        target = _link_target(here)
        if target is None:
            done = here
            continue
        links += 1
        todo.extendleft(reversed(target.split("/")))
        done = "/" if target.startswith("/") else done
    return done


def _link_target(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - a Path would normalize the text
    except OSError:
        return None


class LocalDirectories:
    """Free space of those of the given directories that exist on local file systems. For one thread."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths
        self._real: dict[str, str] = {}

    def look_again(self) -> None:
        """Follow mounts that came or went."""
        mounts = procfs.parse_mounts(procfs.read("self/mountinfo"))
        found = ((path, local_path(path, mounts)) for path in self._paths)
        self._real = {path: real for path, real in found if real is not None}

    def free_mib(self) -> dict[str, int]:
        """What an ordinary process may still write, by the path as it was given."""
        free = {}
        for path, real in self._real.items():
            try:
                facts = os.statvfs(real)
            except OSError:
                continue  # removed meanwhile, or never made
            free[path] = facts.f_bavail * facts.f_frsize // _MIB
        return free
