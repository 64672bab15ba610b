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
# A slow reader of a long HTTP answer gets this long after the connection was closed on our side.
_SHUTDOWN_S: Final = 30.0
_ACCEPT_PAUSE_S: Final = 0.1
_METHODS: Final = (b"GET ", b"PUT ", b"POST ", b"DELETE ", b"HEAD ", b"PATCH ", b"OPTIONS ", b"TRACE ", b"QUERY ")
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

    def __call__(self, caller: Caller, lost: Callable[[], None]) -> Session:
        """A session of one client."""


class HttpFactory(Protocol):
    """Makes an HTTP session."""

    def __call__(self, caller: Caller | None, lost: Callable[[], None]) -> Session:
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
        unix_denied: the user who may not, whatever the group: QEMU's.
        connections: how many there may be at a time.
        handshake_s: seconds for TLS, and again for the first bytes.
    """

    address: str = "::"
    port: int = 54321
    tls: tls.TlsFiles | None = None
    unix_path: Path | None = None
    unix_group: str = "vdsm"
    unix_denied: str = ""
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
        self._denied: int | None = None
        self._accepting: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()
        self._refused = 0
        self.port = 0
        """The TCP port that was really taken; 0 when there is none."""

    def start(self) -> None:
        """Open the doors.

        Raises:
            Failed: an address cannot be had, or the TLS files cannot be used.
        """
        if self._doors.address:
            if self._doors.tls is not None:
                self._context = tls.server_context(self._doors.tls)
            listening = _tcp_socket(self._doors.address, self._doors.port)
            self.port = listening.getsockname()[1]
            self._accept(listening, local=False)
            log.info(
                "listening on %s port %d%s", self._doors.address, self.port, "" if self._context else " without TLS"
            )
        if self._doors.unix_path is not None:
            self._group = peers.group_id(self._doors.unix_group)
            self._denied = peers.user_id(self._doors.unix_denied)
            self._accept(_unix_socket(self._doors.unix_path, self._group), local=True)
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
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._accepting.clear()
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

    def _accept(self, listening: socket.socket, *, local: bool) -> None:
        listening.listen(_BACKLOG)
        listening.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._accepting.append(asyncio.get_running_loop().create_task(self._accept_all(listening, local=local)))

    async def _accept_all(self, listening: socket.socket, *, local: bool) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except OSError as error:
                    # A client that went already, or no file descriptors left: what is open will end some time.
                    log.warning("accepting a connection: %s", error)
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                    continue
                if self._has_room(local=local):
                    task = loop.create_task(self._open(accepted, local=local))
                    self._opening.add(task)
                    task.add_done_callback(self._opening.discard)
                else:
                    self._refused += 1
                    log.warning("refused a connection: %d are open", len(self._connections))
                    accepted.close()

    def _has_room(self, *, local: bool) -> bool:
        room = self._doors.connections
        return len(self._connections) < (room if local else room - min(_RESERVED, room // 4))

    async def _open(self, accepted: socket.socket, *, local: bool) -> None:
        """Find out who it is, with TLS where it is wanted."""
        context = None if local else self._context
        connection = _Connection(self._sessions, self._doors.handshake_s, self._connections.discard)
        self._connections.add(connection)
        try:
            if local:
                connection.caller = peers.unix_caller(peers.credentials(accepted), self._group, self._denied)
            else:
                connection.address = _tune(accepted)
                connection.caller = None if context else peers.plain_caller(connection.address)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._doors.handshake_s if context else None,
                ssl_shutdown_timeout=_SHUTDOWN_S if context else None,
            )
        except (Denied, OSError) as error:
            log.info("refused a connection of %s: %s", connection.address, error)
            accepted.close()
            self._connections.discard(connection)
        else:
            # A client may go during the handshake; then the connection was never made, nor will it be lost.
            if transport.is_closing() and connection.kind == "new":
                self._connections.discard(connection)

    def _sessions(self, kind: str, caller: Caller | None, lost: Callable[[], None]) -> Session:
        if kind == "stomp" and caller is not None:
            return self._stomp_session(caller, lost)
        return self._http_session(caller, lost)


class _Connection(asyncio.Protocol):
    """A connection until it is known what it is; then it only counts it.

    Args:
        sessions: makes what the connection becomes, of a kind and a caller.
        handshake_s: seconds for the first bytes.
        forget: called when the connection has ended.
    """

    def __init__(
        self,
        sessions: Callable[[str, Caller | None, Callable[[], None]], Session],
        handshake_s: float,
        forget: Callable[[_Connection], None],
    ) -> None:
        self.kind = "new"
        self.address = "unix"
        self.caller: Caller | None = None
        self._sessions = sessions
        self._handshake_s = handshake_s
        self._forget_it = forget
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None
        self._first = b""
        self._timer: asyncio.TimerHandle | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first bytes."""
        self._transport = cast("asyncio.Transport", transport)
        if self.caller is None:
            self.caller = peers.certificate_caller(transport.get_extra_info("peercert"))
        self._timer = asyncio.get_running_loop().call_later(self._handshake_s, self._silent)

    def data_received(self, data: bytes) -> None:
        """Collect the first bytes."""
        self._first += data
        kind = detect(self._first)
        if kind is None or self._transport is None:
            return
        self._stop_timer()
        if kind == "other" or (kind == "stomp" and self.caller is None):
            reason = "neither STOMP nor HTTP" if kind == "other" else "STOMP without a client certificate"
            log.info("closed a connection of %s: %s", self.address, reason)
            self._transport.abort()
            return
        self.kind = kind
        self._session = session = self._sessions(kind, self.caller, self._forget)
        self._transport.set_protocol(cast("asyncio.BaseProtocol", session))
        session.connection_made(self._transport)
        session.data_received(self._first)
        self._first = b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client went before it was known what it wants."""
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
        if self._transport is not None:
            self._transport.abort()

    def _silent(self) -> None:
        log.info("%s did not say what it wants", self.address)
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        self._stop_timer()
        self._forget_it(self)


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
