r"""qemu-img, asked about images that may be hostile.

An image can name other files (a backing file, an external data file) that QEMU opens while it only looks. So the qcow2
header is read here first, and an image with an external data file is never given to qemu-img; a backing file
is not opened by ``qemu-img info``. qemu-img itself gets little memory, processor time and privilege.

The header (QEMU's docs/interop/qcow2.txt), big endian:

    0 magic "QFI\xfb"  4 version (2, 3)  8 backing name offset (8)  16 its length  20 cluster bits  24 virtual size (8)
    72 incompatible features (8, version 3)  100 header length (version 3)
    then extensions: type, length, data padded to 8
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from vdsm.base import process
from vdsm.base.errors import BadParameter, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

Format = Literal["raw", "qcow2"]

MAGIC: Final = b"QFI\xfb"

_FIXED: Final = struct.Struct(">4sIQIIQ")
_V2_LENGTH: Final = 72
_V3_LENGTH: Final = 104
# QEMU's own limits: clusters up to 2 MiB, and all of the header is in the first one.
_MAX_HEADER: Final = 2 << 20
# The usual cluster.
_USUAL_HEADER: Final = 64 << 10
_MAX_CLUSTER_BITS: Final = 21
_MAX_BACKING_NAME: Final = 1023
_DATA_FILE_FEATURE: Final = 1 << 2
_DATA_FILE_EXTENSION: Final = 0x44415441
_BACKING_FORMAT_EXTENSION: Final = 0xE2792ACA

# Enough for every sane image (an L1 table of a 64 TiB disk is 128 MiB), too little to hurt the host.
_LIMITS: Final = process.Limits(
    address_space=1 << 30,
    cpu_s=10,
    file_size=0,
    dies_with_caller=True,
    # Images belong to many users; root without these two could not read them, and needs nothing else.
    keep_capabilities=("dac_override", "dac_read_search"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What a qcow2 header says, names as they stand in it."""

    virtual_size: int
    backing: str | None
    backing_format: str | None
    data_file: str | None


class _Info(msgspec.Struct, rename="kebab"):
    """The part of ``qemu-img info --output=json`` that is used."""

    format: str
    virtual_size: int
    backing_filename: str | None = None
    backing_filename_format: str | None = None


def read_header(path: str, *, timeout_s: float) -> Header | None:
    """Read a qcow2 header by way of a process that may hang; None when the file is no qcow2 image.

    Raises:
        BadParameter: it has qcow2's magic and is damaged.
        Unfinished: the storage does not answer.
    """
    start = _head(path, _USUAL_HEADER, timeout_s)
    if not start.startswith(MAGIC):
        return None
    try:
        return parse_header(start)
    except BadParameter:
        if len(start) < _USUAL_HEADER:
            raise
    return parse_header(_head(path, _MAX_HEADER, timeout_s))


def parse_header(data: bytes) -> Header:
    """Take a qcow2 header apart. ``data`` is the first cluster, or all of a shorter file.

    Raises:
        BadParameter: it is damaged (field "format").
    """
    if len(data) < _V2_LENGTH:
        raise _damaged("the header is cut off")
    magic, version, name_offset, name_length, cluster_bits, size = _FIXED.unpack_from(data)
    if magic != MAGIC or version not in {2, 3} or not 9 <= cluster_bits <= _MAX_CLUSTER_BITS:
        raise _damaged("no known version of it")
    features, length = 0, _V2_LENGTH
    if version == 3:
        if len(data) < _V3_LENGTH:
            raise _damaged("the header is cut off")
        features, length = struct.unpack_from(">Q", data, 72)[0], struct.unpack_from(">I", data, 100)[0]
    header = data[: 1 << cluster_bits]
    backing = None
    if name_offset:
        if name_length > _MAX_BACKING_NAME or name_offset + name_length > len(header):
            raise _damaged("the backing file's name is out of place")
        backing = _text(header[name_offset : name_offset + name_length])
    found = dict(_extensions(header[: name_offset or None], length))
    data_file = found.get(_DATA_FILE_EXTENSION)
    backing_format = found.get(_BACKING_FORMAT_EXTENSION)
    return Header(
        virtual_size=size,
        backing=backing,
        backing_format=None if backing_format is None else _text(backing_format),
        data_file=_text(data_file or b"") if features & _DATA_FILE_FEATURE else None,
    )


def info(path: str, *, timeout_s: float) -> Header:
    """Ask qemu-img about a qcow2 image: whether QEMU would open it, its size and the file underneath.

    Only for images whose header names no data file.

    Raises:
        BadParameter: QEMU would not open it, or it costs too much to look at (field "format").
        Unfinished: no answer in time.
    """
    # "file:" keeps a name with a colon from being taken for a protocol; "json:" cannot begin an absolute path.
    argv = ["qemu-img", "info", "--output=json", "--force-share", "-f", "qcow2", f"file:{path}"]
    try:
        answer = process.run(argv, timeout_s=timeout_s, limits=_LIMITS, max_output=4 << 20).stdout
        found = msgspec.json.decode(answer, type=_Info)
    except CommandFailed as error:
        reason = error.stderr.splitlines()[-1] if error.stderr else f"it ended with {error.status_code}"
        raise _damaged(f"qemu-img: {reason}") from error
    except msgspec.DecodeError as error:
        raise _damaged(f"qemu-img's answer: {error}") from error
    return Header(found.virtual_size, found.backing_filename, found.backing_filename_format, None)


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

    Raises:
        CommandFailed: qemu-img refused.
        Unfinished: no end in time.
    """
    below = ["-u", "-b", backing[0], "-F", backing[1]] if backing else []
    # An absolute path cannot be taken for a protocol, whatever colons it has.
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compatibility}", *below, path, str(virtual_size)]
    process.run(argv, timeout_s=timeout_s)


def _head(path: str, count: int, timeout_s: float) -> bytes:
    argv = ["head", "-c", str(count), "--", path]
    # Bare, as in paths: it ends as soon as the storage answers.
    return process.run(argv, timeout_s=timeout_s, max_output=_MAX_HEADER + 4096).stdout


def _extensions(header: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    while position + 8 <= len(header):
        kind, length = struct.unpack_from(">II", header, position)
        if kind == 0:
            return
        position += 8
        if position + length > len(header):
            raise _damaged("an extension is out of place")
        yield kind, header[position : position + length]
        position += (length + 7) & ~7


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _damaged("a name in it is not UTF-8") from error


def _damaged(reason: str) -> BadParameter:
    return BadParameter("format", f"is not a sound qcow2 image ({reason})")
