"""An initramfs in memory: the "newc" cpio format, and which kernel modules it has to carry.

An archive is a run of entries, each padded to four bytes and closed by one named ``TRAILER!!!`` (the format is
described in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst):

    070701 + 13 numbers of 8 hexadecimal digits | name, NUL, padding | data, padding

Entries carry no times and no user ids, so that the same input always gives the same bytes.
"""

from __future__ import annotations

import posixpath
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Archive:
    """An archive that is being written; directories above an entry come by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._names: set[str] = set()

    def directory(self, name: str) -> None:
        """Add a directory and those above it; one that is there already stays."""
        name = name.strip("/")
        if not name or name in self._names:
            return
        self.directory(posixpath.dirname(name))
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o755) -> None:
        """Add a regular file."""
        self.directory(posixpath.dirname(name.strip("/")))
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.directory(posixpath.dirname(name.strip("/")))
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self.directory(posixpath.dirname(name.strip("/")))
        self._entry(name, stat.S_IFCHR | mode, device=(major, minor))

    def __contains__(self, name: str) -> bool:
        return name.strip("/") in self._names

    def finished(self) -> bytes:
        """The whole archive, closed."""
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)

    def _entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        name = name.strip("/")
        if name in self._names:
            raise ValueError(f"{name} is in the archive already")
        self._names.add(name)
        label = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (len(self._names), mode, 0, 0, links, 0, len(data), 0, 0, *device, len(label), 0)
        self._append(b"070701" + b"".join(b"%08X" % number for number in numbers) + label)
        self._append(data)

    def _append(self, data: bytes) -> None:
        padding = b"\0" * (-(self._size + len(data)) % 4)
        self._parts.append(data + padding)
        self._size += len(data) + len(padding)


def module_name(path: Path) -> str:
    """The name by which the kernel knows a module file: ``virtio-rng.ko`` is ``virtio_rng``."""
    return path.name.partition(".ko")[0].replace("-", "_")


def module_order(folder: Path, wanted: Sequence[str]) -> list[Path]:
    """The files to load for the wanted modules, dependencies first.

    Dependencies are read from the modules themselves (the ``depends=`` string of their .modinfo section), so no
    depmod is needed. What the kernel has built in needs no file and is left out.

    Raises:
        LookupError: a wanted module is neither a file nor built in.
    """
    files = {module_name(path): path for path in folder.rglob("*.ko")}
    built_in = _built_in(folder)
    order: list[Path] = []

    def add(name: str) -> None:
        if name in built_in:
            return
        if name not in files:
            raise LookupError(f"the kernel in {folder} has no module {name}")
        if files[name] in order:
            return
        for dependency in depends(files[name].read_bytes()):
            add(dependency)
        order.append(files[name])

    for name in wanted:
        add(name.replace("-", "_"))
    return order


def depends(module: bytes) -> list[str]:
    """The names of the modules that a module (the bytes of its file) depends on."""
    start = module.find(b"\0depends=")
    if start < 0:
        return []
    text = module[start + len(b"\0depends=") :].partition(b"\0")[0].decode("ascii")
    return [name.replace("-", "_") for name in text.split(",") if name]


def _built_in(folder: Path) -> set[str]:
    listing = folder / "modules.builtin"
    if not listing.exists():
        return set()
    return {line.rpartition("/")[2].partition(".ko")[0].replace("-", "_") for line in listing.read_text().split()}
