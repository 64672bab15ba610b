"""Where the agent is, and HTTP connections to it. Imported when the first request is made."""

from __future__ import annotations

import errno
import http.client
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from vdscli.failures import NOT_ALLOWED, UNREACHABLE, USAGE, CliError

if TYPE_CHECKING:
    import ssl

DEFAULT_PORT: Final = 54321


class Place(NamedTuple):
    """How to reach an agent: a unix socket of this host, or TLS to ``host`` when that is given."""

    socket_path: str
    host: str | None = None
    cert: str = ""
    key: str = ""
    ca: str = ""
    token: str | None = None

    @property
    def words(self) -> str:
        """The place, for an error message."""
        return self.host or self.socket_path


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket of the path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect(place: Place, timeout_s: float) -> http.client.HTTPConnection:
    """A fresh, connected connection; ``timeout_s`` bounds each wait on it.

    Raises:
        CliError: the agent cannot be reached, or the caller may not.
    """
    try:
        connection = _unconnected(place, timeout_s)
        connection.connect()
    except OSError as error:
        raise unreachable(place, error) from error
    return connection


def unreachable(place: Place, error: OSError) -> CliError:
    """What a failed connection means, in words that help."""
    if isinstance(error, TimeoutError):
        return CliError(f"{place.words} does not answer in time", UNREACHABLE)
    if place.host is None:
        if error.errno in {errno.EACCES, errno.EPERM}:
            words = f"not allowed to use {place.socket_path}: be root or a member of its group"
            return CliError(words, NOT_ALLOWED)
        if error.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR}:
            return CliError(f"no agent at {place.socket_path}: is vdsmd running?", UNREACHABLE)
    reason = getattr(error, "verify_message", "") or error.strerror or str(error)
    return CliError(f"cannot reach {place.words}: {reason}", UNREACHABLE)


def _unconnected(place: Place, timeout_s: float) -> http.client.HTTPConnection:
    if place.host is None:
        return UnixConnection(place.socket_path, timeout_s)
    host, port = split_host(place.host)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=_tls(place))


def split_host(text: str) -> tuple[str, int]:
    """``name``, ``name:port``, ``[v6]:port`` or a bare IPv6 address -> host and port.

    Raises:
        CliError: the port is not a number.
    """
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise CliError(f"--host: {text!r} is not NAME or NAME:PORT", USAGE)
    return host, int(port or DEFAULT_PORT)


def _tls(place: Place) -> ssl.SSLContext:
    import ssl

    for path in filter(None, (place.ca, place.cert, place.key)):
        if not Path(path).is_file():
            raise CliError(f"{path}: no such file (--ca, --cert and --key say where the certificates are)", USAGE)
    context = ssl.create_default_context(cafile=place.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if place.cert:
        try:
            context.load_cert_chain(place.cert, place.key or None)
        except PermissionError as error:
            raise CliError(f"not allowed to read {place.key or place.cert}", NOT_ALLOWED) from error
    return context
