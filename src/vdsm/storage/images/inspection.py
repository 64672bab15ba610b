"""Images that may be hostile, judged by their headers before any tool of QEMU's opens them.

Whoever uploads an image, or shares a storage with us, chooses every byte of it. QEMU opens what a header names, and
takes the memory that a header asks for. So this is refused:

    a backing file that is not the parent's bare id ("nbd:...", "json:...", paths), or none where one is due
    an external data file; features that nobody knows; encryption; internal snapshots; the mark of corruption
    tables beyond QEMU's own limits, out of place, or too small for the size; a virtual size that nobody asked for
    a raw parent whose format is not told (QEMU would guess it from what a guest wrote)

After that qemu-img looks at it, with little memory, little time, and no backing file (``qemu_img.questions``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vdsm.base.errors import BadParameter
from vdsm.storage.access import FileReader
from vdsm.storage.chain import Image
from vdsm.storage.errors import NoSuchVolume
from vdsm.storage.files.files import told
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import VolumeId
from vdsm.storage.images.image_errors import ImageRefused
from vdsm.storage.kinds import VolumeFormat
from vdsm.system import qemu_img
from vdsm.system.qemu_img import header as qcow2

# QEMU's own limits of what it reads at opening (QCOW_MAX_L1_SIZE, QCOW_MAX_REFTABLE_SIZE).
_MAX_L1_BYTES: Final = 32 << 20
_MAX_REFCOUNT_BYTES: Final = 8 << 20
# Far beyond any disk, far below where sums overflow.
_MAX_VIRTUAL: Final = 1 << 50
# One per checkpoint; a manager keeps some dozens.
_MAX_BITMAPS: Final = 1024
_MAX_BITMAP_DIRECTORY: Final = 1 << 20
_KNOWN_FEATURES: Final = qcow2.DIRTY | qcow2.COMPRESSION | qcow2.EXTENDED_L2
_L2_ENTRY: Final = 8
_EXTENDED_L2_ENTRY: Final = 16


@dataclass(frozen=True, slots=True)
class Expected:
    """What metadata says of a qcow2 volume.

    Attributes:
        parent: what it stands on.
        parent_format: the parent's format.
        capacity: bytes that its virtual size must not exceed; None when only what is absurd is refused.
        length: bytes of its file; None for devices.
    """

    parent: VolumeId | None = None
    parent_format: VolumeFormat | None = None
    capacity: int | None = None
    length: int | None = None


def judge(header: qcow2.Header, expected: Expected) -> tuple[str, ...]:
    """Everything for which an image is refused; nothing when it may be opened. Pure."""
    return (*_judge_names(header, expected), *_judge_features(header), *_judge_sizes(header, expected))


def read_header(files: FileReader, path: str, *, direct: bool) -> qcow2.Header | None:
    """A qcow2 header, read through the domain's helper; None when it is no qcow2 image.

    Raises:
        BadParameter: it has qcow2's magic and is damaged.
        StorageFailed: it cannot be read.
    """
    with told(f"reading {path}"):
        start = files.read(path, size=qcow2.USUAL_HEADER, direct=direct)
        if not start.startswith(qcow2.MAGIC):
            return None
        try:
            return qcow2.parse_header(start)
        except BadParameter:
            if len(start) < qcow2.USUAL_HEADER:
                raise
        return qcow2.parse_header(files.read(path, size=qcow2.MAX_HEADER, direct=direct))


class Inspector:
    """Looks at the images of one domain.

    Args:
        files: how its files are reached.
        direct: whether they are read past the page cache.
        timeout_s: seconds that QEMU gets for a look at one.
    """

    def __init__(self, files: FileReader, *, direct: bool, timeout_s: float = 30.0) -> None:
        self._files: Final = files
        self._direct: Final = direct
        self._timeout_s: Final = timeout_s

    def accept(self, image: Image, top: VolumeId, paths: Mapping[VolumeId, str]) -> Sequence[VolumeId]:
        """See that QEMU may open a volume with all it stands on.

        Args:
            image: the image, by its metadata.
            top: the volume.
            paths: where its volumes are.

        Returns:
            The chain, the template included, base first.

        Raises:
            ImageRefused: a header says something else than the metadata, or asks for what it must not.
            WrongChain, NoSuchVolume: the metadata makes no chain.
        """
        chain = _with_template(image, top)
        for ident in chain:
            volume = image.below(ident)
            if volume is None or ident not in paths:
                raise NoSuchVolume(ident)
            if volume.format is VolumeFormat.COW:
                self._accept(image, ident, volume, paths[ident], capacity=None)
        return chain

    def verify_untrusted(self, image: Image, ident: VolumeId, path: str) -> None:
        """See that data that came from outside is an image of the format and size that were asked for, and harmless.

        Raises:
            ImageRefused: it is not.
            Unfinished: QEMU took too long over it, or the storage does not answer.
        """
        volume = image.volume(ident)
        if volume.format is VolumeFormat.RAW:
            if self._read(ident, path) is not None:
                raise ImageRefused(ident, "its format is qcow2, and it was to be raw")
            return
        self._accept(image, ident, volume, path, capacity=volume.capacity or None)
        try:
            qemu_img.info(path, "qcow2", timeout_s=self._timeout_s)
        except BadParameter as error:
            raise ImageRefused(ident, error.reason) from error

    def _accept(
        self, image: Image, ident: VolumeId, volume: VolumeMetadata, path: str, *, capacity: int | None
    ) -> None:
        header = self._read(ident, path)
        if header is None:
            raise ImageRefused(ident, "it is no qcow2 image, and it was to be one")
        parent = image.below(volume.parent) if volume.parent else None
        with told(f"looking at {path}"):
            length = self._files.stat(path, follow=True).size
        expected = Expected(volume.parent, parent.format if parent else None, capacity, length or None)
        if reasons := judge(header, expected):
            raise ImageRefused(ident, "; ".join(reasons))

    def _read(self, ident: VolumeId, path: str) -> qcow2.Header | None:
        try:
            return read_header(self._files, path, direct=self._direct)
        except BadParameter as error:
            raise ImageRefused(ident, error.reason) from error


def _with_template(image: Image, top: VolumeId) -> Sequence[VolumeId]:
    if top in image.shared:
        return (top,)
    chain = image.chain(top)
    below = image.volumes[chain[0]].parent
    return chain if below is None else (below, *chain)


def _judge_names(header: qcow2.Header, expected: Expected) -> Iterator[str]:
    if header.data_file is not None:
        yield f"it has an external data file {header.data_file!r:.80}"
    if header.backing != expected.parent:
        yield f"its backing file is {header.backing!r:.80}, its parent {expected.parent or 'none'}"
        return
    if expected.parent is None or expected.parent_format is None:
        return
    told_format = header.backing_format
    if told_format is None and expected.parent_format is VolumeFormat.RAW:
        yield "it does not say that its parent is raw"
    if told_format is not None and told_format != expected.parent_format.qemu:
        yield f"its parent's format is {told_format!r:.40} to it, and is {expected.parent_format.qemu}"


def _judge_features(header: qcow2.Header) -> Iterator[str]:
    if header.incompatible & qcow2.CORRUPT:
        yield "it is marked as corrupt"
    unknown = header.incompatible & ~(_KNOWN_FEATURES | qcow2.CORRUPT | qcow2.DATA_FILE)
    if unknown:
        yield f"it has features that nobody knows ({unknown:#x})"
    if header.encryption:
        yield "it is encrypted"
    if header.snapshots:
        yield f"it has {header.snapshots} internal snapshots"
    if header.bitmaps > _MAX_BITMAPS or header.bitmap_directory_bytes > _MAX_BITMAP_DIRECTORY:
        yield f"it has {header.bitmaps} bitmaps, their list of {header.bitmap_directory_bytes} bytes"


def _judge_sizes(header: qcow2.Header, expected: Expected) -> Iterator[str]:
    limit = _MAX_VIRTUAL if expected.capacity is None else expected.capacity
    if header.virtual_size > limit:
        yield f"its virtual size is {header.virtual_size} bytes, and may be {limit}"
        return
    cluster = 1 << header.cluster_bits
    entry = _EXTENDED_L2_ENTRY if header.incompatible & qcow2.EXTENDED_L2 else _L2_ENTRY
    covered = cluster * (cluster // entry)
    needed = -(-header.virtual_size // covered)
    if header.l1_entries < needed:
        yield f"its first table has {header.l1_entries} entries, and needs {needed}"
    tables = (
        ("first table", header.l1_offset, header.l1_entries * 8, _MAX_L1_BYTES),
        ("table of reference counts", header.refcount_offset, header.refcount_clusters * cluster, _MAX_REFCOUNT_BYTES),
    )
    for name, offset, size, most in tables:
        if size > most:
            yield f"its {name} takes {size} bytes, and may take {most}"
        elif size and (offset % cluster or not offset):
            yield f"its {name} is out of place"
        elif expected.length is not None and offset + size > expected.length:
            yield f"its {name} is cut off"
    if not header.refcount_clusters:
        yield "it has no reference counts"
