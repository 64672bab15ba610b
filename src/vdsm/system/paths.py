"""Paths on storage that may be dead: looked at by programs, under a deadline.

A stat on a dead NFS server never returns, and a process can be abandoned where a thread cannot. coreutils and findutils
start ten times faster than a Python of our own. They are started bare: they end by themselves as soon as the file
system answers, and a wrapper that has them die with the agent would double what a look costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from vdsm.base import process
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import BadParameter, CommandFailed

Kind = Literal["file", "block", "char", "fifo", "socket", "directory", "other", "none"]

# The kernel's PATH_MAX, with its NUL.
_MAX_PATH: Final = 4095
# find's letters for types.
_KINDS: Final[dict[str, Kind]] = {
    "f": "file",
    "b": "block",
    "c": "char",
    "p": "fifo",
    "s": "socket",
    "d": "directory",
}
# find counts blocks of this size, whatever the file system's are.
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Found:
    """What a path leads to; see ``privileged.calls.PathFacts``."""

    exists: bool
    kind: Kind
    real_path: str
    size: int = 0
    allocated: int = 0
    writable_fs: bool = False


def check(path: str, field: str = "path") -> None:
    """Refuse what is no absolute path, before any program sees it.

    Raises:
        BadParameter: names ``field``.
    """
    if not path.startswith("/"):
        raise BadParameter(field, f"must be an absolute path, is {path!r:.80}")
    try:
        length = len(path.encode())
    except UnicodeEncodeError as error:
        raise BadParameter(field, "is not UTF-8") from error
    if "\0" in path or length > _MAX_PATH:
        raise BadParameter(field, "is no path: it holds a NUL or is too long")


def inspect(path: str, *, timeout_s: float) -> Found:
    """Look at ``path``, symbolic links followed.

    Raises:
        BadParameter: it is not an absolute path, or it leads nowhere for another reason than that nothing is there.
        Unfinished: its file system does not answer.
    """
    check(path)
    until = monotonic_s() + timeout_s
    # -z: a name may hold line ends. -m: as far as it leads.
    target = _ask(["realpath", "-mz", "--", path], timeout_s).removesuffix(b"\0")
    try:
        real = target.decode()
    except UnicodeDecodeError as error:
        raise BadParameter("path", f"{path} leads to a name that is not UTF-8") from error
    # -writable is access(2): it knows read-only mounts, devices and immutable files, for root as well.
    argv = ["find", real, "-maxdepth", "0", "-printf", "%y %s %b ", "-writable", "-printf", "w"]
    try:
        letter, size, blocks, writable = _ask(argv, until - monotonic_s()).decode("ascii").split(" ")
    except CommandFailed as error:
        if error.stderr.endswith(("No such file or directory", "Not a directory")):
            return Found(exists=False, kind="none", real_path=real)
        raise BadParameter("path", error.stderr.removeprefix("find: ")) from error
    kind = _KINDS.get(letter, "other")
    if kind == "block":
        bytes_of_device = _device_size(real, until - monotonic_s())
        return Found(
            exists=True,
            kind=kind,
            real_path=real,
            size=bytes_of_device,
            allocated=bytes_of_device,
            writable_fs=bool(writable),
        )
    return Found(
        exists=True,
        kind=kind,
        real_path=real,
        size=int(size) if kind == "file" else 0,
        allocated=int(blocks) * _BLOCK,
        writable_fs=bool(writable),
    )


def _device_size(path: str, timeout_s: float) -> int:
    """The bytes of a block device; 0 if it cannot be opened (no medium)."""
    try:
        return int(_ask(["blockdev", "--getsize64", path], timeout_s))
    except CommandFailed:
        return 0


def _ask(argv: list[str], timeout_s: float) -> bytes:
    return process.run(argv, timeout_s=max(0.0, timeout_s), max_output=1 << 20).stdout
