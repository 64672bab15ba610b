"""Requests to the agent: REST, JSON-RPC and the event stream, over one kept connection."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from vdscli.failures import UNREACHABLE, CliError, RequestFailed, RpcFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.client import HTTPConnection, HTTPResponse

    from vdscli.transport import Place

ROOT: Final = "/api/v1"
STREAM_SILENCE_S: Final = 60.0


class StreamEvent:
    """One server-sent event."""

    __slots__ = ("data", "ident", "name")

    def __init__(self, name: str, ident: str, data: str) -> None:
        self.name = name
        self.ident = ident
        self.data = data


class Client:
    """Speaks to one agent. Not for several threads."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        self._place = place
        self._timeout_s = timeout_s
        self._connection: HTTPConnection | None = None

    @property
    def is_local(self) -> bool:
        """Whether the agent is on this host."""
        return self._place.host is None

    @property
    def place(self) -> str:
        """Where the agent is, in words."""
        return self._place.words

    def get(self, path: str, **query: str | int | bool) -> Any:
        """GET below /api/v1; path parts must be quoted already (`quoted`)."""
        return self._rest("GET", path + _query(query), None)

    def post(self, path: str, body: Any = None) -> Any:
        """POST below /api/v1."""
        return self._rest("POST", path, {} if body is None else body)

    def put(self, path: str, body: Any) -> Any:
        """PUT below /api/v1."""
        return self._rest("PUT", path, body)

    def delete(self, path: str, **query: str | int | bool) -> Any:
        """DELETE below /api/v1."""
        return self._rest("DELETE", path + _query(query), None)

    def rpc(self, method: str, params: Any) -> Any:
        """Call a verb by JSON-RPC.

        Raises:
            RpcFailed: the agent answered with an error.
            CliError: the agent cannot be reached, or refused the request as such.
        """
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": "vdscli"}
        status, body = self._exchange("POST", f"{ROOT}/jsonrpc", request)
        answer = _decoded(body)
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise RpcFailed(answer["error"])
        if status >= 400 or not isinstance(answer, dict) or "result" not in answer:
            raise _failure(status, answer, body)
        return answer["result"]

    def events(self, last_id: str | None, deadline_s: float | None) -> Iterator[StreamEvent]:
        """The event stream, until an error ends it; heart-beats keep it, longer silence than that is an end.

        An event without a name only tells the id to go on from. ``deadline_s`` is monotonic.

        Raises:
            RequestFailed: the agent refused.
            CliError: it cannot be reached, or the stream ended.
        """
        from http.client import HTTPException

        from vdscli import transport

        connection = transport.connect(self._place, max(self._timeout_s, STREAM_SILENCE_S))
        try:
            headers = {"Accept": "text/event-stream", **self._credentials()}
            if last_id is not None:
                headers["Last-Event-ID"] = last_id
            connection.request("GET", f"{ROOT}/events", headers=headers)
            line = connection.sock  # the connection forgets it when the answer has no length
            response = connection.getresponse()
            if response.status != 200:
                body = response.read()
                raise _failure(response.status, _decoded(body), body)
            yield from _stream(response, lambda: line.settimeout(_patience_s(deadline_s)))
            raise CliError(f"{self._place.words} ended the stream", UNREACHABLE)
        except HTTPException as error:
            raise CliError(f"{self._place.words} broke off", UNREACHABLE) from error
        except OSError as error:
            raise transport.unreachable(self._place, error) from error
        finally:
            connection.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rest(self, method: str, path: str, body: Any) -> Any:
        status, raw = self._exchange(method, ROOT + path, body)
        answer = _decoded(raw)
        if status >= 400:
            raise _failure(status, answer, raw)
        if raw and answer is None and raw.strip() != b"null":
            raise CliError(f"{self._place.words} did not answer in JSON: is it an agent?", UNREACHABLE)
        return answer

    def _credentials(self) -> dict[str, str]:
        token = self._place.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _exchange(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """Send one request; a kept connection that turns out closed is opened again when that is safe."""
        from http.client import HTTPException

        from vdscli import transport

        fresh = self._connection is None
        try:
            return self._exchange_once(method, path, body)
        except (HTTPException, OSError) as error:
            self.close()
            if not fresh and method == "GET" and not isinstance(error, TimeoutError):
                return self._exchange(method, path, body)
            if isinstance(error, OSError):
                raise transport.unreachable(self._place, error) from error
            raise CliError(f"{self._place.words} does not speak HTTP: {error!r}", UNREACHABLE) from error

    def _exchange_once(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        from vdscli import transport

        if self._connection is None:
            self._connection = transport.connect(self._place, self._timeout_s)
        headers = {"Accept": "application/json", **self._credentials()}
        raw: bytes | None = None
        if body is not None:
            raw = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self._connection.request(method, path, body=raw, headers=headers)
        response = self._connection.getresponse()
        return response.status, response.read()


def quoted(part: str) -> str:
    """A name or id as one part of a path."""
    from urllib.parse import quote

    return quote(part, safe="")


def _query(values: dict[str, str | int | bool]) -> str:
    if not values:
        return ""
    from urllib.parse import urlencode

    return "?" + urlencode({
        key: str(value).lower() if value is True or value is False else value for key, value in values.items()
    })


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


def _failure(status: int, answer: Any, raw: bytes) -> RequestFailed:
    if not isinstance(answer, dict):
        text = raw[:200].decode(errors="replace").strip().partition("\n")[0]
        answer = {"detail": f"HTTP status {status}" + (f": {text}" if text else "")}
    return RequestFailed(status, answer)


def _patience_s(deadline_s: float | None) -> float:
    if deadline_s is None:
        return STREAM_SILENCE_S
    return min(STREAM_SILENCE_S, max(0.001, deadline_s - time.monotonic()))


def _stream(response: HTTPResponse, before_reading: Callable[[], None]) -> Iterator[StreamEvent]:
    """Parse server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    name, ident, data, fresh = "", "", list[str](), False
    while True:
        before_reading()
        line = response.readline()
        if not line:
            return
        text = line.decode(errors="replace").rstrip("\r\n")
        key, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            data.append(value)
        elif key == "event":
            name = value
        elif key == "id":
            ident, fresh = value, True
        elif not text:
            if data:
                yield StreamEvent(name or "message", ident, "\n".join(data))
            elif fresh:
                yield StreamEvent("", ident, "")
            name, data, fresh = "", [], False
