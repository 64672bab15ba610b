"""Hostile clients on the real daemon: whatever they send, others are answered, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from lab.agent_host import AgentHost, Problem, short_directory
from lab.light import LightHost, eventually
from needs import needs
from wire import CONNECT, Client, Closed, TlsClient, client_context, encode, send, subscribe

pytestmark = [pytest.mark.light, needs("root", "qemu", "program:libvirtd")]

FRAME_BYTES: Final = 8 << 20
CONNECTIONS: Final = 256
OPTIONS = """
[limits]
handshake_s = 2.0
"""
# The allocator keeps some of what was given back, for each thread; a leak would grow with each of these tests.
KEPT_BYTES: Final = 192 << 20
# A promise of the product is one second; machines of tests are slow at times.
PATIENCE_S: Final = 10.0

POST: Final = b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SEEDS: Final = [
    CONNECT,
    subscribe("jms.queue.events", "e"),
    send("Host.ping"),
    send("VM.getStats", params={"vmID": "x"}),
    encode("DISCONNECT", {"receipt": "1"}),
    b"GET /api/v1/vms HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{\"name\":\"x\"}",
    b"POST /api/v1/jsonrpc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2]\r\n0\r\n\r\n",
    b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 7\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
]  # fmt: skip
SPICE: Final = [
    b"\0", b"\r\n", b"\n\n", b":", b"content-length:99999999999999999999\n", b"content-length:-1\n", b"\xff\xfe",
    b"\xc3", b"\xed\xa0\x80", b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n", b"%00",
    b"A" * 70_000, b"heart-beat:1e9,-5\n", b"{\"jsonrpc\":", b"[" * 2000,
]  # fmt: skip


class Witness:
    """A client of the network port who must be answered all the time."""

    def __init__(self, agent: AgentHost) -> None:
        self.client = TlsClient(
            socket.create_connection(("127.0.0.1", agent.port), timeout=PATIENCE_S),
            client_context(agent.certificates, agent.certificates.manager),
        )
        self.client.write(CONNECT)
        self.client.frame()
        self.answers = 0
        self.failure: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        try:
            while True:
                for method in ("Host.ping", "Host.getStats", "Host.getVMList"):
                    assert "result" in self.client.ask(method)
                    self.answers += 1
                if self._ended.wait(0.02):
                    return
        except BaseException as error:  # noqa: BLE001 - told at the end
            self.failure = error

    def finish(self) -> None:
        """Say how it went."""
        self._ended.set()
        self._thread.join(PATIENCE_S)
        self.client.close()
        assert self.failure is None, f"after {self.answers} answers: {self.failure!r}"


class Daemon:
    """What a daemon takes from the machine."""

    def __init__(self, agent: AgentHost) -> None:
        self._agent = agent
        self._place = Path("/proc") / str(agent.pid())

    def resident_bytes(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+)", (self._place / "status").read_text())
        assert found is not None, "it runs"
        return int(found[1]) * 1024

    def files(self) -> int:
        return len(list((self._place / "fd").iterdir()))

    def threads(self) -> int:
        return self._agent.threads()


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentHost]:
    with (
        short_directory() as place,
        LightHost(place / "h", network=True) as host,
        AgentHost(place / "a", host, OPTIONS) as running,
    ):
        _warm(running)
        daemon = Daemon(running)
        before = daemon.resident_bytes()
        yield running
        eventually(lambda: daemon.resident_bytes() <= before + KEPT_BYTES, f"{before >> 20} MiB")


def _warm(agent: AgentHost) -> None:
    """Have all lazily made threads and buffers made."""
    requests = [send("Host.getVMList", f"{number}") for number in range(60)]
    requests += [send("Host.getCapabilities", f"{number}") for number in range(20)]
    requests += [
        send("VM.pause", f"{number}", {"vmID": "00000000-0000-4000-8000-000000000000"}) for number in range(20)
    ]
    for connect in (unix, tls):
        with connect(agent) as client:
            client.write(b"".join(requests))
            for _ in requests:
                client.answer()


@pytest.fixture(autouse=True)
def unharmed(agent: AgentHost) -> Iterator[None]:
    """Somebody else is served meanwhile, and afterwards the daemon has what it had."""
    daemon = Daemon(agent)
    before = (daemon.files(), daemon.threads())
    said = len(agent.log())
    witness = Witness(agent)
    try:
        yield
    finally:
        witness.finish()
    eventually(lambda: daemon.files() <= before[0], f"{before[0]} file descriptors")
    eventually(lambda: daemon.threads() <= before[1], f"{before[1]} threads")
    assert "Traceback" not in agent.log()[said:]


def unix(agent: AgentHost) -> Client:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(PATIENCE_S)
    connected.connect(str(agent.socket))
    return Client(connected)


def tls(agent: AgentHost) -> Client:
    context = client_context(agent.certificates, agent.certificates.manager)
    return TlsClient(socket.create_connection(("127.0.0.1", agent.port), timeout=PATIENCE_S), context)


def mutated(chance: random.Random) -> bytes:
    """One or several messages with something wrong."""
    data = bytearray(b"".join(chance.choices(SEEDS, k=chance.randint(1, 3))))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        what = chance.randrange(4)
        if what == 0:
            data[place:place] = chance.choice(SPICE)
        elif what == 1:
            del data[place : place + chance.randint(1, 40)]
        elif what == 2 and place < len(data):
            data[place] = chance.randrange(256)
        else:
            data[place:place] = chance.randbytes(chance.randint(1, 60))
    return bytes(data)


def abandon(client: Client, chance: random.Random) -> None:
    """Go in one of the ways in which clients go."""
    way = chance.randrange(3)
    with contextlib.suppress(OSError):
        if way == 0:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == 1:
            client.socket.shutdown(socket.SHUT_WR)
    client.close()


def test_thousands_of_junk_connections(agent: AgentHost) -> None:
    chance = random.Random(20_261_122)
    for _ in range(2500):
        client = unix(agent)
        with contextlib.suppress(OSError):
            client.write(mutated(chance))
            if chance.random() < 0.3:
                client.socket.settimeout(0.01)
                client.socket.recv(4096)
        abandon(client, chance)


def test_junk_on_the_network_port(agent: AgentHost) -> None:
    chance = random.Random(7)
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", agent.port), timeout=5) as plain:
            # Half of them look like TLS.
            head = b"\x16\x03\x01" + struct.pack(">H", chance.randrange(65536)) if chance.random() < 0.5 else b""
            plain.sendall(head + chance.randbytes(chance.randint(0, 2000)))
    for _ in range(150):
        with contextlib.suppress(OSError, ssl.SSLError, Closed):
            client = tls(agent)
            client.write(mutated(chance))
            abandon(client, chance)


def test_silent_connections_fill_the_port_and_not_the_unix_socket(agent: AgentHost) -> None:
    silent = [socket.create_connection(("127.0.0.1", agent.port), timeout=PATIENCE_S) for _ in range(CONNECTIONS + 44)]
    assert agent.call("GET", "/vms") == []
    half = [unix(agent) for _ in range(4)]
    for client in half:
        client.write(b"CONN")
    assert agent.rpc("Host.ping")["result"] is True
    for connection in silent:
        # All are let go: at once beyond the limit, the others when they said nothing for too long.
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        connection.close()
    for client in half:
        assert client.wait_closed() == b""
    with tls(agent) as client:
        assert client.ask("Host.ping")["result"] is True


def flood(head: bytes, piece: bytes, total: int) -> Iterator[bytes]:
    yield head
    for _ in range(total // len(piece)):
        yield piece


BIG: Final = FRAME_BYTES + (1 << 20)
FLOODS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "length": lambda: flood(b"SEND\ncontent-length:%d\n\n" % BIG, b"x" * 65536, BIG),
    "no length": lambda: flood(b"SEND\ndestination:a\n\n", b"x" * 65536, BIG),
    "headers": lambda: flood(b"SEND\n", b"name:value\n" * 1000, BIG),
    "one header": lambda: flood(b"SEND\nname:", b"v" * 65536, BIG),
    "heart-beats": lambda: flood(b"\nCONNECT", b"\n" * 65536, 1 << 20),
    "http length": lambda: flood(POST + b"Content-Length: %d\r\n\r\n" % BIG, b" " * 65536, BIG),
    "http chunks": lambda: flood(CHUNKED, b"8000\r\n" + b" " * 32768 + b"\r\n", BIG),
    "http headers": lambda: flood(b"GET / HTTP/1.1\r\n", b"x-name: value\r\n" * 1000, BIG),
    "http one header": lambda: flood(b"GET / HTTP/1.1\r\nx: ", b"v" * 65536, BIG),
    "http url": lambda: flood(b"GET /", b"u" * 65536, BIG),
    "many small chunks": lambda: flood(CHUNKED, b"1\r\n \r\n" * 1000, 1 << 20),
}  # fmt: skip


@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("connect", [unix, tls])
def test_floods_end_in_a_refusal(agent: AgentHost, kind: str, connect: Callable[[AgentHost], Client]) -> None:
    client = connect(agent)
    with contextlib.suppress(OSError, Closed):
        for piece in FLOODS[kind]():
            client.write(piece)
    client.socket.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        said = client.wait_closed()
        assert b"200 OK" not in said
        assert b"CONNECTED" not in said
    client.close()


DEEP: Final = 200_000
NOBODY: Final = "00000000-0000-4000-8000-000000000000"


def request(method: bytes, params: bytes = b"{}", ident: bytes = b"1") -> bytes:
    return b'{"jsonrpc":"2.0","id":%s,"method":"%s","params":%s}' % (ident, method, params)


def shutdown(delay: bytes) -> bytes:
    return request(b"VM.shutdown", b'{"vmID":"x","delay":%s}' % delay)


def echo(message: bytes) -> bytes:
    return request(b"Host.echo", b'{"message":"%s"}' % message)


def create(params: bytes) -> bytes:
    return request(b"VM.create", b'{"vmID":"%s","vmParams":{%s}}' % (NOBODY.encode(), params))


EVIL_JSON: Final[dict[str, bytes]] = {
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep params": request(b"Host.getVMList", b'{"vmList":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "open": b"[" * DEEP,
    "huge integer": request(b"Host.ping", ident=b"9" * 100_000),
    "huge float": shutdown(b"1e99999"),
    "huge parameter": shutdown(b"9" * 5000),
    "huge text number": shutdown(b'"%s"' % (b"9" * 5000)),
    "nan": request(b"Host.ping", ident=b"NaN"),
    "invalid utf-8": echo(b"\xff\xfe"),
    "overlong utf-8": echo(b"\xc0\x80"),
    "surrogate": echo(b"\\ud800"),
    "surrogate in id": request(b"Host.ping", ident=b'"\\udfff"'),
    "invalid utf-8 in id": request(b"Host.ping", ident=b'"\xff"'),
    "nul in id": request(b"Host.ping", ident=b'"a\\u0000b"'),
    "nul in method": request(b"Host.ping\\u0000"),
    "invalid utf-8 in method": request(b"Host.\xff"),
    "nul in name": create(b'"name":"a\\u0000b"'),
    "nul in path": create(b'"name":"a","disks":[{"path":"/tmp/\\u0000"}]'),
    "nul in command line": create(b'"name":"a","boot":{"kernel":"/tmp/x","cmdline":"a\\u0000b"}'),
    "nul in xml": create(b'"xml":"<domain>\\u0000</domain>"'),
    "surrogate in xml": create(b'"xml":"<domain>\\ud800</domain>"'),
    "deep xml": create(b'"xml":"%s"' % (b"<a>" * DEEP)),
    "wide xml": create(b'"xml":"<domain %s/>"' % b" ".join(b"a%d='x'" % number for number in range(50_000))),
    "surrogate in vm": request(b"VM.getStats", b'{"vmID":"\\ud800"}'),
    "long method": request(b"m" * 1_000_000),
    "object id": request(b"Host.ping", ident=b'{"a":1}'),
    "array params": request(b"Host.ping", b"[1,2]"),
    "duplicate keys": b'{"id":1,"id":2,"method":"Host.ping","method":"VM.destroy","params":{"vmID":"x","vmID":7}}',
    "batch": b"[" + b",".join([request(b"Host.getStats")] * 20_000) + b"]",
    "batch of batches": b"[[[]],[[]]]",
    "empty": b"",
    "blank": b" " * 100_000,
    "surrogate in logger": request(b"Host.setLogLevel", b'{"level":"INFO","name":"\\ud800"}'),
}


@pytest.mark.parametrize("kind", EVIL_JSON)
def test_evil_json_gets_one_clear_error(agent: AgentHost, kind: str) -> None:
    body = EVIL_JSON[kind]
    head = {"destination": "jms.topic.vdsm_requests", "reply-to": "r", "content-length": str(len(body))}
    with tls(agent) as client:
        client.write(encode("SEND", head, body))
        answer = json.loads(client.frame().body, parse_int=lambda digits: int(digits[:18]))
        if isinstance(answer, dict) and "error" in answer:
            assert type(answer["error"]["code"]) is int
            assert answer["error"]["message"]
            assert len(answer["error"]["message"]) < 5000
            assert "internal error" not in answer["error"]["message"], answer
        assert client.ask("Host.ping")["result"] is True
    for path in ("jsonrpc", "vms"):
        status, said = post(agent, f"/api/v1/{path}", body)
        assert status < 500, said[:300]
    assert agent.call("GET", "/vms") == []


def post(agent: AgentHost, path: str, body: bytes) -> tuple[int, bytes]:
    """One request; status and body."""
    with unix(agent) as client:
        client.write(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
        )
        head, _, said = client.wait_closed().partition(b"\r\n\r\n")
    return int(head.split()[1]), said


def test_slow_readers_are_bounded(agent: AgentHost) -> None:
    daemon = Daemon(agent)
    before = daemon.resident_bytes()
    readers = [tls(agent) for _ in range(4)]
    text = "x" * (1 << 20)
    for client in readers:
        client.socket.settimeout(1)
        with contextlib.suppress(OSError, Closed):
            for number in range(60):
                client.write(send("Host.echo", str(number), {"message": text}))
    assert daemon.resident_bytes() < before + 4 * (48 << 20)
    for client in readers:
        client.close()
    gc.collect()


def test_many_streams_of_events_and_none_is_read(agent: AgentHost) -> None:
    streams = [unix(agent) for _ in range(60)]
    for client in streams:
        client.write(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    for client in streams:
        assert client.chunk().startswith(b"HTTP/1.1 200")
    for client in streams:
        client.close()


def test_requests_by_single_bytes(agent: AgentHost) -> None:
    slow = [(unix(agent), b"GET /api/v1/vms HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), (tls(agent), CONNECT)]
    for client, request in slow:
        for byte in request:
            client.write(bytes([byte]))
        assert client.chunk().startswith((b"HTTP/1.1 200", b"CONNECTED"))
        client.close()


def test_hundreds_of_subscriptions_and_destinations(agent: AgentHost) -> None:
    with tls(agent) as client:
        for number in range(300):
            with contextlib.suppress(Closed):
                client.write(subscribe(f"jms.queue.{number}.{'a.' * 500}", f"id{number}"))
        with contextlib.suppress(TimeoutError):
            assert b"ERROR" in client.wait_closed()
    with tls(agent) as client:
        for number in range(100):
            client.write(send("Host.ping", str(number), **{"reply-to": f"queue-{number}-{os.urandom(8).hex()}"}))
        for _ in range(100):
            assert client.answer()["result"] is True


def test_bad_paths_queries_and_headers(agent: AgentHost) -> None:
    for target in (
        "/api/v1/vms/%00",
        "/api/v1/vms/..%2f..%2fetc",
        "/api/v1/vms?only_uuid=%ff",
        "/api/v1/vms?" + "a=b&" * 5000,
        "//",
        "/%",
    ):
        with contextlib.suppress(Problem, json.JSONDecodeError):
            answer = get(agent, target)
            assert answer[0] < 500, answer
    assert get(agent, "/api/v1/events", b"Last-Event-ID: " + b"9" * 5000 + b"\r\n")[0] in {200, 400, 422}
    assert get(agent, "/api/v1/vms", b"Authorization: Bearer " + b"x" * 30_000 + b"\r\n")[0] in {200, 401}
    assert get(agent, "/api/v1/vms", b"Authorization: Bearer \xff\xfe\r\n")[0] in {200, 400, 401}


def get(agent: AgentHost, target: str, more: bytes = b"") -> tuple[int, Any]:
    """One request; status and the beginning of the answer."""
    with unix(agent) as client:
        client.write(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % (target.encode(), more))
        said = client.chunk()
    return int(said.split()[1]), said[:300]
