"""What is mounted, as storage asks about it: by connection and place.

A connection is mounted when its normalized address and its place are a line of the table. Two sources have another name
there than in the request: a file behind a loop device, and Gluster over RDMA.

Source: storage format, section 1.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdsm.storage.errors import InvalidParameter
from vdsm.storage.formats.mounts import normalize
from vdsm.storage.kinds import StorageType
from vdsm.system import mounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vdsm.system.mounts import Mount

_LOOP: Final = re.compile(r"/dev/(loop[0-9]+)")
_GLUSTER: Final = "fuse.glusterfs"
_RDMA: Final = ".rdma"
_NFS: Final = frozenset({"nfs", "nfs4"})


@dataclass(frozen=True, slots=True)
class MountTable:
    """The mounts at one moment, by their targets; of several on one target the topmost."""

    by_target: dict[str, Mount]

    @classmethod
    def of(cls, found: Iterable[Mount], blocks: str = "/sys/block") -> MountTable:
        """The table of these mounts, in the order of mounting; ``blocks`` tells what is behind loop devices."""
        return cls({item.target: replace(item, source=_source(item, blocks)) for item in found})

    @classmethod
    def read(cls) -> MountTable:
        """The table of now; the kernel answers from memory, and no mount is looked into.

        Raises:
            OSError: there is no /proc.
        """
        return cls.of(mounts.table())

    def at(self, target: str) -> Mount | None:
        """What is mounted there."""
        return self.by_target.get(target)

    def directly_below(self, folder: str) -> list[Mount]:
        """What is mounted on names in a directory, in the order of names."""
        return [item for target, item in sorted(self.by_target.items()) if target.rpartition("/")[0] == folder]


def normalized(source: str) -> str:
    """The normal form of what the table says; a source that is no address stays as it is."""
    try:
        return normalize(source)
    except InvalidParameter:
        return source


def likely_type(item: Mount) -> StorageType:
    """The type of connection that made a mount, as far as the table tells; POSIXFS may mount anything."""
    if item.vfs_type in _NFS:
        return StorageType.NFS
    return StorageType.GLUSTERFS if item.vfs_type == _GLUSTER else StorageType.POSIXFS


def _source(item: Mount, blocks: str) -> str:
    if item.vfs_type == _GLUSTER:
        return item.source.removesuffix(_RDMA)
    loop = _LOOP.fullmatch(item.source)
    if loop is None:
        return item.source
    try:
        return Path(blocks, loop[1], "loop", "backing_file").read_text("utf-8", "surrogateescape").removesuffix("\n")
    except OSError:
        return item.source  # the device was let go of meanwhile
