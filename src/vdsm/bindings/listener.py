"""The doors: one TCP port and one unix socket, both for STOMP and HTTP.

    accept -> cap -> [TLS handshake] -> first bytes -> StompSession | HttpSession | close

All in one event loop. Each step has its deadline and its limit; a client that fails one is closed without an answer.
On the network port a STOMP client needs a certificate of the host's CA; an HTTP client may have a bearer token
instead, which the application checks. On the unix socket the kernel says who the client is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from vdsm.base.errors import Denied, Failed
from vdsm.bindings import peers, stomp, tls
from vdsm.bindings.peers import Caller

log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_SHUTDOWN_S: Final = 5.0
# Detection wants the longest word of STOMP; a client may send far more at once.
_MAX_FIRST: Final = 1 << 20
_METHODS: Final = (b"GET ", b"PUT ", b"POST ", b"DELETE ", b"HEAD ", b"PATCH ", b"OPTIONS ")
# A peer that has vanished is noticed after about two minutes: idle, interval, count.
_KEEPALIVE: Final = (60, 15, 4)
# Local administration must stay possible when the network has taken all connections.
_RESERVED: Final = 8


class Session(Protocol):
    """What a connection becomes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""

    def finish(self) -> None:
        """End the connection after what is queued."""


class StompFactory(Protocol):
    """Makes a STOMP session."""

    def __call__(self, caller: Caller, raw: asyncio.Transport, lost: Callable[[], None]) -> Session:
        """A session of one client."""


class HttpFactory(Protocol):
    """Makes an HTTP session."""

    def __call__(self, caller: Caller | None, raw: asyncio.Transport, lost: Callable[[], None]) -> Session:
        """A session of one client, whom the connection may not have named."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where to listen.

    Attributes:
        address: numeric; "::" is every address, IPv4 included; empty: no network port.
        port: TCP port; 0 lets the kernel choose.
        tls: the certificate files; None: no TLS.
        unix_path: the unix socket, or None.
        unix_group: the group whose members may use it, beside root.
        connections: how many there may be at a time.
        handshake_s: seconds for TLS, and again for the first bytes.
    """

    address: str = "::"
    port: int = 54321
    tls: tls.TlsFiles | None = None
    unix_path: Path | None = None
    unix_group: str = "vdsm"
    connections: int = 256
    handshake_s: float = 10.0


def detect(first: bytes) -> str | None:
    """Tell the protocol by its first bytes: "stomp", "http", "other", or None while there are too few."""
    if first.startswith(_METHODS):
        return "http"
    if first.startswith(stomp.WORDS):
        return "stomp"
    if any(word.startswith(first) for word in (*stomp.WORDS, *_METHODS)):
        return None
    return "other"


class Listener:
    """Owns the listening sockets and all connections.

    Args:
        doors: where to listen.
        stomp_session: makes the session of a STOMP client.
        http_session: makes the session of an HTTP client.
    """

    def __init__(self, doors: Doors, stomp_session: StompFactory, http_session: HttpFactory) -> None:
        self._doors = doors
        self._stomp_session = stomp_session
        self._http_session = http_session
        self._context: ssl.SSLContext | None = None
        self._group: int | None = None
        self._servers: list[asyncio.AbstractServer] = []
        self._connections: set[_Connection] = set()
        self._refused = 0
        self.port = 0
        """The TCP port that was really taken; 0 when there is none."""

    async def start(self) -> None:
        """Open the doors.

        Raises:
            Failed: an address cannot be had, or the TLS files cannot be used.
        """
        loop = asyncio.get_running_loop()
        if self._doors.address:
            if self._doors.tls is not None:
                self._context = tls.server_context(self._doors.tls)
            listening = _tcp_socket(self._doors.address, self._doors.port)
            self.port = listening.getsockname()[1]
            server = await loop.create_server(self._tcp_arrival, sock=listening, backlog=_BACKLOG)
            self._servers.append(server)
            log.info(
                "listening on %s port %d%s", self._doors.address, self.port, "" if self._context else " without TLS"
            )
        if self._doors.unix_path is not None:
            self._group = peers.group_id(self._doors.unix_group)
            local = _unix_socket(self._doors.unix_path, self._group)
            self._servers.append(await loop.create_unix_server(self._unix_arrival, sock=local, backlog=_BACKLOG))
            log.info("listening on %s", self._doors.unix_path)

    def reload_tls(self) -> None:
        """Use the TLS files anew for connections from now on; existing ones stay.

        Raises:
            Failed: they cannot be used; the old ones stay in use.
        """
        if self._context is not None and self._doors.tls is not None:
            self._context = tls.server_context(self._doors.tls)
            log.info("the TLS certificate was read anew")

    async def stop(self, deadline_s: float) -> None:
        """Close the doors, let the connections send what they have, and after ``deadline_s`` seconds cut them off."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._doors.unix_path is not None:
            self._doors.unix_path.unlink(missing_ok=True)
        for connection in list(self._connections):
            connection.finish()
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        while self._connections and loop.time() < until:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()

    def counts(self) -> Mapping[str, int]:
        """How many connections there are of each kind: "new", "stomp", "http"; and "refused" ones so far."""
        return {**Counter(connection.kind for connection in self._connections), "refused": self._refused}

    def _tcp_arrival(self) -> asyncio.Protocol:
        return _Connection(self, local=False)

    def _unix_arrival(self) -> asyncio.Protocol:
        return _Connection(self, local=True)

    # For connections only.

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for one more."""
        room = self._doors.connections
        if not connection.local:
            room -= min(_RESERVED, room // 4)
        if len(self._connections) >= room:
            self._refused += 1
            log.warning("refused a connection: %d are open", len(self._connections))
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: _Connection) -> None:
        """The connection has ended."""
        self._connections.discard(connection)

    def tls_context(self) -> ssl.SSLContext | None:
        """The context for a connection that begins now; None on a port without TLS."""
        return self._context

    def local_caller(self, connection: socket.socket) -> Caller:
        """Who connected to the unix socket.

        Raises:
            Denied: neither root nor of the group.
            OSError: it has gone already.
        """
        return peers.unix_caller(peers.credentials(connection), self._group)

    @property
    def handshake_s(self) -> float:
        """Seconds for TLS, and again for the first bytes."""
        return self._doors.handshake_s

    def session(self, kind: str, caller: Caller | None, raw: asyncio.Transport, lost: Callable[[], None]) -> Session:
        """Make what a connection becomes."""
        if kind == "stomp" and caller is not None:
            return self._stomp_session(caller, raw, lost)
        return self._http_session(caller, raw, lost)


