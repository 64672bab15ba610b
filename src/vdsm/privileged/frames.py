"""What goes over supervdsmd's socket: length-prefixed JSON.

    frame    = length (4 bytes, big endian) body (length bytes)
    request  = {"call": "inspect_path", "args": {"path": "/x"}, "flow": "a1b2"}
    reply    = {"result": ...}  or  {"error": {"kind": "BadParameter", "facts": {"field": "path", ...}}}

One request at a time on a connection: a reply, then the next request. A broken rule closes the connection.
Errors are the classes of ``base.errors`` and come out as the class that went in.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import Raw, Struct

from vdsm.base.errors import BadParameter, Failed, VdsmError
from vdsm.privileged.calls import Privileged

HEADER_BYTES: Final = 4


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """One call: its name, its arguments by name, and the flow that it belongs to in the log."""

    call: str
    args: dict[str, Raw] = {}
    flow: str = ""


class ErrorBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An error by its class name and its facts."""

    kind: str
    facts: dict[str, str | int | float | None] = {}


class Reply(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A result or an error."""

    result: Raw = Raw(b"null")
    error: ErrorBody | None = None


class FrameBuffer:
    """Cuts a stream into frames; refuses a frame that is too long before it is read."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes: Final = max_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """Add what came; return the frame's body once it is whole.

        Raises:
            BadParameter: the frame is too long, or something follows it: the connection is of no more use.
        """
        self._data += data
        if len(self._data) < HEADER_BYTES:
            return None
        length = int.from_bytes(self._data[:HEADER_BYTES], "big")
        if length > self._max_bytes:
            raise BadParameter("frame", f"has {length} bytes, at most {self._max_bytes} are allowed")
        whole = HEADER_BYTES + length
        if len(self._data) > whole:
            raise BadParameter("frame", "another one follows before the answer")
        if len(self._data) < whole:
            return None
        body = bytes(self._data[HEADER_BYTES:])
        self._data.clear()
        return body


def frame(body: bytes) -> bytes:
    """Put the length in front."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def encode_error(error: VdsmError) -> ErrorBody:
    """Make an error's wire form. One of an unknown class becomes its nearest ancestor in ``base.errors``."""
    known = _error_classes(VdsmError)
    kind = next(cls for cls in type(error).__mro__ if known.get(cls.__name__) is cls)
    facts = error.facts()
    return ErrorBody(
        kind.__name__, {item.name: _plain(facts[item.name]) for item in fields(kind) if item.name in facts}
    )


def decode_error(body: ErrorBody) -> VdsmError:
    """Make the error that :func:`encode_error` was given; what cannot be made becomes Failed."""
    cls = _error_classes(VdsmError).get(body.kind)
    try:
        if cls is not None:
            return cls(**body.facts)
    except TypeError:
        pass  # not its facts: said below
    return Failed("supervdsm", f"it answered with an unknown error {body.kind!r:.40} {body.facts!r:.200}")


def decode_arguments(call: str, args: dict[str, Raw]) -> dict[str, Any]:
    """Check a request's arguments against the signature of ``Privileged``.

    Raises:
        BadParameter: there is no such call, an argument is unknown, missing or of the wrong type.
    """
    hints = signatures().get(call)
    if hints is None:
        raise BadParameter("call", f"there is no call {call!r:.80}")
    for name in args.keys() ^ (hints.keys() - {"return"}):
        raise BadParameter(f"{name:.80}", "is missing" if name in hints else f"is not an argument of {call}")
    decoded = {}
    for name, raw in args.items():
        try:
            decoded[name] = msgspec.json.decode(raw, type=hints[name])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadParameter(name, str(error)) from error
    return decoded


def signatures() -> dict[str, dict[str, Any]]:
    """Every call's parameters and ``return``, with their types."""
    return {
        name: get_type_hints(member)
        for name, member in vars(Privileged).items()
        if callable(member) and not name.startswith("_")
    }


def _error_classes(root: type[VdsmError]) -> dict[str, type[VdsmError]]:
    """The classes of ``base.errors`` by name; those that other modules derive are not part of the protocol."""
    classes = {root.__name__: root} if root.__module__ == VdsmError.__module__ else {}
    for cls in root.__subclasses__():
        classes |= _error_classes(cls)
    return classes


def _plain(value: object) -> str | int | float | None:
    if isinstance(value, int | float) or value is None:
        return value
    # JSON takes no half characters, which stand for bytes of names that are not UTF-8.
    return str(value).encode("utf-8", "backslashreplace").decode()
