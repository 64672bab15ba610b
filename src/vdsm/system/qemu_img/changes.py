"""What qemu-img changes quickly: headers, sizes, bitmaps. For images whose headers were accepted (``header``).

All raise CommandFailed when qemu-img refuses, and Unfinished when it has not ended in ``timeout_s`` seconds.
"""

from __future__ import annotations

from typing import Final

from vdsm.base import process
from vdsm.system.qemu_img.questions import Format

# Below, an absolute path cannot be taken for a protocol, whatever colons it has.
_LIMITS: Final = process.Limits(address_space=4 << 30, dies_with_caller=True)


def create_qcow2(
    path: str, virtual_size: int, *, compatibility: str, backing: tuple[str, str] | None, timeout_s: float
) -> None:
    """Make an empty qcow2 image at an absolute path, in place of what is in an existing file.

    Args:
        path: where; its mode is not changed.
        virtual_size: bytes.
        compatibility: "0.10" or "1.1", the version of the header.
        backing: the name that is noted for the file underneath, and its format; it is not opened.
        timeout_s: seconds that it may take.
    """
    below = ["-u", "-b", backing[0], "-F", backing[1]] if backing else []
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compatibility}", *below, path, str(virtual_size)]
    process.run(argv, timeout_s=timeout_s)


def resize(path: str, image_format: Format, virtual_size: int, *, timeout_s: float) -> None:
    """Make an image's virtual size larger, to so many bytes; qemu-img refuses to make it smaller."""
    _change(["resize", "-q", "-f", image_format, path, str(virtual_size)], timeout_s)


def rebase(path: str, backing: tuple[str, str] | None, *, timeout_s: float) -> None:
    """Let a qcow2 header name another file underneath, and its format; no data and no other file is looked at."""
    name, backing_format = backing or ("", "")
    told = ["-F", backing_format] if backing else []
    _change(["rebase", "-q", "-u", "-f", "qcow2", "-b", name, *told, path], timeout_s)


def amend(path: str, *, compatibility: str, timeout_s: float) -> None:
    """Rewrite the header of a qcow2 image as that of another version."""
    _change(["amend", "-q", "-f", "qcow2", "-o", f"compat={compatibility}", path], timeout_s)


def add_bitmap(path: str, name: str, *, granularity: int, enabled: bool, timeout_s: float) -> None:
    """Begin a bitmap: from now on it notes what is written, if it is enabled."""
    state = [] if enabled else ["--disable"]
    _change(["bitmap", "-f", "qcow2", "--add", "-g", str(granularity), *state, path, name], timeout_s)


def remove_bitmap(path: str, name: str, *, timeout_s: float) -> None:
    """Take a bitmap away."""
    _change(["bitmap", "-f", "qcow2", "--remove", path, name], timeout_s)


def merge_bitmap(path: str, name: str, source: str, *, timeout_s: float) -> None:
    """Add what the bitmap of the same name in a qcow2 image ``source`` has noted to the one in ``path``."""
    _change(["bitmap", "-f", "qcow2", "--merge", name, "-F", "qcow2", "-b", source, path, name], timeout_s)


def _change(words: list[str], timeout_s: float) -> None:
    process.run(["qemu-img", *words], timeout_s=timeout_s, limits=_LIMITS)