class _Connection(asyncio.Protocol):
    """A connection until it is known what it is; then it only counts it."""

    def __init__(self, listener: Listener, *, local: bool) -> None:
        self.local = local
        self.kind = "new"
        self._listener = listener
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._caller: Caller | None = None
        self._first = b""
        self._address = "unix"
        self._timer: asyncio.TimerHandle | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out who it is."""
        self._raw = raw = cast("asyncio.Transport", transport)
        if not self._listener.admit(self):
            raw.abort()
            return
        connection = raw.get_extra_info("socket")
        try:
            if self.local:
                self._open(raw, self._listener.local_caller(connection))
                return
            self._address = _tune(connection)
        except (Denied, OSError) as error:
            log.warning("refused a connection: %s", error)
            self.abort()
            return
        context = self._listener.tls_context()
        if context is None:
            self._open(raw, peers.plain_caller(self._address))
        else:
            raw.pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._secure(raw, context))

    def data_received(self, data: bytes) -> None:
        """Collect the first bytes."""
        self._first += data
        if len(self._first) > _MAX_FIRST:
            self.abort()
        elif self._transport is not None:
            self._detect(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client went before it said anything."""
        self._forget()

    # What the listener calls.

    def finish(self) -> None:
        """End after what is queued."""
        if self._session is not None:
            self._session.finish()
        else:
            self.abort()

    def abort(self) -> None:
        """End at once."""
        self._forget()
        if self._raw is not None:
            self._raw.abort()

    async def _secure(self, raw: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            transport = await asyncio.get_running_loop().start_tls(
                raw,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._listener.handshake_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError) as error:
            log.info("TLS handshake with %s failed: %s", self._address, error)
            self.abort()
            return
        if transport is None or transport.is_closing():
            self.abort()
            return
        self._open(transport, peers.certificate_caller(transport.get_extra_info("peercert")))

    def _open(self, transport: asyncio.Transport, caller: Caller | None) -> None:
        self._transport = transport
        self._caller = caller
        self._timer = asyncio.get_running_loop().call_later(self._listener.handshake_s, self._silent)
        if self._first:
            self._detect(transport)

    def _silent(self) -> None:
        log.info("%s did not say what it wants", self._address)
        self.abort()

    def _detect(self, transport: asyncio.Transport) -> None:
        kind = detect(self._first)
        if kind is None:
            return
        if kind == "other" or (kind == "stomp" and self._caller is None):
            reason = "neither STOMP nor HTTP" if kind == "other" else "STOMP without a client certificate"
            log.info("closed a connection of %s: %s", self._address, reason)
            self._forget()
            transport.close()
            return
        assert self._raw is not None  # noqa: S101 - it was made long before the first byte
        self._stop_timer()
        self.kind = kind
        self._session = session = self._listener.session(kind, self._caller, self._raw, self._forget)
        first, self._first = self._first, b""
        transport.set_protocol(cast("asyncio.BaseProtocol", session))
        session.connection_made(transport)
        session.data_received(first)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        self._stop_timer()
        self._listener.forget(self)


def _tune(connection: socket.socket) -> str:
    """Set a TCP connection's options; returns the peer's address."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle, interval, count = _KEEPALIVE
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)
    return str(connection.getpeername()[0])


def _tcp_socket(address: str, port: int) -> socket.socket:
    """A bound socket; "::" serves IPv4 as well, or IPv4 only where the kernel has no IPv6.

    Raises:
        Failed: the address cannot be had.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )[0]
        try:
            return _bound(family, place)
        except OSError as error:
            if address != "::" or error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                raise
            return _bound(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104 - every address is what "::" asks for
    except OSError as error:
        raise Failed(f"listening on {address} port {port}", str(error)) from error


def _bound(family: int, place: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(place)
    except OSError:
        listening.close()
        raise
    return listening


def _unix_socket(path: Path, group: int | None) -> socket.socket:
    """A bound unix socket for the group; one left behind by an earlier process is replaced.

    Raises:
        Failed: there is something else at the path, or it cannot be made.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise Failed(f"listening on {path}", "there is something that is no socket")
            path.unlink()
        listening.bind(os.fspath(path))
        path.chmod(0o660)
        if group is not None and group != path.stat().st_gid:
            os.chown(path, -1, group)
    except OSError as error:
        listening.close()
        raise Failed(f"listening on {path}", str(error)) from error
    return listening
