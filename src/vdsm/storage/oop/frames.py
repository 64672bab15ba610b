"""What goes between the agent and a helper over their socket pair: length-prefixed msgpack.

    frame   = length (4 bytes, big endian) body (length bytes)
    request = [number, call, [arguments...], {options...}, seconds since the machine started, or 0]
    answer  = [number, result, fault or nil]        fault = [errno, text, path or nil, second path or nil]

A path is the extension type 1 with its raw bytes, as names need not be UTF-8; in results only where they are not. Any
number of requests may be under way; answers come in the order in which they are ready. An errno of 0 is a defect of the
helper, not an answer of the file system. A change is not begun after the request's time: a host that was stopped for
long must not write, when it moves again, what was asked for before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from msgspec.msgpack import Ext

from vdsm.storage.access import MAX_BYTES, FileEntry, FileStat, SpaceFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_BYTES: Final = 4
# A call's data, or the paths of some ten thousand volumes.
MAX_FRAME: Final = 2 * MAX_BYTES
_PATH: Final = 1

# The calls that only look, and those that change something, with the types of their results.
READS: Final[dict[str, Any]] = {
    "read": bytes,
    "read_many": list[Any],
    "listdir": list[str],
    "scan": list[FileEntry],
    "stat": FileStat,
    "stat_many": list[FileStat | None],
    "statvfs": SpaceFacts,
    "glob": list[str],
    "access": bool,
}
_CHANGES: Final = (
    *("create", "replace", "write_at", "truncate", "allocate", "touch", "mkdir", "rmdir", "rename", "link", "unlink"),
    *("chmod", "fsync"),
)
CALLS: Final[dict[str, Any]] = {**READS, **dict.fromkeys(_CHANGES), "probe_block_size": int}


class Fault(Struct, frozen=True, array_like=True):
    """An ``OSError``."""

    errno: int
    text: str
    path: Any = None
    target: Any = None

    def error(self) -> OSError:
        """The error that it was made from."""
        return OSError(self.errno, self.text, self.path, None, self.target)


class Request(Struct, frozen=True, array_like=True):
    """One call. ``until_s``: a change is begun before this time (``clock.boottime_s``) or not at all; 0 is no limit."""

    number: int
    call: str
    arguments: list[Any]
    options: dict[str, Any]
    until_s: float = 0.0


class Answer(Struct, frozen=True, array_like=True):
    """A result or a fault."""

    number: int
    result: Any = None
    fault: Fault | None = None


class FrameReader:
    """Cuts a stream into frames; refuses one that is too long before it is read."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add what came; the bodies of the frames that are whole.

        Raises:
            ValueError: a frame is too long: the stream is of no more use.
        """
        self._data += data
        while len(self._data) >= HEADER_BYTES:
            whole = HEADER_BYTES + int.from_bytes(self._data[:HEADER_BYTES], "big")
            if whole > MAX_FRAME + HEADER_BYTES:
                msg = f"a frame of {whole} bytes"
                raise ValueError(msg)
            if len(self._data) < whole:
                return
            body = bytes(self._data[HEADER_BYTES:whole])
            del self._data[:whole]
            yield body


def encode_request(
    number: int, call: str, arguments: list[Any], options: dict[str, Any], until_s: float = 0.0
) -> bytes:
    """A request's frame. Texts among the arguments are paths.

    Raises:
        ValueError: a path has a null byte.
    """
    words = [_argument(value) for value in arguments]
    return _frame(msgspec.msgpack.encode(Request(number, call, words, options, until_s)))


def decode_request(body: bytes) -> Request:
    """What :func:`encode_request` was given.

    Raises:
        msgspec.DecodeError: it is not a request.
    """
    return msgspec.msgpack.decode(body, type=Request, ext_hook=_path)


def encode_answer(answer: Answer) -> bytes:
    """An answer's frame."""
    return _frame(msgspec.msgpack.encode(answer))


def encode_result(result: object) -> Any:
    """A result as it goes into an answer."""
    if isinstance(result, list):
        return [_result(item) for item in result]
    return result


def encode_fault(error: OSError) -> Fault:
    """A fault as it goes into an answer."""
    paths = [None if path is None else Ext(_PATH, os.fsencode(path)) for path in (error.filename, error.filename2)]
    return Fault(error.errno or 0, error.strerror or str(error), *paths)


def decode_answer(body: bytes) -> Answer:
    """An answer whose result still is in plain values.

    Raises:
        msgspec.DecodeError: it is not an answer.
    """
    return msgspec.msgpack.decode(body, type=Answer, ext_hook=_path)


def decode_result(call: str, result: Any) -> Any:
    """The result of a call, in its type.

    Raises:
        msgspec.ValidationError: it is of another type.
    """
    if call == "read_many":
        return [item if isinstance(item, bytes) else msgspec.convert(item, Fault).error() for item in result]
    return msgspec.convert(result, CALLS[call])


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def _argument(value: Any) -> Any:
    if isinstance(value, str):
        if "\0" in value:
            msg = "embedded null byte"
            raise ValueError(msg)
        return Ext(_PATH, os.fsencode(value))
    if isinstance(value, list | tuple):
        return [_argument(item) for item in value]
    return value


def _result(item: Any) -> Any:
    if isinstance(item, str):
        return item if item.isascii() else Ext(_PATH, os.fsencode(item))
    if isinstance(item, FileEntry):
        return (_result(item.name), item.stat)
    return encode_fault(item) if isinstance(item, OSError) else item


def _path(code: int, data: memoryview) -> str:
    if code != _PATH:
        msg = f"unknown extension {code}"
        raise ValueError(msg)
    return os.fsdecode(bytes(data))
