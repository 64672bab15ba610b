"""The transport with verbs of the test's own behind it, and clients that speak to it over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vdsm.api.contract import Pool, Role
from vdsm.base.threads import Pool as Workers
from vdsm.bindings.broker import Broker
from vdsm.bindings.dispatch import Dispatcher
from vdsm.bindings.event_hub import EventHub, StompEvents
from vdsm.bindings.http_session import HttpServer
from vdsm.bindings.jsonrpc import JsonRpc
from vdsm.bindings.listener import Doors, Listener
from vdsm.bindings.stomp_session import StompLimits, StompSession
from vdsm.bindings.tls import TlsFiles


@dataclass
class RawVerb:
    """A verb on bytes."""

    name: str
    call_wire: Callable[[bytes], bytes]
    pool: Pool = Pool.INLINE
    role: Role = Role.VIEWER
    while_starting: bool = False


async def say_caller(scope, receive, send) -> None:
    """The HTTP application: answers with who the connection says that the caller is."""
    caller = str(scope["state"]["caller"]).encode()
    headers = [(b"content-length", str(len(caller)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": caller})


class Server:
    """All parts of the transport, put together as the daemon does."""

    def __init__(self, verbs: list[RawVerb], doors: Doors, limits: StompLimits, http=say_caller) -> None:
        self.is_ready = True
        self.broker = Broker()
        self.hub = EventHub()
        self.events = StompEvents(self.broker, lambda: self.is_ready)
        self.pools = {
            Pool.QUERY: Workers("query", 2, 8),
            Pool.LIFECYCLE: Workers("lifecycle", 2, 2),
            Pool.HOST: Workers("host", 1, 1),
        }
        self.dispatcher = Dispatcher({verb.name: verb for verb in verbs}, self.pools, lambda: self.is_ready)
        self.http = HttpServer(http, head_s=doors.handshake_s)
        session = partial(StompSession, rpc=JsonRpc(self.dispatcher), broker=self.broker, limits=limits)
        self.listener = Listener(doors, lambda caller, lost: session(caller=caller, lost=lost), self.http.session)

    async def start(self) -> None:
        self.hub.start(self.events.deliver)
        self.listener.start()

    async def stop(self) -> None:
        self.hub.stop()
        await self.listener.stop(1.0)
        for pool in self.pools.values():
            pool.stop(1.0)


async def serve_forever(directory: Path) -> None:
    """For bench/ping.py."""
    own = directory / "own"
    files = TlsFiles(own / "localhost.pem", own / "localhost.key", own / "ca.pem")
    sizes = {"Size.small": 13_000, "Size.large": 26_000, "Size.huge": 261_000}
    verbs = [RawVerb("Host.ping", lambda _: b"true", while_starting=True)]
    verbs += [RawVerb(name, partial(_text, b'"%s"' % (b"x" * size))) for name, size in sizes.items()]
    server = Server(verbs, Doors("127.0.0.1", 0, files), StompLimits())
    await server.start()
    print(server.listener.port, flush=True)
    await asyncio.Event().wait()


def _text(answer: bytes, _: bytes) -> bytes:
    return answer
