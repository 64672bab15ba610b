"""The host's end of a node's command channel; agent/agent.py is the other end and describes the frames."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .deadlines import eventually

HEADER = struct.Struct(">II")
# The agent enforces a command's deadline; a node that does not answer at all is given up this much later.
GRACE_S = 20.0
_SEND_S = 30


class ChannelClosed(RuntimeError):
    """The node went away, or its agent does not answer."""


class CommandFailed(RuntimeError):
    """A command in a node failed or missed its deadline."""


@dataclass(frozen=True)
class Answer:
    """What became of a command: its exit status (negative: killed by that signal; None: the deadline came first)."""

    code: int | None
    stdout: bytes = b""
    stderr: bytes = b""
    value: bytes = b""
    error: str = ""

    @property
    def timed_out(self) -> bool:
        """Whether the deadline came first."""
        return self.code is None

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        return (self.stdout + self.stderr).decode(errors="replace")

    def checked(self, what: str) -> Answer:
        """Itself.

        Raises:
            CommandFailed: the command failed or missed its deadline.
        """
        if self.code:
            raise CommandFailed(f"{what}: status {self.code} {self.error}\n{self.output[-4000:]}")
        if self.timed_out:
            raise CommandFailed(f"{what}: no end before the deadline\n{self.output[-4000:]}")
        return self


class Running:
    """A command under way in a node."""

    def __init__(self, channel: Channel, ident: int, what: str, future: Future[Answer], timeout_s: float) -> None:
        self._channel = channel
        self._ident = ident
        self._what = what
        self._future = future
        self._timeout_s = timeout_s

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def wait(self, timeout_s: float | None = None, *, check: bool = True) -> Answer:
        """Its answer.

        Raises:
            CommandFailed: it failed (with ``check``), or has not ended within ``timeout_s``.
            ChannelClosed: the node went away.
        """
        patience_s = self._timeout_s + GRACE_S if timeout_s is None else timeout_s
        try:
            answer = self._future.result(patience_s)
        except FutureTimeout as error:
            raise CommandFailed(f"{self._what}: no answer within {patience_s:.0f} s") from error
        return answer.checked(self._what) if check else answer

    def kill(self, number: int = 9) -> None:
        """Send a signal to the command's process group."""
        self._channel.request({"op": "kill", "of": self._ident, "signal": number}, what="kill", timeout_s=10).wait(
            check=False
        )


class Channel:
    """One connection to an agent's port. Any thread may send; one thread receives."""

    def __init__(self, path: Path, alive: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Connect to the port's socket; that the agent answers is asked by ``greet``."""
        self._socket = socket.socket(socket.AF_UNIX)
        # A frozen node takes nothing: sending to it ends with an error.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_S, 0))
        self._alive = alive
        self._pending: dict[int, Future[Answer]] = {}
        # An answer to an earlier connection's request may still come: numbers must not repeat.
        self._idents = itertools.count(int.from_bytes(os.urandom(4), "big") << 16 | 1)
        self._sending = threading.Lock()
        self._closed = False
        self._greeted = False
        eventually(lambda: self._connected(path), f"the agent's socket {path}", timeout_s, 0.01)
        self._reader = threading.Thread(target=self._receive, name=f"lab-channel-{path.parent.name}", daemon=True)
        self._reader.start()

    def _connected(self, path: Path) -> bool:
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            if not self._alive():
                raise ChannelClosed("QEMU has ended") from None
            return False
        return True

    def greet(self, timeout_s: float) -> None:
        """Wait until the agent answers.

        Raises:
            ChannelClosed: QEMU ended.
            TooLate: no answer in time.
        """
        asked = [self.request({"op": "ping"}, what="ping", timeout_s=timeout_s)]
        again = time.monotonic()

        def answered() -> bool:
            nonlocal again
            if time.monotonic() > again + 0.5:  # one sent while the port was being opened may be lost
                again = time.monotonic()
                asked.append(self.request({"op": "ping"}, what="ping", timeout_s=timeout_s))
            if self._closed or not self._alive():
                raise ChannelClosed("QEMU has ended")
            return any(one.done for one in asked)

        eventually(answered, "an answer of the node's agent", timeout_s, 0.01)
        self._greeted = True

    def request(self, header: dict[str, Any], blob: bytes = b"", *, what: str, timeout_s: float) -> Running:
        """Send a request.

        Raises:
            ChannelClosed: the connection is gone.
        """
        ident = next(self._idents)
        future: Future[Answer] = Future()
        head = json.dumps({"id": ident, "timeout_s": timeout_s, **header}).encode()
        with self._sending:
            if self._closed:
                raise ChannelClosed(f"{what}: the node is gone")
            self._pending[ident] = future
            try:
                self._socket.sendall(HEADER.pack(len(head), len(blob)) + head + blob)
            except OSError as error:
                raise ChannelClosed(f"{what}: {error}") from error
        return Running(self, ident, what, future, timeout_s)

    def close(self) -> None:
        """End the connection; whoever waits gets ChannelClosed."""
        with self._sending:
            self._closed = True
        with contextlib.suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(timeout=10)
        self._socket.close()

    def _receive(self) -> None:
        stream = self._socket.makefile("rb")
        try:
            while head := stream.read(HEADER.size):
                sizes = HEADER.unpack(head)
                header = json.loads(stream.read(sizes[0]))
                self._deliver(header, stream.read(sizes[1]))
        except (OSError, struct.error, ValueError):
            pass  # cut off in the middle: the same as an end
        finally:
            stream.close()
            with self._sending:
                self._closed = True
            self._lose("the node went away")

    def _lose(self, reason: str) -> None:
        while self._pending:
            _, future = self._pending.popitem()
            future.set_exception(ChannelClosed(reason))

    def _deliver(self, header: dict[str, Any], blob: bytes) -> None:
        future = self._pending.pop(header["id"], None)
        if header["id"] == 0 and self._greeted:  # the agent was started anew
            self._lose("the node's agent has died")
        if future is None:
            return  # the agent's greeting, or an answer to an earlier connection
        streams = _cut(blob, header["sizes"])
        code = None if header.get("timed_out") else header["code"]
        future.set_result(Answer(code, *streams, error=header.get("error", "")))


def _cut(blob: bytes, sizes: Sequence[int]) -> list[bytes]:
    ends = list(itertools.accumulate(sizes))
    return [blob[end - size : end] for end, size in zip(ends, sizes, strict=True)]
