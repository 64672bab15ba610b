"""The local file of an upload: what it is, and whether it is still the same."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

from vdscli.failures import CliError

_MAGIC: Final = b"QFI\xfb"
# QEMU's docs/interop/qcow2.txt: magic, version, backing name's offset and length, cluster bits, virtual size.
_HEADER: Final = struct.Struct(">4sIQIIQ")
_FEATURES: Final = 72
_DATA_FILE: Final = 1 << 2
_ALIGNMENT: Final = 4096


class Source(NamedTuple):
    """An image in a file: its format "raw" or "qcow2", its length, and what a guest sees, both in bytes."""

    path: str
    format: str
    length: int
    virtual_size: int
    identity: tuple[int, int, int, int]

    @property
    def volume_size(self) -> int:
        """The size of a volume for it, a multiple of what every storage can have."""
        return max(_ALIGNMENT, -(-self.virtual_size // _ALIGNMENT) * _ALIGNMENT)

    def subject(self) -> dict[str, Any]:
        """What tells it from other files, and from itself after a change."""
        return {"path": self.path, "identity": list(self.identity)}


def look(path: str) -> Source:
    """Look at a file.

    Raises:
        CliError: it cannot be read, or cannot be uploaded as it is.
    """
    try:
        real = str(Path(path).resolve(strict=True))
        with Path(real).open("rb") as file:
            facts = os.fstat(file.fileno())
            head = file.read(_FEATURES + 8)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise CliError(f"{path} is not a regular file")
    if not facts.st_size:
        raise CliError(f"{path} is empty")
    identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if not head.startswith(_MAGIC):
        return Source(real, "raw", facts.st_size, facts.st_size, identity)
    return Source(real, "qcow2", facts.st_size, _virtual_size(path, head), identity)


def _virtual_size(path: str, head: bytes) -> int:
    if len(head) < _FEATURES:
        raise CliError(f"{path} is a damaged qcow2 image")
    _, version, backing, _, _, size = _HEADER.unpack_from(head)
    features = struct.unpack_from(">Q", head, _FEATURES)[0] if version >= 3 and len(head) >= _FEATURES + 8 else 0
    if backing or features & _DATA_FILE:
        raise CliError(
            f"{path} stands on another file: make one of both with 'qemu-img convert -O qcow2' and upload that"
        )
    return int(size)
