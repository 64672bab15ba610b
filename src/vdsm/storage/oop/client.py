"""The agent's end of one helper process: sends requests, hands out answers, and gives up what does not answer."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

import vdsm
from vdsm.base import process, threads
from vdsm.base.clock import boottime_s, monotonic_s
from vdsm.base.errors import Failed
from vdsm.storage.oop import frames

_CHUNK: Final = 1 << 18
_MODULE: Final = "vdsm.storage.oop.helper"


class Lost(Exception):
    """The helper has ended; whether it did the call is not known."""


class Late(Exception):
    """No answer within the deadline."""


class HelperClient:
    """One helper process; may be used by many threads at once.

    Starts it, in a few tenths of a second of its own time: the first request just waits for it. A thread of its own
    reads the answers; it ends when the socket is closed from either side, and then clears the process away.
    """

    def __init__(self, domain: str) -> None:
        """Start the helper.

        Raises:
            CommandFailed: it could not be started.
        """
        self._domain: Final = domain
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._waiting: dict[int, Future[frames.Answer]] = {}
        self._last = 0
        self._closed = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(0.0)
        try:
            self._child: Final = process.spawn(
                [sys.executable, "-S", "-s", "-P", "-X", "no_debug_ranges", "-m", _MODULE, domain],
                env={"PYTHONPATH": _search_path(), "MALLOC_ARENA_MAX": "1"},
                stdin=theirs.fileno(),
                stdout=process.DEVNULL,
                stderr=sys.__stderr__.fileno() if sys.__stderr__ else process.DEVNULL,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        threads.start(f"oop-{domain}", self._read)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended and been cleared away."""
        return self._closed and self._child.poll() is not None

    @property
    def in_flight(self) -> int:
        """How many calls wait for an answer."""
        with self._lock:
            return len(self._waiting)

    def call(self, name: str, arguments: list[Any], options: dict[str, Any], until_s: float) -> Any:
        """Have a call done.

        Args:
            name: one of ``frames.CALLS``.
            arguments: its positional arguments; texts are paths.
            options: its named arguments, none of them a path.
            until_s: the monotonic time at which it is given up.

        Raises:
            OSError: the file system's answer.
            Lost: the helper ended meanwhile.
            Late: there is no answer yet.
            Failed: the helper has a defect.
        """
        answered: Future[frames.Answer] = Future()
        with self._lock:
            if self._closed:
                raise Lost
            self._last += 1
            number = self._last
            self._waiting[number] = answered
        try:
            limit = boottime_s() + until_s - monotonic_s()
            self._send(frames.encode_request(number, name, arguments, options, limit), until_s)
            answer = answered.result(max(0.0, until_s - monotonic_s()))
        except TimeoutError:
            raise Late from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        return _outcome(name, answer)

    def close(self) -> None:
        """Kill it, without waiting for its end; calls that are under way are lost."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, data: bytes, until_s: float) -> None:
        """Send a whole frame; when only a part went out in time, nothing more can be sent, and the helper is killed."""
        if not self._sending.acquire(timeout=max(0.0, until_s - monotonic_s())):
            raise Late
        try:
            view = memoryview(data)
            while view:
                try:
                    view = view[self._socket.send(view) :]
                except BlockingIOError:
                    if not _ready(self._socket, select.POLLOUT, until_s):
                        self.close()
                        raise Late from None
        except OSError as error:
            raise Lost from error
        finally:
            self._sending.release()

    def _read(self) -> None:
        reader = frames.FrameReader()
        try:
            # The deadline is each call's own; here is nothing to wait for but an answer or the end.
            while _ready(self._socket, select.POLLIN, None) and (data := self._socket.recv(_CHUNK)):
                for body in reader.feed(data):
                    self._settle(frames.decode_answer(body))
        except OSError:
            pass  # the other end is gone: as at the end of the stream
        finally:
            with self._lock:
                self._closed = True
                waiting = list(self._waiting.values())
            for answered in waiting:
                answered.set_exception(Lost())
            # Both a helper that has ended and one that we gave up: this kills, and abandons what cannot be killed.
            self._child.stop(0.0)
            with self._sending:
                self._socket.close()

    def _settle(self, answer: frames.Answer) -> None:
        with self._lock:
            answered = self._waiting.pop(answer.number, None)
        if answered is not None:  # otherwise it was given up
            answered.set_result(answer)


def _outcome(name: str, answer: frames.Answer) -> Any:
    if answer.fault is None:
        try:
            return frames.decode_result(name, answer.result)
        except msgspec.ValidationError as error:
            raise Failed(f"the file helper's {name}", f"bad answer: {error}") from error
    if answer.fault.errno == 0:
        raise Failed(f"the file helper's {name}", answer.fault.text)
    raise answer.fault.error()


def _ready(connection: socket.socket, events: int, until_s: float | None) -> bool:
    watch = select.poll()
    watch.register(connection, events)
    return bool(watch.poll(None if until_s is None else max(0.0, until_s - monotonic_s()) * 1000))


def _search_path() -> str:
    """Where the helper finds this package and msgspec: it starts without site, which costs more than the rest."""
    roots = [Path(module.__file__ or "").resolve().parents[1] for module in (vdsm, msgspec)]
    return os.pathsep.join(dict.fromkeys(map(str, roots)))
