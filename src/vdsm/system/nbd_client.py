"""A small NBD client: reads what a guest sees of an image that a server (qemu-nbd) has open, and zeroes parts of it.

With structured replies a server says where there is nothing instead of sending zeros, so a large empty image costs
nothing but round trips.

NBD's doc/proto.md, big endian, fixed newstyle:

    server   "NBDMAGIC" "IHAVEOPT" flags(2)            client   flags(4)
    client   "IHAVEOPT" option(4) length(4) data       server   magic(8) option(4) type(4) length(4) data
    client   magic(4) flags(2) type(2) cookie(8) offset(8) length(4)
    server   magic(4) flags(2) type(2) cookie(8) length(4) data          chunks, until one has the flag DONE
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from vdsm.base.errors import Failed, Unfinished

MAX_READ: Final = 32 << 20
"""A server need not take larger requests."""

_GREETING: Final = struct.Struct(">8s8sH")
_OPTION: Final = struct.Struct(">8sII")
_ANSWER: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_SIMPLE: Final = struct.Struct(">IIQ")
_CHUNK: Final = struct.Struct(">IHHQI")
_EXPORT: Final = struct.Struct(">HQH")
_HOLE: Final = struct.Struct(">QI")
_HELLO: Final = b"NBDMAGIC"
_OPTIONS: Final = b"IHAVEOPT"
_ANSWER_MAGIC: Final = 0x3E889045565A9
_REQUEST_MAGIC: Final = 0x25609513
_SIMPLE_MAGIC: Final = 0x67446698
_CHUNK_MAGIC: Final = 0x668E33EF
_FIXED_NO_ZEROES: Final = 3
_OPT_GO: Final = 7
_OPT_STRUCTURED: Final = 8
_ACK: Final = 1
_INFO: Final = 3
_ERROR_BIT: Final = 1 << 31
_READ: Final = 0
_DISCONNECT: Final = 2
_FLUSH: Final = 3
_ZEROES: Final = 6
_DONE: Final = 1
_DATA_CHUNK: Final = 1
_HOLE_CHUNK: Final = 2
_ERROR_CHUNK: Final = 1 << 15
# More than any sane answer to an option.
_MAX_ANSWER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of what was read; ``data`` is None where there is nothing, which reads as zeros."""

    offset: int
    length: int
    data: bytes | None


class NbdClient:
    """One connection; for one thread.

    Args:
        address: the server's unix socket.
        timeout_s: seconds of silence after which a call is given up.

    Raises:
        Failed: there is no server, or it does not speak this.
        Unfinished: it does not answer.
    """

    def __init__(self, address: Path, *, timeout_s: float) -> None:
        self._timeout_s: Final = timeout_s
        self._cookie = 0
        self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            with self._told():
                self._socket.connect(str(address))
            self.size: Final = self._negotiate()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye, without waiting for an answer."""
        with contextlib.suppress(OSError):
            self._socket.send(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        self._socket.close()

    def read(self, offset: int, length: int) -> list[Extent]:
        """What is in a part, in ascending order, gapless; at most ``MAX_READ`` bytes.

        Raises:
            Failed: the server could not read it.
            Unfinished: no answer in time.
        """
        found = sorted(self._request(_READ, offset, length), key=lambda extent: extent.offset)
        at = offset
        for extent in found:
            if extent.offset != at:
                raise self._broken("it left a part of a read out")
            at += extent.length
        if at != offset + length:
            raise self._broken("it left the end of a read out")
        return found

    def zero(self, offset: int, length: int) -> None:
        """Let a part read as zeros, and give its space back where that is possible.

        Raises:
            Failed: the server could not.
            Unfinished: no answer in time.
        """
        for _ in self._request(_ZEROES, offset, length):
            raise self._broken("it answered a write with data")

    def flush(self) -> None:
        """Make what was written durable; errors as of :meth:`zero`."""
        for _ in self._request(_FLUSH, 0, 0):
            raise self._broken("it answered a flush with data")

    def _negotiate(self) -> int:
        """Agree on structured replies and the default export; its size."""
        hello, options, _ = _GREETING.unpack(self._receive(_GREETING.size))
        if (hello, options) != (_HELLO, _OPTIONS):
            raise self._broken("it is no NBD server")
        self._send(struct.pack(">I", _FIXED_NO_ZEROES))
        list(self._option(_OPT_STRUCTURED, b""))
        size = None
        for answer in self._option(_OPT_GO, struct.pack(">IH", 0, 0)):
            if len(answer) == _EXPORT.size and answer[:2] == b"\0\0":
                size = _EXPORT.unpack(answer)[1]
        if not isinstance(size, int):
            raise self._broken("it did not tell the size")
        return size

    def _option(self, option: int, data: bytes) -> Iterator[bytes]:
        """Ask for an option; the answers until it is granted."""
        self._send(_OPTION.pack(_OPTIONS, option, len(data)) + data)
        while True:
            magic, answered, kind, length = _ANSWER.unpack(self._receive(_ANSWER.size))
            if (magic, answered) != (_ANSWER_MAGIC, option) or length > _MAX_ANSWER:
                raise self._broken("an answer to an option is out of place")
            answer = self._receive(length)
            if kind & _ERROR_BIT:
                raise self._broken(f"it refused option {option} ({kind:#x})")
            if kind == _ACK:
                return
            if kind == _INFO:
                yield answer

    def _request(self, kind: int, offset: int, length: int) -> Iterator[Extent]:
        self._cookie += 1
        self._send(_REQUEST.pack(_REQUEST_MAGIC, 0, kind, self._cookie, offset, length))
        while True:
            (magic,) = struct.unpack(">I", self._receive(4))
            if magic == _SIMPLE_MAGIC:
                error, cookie = struct.unpack(">IQ", self._receive(_SIMPLE.size - 4))
                self._check(cookie, error)
                return
            if magic != _CHUNK_MAGIC:
                raise self._broken("a reply is out of place")
            flags, chunk, cookie, size = struct.unpack(">HHQI", self._receive(_CHUNK.size - 4))
            if size > MAX_READ + 8:
                raise self._broken("a reply is too long")
            payload = self._receive(size)
            self._check(cookie, int.from_bytes(payload[:4]) if chunk & _ERROR_CHUNK else 0)
            if chunk == _DATA_CHUNK:
                yield Extent(int.from_bytes(payload[:8]), size - 8, payload[8:])
            elif chunk == _HOLE_CHUNK:
                start, missing = _HOLE.unpack(payload)
                yield Extent(start, missing, None)
            if flags & _DONE:
                return

    def _check(self, cookie: int, error: int) -> None:
        if cookie != self._cookie:
            raise self._broken("a reply is to another request")
        if error:
            raise self._broken(f"its error {error}")

    def _send(self, data: bytes) -> None:
        with self._told():
            self._socket.sendall(data)

    def _receive(self, length: int) -> bytes:
        parts = bytearray(length)
        view, at = memoryview(parts), 0
        while at < length:
            with self._told():
                got = self._socket.recv_into(view[at:])
            if not got:
                raise self._broken("it hung up")
            at += got
        return bytes(parts)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise Unfinished("the NBD server's answer", self._timeout_s) from error
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error

    def _broken(self, reason: str) -> Failed:
        return Failed("talking to the NBD server", reason)
