"""The transport with verbs of the test's own behind it, and clients that speak to it over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop

from certificates import Certificates, Pair
from vdsm.api.contract import Pool, Role
from vdsm.api.events import Event
from vdsm.base.threads import Pool as Workers
from vdsm.bindings.broker import Broker
from vdsm.bindings.dispatch import Dispatcher
from vdsm.bindings.event_hub import EventHub, StompEvents
from vdsm.bindings.http_session import HttpServer
from vdsm.bindings.jsonrpc import JsonRpc
from vdsm.bindings.listener import Doors, Listener
from vdsm.bindings.stomp import Frame, Parser
from vdsm.bindings.stomp_session import StompLimits, StompSession
from vdsm.bindings.tls import TlsFiles

T = TypeVar("T")


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


class LiveServer:
    """A server on a loop in a thread of its own."""

    def __init__(self, verbs: list[RawVerb], doors: Doors, limits: StompLimits | None = None) -> None:
        self._loop = uvloop.new_event_loop()
        self.server = Server(verbs, doors, limits or StompLimits())
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def __enter__(self) -> LiveServer:
        self._thread.start()
        try:
            self.wait(self.server.start())
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def on_loop(self, function: Callable[[], T]) -> T:
        """Call a function on the server's loop."""

        async def call() -> T:
            return function()

        return self.wait(call())

    @property
    def port(self) -> int:
        return self.server.listener.port

    def publish(self, event: Event) -> None:
        self.server.hub.publish(event)

    def counts(self) -> Mapping[str, int]:
        return self.on_loop(self.server.listener.counts)

    def until(self, condition: Callable[[Mapping[str, int]], bool]) -> None:
        """Wait until the counts of connections are as wanted."""
        for _ in range(3000):
            if condition(self.counts()):
                return
            time.sleep(0.01)
        raise AssertionError(self.counts())


def encode(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A frame as the Engine's client writes it: nothing is escaped."""
    lines = [command, *(f"{name}:{value}" for name, value in headers.items())]
    return "\n".join(lines).encode() + b"\n\n" + body + b"\0"


CONNECT = encode("CONNECT", {"accept-version": "1.2", "host": "null", "heart-beat": "0,15000"})
REQUESTS, RESPONSES, EVENTS = "jms.topic.vdsm_requests", "jms.topic.vdsm_responses", "jms.queue.events"


def subscribe(destination: str, ident: str) -> bytes:
    return encode("SUBSCRIBE", {"destination": destination, "id": ident, "ack": "auto"})


def send(method: str, ident: object = "1", params: object = None, **headers: str) -> bytes:
    """A SEND frame with a request."""
    request = {"jsonrpc": "2.0", "method": method, "params": params or {}, "id": ident}
    body = json.dumps(request, ensure_ascii=False).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return encode(
        "SEND",
        {"destination": REQUESTS, "reply-to": RESPONSES, "content-length": str(len(body)), **named},
        body,
    )


class Closed(Exception):
    """The server closed the connection."""


class Client:
    """A client on a plain or unix socket. ``chunk`` gives what one read brought."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._parser = Parser(1 << 24)
        self._frames: deque[Frame] = deque()

    def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def chunk(self) -> bytes:
        """What arrives next.

        Raises:
            Closed: nothing any more.
        """
        try:
            data = self.socket.recv(65536)
        except ConnectionError as error:
            raise Closed from error
        if not data:
            raise Closed
        return data

    def frame(self) -> Frame:
        """The next frame."""
        while not self._frames:
            self._frames.extend(self._parser.feed(self.chunk()))
            assert self._parser.error is None, self._parser.error
        return self._frames.popleft()

    def answer(self) -> Any:
        """The next frame's JSON."""
        frame = self.frame()
        assert frame.command == "MESSAGE", frame
        return json.loads(frame.body)

    def ask(self, method: str, ident: object = "1", params: object = None, **headers: str) -> Any:
        self.write(send(method, ident, params, **headers))
        return self.answer()

    def wait_closed(self) -> bytes:
        """Read until the server closes; returns what came."""
        data = b""
        try:
            while True:
                data += self.chunk()
        except Closed:
            return data

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TlsClient(Client):
    """A client that sees each TLS record by itself: ``chunk`` is what one record held."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(connected)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._in.write(self._record())
        self._flush()

    def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.tls.write(piece)
            self._flush()

    def chunk(self) -> bytes:
        while True:
            try:
                data = self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                self._in.write(self._record())
            except ssl.SSLZeroReturnError:
                raise Closed from None
            else:
                if not data:
                    raise Closed
                return data

    def _flush(self) -> None:
        try:
            self.socket.sendall(self._out.read())
        except ConnectionError as error:
            raise Closed from error

    def _record(self) -> bytes:
        header = self._exactly(5)
        return header + self._exactly(int.from_bytes(header[3:5]))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionError as error:
                raise Closed from error
            if not piece:
                raise Closed
            data += piece
        return data


def client_context(
    certificates: Certificates, pair: Pair | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> ssl.SSLContext:
    """What an Engine uses: one TLS version, a certificate, no look at the host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(certificates.authority.certificate)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def dial(port: int, host: str = "127.0.0.1") -> socket.socket:
    connected = socket.create_connection((host, port), timeout=30)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected
