"""The Engine's PUT and GET of whole volumes, on the path / of the port that it uses for everything else.

    PUT /   Storage-Pool-Id, Storage-Domain-Id, Image-Id, Volume-Id; body     200, Task-Id
    GET /   the same ids; Range: bytes=0-LAST                                 206, Task-Id, body

Failures are 500 (400 and 411 for requests that make no sense) with the status object of the original as JSON.
Source: wire facts, section "HTTP on the same port".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Final, ParamSpec, Protocol, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from vdsm.base.errors import Unfinished, VdsmError
from vdsm.base.threads import Pool as Workers

log = logging.getLogger(__name__)

IDS: Final = ("Storage-Pool-Id", "Storage-Domain-Id", "Image-Id", "Volume-Id")
_RANGE: Final = re.compile(r"bytes=0-([0-9]{1,18})")
_CHUNK: Final = 1 << 20
_SILENCE_S: Final = 60.0
_WORK_S: Final = 170.0
_UNEXPECTED: Final = 16
_STREAM: Final = "application/octet-stream"

P = ParamSpec("P")
T = TypeVar("T")
Ids = tuple[str, str, str, str]


class Store(Protocol):
    """What is behind; its calls may wait for storage."""

    def check(self, ids: Ids, size: int) -> None:
        """See that so much can be written or read."""

    def spool(self) -> Path:
        """A fresh file for a body."""

    def receive(self, ids: Ids, spool: Path, size: int) -> str:
        """Write a body into a volume; the task's id."""

    def send(self, ids: Ids, spool: Path, size: int) -> str:
        """Read a volume into a body; the task's id."""


@dataclass(eq=False)
class _Wrong(Exception):
    """The request makes no sense."""

    status: int
    reason: str


class OvfDoor:
    """Serves the two requests.

    Args:
        store: what is behind.
        workers: where calls of it, and of the spool, run.
        limit: the largest body in bytes.
    """

    def __init__(self, store: Store, workers: Workers, limit: int = 1 << 30) -> None:
        self._store = store
        self._workers = workers
        self._limit = limit

    def is_for(self, request: Request) -> bool:
        """Whether a request of the path / is for here, and not for the page that is there."""
        return request.method == "PUT" or any(name in request.headers for name in IDS)

    async def put(self, request: Request) -> Response:
        """PUT: write a volume."""
        return await self._answered(self._put(request))

    async def get(self, request: Request) -> Response:
        """GET: read a volume."""
        return await self._answered(self._get(request))

    async def _put(self, request: Request) -> Response:
        ids = _ids(request)
        size = self._length(request)
        await self._work(self._store.check, ids, size)
        spool = await self._work(self._store.spool)
        try:
            with await self._work(spool.open, "r+b") as file:
                await self._take(request, file, size)
            task_id = await self._work(self._store.receive, ids, spool, size)
        finally:
            spool.unlink(missing_ok=True)
        return Response(None, 200, {"Task-Id": task_id})

    async def _get(self, request: Request) -> Response:
        ids = _ids(request)
        match = _RANGE.fullmatch(request.headers.get("range", ""))
        if match is None:
            raise _Wrong(400, "the Range must be bytes=0-LAST")
        size = int(match[1]) + 1
        if size > self._limit:
            raise _Wrong(400, f"the range is larger than {self._limit} bytes")
        await self._work(self._store.check, ids, size)
        spool = await self._work(self._store.spool)
        try:
            task_id = await self._work(self._store.send, ids, spool, size)
            file = await self._work(spool.open, "rb")
        finally:
            # An open file stays readable.
            spool.unlink(missing_ok=True)
        headers = {"Task-Id": task_id, "Content-Length": str(size), "Content-Range": f"bytes 0-{size - 1}/{size}"}
        return StreamingResponse(self._give(file, size), 206, headers, _STREAM)

    def _length(self, request: Request) -> int:
        length = request.headers.get("content-length")
        if length is None:
            raise _Wrong(411, "Content-Length is missing")
        if not length.isdecimal() or not 0 < int(length) <= self._limit:
            raise _Wrong(400, f"Content-Length must be a number from 1 to {self._limit}")
        return int(length)

    async def _take(self, request: Request, file: BufferedRandom, size: int) -> None:
        """The body, into the spool; not on the loop."""
        waiting, done = bytearray(), 0
        stream = request.stream()
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    chunk = await anext(stream, b"")
            except TimeoutError as error:
                raise Unfinished("receiving the body", _SILENCE_S) from error
            waiting += chunk
            done += len(chunk)
            last = not chunk and done >= size
            if len(waiting) >= _CHUNK or last:
                await self._work(file.write, bytes(waiting))
                waiting.clear()
            if last or done > size:
                break
            if not chunk:
                raise _Wrong(400, "the body is shorter than its Content-Length")
        await self._work(file.flush)

    async def _give(self, file: BufferedReader, size: int) -> AsyncIterator[bytes]:
        left = size
        try:
            while left:
                chunk = await self._work(file.read, min(_CHUNK, left))
                if not chunk:
                    log.error("a volume is shorter than its metadata says: %d bytes were not there", left)
                    return
                left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def _work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what may wait, in a worker, under a deadline."""
        future = self._workers.submit(function, *args, **kwargs)
        try:
            async with asyncio.timeout(_WORK_S):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise Unfinished("moving the volume", _WORK_S) from error

    async def _answered(self, work: Awaitable[Response]) -> Response:
        try:
            return await work
        except _Wrong as error:
            return _failure(error.status, _UNEXPECTED, error.reason)
        except VdsmError as error:
            log.warning("a volume was not moved: %s", error)
            return _failure(500, error.code, str(error))
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except OSError as error:
            log.exception("a volume was not moved")
            return _failure(500, _UNEXPECTED, str(error))


def _ids(request: Request) -> Ids:
    found = []
    for name in IDS:
        value = request.headers.get(name)
        if value is None:
            raise _Wrong(400, f"{name} is missing")
        found.append(value)
    pool, domain, image, volume = found
    return pool, domain, image, volume


def _failure(status: int, code: int, message: str) -> Response:
    body = msgspec.json.encode({"status": {"code": code, "message": message}})
    answer = Response(body, status)
    with contextlib.suppress(KeyError):
        del answer.headers["content-type"]
    # Exactly so: the Engine compares the text.
    answer.headers["Content-type"] = "application/json"
    return answer
