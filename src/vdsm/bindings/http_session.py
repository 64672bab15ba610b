"""One HTTP connection: uvicorn's own h11 protocol, with deadlines for slow senders and slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vdsm.base.clock import now_utc
from vdsm.bindings.peers import Caller

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

# Of a request's line and headers.
_MAX_HEAD: Final = 64 * 1024
_KEEP_ALIVE_S: Final = 15


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


class HttpSession(H11Protocol):
    """One client's HTTP connection."""

    def __init__(self, server: HttpServer, caller: Caller | None, lost: Callable[[], None]) -> None:
        state = {"caller": caller, "abort": self._abort}
        super().__init__(server.config, server.state, state, asyncio.get_running_loop())
        self._http_server = server
        self._lost = lost
        self._head_timer: asyncio.TimerHandle | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_head()
        self._check_timer = self.loop.call_later(self._http_server.stall_s, self._check)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._http_server.refresh()
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
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
