"""Mounting and unmounting with util-linux, and the kernel's table of mounts.

The target of a mount is opened without following a link and then named to ``mount`` through this process
(``/proc/<pid>/fd/<n>``), so nobody who may write beside it can have the mount land elsewhere. Programs run under a
deadline: one that waits for a dead server is killed, or abandoned if it cannot be.

Formats: proc_pid_mountinfo(5), mount(8), umount(8).
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdsm.base import process
from vdsm.base.errors import BadParameter, CommandFailed, Unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLE: Final = "/proc/self/mountinfo"
# umount(8): the target is not mounted.
_NOT_MOUNTED: Final = 32
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table.

    Attributes:
        source: what is mounted, as it was named to the kernel.
        target: where, absolute, without links.
        vfs_type: the kernel's type, with the subtype of FUSE ("fuse.glusterfs").
        options: those of the mount and then those of the file system.
    """

    source: str
    target: str
    vfs_type: str
    options: tuple[str, ...]


def parse(data: bytes) -> tuple[Mount, ...]:
    """Parse /proc/self/mountinfo, in the order of mounting; a line of another form is passed over."""
    found = []
    for line in data.split(b"\n"):
        left, separator, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        if not separator or len(fields) < 6 or len(rest) < 3:
            continue
        options = f"{_text(fields[5])},{_text(rest[2])}".split(",")
        found.append(Mount(_text(rest[1]), _text(fields[4]), _text(rest[0]), tuple(options)))
    return tuple(found)


def table(path: str = TABLE) -> tuple[Mount, ...]:
    """The mounts that this process sees, in the order of mounting; of several on one target the last counts."""
    return parse(Path(path).read_bytes())


def mount(source: str, target: str, vfs_type: str, options: Sequence[str], *, timeout_s: float) -> None:
    """Mount on a directory, which is reached without following any link.

    Raises:
        BadParameter: the target is no directory, or there is a link on the way.
        CommandFailed: it cannot be mounted.
        Unfinished: the server does not answer. The program was killed, or abandoned: then it may still be mounted.
    """
    with _held(target) as place:
        # -n, -c: nothing is written beside the kernel's table, and names are taken as they are.
        argv = ["mount", "-n", "-c", "-t", vfs_type, "-o", ",".join(options), "--", source, place]
        try:
            process.run(argv, timeout_s=timeout_s, max_output=1 << 16)
        except CommandFailed as error:
            # Options may hold a password, which is nobody's business who reads the error.
            raise CommandFailed(f"mount -t {vfs_type} {source}", error.status_code, "", error.stderr) from None
        except Unfinished:
            raise Unfinished(f"mount -t {vfs_type} {source}", timeout_s) from None


def unmount(target: str, *, force: bool, lazy: bool, timeout_s: float) -> None:
    """Unmount the topmost mount of a target; nothing if nothing is mounted there.

    Args:
        target: the mount point; links on the way to it are refused, and it is not looked into.
        force: abort what waits for the server.
        lazy: take it out of the tree now and let go of it when nobody uses it any more.
        timeout_s: seconds.

    Raises:
        BadParameter: there is a link on the way.
        CommandFailed: it cannot be unmounted.
        Unfinished: it takes longer.
    """
    parent, _, name = target.rpartition("/")
    with _held(parent) as place:
        words = [*(["-f"] if force else []), *(["-l"] if lazy else [])]
        # -i: without the helper of NFS 3, which would tell a server that may be dead.
        argv = ["umount", "-n", "-c", "-i", *words, "--", f"{place}/{name}"]
        done = process.run(argv, timeout_s=timeout_s, ok=(0, _NOT_MOUNTED), max_output=1 << 16)
        if done.code and not done.stderr.rstrip().endswith(b"not mounted."):
            raise CommandFailed(" ".join(argv), done.code, "", done.stderr.decode(errors="replace").strip())


@contextmanager
def _held(path: str) -> Iterator[str]:
    """A name for a directory that stays the directory's, whatever happens to its names meanwhile."""
    with ExitStack() as opened:
        current = os.open("/", _DIRECTORY)
        opened.callback(os.close, current)
        for part in path.strip("/").split("/"):
            try:
                current = os.open(part, _DIRECTORY, dir_fd=current)
            except OSError as error:
                raise BadParameter("target", f"{path}: {part}: {error.strerror}") from error
            opened.callback(os.close, current)
        yield f"/proc/{os.getpid()}/fd/{current}"


def _text(field: bytes) -> str:
    # The kernel writes blanks, line ends, backslashes and some more as three octal digits.
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field).decode("utf-8", "surrogateescape")
