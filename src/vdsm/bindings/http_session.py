"""One HTTP connection: uvicorn's own h11 protocol, with deadlines for slow senders and slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vdsm.base.clock import monotonic_s, now_utc
from vdsm.bindings.peers import Caller

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

# Of a request's line and headers.
_MAX_HEAD: Final = 64 * 1024
_KEEP_ALIVE_S: Final = 15
# What one client sent is parsed for so long at a time, in pieces of so many bytes: a body of thousands of tiny chunks
# takes seconds, and all other clients are on the same loop.
_TURN_S: Final = 0.005
_PIECE_BYTES: Final = 4096


class HttpServer:
    """Makes the sessions of all HTTP connections; holds what they share.

    The application finds who the caller is, if the connection says so, in its scope: ``scope["state"]["caller"]``, a
    `Caller` or None; ``scope["state"]["abort"]`` ends the connection at once.

    Args:
        application: an ASGI application without lifespan.
        head_s: seconds for a request's line and headers to arrive.
        stall_s: seconds without any progress before a slow reader is cut off.
    """

    def __init__(self, application: ASGI3Application, *, head_s: float = 10.0, stall_s: float = 60.0) -> None:
        self.head_s = head_s
        self.stall_s = stall_s
        self.config = Config(
            application,
            http="h11",
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            h11_max_incomplete_event_size=_MAX_HEAD,
        )
        self.config.load()
        self.state = ServerState()
        self._second = -1

    def refresh(self) -> None:
        """Keep the Date header true."""
        now = now_utc()
        if now.second != self._second:
            self._second = now.second
            self.state.default_headers = [(b"date", format_datetime(now, usegmt=True).encode())]

    def session(self, caller: Caller | None, lost: Callable[[], None]) -> HttpSession:
        """The protocol of one connection."""
        return HttpSession(self, caller, lost)


class _Flow(FlowControl):
    """Reading stops while the server wants it, or while what was read is not parsed yet."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._wanted = False
        self._held = False

    def pause_reading(self) -> None:
        """The server wants no more."""
        self._wanted = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """The server wants more."""
        self._wanted = False
        if not self._held:
            super().resume_reading()

    def hold(self, *, back: bool) -> None:
        """Something is not parsed yet, or all is."""
        self._held = back
        if back:
            super().pause_reading()
        elif not self._wanted:
            super().resume_reading()


class HttpSession(H11Protocol):
    """One client's HTTP connection."""

    flow: _Flow

    def __init__(self, server: HttpServer, caller: Caller | None, lost: Callable[[], None]) -> None:
        state = {"caller": caller, "abort": self._abort}
        super().__init__(server.config, server.state, state, asyncio.get_running_loop())
        self._http_server = server
        self._lost = lost
        self._head_timer: asyncio.TimerHandle | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._unparsed = memoryview(b"")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(cast("asyncio.Transport", transport))
        self.flow = _Flow(cast("asyncio.Transport", transport))
        self._expect_head()
        self._check_timer = self.loop.call_later(self._http_server.stall_s, self._check)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._http_server.refresh()
        if self._unparsed:
            self._unparsed = memoryview(b"".join((self._unparsed, data)))
        else:
            self._unparsed = memoryview(data)
            self._parse()

    def _parse(self) -> None:
        """Parse what was read, and go on later if it takes long."""
        until_s = monotonic_s() + _TURN_S
        while self._unparsed and not self.transport.is_closing():
            piece, self._unparsed = self._unparsed[:_PIECE_BYTES], self._unparsed[_PIECE_BYTES:]
            self._parse_piece(bytes(piece))
            if self._unparsed and monotonic_s() >= until_s:
                self.flow.hold(back=True)
                self.loop.call_soon(self._parse)
                return
        self._unparsed = memoryview(b"")
        self.flow.hold(back=False)

    def _parse_piece(self, piece: bytes) -> None:
        super().data_received(piece)
        if self.conn.their_state is h11.IDLE:
            self._expect_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; the application, when it was at work on it, has nobody to answer to any more."""
        super().send_400_response(msg)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._unparsed = memoryview(b"")
        for timer in (self._head_timer, self._check_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._lost()

    def finish(self) -> None:
        """End the connection after the present answer."""
        if not self.transport.is_closing():
            self.shutdown()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._http_server.head_s, self._too_slow)

    def _abort(self) -> None:
        self.transport.abort()

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE:
            self._abort()

    def _check(self) -> None:
        """Cut off a reader who has not taken anything since the last check."""
        left = self.transport.get_write_buffer_size()
        if self.flow.write_paused and left >= self._left > 0:
            self._abort()
            return
        self._left = left if self.flow.write_paused else 0
        self._check_timer = self.loop.call_later(self._http_server.stall_s, self._check)


def scope_caller(scope: Any) -> Caller | None:
    """Who the connection of a request belongs to, as far as the connection says."""
    return cast("Caller | None", scope.get("state", {}).get("caller"))
