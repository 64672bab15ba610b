r"""The header of a qcow2 image, read by us before any tool of QEMU's looks at the image: it may be hostile.

An image can name other files (a backing file, an external data file) that QEMU opens while it only looks, and tables
that cost it gigabytes. What may be in a header is judged by who reads it; here is what stands there.

QEMU's docs/interop/qcow2.txt, big endian:

    0 magic "QFI\xfb"  4 version (2, 3)  8 backing name offset (8)  16 its length  20 cluster bits  24 virtual size (8)
    32 encryption  36 L1 entries  40 L1 offset (8)  48 refcount table offset (8)  56 its clusters  60 snapshots
    64 snapshots' offset (8)  72 incompatible features (8, version 3)  100 header length (version 3)
    then extensions: type, length, data padded to 8

Pure but for ``read_header``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vdsm.base import process
from vdsm.base.errors import BadParameter

MAGIC: Final = b"QFI\xfb"
USUAL_HEADER: Final = 64 << 10
"""Bytes of the usual cluster, which has all of the header in it."""
MAX_HEADER: Final = 2 << 20
"""QEMU's own limit: clusters up to 2 MiB, and all of the header is in the first one."""

DIRTY: Final = 1 << 0
CORRUPT: Final = 1 << 1
DATA_FILE: Final = 1 << 2
COMPRESSION: Final = 1 << 3
EXTENDED_L2: Final = 1 << 4

_FIXED: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_V2_LENGTH: Final = 72
_V3_LENGTH: Final = 104
_MAX_CLUSTER_BITS: Final = 21
_MAX_BACKING_NAME: Final = 1023
_DATA_FILE_EXTENSION: Final = 0x44415441
_BACKING_FORMAT_EXTENSION: Final = 0xE2792ACA
_BITMAPS_EXTENSION: Final = 0x23852875
_BITMAPS: Final = struct.Struct(">IIQQ")


@dataclass(frozen=True, slots=True)
class Header:
    """What a qcow2 header says, names as they stand in it.

    Attributes:
        virtual_size: bytes that a guest sees.
        backing: the file underneath.
        backing_format: its format.
        data_file: the external data file; "" when it has one and does not name it.
        version: 2 or 3, which are compat 0.10 and 1.1.
        cluster_bits: the binary logarithm of its cluster.
        incompatible: the features that a reader must know, bit by bit.
        encryption: the method; 0 is none.
        snapshots: internal ones.
        l1_entries: of the table of tables, 8 bytes each.
        l1_offset: where it is.
        refcount_offset: where the refcount table is.
        refcount_clusters: its length in clusters.
        bitmaps: how many are in it.
        bitmap_directory_bytes: what their list takes.
    """

    virtual_size: int
    backing: str | None
    backing_format: str | None
    data_file: str | None
    version: int = 3
    cluster_bits: int = 16
    incompatible: int = 0
    encryption: int = 0
    snapshots: int = 0
    l1_entries: int = 0
    l1_offset: int = 0
    refcount_offset: int = 0
    refcount_clusters: int = 0
    bitmaps: int = 0
    bitmap_directory_bytes: int = 0


def read_header(path: str, *, timeout_s: float) -> Header | None:
    """Read a qcow2 header by way of a process that may hang; None when the file is no qcow2 image.

    Raises:
        BadParameter: it has qcow2's magic and is damaged.
        Unfinished: the storage does not answer.
    """
    start = _head(path, USUAL_HEADER, timeout_s)
    if not start.startswith(MAGIC):
        return None
    try:
        return parse_header(start)
    except BadParameter:
        if len(start) < USUAL_HEADER:
            raise
    return parse_header(_head(path, MAX_HEADER, timeout_s))


def parse_header(data: bytes) -> Header:
    """Take a qcow2 header apart. ``data`` is the first cluster, or all of a shorter file.

    Raises:
        BadParameter: it is damaged (field "format").
    """
    if len(data) < _V2_LENGTH:
        raise damaged("the header is cut off")
    (magic, version, name_offset, name_length, cluster_bits, size, encryption, l1_entries, l1_offset) = (
        _FIXED.unpack_from(data)[:9]
    )
    refcount_offset, refcount_clusters, snapshots, _ = _FIXED.unpack_from(data)[9:]
    if magic != MAGIC or version not in {2, 3} or not 9 <= cluster_bits <= _MAX_CLUSTER_BITS:
        raise damaged("no known version of it")
    features, length = _version_3(data) if version == 3 else (0, _V2_LENGTH)
    header = data[: 1 << cluster_bits]
    found = dict(_extensions(header[: name_offset or None], length))
    backing_format = found.get(_BACKING_FORMAT_EXTENSION)
    bitmaps, directory = _bitmaps(found.get(_BITMAPS_EXTENSION))
    return Header(
        virtual_size=size,
        backing=_name(header, name_offset, name_length) if name_offset else None,
        backing_format=None if backing_format is None else _text(backing_format),
        data_file=_text(found.get(_DATA_FILE_EXTENSION, b"")) if features & DATA_FILE else None,
        version=version,
        cluster_bits=cluster_bits,
        incompatible=features,
        encryption=encryption,
        snapshots=snapshots,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        refcount_offset=refcount_offset,
        refcount_clusters=refcount_clusters,
        bitmaps=bitmaps,
        bitmap_directory_bytes=directory,
    )


def damaged(reason: str) -> BadParameter:
    """The error of an image that is not what it should be."""
    return BadParameter("format", f"is not a sound qcow2 image ({reason})")


def _head(path: str, count: int, timeout_s: float) -> bytes:
    argv = ["head", "-c", str(count), "--", path]
    # Bare, as in paths: it ends as soon as the storage answers.
    return process.run(argv, timeout_s=timeout_s, max_output=MAX_HEADER + 4096).stdout


def _version_3(data: bytes) -> tuple[int, int]:
    """Its incompatible features and its length."""
    if len(data) < _V3_LENGTH:
        raise damaged("the header is cut off")
    return struct.unpack_from(">Q", data, 72)[0], struct.unpack_from(">I", data, 100)[0]


def _name(header: bytes, offset: int, length: int) -> str:
    if length > _MAX_BACKING_NAME or offset + length > len(header):
        raise damaged("the backing file's name is out of place")
    return _text(header[offset : offset + length])


def _extensions(header: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    while position + 8 <= len(header):
        kind, length = struct.unpack_from(">II", header, position)
        if kind == 0:
            return
        position += 8
        if position + length > len(header):
            raise damaged("an extension is out of place")
        yield kind, header[position : position + length]
        position += (length + 7) & ~7


def _bitmaps(extension: bytes | None) -> tuple[int, int]:
    if extension is None:
        return 0, 0
    if len(extension) < _BITMAPS.size:
        raise damaged("the list of bitmaps is cut off")
    count, _, size, _ = _BITMAPS.unpack_from(extension)
    return count, size


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise damaged("a name in it is not UTF-8") from error
