"""What a guest sees of a volume, looked through from beginning to end: its checksum, and blocks of zeros.

A qemu-nbd of our own has the chain open for as long as it takes, and dies with the agent; it opens each file by the
path and format that the metadata says, and none by what a header names. It tells where there is nothing, so that
empty parts cost no reading.

The checksum is that of oVirt's image daemon and its clients (blkhash): blocks of 4 MiB are hashed one by one, and the
hash of these hashes is the image's; so it is the same for raw and qcow2, sparse or not.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vdsm.base import process
from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.base.errors import Failed, Unfinished
from vdsm.storage.executor import Watch
from vdsm.storage.ids import VolumeRef
from vdsm.storage.images.image_errors import CopyFailed, SparsifyFailed
from vdsm.storage.images.mover import QemuImages, Unwatched
from vdsm.system import qemu_nbd
from vdsm.system.nbd_client import NbdClient
from vdsm.system.qemu_nbd import Export

BLOCK: Final = 4 << 20
_DIGEST_BYTES: Final = 32
# The unit in which zeros are looked for: a cluster of qcow2.
_CLUSTER: Final = 64 << 10
_LIMITS: Final = process.Limits(address_space=4 << 30, dies_with_caller=True)
_START_S: Final = 30.0
_POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum of what a guest sees.

    Attributes:
        algorithm: of the hashes of the blocks and of all: "blake2b", 32 bytes.
        block_size: bytes that are hashed at once.
        checksum: in hex.
    """

    algorithm: str
    block_size: int
    checksum: str


class BlockHash:
    """The hash of a sequence of blocks; the last may be shorter."""

    def __init__(self) -> None:
        self._whole: Final = _hash()
        self._empty: Final = _hash(bytes(BLOCK)).digest()

    def add(self, block: bytes) -> None:
        """Go on with a block of data."""
        self._whole.update(_hash(block).digest())

    def add_empty(self, length: int) -> None:
        """Go on with a block of zeros."""
        self._whole.update(self._empty if length == BLOCK else _hash(bytes(length)).digest())

    def hexdigest(self) -> str:
        """The hash so far."""
        return self._whole.hexdigest()


def checksum(
    images: QemuImages, volume: VolumeRef, watch: Watch | None = None, *, silence_s: float = 120.0
) -> Checksum:
    """Compute the checksum of what a guest sees of a volume, with all it stands on.

    Args:
        images: who opens images.
        volume: nobody writes it meanwhile.
        watch: who follows it.
        silence_s: seconds for which the storage may be silent.

    Raises:
        ImageRefused: a header was not accepted.
        CopyFailed: it could not be read.
        Unfinished: the storage does not answer.
    """
    found = BlockHash()
    try:
        with _served(images, volume, watch or Unwatched(), silence_s, writable=False) as content:
            for blocks in content.through():
                if all(data is None for _, _, data in blocks):
                    found.add_empty(sum(length for _, length, _ in blocks))
                else:
                    found.add(b"".join(bytes(length) if data is None else data for _, length, data in blocks))
    except Failed as error:
        raise CopyFailed(f"reading {volume.volume_id}", error.reason) from error
    return Checksum("blake2b", BLOCK, found.hexdigest())


def sparsify(images: QemuImages, volume: VolumeRef, watch: Watch | None = None, *, silence_s: float = 120.0) -> int:
    """Give the space of blocks back that hold nothing but zeros, in place; what a guest sees does not change.

    What the guest's file systems do not use any more but have not zeroed stays: nobody looks into them here. Cut off
    anywhere, and done again, it is the same.

    Args:
        images: who opens images.
        volume: nobody else has it open.
        watch: who follows it.
        silence_s: seconds for which the storage may be silent.

    Returns:
        How many bytes of zeros were found.

    Raises:
        ImageRefused: a header was not accepted.
        SparsifyFailed: it could not be read or written.
        Unfinished: the storage does not answer.
    """
    found = 0
    empty = bytes(_CLUSTER)
    try:
        with _served(images, volume, watch or Unwatched(), silence_s, writable=True) as content:
            for blocks in content.through():
                for offset, length, data in blocks:
                    starts = range(0, length, _CLUSTER) if data is not None else ()
                    for start in starts:
                        part = memoryview(data or b"")[start : start + _CLUSTER]
                        if part == empty[: len(part)]:
                            content.client.zero(offset + start, len(part))
                            found += len(part)
            content.client.flush()
    except Failed as error:
        raise SparsifyFailed(f"sparsifying {volume.volume_id}", error.reason) from error
    return found


@dataclass(frozen=True, slots=True)
class _Content:
    client: NbdClient
    watch: Watch

    def through(self) -> Iterator[list[tuple[int, int, bytes | None]]]:
        """All of it, block by block: offset, length and data of each part."""
        for offset in range(0, self.client.size, BLOCK):
            self.watch.check()
            self.watch.progress(offset / self.client.size)
            length = min(BLOCK, self.client.size - offset)
            yield [(part.offset, part.length, part.data) for part in self.client.read(offset, length)]
        self.watch.progress(1.0)


@contextmanager
def _served(
    images: QemuImages, volume: VolumeRef, watch: Watch, silence_s: float, *, writable: bool
) -> Iterator[_Content]:
    with images.layers(volume) as (layers, direct), tempfile.TemporaryDirectory(prefix="vdsm-nbd-") as folder:
        address = Path(folder) / "socket"
        export = Export(chain=tuple(layers), readonly=not writable, discard=writable)
        argv = qemu_nbd.command(export, address, direct=direct)
        child = process.spawn(argv, limits=_LIMITS, stdout=process.DEVNULL, stderr=process.DEVNULL)
        try:
            _wait_for(child, address)
            with NbdClient(address, timeout_s=silence_s) as client:
                yield _Content(client, watch)
        finally:
            child.stop(0.0 if not writable else 5.0)


def _wait_for(child: process.Child, address: Path) -> None:
    until = monotonic_s() + _START_S
    while not qemu_nbd.serves(address):
        if child.poll() is not None:
            raise Failed("serving the image", f"qemu-nbd ended with {child.poll()}")
        if monotonic_s() > until:
            raise Unfinished("starting qemu-nbd", _START_S)
        sleep_s(_POLL_S)


def _hash(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES)
