"""STOMP 1.2 frames: an incremental parser and an encoder, both pure and bounded.

    COMMAND LF  *( name ":" value LF )  LF  body NUL

The dialect of the oVirt Engine's client library, measured: it neither escapes nor unescapes header values, so a value
is all that follows the first colon; only the first of a repeated header counts; a body has a content-length, or ends at
the first NUL; stray line ends between frames are heart-beats. Lines may end with CR LF.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from vdsm.base.errors import Rejected

# A frame whose last TLS record is tiny is read up to a second late by the Engine's client (measured: the frame's size
# modulo the record size in 1..290). Some margin is added.
TLS_RECORD: Final = 16384
SMALL_TAIL: Final = 320

MAX_HEAD: Final = 64 * 1024

_COMMANDS: Final = frozenset({
    "CONNECT", "STOMP", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT", "DISCONNECT",
    "CONNECTED", "MESSAGE", "RECEIPT", "ERROR",
})  # fmt: skip
# The longest word that may start a connection decides how many bytes detection needs.
WORDS: Final = tuple(sorted(word.encode() for word in _COMMANDS))
_NUL: Final = 0
_LINE_ENDS: Final = (b"\n", b"\r")
_HEART_BEATS: Final = re.compile(rb"[\r\n]+")
_ESCAPE: Final = re.compile(r"\\[cnr\\]")
_UNESCAPED: Final = {r"\c": ":", r"\n": "\n", r"\r": "\r", "\\\\": "\\"}
_ESCAPED: Final = str.maketrans({"\\": "\\\\", ":": r"\c", "\n": r"\n", "\r": r"\r"})
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


@dataclass(eq=False)
class BadFrame(Rejected):
    """The peer's stream is no STOMP, or exceeds a limit; nothing after this can be understood."""

    name = "bad_frame"
    message = "{reason}"
    reason: str


class Frame(msgspec.Struct):
    """One frame. Its headers may be shared between frames: they are to be read only."""

    command: str
    headers: Mapping[str, str]
    body: bytes


class _Head(msgspec.Struct):
    """A parsed header section. ``length`` None: the body ends at the first NUL."""

    command: str
    headers: dict[str, str]
    length: int | None


class Parser:
    """Turns a stream of bytes into frames; holds at most one unfinished frame, within the limits.

    It never raises: when the stream is broken, ``error`` says why and all further input is ignored.
    """

    def __init__(self, max_body: int, max_head: int = MAX_HEAD) -> None:
        self.error: BadFrame | None = None
        self._max_body = max_body
        self._max_head = max_head
        self._buffer = bytearray()
        # The header section whose body is awaited.
        self._head: _Head | None = None
        # How much of the buffer was searched in vain for the end of the present section.
        self._searched = 0
        # Most clients repeat their header section: the last one is kept, parsed.
        self._last_text = b""
        self._last_head = _Head("", {}, None)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes; return the frames that they complete."""
        frames: list[Frame] = []
        if self.error is not None:
            return frames
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        try:
            position = self._read(source, frames)
        except BadFrame as error:
            self.error = error
            self._buffer = bytearray()
            return frames
        if source is self._buffer:
            del self._buffer[:position]
        elif position < len(source):
            self._buffer += memoryview(source)[position:]
        return frames

    def _read(self, source: bytes | bytearray, frames: list[Frame]) -> int:
        """Append the complete frames; return where the unfinished section starts."""
        position = 0
        while True:
            head = self._head
            if head is None:
                position, head = self._read_head(source, position)
                if head is None:
                    return position
            end = self._body_end(source, position, head.length)
            if end < 0:
                self._head = head
                return position
            frames.append(Frame(head.command, head.headers, bytes(memoryview(source)[position:end])))
            position = end + 1
            self._head = None

    def _read_head(self, source: bytes | bytearray, position: int) -> tuple[int, _Head | None]:
        """Parse the header section at ``position``; return where the body starts."""
        if source[position : position + 1] in _LINE_ENDS:
            skipped = _HEART_BEATS.match(source, position)
            position = skipped.end() if skipped else position
        limit = position + self._max_head
        after = position + self._searched
        end = source.find(b"\n\n", after, limit)
        with_cr = source.find(b"\n\r\n", after, limit if end < 0 else end + 2)
        if end < 0 and with_cr < 0:
            self._check_unfinished(source, position, after)
            self._searched = max(0, len(source) - position - 2)
            return position, None
        self._searched = 0
        begin = end + 2
        if with_cr >= 0:
            end, begin = with_cr, with_cr + 3
        text = bytes(source[position:end])
        if text != self._last_text:
            self._last_head = _parse_head(text)
            self._last_text = text
        return begin, self._last_head

    def _check_unfinished(self, source: bytes | bytearray, position: int, after: int) -> None:
        if len(source) - position >= self._max_head:
            raise BadFrame(f"the header section exceeds {self._max_head} bytes")
        if source.find(_NUL, after) >= 0:
            raise BadFrame("a frame ended within its headers")

    def _body_end(self, source: bytes | bytearray, position: int, length: int | None) -> int:
        """Where the body's NUL is, or -1 when it is not there yet."""
        if length is None:
            end = source.find(_NUL, position + self._searched)
            size = (len(source) if end < 0 else end) - position
            self._searched = size if end < 0 else 0
        else:
            end = position + length
            size = length
            if end >= len(source):
                end = -1
            elif source[end] != _NUL:
                raise BadFrame(f"no NUL after a body of {length} bytes")
        if size > self._max_body:
            raise BadFrame(f"a body of {size} bytes exceeds the limit of {self._max_body} bytes")
        return end


