"""Takes the ELF kernel out of a bzImage.

QEMU starts an ELF kernel through its PVH entry and so skips the unpacking inside the guest, which under software
emulation takes seconds. Where the compressed payload lies is in the boot protocol's setup header (the kernel's
Documentation/arch/x86/boot.rst): setup_sects at 0x1f1, "HdrS" at 0x202, payload_offset and payload_length at 0x248.
"""

from __future__ import annotations

import ctypes
import lzma
import struct
import zlib

ELF = b"\x7fELF"
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_BLOCK_BYTES = 8 << 20  # every block of the legacy format unpacks to at most this


class NotAKernel(ValueError):
    """The file is not a bzImage, or its payload is packed in a way that is not known here."""


def extract(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage.

    Raises:
        NotAKernel: it is not a bzImage or its compression is not known here.
    """
    if image[0x202:0x206] != b"HdrS":
        raise NotAKernel("no setup header: not a bzImage")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    kernel = _unpacked(image[start : start + length])
    if not kernel.startswith(ELF):
        raise NotAKernel("the payload is not an ELF file")
    return kernel


def _unpacked(payload: bytes) -> bytes:
    if payload.startswith(LZ4_LEGACY):
        return unpack_lz4_legacy(payload)
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b\x08"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    raise NotAKernel(f"its compression is not known here (it starts with {payload[:6].hex()})")


def unpack_lz4_legacy(data: bytes) -> bytes:
    """Unpack the LZ4 "legacy" frame that the kernel's build uses: a magic number, then (length, block) pairs.

    The system's liblz4 does the work: Debian's apt itself depends on it, so it is on every machine. Python's standard
    library has no LZ4, and a decoder written in Python would take some ten seconds for a kernel.
    """
    library = ctypes.CDLL("liblz4.so.1")
    decompress = library.LZ4_decompress_safe
    decompress.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    decompress.restype = ctypes.c_int
    target = ctypes.create_string_buffer(LZ4_BLOCK_BYTES)
    parts: list[bytes] = []
    at = len(LZ4_LEGACY)
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        # After the last block comes the unpacked size (or padding), which is no plausible block.
        if not length or at + length > len(data):
            break
        count = decompress(data[at : at + length], target, length, LZ4_BLOCK_BYTES)
        if count < 0:
            raise NotAKernel("a block of its LZ4 payload is damaged")
        parts.append(target.raw[:count])
        at += length
    return b"".join(parts)
