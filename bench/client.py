"""A lean STOMP client over TLS: what it costs must not hide what the server costs."""

from __future__ import annotations

import json
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

REQUESTS: Final = "jms.topic.vdsm_requests"
RESPONSES: Final = "jms.topic.vdsm_responses"
EVENTS: Final = "jms.queue.events"
IDENT: Final = "6b3e6b4e-0000-4000-8000-123456789abc"
RECOVERING: Final = 99


@dataclass(frozen=True)
class Pki:
    """A client's files."""

    ca: Path
    certificate: Path
    key: Path


class RequestFailed(Exception):
    """The answer is an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.code = int(error["code"])


def frame(command: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [command, *(f"{name}:{value}" for name, value in headers.items())]
    return "\n".join(lines).encode() + b"\n\n" + body + b"\0"


def request(method: str, params: dict[str, Any] | None = None) -> bytes:
    """A SEND frame, as an Engine's client writes it."""
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}, "id": IDENT}).encode()
    headers = {"destination": REQUESTS, "reply-to": RESPONSES, "content-length": str(len(body))}
    return frame("SEND", headers, body)


def context(pki: Pki) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.maximum_version = ssl.TLSVersion.TLSv1_2  # as an Engine does
    made.load_verify_locations(pki.ca)
    made.load_cert_chain(pki.certificate, pki.key)
    return made


class Connection:
    """One connection, one request outstanding."""

    def __init__(self, port: int, pki: Pki, *, events: bool = False, timeout_s: float = 30.0) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context(pki).wrap_socket(raw)
        self._buffer = bytearray(1 << 18)
        self._waiting = b""
        self.socket.sendall(frame("CONNECT", {"accept-version": "1.2", "heart-beat": "0,0"}))
        self.socket.sendall(frame("SUBSCRIBE", {"destination": RESPONSES, "id": "r", "ack": "auto"}))
        if events:
            self.socket.sendall(frame("SUBSCRIBE", {"destination": EVENTS, "id": "e", "ack": "auto"}))
        connected = self.frame()
        assert connected.startswith(b"CONNECTED"), connected

    def exchange(self, message: bytes) -> int:
        """Send and read to the end of the answer, without looking at it; returns its size."""
        self.socket.sendall(message)
        return self.skip()

    def skip(self) -> int:
        """Read to the end of a frame; returns its size. Only where nothing but one answer is to be expected."""
        total = 0
        while True:
            size = self.socket.recv_into(self._buffer)
            if not size:
                raise ConnectionError("the server closed the connection")
            total += size
            if self._buffer[size - 1] == 0:
                return total

    def frame(self) -> bytes:
        """The next frame, heart-beats left out."""
        while True:
            found, end, rest = self._waiting.partition(b"\0")
            if end:
                self._waiting = rest
                return found.lstrip(b"\n")
            size = self.socket.recv_into(self._buffer)
            if not size:
                raise ConnectionError("the server closed the connection")
            self._waiting += self._buffer[:size]

    def message(self) -> dict[str, Any]:
        """The next frame's JSON."""
        return json.loads(self.frame().partition(b"\n\n")[2])

    def ask(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """The result of a verb; events that come before it are dropped.

        Raises:
            RequestFailed: it has an error.
        """
        self.socket.sendall(request(method, params))
        while True:
            message = self.message()
            if "id" in message:
                if "error" in message:
                    raise RequestFailed(message["error"])
                return message["result"]

    def event(self, vm_id: str, *, leaves: str) -> str:
        """Wait for a VM's event with a status other than ``leaves``; the status."""
        while True:
            message = self.message()
            about = message.get("params", {}).get(vm_id)
            if "error" in message:
                raise RequestFailed(message["error"])
            if about is not None and about["status"] != leaves:
                return str(about["status"])

    def close(self) -> None:
        self.socket.close()


def eventually_ask(connection: Connection, method: str, until_s: float) -> float:
    """Ask until the agent has recovered; the monotonic time at which it had."""
    while True:
        try:
            connection.ask(method)
        except RequestFailed as error:
            if error.code != RECOVERING or time.monotonic() > until_s:
                raise
            time.sleep(0.002)
        else:
            return time.monotonic()