def _parse_head(text: bytes) -> _Head:
    if _NUL in text:
        raise BadFrame("a frame ended within its headers")
    try:
        lines = text.decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise BadFrame("the headers are not UTF-8") from None
    command = lines[0].removesuffix("\r")
    if command not in _COMMANDS:
        raise BadFrame(f"unknown command {command[:20]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.removesuffix("\r").partition(":")
        if not colon:
            raise BadFrame(f"a header without a colon: {name[:40]!r}")
        headers.setdefault(name, value)
    if b"\\" in text:
        headers = _unescaped(command, headers)
    length = headers.get("content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise BadFrame(f"content-length is not a number of bytes: {length[:40]!r}")
    return _Head(command, headers, None if length is None else int(length))


def _unescaped(command: str, headers: dict[str, str]) -> dict[str, str]:
    """Undo STOMP 1.2's escapes; an unknown one stays: the Engine's client sends values as they are."""
    if command in {"CONNECT", "STOMP", "CONNECTED"}:
        return headers
    return {name: _ESCAPE.sub(lambda match: _UNESCAPED[match[0]], value) for name, value in headers.items()}


def escape(value: str) -> str:
    """A header value as STOMP 1.2 writes it."""
    return value.translate(_ESCAPED)


def encode(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A whole frame: short ones that are not sent often (CONNECTED, RECEIPT, ERROR)."""
    lines = [command, *(f"{name}:{escape(value)}" for name, value in headers.items())]
    if body:
        lines.append(f"content-length:{len(body)}")
    return b"%s\n\n%s\0" % ("\n".join(lines).encode(), body)


def message_head(destination: str, subscription: str | None, others: Mapping[str, str] | None = None) -> bytes:
    """What all MESSAGE frames to one subscription begin with, up to the content-length's value."""
    headers = {"destination": destination, "content-type": "application/json", **(others or {})}
    if subscription is not None:
        headers["subscription"] = subscription
    lines = ["MESSAGE", *(f"{name}:{escape(value)}" for name, value in headers.items()), "content-length:"]
    return "\n".join(lines).encode()


def message(head: bytes, body: bytes) -> bytes:
    """A MESSAGE frame out of a `message_head` and a body of JSON.

    A body whose last TLS record would be tiny is padded with blanks, which JSON allows after its end.
    """
    frame = b"%s%d\n\n%s\0" % (head, len(body), body)
    if len(frame) > TLS_RECORD and 0 < len(frame) % TLS_RECORD < SMALL_TAIL:
        # One byte more than needed when the content-length gets a digit more: harmless.
        body += b" " * (SMALL_TAIL - len(frame) % TLS_RECORD)
        frame = b"%s%d\n\n%s\0" % (head, len(body), body)
    return frame
