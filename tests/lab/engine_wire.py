"""The connection of an oVirt Engine to a host, as strict and as slow as the Engine's own client library.

One thread per connection, as there: its selector sleeps up to a second, and each time it wakes up it reads once into a
buffer of one TLS record's size and unwraps one record. What the library cannot stand ends the connection with `Broken`:
a header cut by a record, two frames in one record, a body of more than 1 KiB without content-length, silence for longer
than 1.5 times the agreed heart-beat. Answers and events are decoded as its JSON library does: see `engine_values`.
"""

from __future__ import annotations

import json
import queue
import re
import select
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Self

# Of one TLS record with its overhead, as the Engine's Java says.
_NET_BUFFER: Final = 16709
_RECORD_HEAD: Final = 5
_SELECT_S: Final = 1.0
_CONNECT_S: Final = 20.0
CALL_S: Final = 180.0
_GRACE: Final = 1.5
_BODY_WITHOUT_LENGTH: Final = 1024
_INT32: Final = range(-(1 << 31), 1 << 31)

REQUESTS, RESPONSES, EVENTS = "jms.topic.vdsm_requests", "jms.topic.vdsm_responses", "jms.queue.events"
IRS_REQUESTS, IRS_RESPONSES = "jms.topic.vdsm_irs_requests", "jms.topic.vdsm_irs_responses"


class Broken(Exception):
    """The client library gives the connection up; all calls in flight fail."""


class ClassCast(Exception):
    """A JSON kind that the Engine does not expect: the whole answer is lost, and the host may become Error."""


class VdsError(Exception):
    """An error answer of a verb."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True)
class EngineEvent:
    """A notification of a host, as it reaches the Engine's subscribers."""

    component: str
    operation: str
    ident: str
    params: Mapping[str, Any]

    @property
    def notify_time(self) -> int:
        """Orders events and answers of one host."""
        return int(self.params["notify_time"])

    def matches(self, subscription: str) -> bool:
        """Whether a subscription such as ``*|virt|VM_status|*`` wants it; its host field is not looked at."""
        wanted = [field for field in subscription.split("|")[1:] if field != "*"]
        return all(field in {self.component, self.operation, self.ident} for field in wanted)


