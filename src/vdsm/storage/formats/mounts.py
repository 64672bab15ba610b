"""What directory a connection gets under ``/rhev/data-center/mnt``: every host must come to the same name.

    server:/a_b//c/     normalized server:/a_b/c     directory  server:_a__b_c
    [fe80::1]:/x                                                [fe80::1]:_x
    /data/images                                                _data_images

Normalizing cleans up the path behind the first colon (or behind the port's number). Escaping doubles each underscore
and then turns each slash into one; nothing else is changed.

Source: storage format, section 1.2.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from vdsm.storage.errors import InvalidParameter

_PORT: Final = re.compile(r"([1-9][0-9]{0,4}):(.*)", re.DOTALL)
_MAX_PORT: Final = 65535
_MAX_NAME: Final = 255  # bytes of a file's name


def normalize(spec: str) -> str:
    """A connection's address in the one form that all hosts agree on.

    Raises:
        InvalidParameter: there is an address in brackets that does not end.
    """
    if spec.startswith("/") or ":" not in spec:
        return _clean(spec)
    host, tail = _split(spec)
    ported = _PORT.fullmatch(tail)
    port = f"{ported[1]}:" if ported and int(ported[1]) <= _MAX_PORT else ""
    tail = port + _clean(tail.removeprefix(port))
    return f"[{host}]:{tail}" if ":" in host else f"{host}:{tail}"


def directory_name(spec: str) -> str:
    """The directory's name for a connection.

    Raises:
        InvalidParameter: it is no address of storage, or the name would be too long.
    """
    name = escape(normalize(spec))
    if not spec or "\0" in spec or name in {".", ".."}:
        raise InvalidParameter("connection", f"must be an address of storage, is {spec!r:.80}")
    if len(name.encode(errors="surrogateescape")) > _MAX_NAME:
        raise InvalidParameter("connection", f"its directory's name would have more than {_MAX_NAME} bytes")
    return name


def escape(text: str) -> str:
    """Make a path the name of one directory."""
    return text.replace("_", "__").replace("/", "_")


def _split(spec: str) -> tuple[str, str]:
    if not spec.startswith("["):
        host, _, tail = spec.partition(":")
        return host, tail
    host, found, tail = spec[1:].partition("]:")
    if not found:
        raise InvalidParameter("connection", f"has no end of the address in brackets: {spec!r:.80}")
    return host, tail


def _clean(path: str) -> str:
    if not path:
        return path
    cleaned = posixpath.normpath(path)
    # POSIX lets a double slash at the front mean something else; here it never does.
    return cleaned[1:] if cleaned.startswith("//") else cleaned
