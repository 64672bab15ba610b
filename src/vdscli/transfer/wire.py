"""One connection to the image daemon, for one ticket (its API: ovirt-imageio's docs/images.md).

    PUT /images/ID?flush=n   Content-Range: bytes A-B/*      write
    GET /images/ID           Range: bytes=A-B                read
    PATCH /images/ID         {"op": "zero" | "flush", ...}
    GET /images/ID/extents, /images/ID/checksum

A connection that breaks is made anew and the request sent again, as all of them can be: for so long as patience lasts,
because the agent starts a daemon that died anew and gives it its tickets back.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from vdscli.failures import UNREACHABLE, CliError

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT_S: Final = 60.0
# Reads all of the data: a large disk takes its time.
_CHECKSUM_S: Final = 6 * 3600.0
_PAUSES_S: Final = (0.1, 0.3, 0.6, 1.0, 2.0)
# A daemon that has just been started anew does not know the ticket for a moment.
_UNKNOWN_S: Final = 5.0
_MAX_ERROR: Final = 1000

T = TypeVar("T")


class Address(NamedTuple):
    """Where the daemon is: a unix socket of this host, or TLS to ``host``."""

    socket_path: str
    host: str = ""
    port: int = 54322
    ca: str = ""


class Refused(CliError):
    """The daemon answered, and not with success."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(f"the image daemon refused: {reason} (HTTP status {status})")


class Extent(NamedTuple):
    """A part of an image; ``zero`` reads as zeros."""

    start: int
    length: int
    zero: bool


class ImageConnection:
    """Speaks to the daemon with one ticket. Not for several threads.

    Args:
        address: where the daemon is.
        ticket_id: the ticket.
        patience_s: how long broken connections are made anew without any success between.
    """

    def __init__(self, address: Address, ticket_id: str, patience_s: float) -> None:
        self._address = address
        self._path = f"/images/{ticket_id}"
        self._patience_s = patience_s
        self._connection: http.client.HTTPConnection | None = None

    def write(self, offset: int, data: memoryview) -> None:
        """Write data; it is durable after `flush`."""
        last = offset + len(data) - 1
        headers = {"Content-Length": str(len(data)), "Content-Range": f"bytes {offset}-{last}/*"}
        self._persist(lambda: self._send("PUT", "?flush=n", headers, data).read())

    def zero(self, offset: int, length: int) -> None:
        """Make a part read as zeros."""
        self._patch({"op": "zero", "offset": offset, "size": length, "flush": False})

    def flush(self) -> None:
        """Make all that was written durable."""
        self._patch({"op": "flush"})

    def read(self, offset: int, into: memoryview) -> None:
        """Read so much as there is room."""

        def once() -> None:
            response = self._send("GET", "", {"Range": f"bytes={offset}-{offset + len(into) - 1}"})
            done = 0
            while done < len(into):
                count = response.readinto(into[done:])
                if not count:
                    raise http.client.IncompleteRead(b"", len(into) - done)
                done += count
            response.read()

        self._persist(once)

    def extents(self) -> list[Extent]:
        """Where data is, and where nothing."""
        found = json.loads(self._persist(lambda: self._send("GET", "/extents", {}).read()))
        return [Extent(item["start"], item["length"], item["zero"]) for item in found]

    def checksum(self) -> str:
        """Of all the image; see `vdscli.transfer.checksum`."""
        body = self._persist(lambda: self._send("GET", "/checksum", {}, timeout_s=_CHECKSUM_S).read())
        return str(json.loads(body)["checksum"])

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _patch(self, message: dict[str, Any]) -> None:
        body = memoryview(json.dumps(message).encode())
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        self._persist(lambda: self._send("PATCH", "", headers, body).read())

    def _persist(self, exchange: Callable[[], T]) -> T:
        """Do an exchange until it succeeds.

        Raises:
            Refused: the daemon does not want it.
            CliError: patience is at its end.
        """
        began_s = time.monotonic()
        attempt = 0
        while True:
            try:
                return exchange()
            except Refused as error:
                self.close()
                if error.status != http.client.FORBIDDEN or time.monotonic() - began_s > _UNKNOWN_S:
                    raise
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if time.monotonic() - began_s >= self._patience_s:
                    raise self._unreachable(error) from error
            time.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1

    def _send(
        self,
        method: str,
        where: str,
        headers: dict[str, str],
        body: memoryview | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        connection = self._opened()
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.putrequest(method, self._path + where)
        for name, value in headers.items():
            connection.putheader(name, value)
        try:
            connection.endheaders(body)
        except OSError:
            # It may have said why before it closed.
            _check(connection.getresponse())
            raise
        return _check(connection.getresponse())

    def _opened(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = _new(self._address)
            connection.connect()
            self._connection = connection
        return self._connection

    def _unreachable(self, error: Exception) -> CliError:
        where = self._address.socket_path or f"{self._address.host} port {self._address.port}"
        return CliError(f"the image daemon at {where} broke off: {str(error) or repr(error)}", UNREACHABLE)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _new(address: Address) -> http.client.HTTPConnection:
    if address.socket_path:
        return _UnixConnection(address.socket_path)
    context = ssl.create_default_context(cafile=address.ca or None)
    return http.client.HTTPSConnection(address.host, address.port, timeout=_TIMEOUT_S, context=context)


def _check(response: http.client.HTTPResponse) -> http.client.HTTPResponse:
    if response.status >= 300:
        raise Refused(response.status, response.read(_MAX_ERROR).decode("utf-8", "replace").strip())
    return response