class Connection:
    """One STOMP connection over TLS 1.2. ``events`` is None for the SPM client, which has no event queue."""

    def __init__(
        self,
        connected: socket.socket,
        context: ssl.SSLContext,
        *,
        requests: str = REQUESTS,
        responses: str = RESPONSES,
        events: str | None = EVENTS,
        heart_beat_ms: int = 15_000,
    ) -> None:
        self.events: queue.Queue[EngineEvent] = queue.Queue()
        self.late = 0
        """How often a record lay in the client's buffer while its selector slept."""
        self.beats = 0
        self._requests, self._responses = requests, responses
        self._wanted_ms = heart_beat_ms
        self._agreed_s = 0.0
        self._socket = connected
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        self._net = b""
        self._handshake()
        self._buffer = b""
        self._lock = threading.Lock()
        self._calls: dict[str, Future[Any]] = {}
        self._connected: Future[None] = Future()
        self._error: BaseException | None = None
        self._closing = False
        self._heard_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._open(events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, events: str | None) -> None:
        beat = f"0,{self._wanted_ms}"
        self._send("CONNECT", {"accept-version": "1.2", "host": "null", "heart-beat": beat})
        for destination in (events, self._responses):
            if destination is not None:
                self._send("SUBSCRIBE", {"destination": destination, "id": str(uuid.uuid4()), "ack": "auto"})
        self._connected.result(_CONNECT_S)

    # -- what the Engine does

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, flow: str = "", wait_s: float = CALL_S
    ) -> Any:
        """Call a verb; its result.

        Raises:
            VdsError: it answered with an error.
            ClassCast: the error cannot be read.
            Broken: the connection was given up.
        """
        return self.begin(method, params, flow=flow).result(wait_s)

    def begin(self, method: str, params: Mapping[str, Any] | None = None, *, flow: str = "") -> Future[Any]:
        """Call a verb and do not wait."""
        ident = str(uuid.uuid4())
        future: Future[Any] = Future()
        with self._lock:
            if self._error is not None:
                raise Broken from self._error
            self._calls[ident] = future
        request = {"jsonrpc": "2.0", "method": method, "params": dict(params or {}), "id": ident}
        body = json.dumps(request, ensure_ascii=False).encode()
        headers = {"destination": self._requests, "reply-to": self._responses, "content-length": str(len(body))}
        if flow:
            headers["ovirtCorrelationId"] = flow
        self._send("SEND", headers, body)
        return future

    def event(self, subscription: str = "*|*|*|*", wait_s: float = 60.0) -> EngineEvent:
        """The next event that a subscription wants."""
        end_s = time.monotonic() + wait_s
        while True:
            event = self.events.get(timeout=max(0.01, end_s - time.monotonic()))
            if event.matches(subscription):
                return event

    def close(self) -> None:
        """End as the library does: often nothing of it arrives."""
        self._closing = True
        try:
            self._send("DISCONNECT", {"receipt": str(uuid.uuid4())})
        except (OSError, ssl.SSLError):
            return
        finally:
            self._socket.close()
            self._thread.join(10)

    @property
    def error(self) -> BaseException | None:
        """Why the connection was given up."""
        return self._error

    # -- TLS

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._net += self._received(_NET_BUFFER)
                while record := self._record():
                    self._in.write(record)
        self._flush()

    def _received(self, size: int) -> bytes:
        data = self._socket.recv(size)
        if not data:
            raise Broken("the host closed the connection")
        return data

    def _flush(self) -> None:
        self._socket.sendall(self._out.read())

    def _record(self) -> bytes:
        """The first whole record of what was read."""
        if len(self._net) < _RECORD_HEAD:
            return b""
        size = _RECORD_HEAD + int.from_bytes(self._net[3:5])
        if len(self._net) < size:
            return b""
        record, self._net = self._net[:size], self._net[size:]
        return record

    def _send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        lines = [command, *(f"{name}:{value}" for name, value in headers.items())]
        with self._lock:
            self._tls.write("\n".join(lines).encode() + b"\n\n" + body + b"\0")
            self._flush()

    # -- the reactor

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            with self._lock:
                self._error = error
                waiting = [self._connected, *self._calls.values()]
            self._socket.close()
            for future in waiting:
                if not future.done():
                    future.set_exception(Broken(str(error)))

    def _turn(self) -> None:
        ready, _, _ = select.select([self._socket], [], [], _SELECT_S)
        if ready:
            self._net += self._received(_NET_BUFFER - len(self._net))
            self._heard_s = time.monotonic()
        elif self._agreed_s and time.monotonic() - self._heard_s > self._agreed_s * _GRACE:
            raise Broken(f"no heart-beat for {self._agreed_s * _GRACE:.1f} s")
        record = self._record()
        if not record:
            return
        self.late += not ready
        self._in.write(record)
        with self._lock:
            try:
                plain = self._tls.read(1 << 16)
            except ssl.SSLWantReadError:
                return
        if not plain:
            raise Broken("the host ended TLS")
        self._take(plain)

    def _take(self, plain: bytes) -> None:
        if not self._buffer:
            self.beats += not plain.strip(b"\n")
            plain = plain.lstrip(b"\n")
        self._buffer += plain
        if not self._buffer:
            return
        head, end, rest = self._buffer.partition(b"\n\n")
        if not end:
            if head.count(b"\n") > 1:
                raise Broken(f"a header was cut: {head[-80:]!r}")
            return
        command, headers = _parsed(head)
        size = self._body_size(headers, rest)
        if size is None or len(rest) <= size:
            return
        body, after = rest[:size], rest[size:]
        if after[:1] != b"\0":
            raise Broken(f"content-length is not the body's: {after[:40]!r}")
        if after[1:].strip(b"\n"):
            raise Broken(f"two frames in one record: {after[:80]!r}")
        self._buffer = b""
        self._handle(command, headers, body)

    @staticmethod
    def _body_size(headers: Mapping[str, str], rest: bytes) -> int | None:
        if "content-length" in headers:
            return int(headers["content-length"])
        if len(rest) > _BODY_WITHOUT_LENGTH:
            raise Broken("a long body without content-length")
        end = rest.find(b"\0")
        return None if end < 0 else end

    # -- frames

    def _handle(self, command: str, headers: Mapping[str, str], body: bytes) -> None:
        if command == "CONNECTED":
            sends, _wants = headers["heart-beat"].split(",")
            self._agreed_s = int(sends) / 1000
            self._connected.set_result(None)
        elif command == "MESSAGE":
            self._message(json.loads(body.decode("utf-8")))
        elif command == "ERROR":
            raise Broken(f"ERROR frame: {headers.get('message')}")

    def _message(self, message: dict[str, Any]) -> None:
        if message.get("jsonrpc") != "2.0":
            raise Broken(f"no JSON-RPC 2.0: {message}")
        if "id" not in message:
            self.events.put(_event(message))
            return
        with self._lock:
            future = self._calls.pop(message["id"], None)
        if future is None:
            return  # of another client that shares the queue
        try:
            future.set_result(_result(message))
        except (VdsError, ClassCast) as error:
            future.set_exception(error)


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    command, *lines = head.decode("utf-8").split("\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or re.search(r"[\r]", line):
            raise Broken(f"not a header: {line!r}")
        headers.setdefault(name, value)
    return command, headers


def _result(message: Mapping[str, Any]) -> Any:
    error = message.get("error")
    if error is None:
        if "result" not in message:
            raise ClassCast(f"neither result nor error: {message}")
        return message["result"]
    if "result" in message:
        raise ClassCast(f"result and error: {message}")
    code = error.get("code")
    if type(code) is not int or code not in _INT32 or not isinstance(error.get("message"), str):
        raise ClassCast(f"error {error}")
    raise VdsError(code, error["message"])


def _event(message: Mapping[str, Any]) -> EngineEvent:
    # The library puts its host's name before the method and splits; Java's split drops empty fields at the end.
    fields = re.sub(r"\|+$", "", "host" + message["method"]).split("|")
    if len(fields) != 4 or not all(fields):
        raise Broken(f"an event with another form: {message['method']}")
    if type(message["params"].get("notify_time")) is not int:
        raise Broken(f"an event without notify_time: {message}")
    return EngineEvent(*fields[1:], params=message["params"])
