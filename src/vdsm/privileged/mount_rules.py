"""What vdsmd may have mounted, and where. Pure.

vdsmd's user must not become root by a mount, so

    targets    one level below <repository>/mnt or <repository>/mnt/glusterSD, never the two themselves
    types      of file systems that lie on storage and know owners; FUSE only for programs that the configuration names,
               as the kernel's helper runs whatever program the type names, as root
    options    none that brings set-user-id programs or devices, moves or binds other mounts, or names a program;
               nosuid and nodev come last, always (the original does not: a repository has no use for either)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vdsm.base.errors import BadParameter

ALWAYS: Final = ("nosuid", "nodev")

_MNT: Final = "mnt"
# Directories below mnt that hold mount points of their own, or domains of other kinds.
_GLUSTER: Final = "glusterSD"
_KEPT: Final = frozenset({_GLUSTER, "blockSD", "", ".", ".."})
_NAME_BYTES: Final = 255
_TEXT_BYTES: Final = 4095  # the kernel takes one page
_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_OPTION: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)(=[^\x00-\x1f\x7f]*)?")
# FUSE programs and Gluster's are started through a shell.
_PLAIN: Final = re.compile(r"[\w./:@%+=~^{}\[\] -]*", re.ASCII)
_GLUSTER_SOURCE: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^/:\s]+):/?[^/\s][^\s]*")
_FUSE: Final = "fuse."

# Faces of the kernel, stacked and bound trees, file systems without owners, and FUSE whose source names a program.
_REFUSED_TYPES: Final = frozenset(
    {
        "autofs", "binfmt_misc", "bind", "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devpts",
        "devtmpfs", "ecryptfs", "efivarfs", "exfat", "fuse", "fuse3", "fuseblk", "fusectl", "hugetlbfs",
        "msdos", "mqueue", "none", "ntfs", "ntfs3", "ntfs-3g", "nfsd", "nsfs", "overlay", "overlayfs", "pipefs",
        "proc", "pstore", "rootfs", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sockfs", "swap",
        "sysfs", "tracefs", "unionfs", "aufs", "vfat",
    }
)  # fmt: skip
_REFUSED_OPTIONS: Final = frozenset(
    {
        "bind", "rbind", "move", "remount", "suid", "dev", "helper", "uhelper", "fd", "rootmode", "user_id",
        "group_id", "command", "ssh_command", "log-file", "logfile", "xlator-option", "volfile", "shared",
        "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MountRules:
    """The rules for one host.

    Attributes:
        repository: the root of the repository, absolute, without links.
        fuse_types: FUSE programs that may be mounted.
    """

    repository: str
    fuse_types: tuple[str, ...] = ()

    def check_target(self, target: str) -> str:
        """Check where something may be mounted; returns the same.

        Raises:
            BadParameter: it is no name directly below one of the two directories.
        """
        parent, _, name = target.rpartition("/")
        parents = (f"{self.repository}/{_MNT}", f"{self.repository}/{_MNT}/{_GLUSTER}")
        if parent not in parents or name in _KEPT:
            raise BadParameter("target", f"must lie directly in {parents[0]} or its {_GLUSTER}, is {target!r:.120}")
        if "\0" in name or len(_bytes(name, "target")) > _NAME_BYTES:
            raise BadParameter("target", "is no name of a directory")
        return target

    def check_type(self, vfs_type: str) -> str:
        """Check a type of file system; returns the same.

        Raises:
            BadParameter: it is not one that a domain may lie on.
        """
        if not _TYPE.fullmatch(vfs_type):
            raise BadParameter("vfs_type", f"is no type of file system: {vfs_type!r:.80}")
        if vfs_type.lower() in _REFUSED_TYPES:
            raise BadParameter("vfs_type", f"{vfs_type} cannot hold a storage domain")
        if vfs_type.startswith(_FUSE) and vfs_type.removeprefix(_FUSE) not in self.fuse_types:
            raise BadParameter("vfs_type", f"{vfs_type} is not allowed: see storage.fuse_types in the configuration")
        return vfs_type

    @staticmethod
    def check_source(source: str, vfs_type: str) -> str:
        """Check what is to be mounted; returns the same.

        Raises:
            BadParameter: it is empty, too long or no text, or names a local file where a server is meant.
        """
        if not source or "\0" in source or len(_bytes(source, "source")) > _TEXT_BYTES:
            raise BadParameter("source", "must be an address of storage")
        if "gluster" in vfs_type and not _GLUSTER_SOURCE.fullmatch(source):
            raise BadParameter("source", f"must be server:/volume, is {source!r:.80}")
        return source

    @staticmethod
    def options(given: str, vfs_type: str) -> tuple[str, ...]:
        """Check options as they are given to mount's -o; the answer has those of ``ALWAYS`` at its end.

        Raises:
            BadParameter: one has no plausible form, or is refused.
        """
        if len(_bytes(given, "options")) > _TEXT_BYTES:
            raise BadParameter("options", "are too long")
        words = [word.strip() for word in given.split(",")]
        for word in filter(None, words):
            found = _OPTION.fullmatch(word)
            if found is None or (_is_script(vfs_type) and not _PLAIN.fullmatch(word)):
                raise BadParameter("options", f"is no mount option: {word!r:.80}")
            name = found[1].lower()
            if name in _REFUSED_OPTIONS or name.startswith("x-"):
                raise BadParameter("options", f"{found[1]} is not allowed")
        return (*filter(None, words), *ALWAYS)


def _is_script(vfs_type: str) -> bool:
    return vfs_type.startswith(_FUSE) or "gluster" in vfs_type


def _bytes(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadParameter(field, "is not UTF-8") from error
