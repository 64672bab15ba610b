"""The pattern that guests write to their disks (guest_files/lab-pattern), seen from outside.

Every sector says whose it is and where it belongs: ``lab SEED OFFSET``, spaces up to 511 bytes, a line feed. So a
sector that was lost, torn, or written to the wrong place is found out.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Final

SECTOR: Final = 512


def pattern(seed: str, offset: int, length: int) -> bytes:
    """The bytes of a disk from ``offset`` on; both are multiples of a sector."""
    if offset % SECTOR or length % SECTOR:
        raise ValueError(f"{offset}, {length}: not multiples of {SECTOR}")
    return b"".join(
        f"lab {seed} {at}".encode().ljust(SECTOR - 1) + b"\n" for at in range(offset, offset + length, SECTOR)
    )


def first_difference(data: bytes, seed: str, offset: int) -> int | None:
    """The offset on the disk of the first byte that is not the pattern's; None when all are."""
    wanted = pattern(seed, offset, len(data))
    if data == wanted:
        return None
    return offset + next(at for at, (one, other) in enumerate(zip(data, wanted, strict=True)) if one != other)


def read_image(image: Path, image_format: str, offset: int, length: int) -> bytes:
    """Some bytes of the disk in an image file; the image may be in use, then all that was flushed is seen."""
    with tempfile.TemporaryDirectory(prefix="v-pattern-") as folder:
        out = Path(folder) / "out"
        # qemu-img counts from the disk's begin, whatever it is to skip; later ones may not.
        sizes = [f"bs={SECTOR}", f"skip={offset // SECTOR}", f"count={(offset + length) // SECTOR}"]
        argv = ["qemu-img", "dd", "-U", "-f", image_format, "-O", "raw", *sizes, f"if={image}", f"of={out}"]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        data = out.read_bytes()[:length]
    if len(data) != length:
        raise ValueError(f"{image} ends before {offset + length}")
    return data
