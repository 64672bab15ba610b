"""What qemu-img is asked: info, check, measure. Each answer has a deadline; who looks has little of everything.

The images may be hostile. Their headers are read before (``header``): one with an external data file is never given to
qemu-img. ``info`` opens no backing file; ``measure`` and ``check`` are for images whose headers were accepted.

An absolute path cannot be taken for a protocol, whatever colons it has, because a slash comes before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec

from vdsm.base import process
from vdsm.base.errors import CommandFailed
from vdsm.system.qemu_img.header import damaged

T = TypeVar("T")

Format = Literal["raw", "qcow2"]

# Enough for every sane image (an L1 table of a 64 TiB disk is 1 MiB), too little to hurt the host.
_LIMITS: Final = process.Limits(
    address_space=1 << 30,
    cpu_s=10,
    file_size=0,
    dies_with_caller=True,
    # Images belong to many users; root without these two could not read them, and needs nothing else.
    keep_capabilities=("dac_override", "dac_read_search"),
)
# It has the reference count of every cluster in memory: half a gigabyte for 16 TiB.
_CHECK_LIMITS: Final = process.Limits(address_space=4 << 30, dies_with_caller=True)
_MAX_ANSWER: Final = 4 << 20
# What ``check`` ends with: sound; not finished; corrupt; leaked clusters only; not this format.
_CHECKED: Final = (0, 2, 3)
_NO_CHECK: Final = 63


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A persistent bitmap: which parts changed since a checkpoint.

    Attributes:
        name: of the checkpoint.
        granularity: bytes for which one bit stands.
        enabled: new writes go into it ("auto").
        in_use: it was not closed well, and cannot be used.
    """

    name: str
    granularity: int
    enabled: bool = False
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Info:
    """What QEMU makes of an image; sizes in bytes.

    Attributes:
        format: as it was told.
        virtual_size: what a guest sees.
        disk_size: what it takes of its file system.
        cluster_size: of qcow2.
        compat: of qcow2: "0.10" or "1.1".
        backing: the name of the file underneath as it stands in the header.
        backing_format: its format.
        encrypted: whether its data is.
        corrupt: QEMU has marked it so.
        snapshots: how many internal ones it has.
        bitmaps: its persistent bitmaps.
    """

    format: str
    virtual_size: int
    disk_size: int = 0
    cluster_size: int | None = None
    compat: str | None = None
    backing: str | None = None
    backing_format: str | None = None
    encrypted: bool = False
    corrupt: bool = False
    snapshots: int = 0
    bitmaps: tuple[Bitmap, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes that a copy of an image would take.

    Attributes:
        required: for its data now, without bitmaps.
        fully_allocated: when all of it is written.
        bitmaps: for its bitmaps.
    """

    required: int
    fully_allocated: int
    bitmaps: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking a qcow2 image's structure has found.

    Attributes:
        end_offset: bytes up to the end of its last used cluster.
        corruptions: places where data can be lost.
        leaks: clusters that are taken and not used.
        errors: places that could not be checked.
    """

    end_offset: int
    corruptions: int = 0
    leaks: int = 0
    errors: int = 0

    @property
    def clean(self) -> bool:
        """Nothing was found, leaked clusters included."""
        return not (self.corruptions or self.leaks or self.errors)

    @property
    def sound(self) -> bool:
        """No data is in danger."""
        return not (self.corruptions or self.errors)


class _BitmapAnswer(msgspec.Struct):
    name: str
    granularity: int
    flags: list[str] = []


class _Qcow2Answer(msgspec.Struct, rename="kebab"):
    compat: str | None = None
    corrupt: bool = False
    bitmaps: list[_BitmapAnswer] = []


class _SpecificAnswer(msgspec.Struct):
    type: str
    data: _Qcow2Answer | None = None


class _InfoAnswer(msgspec.Struct, rename="kebab"):
    format: str
    virtual_size: int
    actual_size: int = 0
    cluster_size: int | None = None
    backing_filename: str | None = None
    backing_filename_format: str | None = None
    encrypted: bool = False
    snapshots: list[msgspec.Raw] = []
    format_specific: _SpecificAnswer | None = None


class _MeasureAnswer(msgspec.Struct, rename="kebab"):
    required: int
    fully_allocated: int
    bitmaps: int = 0


class _CheckAnswer(msgspec.Struct, rename="kebab"):
    image_end_offset: int = 0
    corruptions: int = 0
    leaks: int = 0
    check_errors: int = 0


def info(path: str, image_format: Format = "qcow2", *, timeout_s: float) -> Info:
    """Ask whether QEMU would open an image, and what it is. Only for images whose header names no data file.

    Raises:
        BadParameter: QEMU would not open it, or it costs too much to look at (field "format").
        Unfinished: no answer in time.
    """
    # "file:" keeps a name with a colon from being taken for a protocol; "json:" cannot begin an absolute path.
    argv = ["qemu-img", "info", "--output=json", "--force-share", "-f", image_format, f"file:{path}"]
    found = _decoded(_asked(argv, timeout_s, _LIMITS), _InfoAnswer)
    qcow2 = found.format_specific.data if found.format_specific and found.format_specific.type == "qcow2" else None
    return Info(
        format=found.format,
        virtual_size=found.virtual_size,
        disk_size=found.actual_size,
        cluster_size=found.cluster_size,
        compat=qcow2.compat if qcow2 else None,
        backing=found.backing_filename,
        backing_format=found.backing_filename_format,
        encrypted=found.encrypted,
        corrupt=qcow2 is not None and qcow2.corrupt,
        snapshots=len(found.snapshots),
        bitmaps=tuple(
            Bitmap(item.name, item.granularity, "auto" in item.flags, "in-use" in item.flags)
            for item in (qcow2.bitmaps if qcow2 else ())
        ),
    )


def measure(
    path: str, image_format: Format, target_format: Format, *, chain: bool = True, timeout_s: float
) -> Measured:
    """Ask how large a copy of an image would be.

    Args:
        path: of an image whose header, and those of all below it, were accepted.
        image_format: its format.
        target_format: that of the copy.
        chain: with all it stands on; otherwise only its own clusters.
        timeout_s: seconds; a large image on slow storage takes minutes.

    Raises:
        BadParameter: QEMU would not open it (field "format").
        Unfinished: no answer in time.
    """
    alone = image_format == "qcow2" and not chain
    name = _without_backing(path) if alone else path
    told = [] if alone else ["-f", image_format]
    # Under a limit of memory and none of time: it looks at the tables of all clusters.
    argv = ["qemu-img", "measure", "--output=json", "--force-share", *told, "-O", target_format, name]
    found = _decoded(_asked(argv, timeout_s, _CHECK_LIMITS), _MeasureAnswer)
    return Measured(found.required, found.fully_allocated, found.bitmaps)


def check(path: str, *, timeout_s: float, repair_leaks: bool = False) -> Checked:
    """Check the structure of a qcow2 image that nobody writes.

    Args:
        path: of an image whose header was accepted.
        timeout_s: seconds; a large image on slow storage takes minutes.
        repair_leaks: give leaked clusters back first; nothing else is ever repaired.

    Raises:
        BadParameter: QEMU cannot open or check it (field "format").
        Unfinished: no answer in time.
    """
    mending = ["-r", "leaks"] if repair_leaks else ["--force-share"]
    argv = ["qemu-img", "check", "--output=json", *mending, "-f", "qcow2", path]
    found = _decoded(_asked(argv, timeout_s, _CHECK_LIMITS, ok=_CHECKED), _CheckAnswer)
    return Checked(found.image_end_offset, found.corruptions, found.leaks, found.check_errors)


def _without_backing(path: str) -> str:
    """A name under which QEMU opens one image and nothing below it."""
    layers = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": path}}
    return "json:" + msgspec.json.encode(layers).decode()


def _asked(argv: list[str], timeout_s: float, limits: process.Limits, ok: tuple[int, ...] = (0,)) -> bytes:
    try:
        return process.run(argv, timeout_s=timeout_s, limits=limits, ok=ok, max_output=_MAX_ANSWER).stdout
    except CommandFailed as error:
        if error.status_code == _NO_CHECK:
            raise damaged("it cannot be checked") from error
        reason = error.stderr.splitlines()[-1] if error.stderr else f"it ended with {error.status_code}"
        raise damaged(f"qemu-img: {reason}") from error


def _decoded(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise damaged(f"qemu-img's answer: {error}") from error
