"""A client of the agent's HTTP side, over whatever connection one gives it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

PATIENCE_S: Final = 60.0


class Problem(Exception):
    """An error answer."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body.get('detail') if isinstance(body, dict) else body}")
        self.status = status
        self.body = body


class _Connection(http.client.HTTPConnection):
    def __init__(self, connected: socket.socket) -> None:
        super().__init__("lab")
        self.sock = connected


class Api:
    """One connection for each call, made by ``connect``: no call meets the remains of another."""

    def __init__(self, connect: Callable[[float], socket.socket]) -> None:
        """``connect`` is given the seconds after which its socket's operations end."""
        self._connect = connect

    def call(
        self, method: str, path: str, body: object = None, *, timeout_s: float = PATIENCE_S, **headers: str
    ) -> Any:
        """Call REST.

        Raises:
            Problem: it answered with an error.
            OSError: no connection, or no answer in time.
        """
        connection = _Connection(self._connect(timeout_s))
        try:
            payload = None if body is None else json.dumps(body)
            fields = {"Content-Type": "application/json", **headers} if payload is not None else headers
            connection.request(method, f"/api/v1{path}", payload, fields)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        decoded = json.loads(text) if text else None
        if answer.status >= 400:
            raise Problem(answer.status, decoded)
        return decoded

    def rpc(self, method: str, params: Mapping[str, object] | None = None, *, timeout_s: float = PATIENCE_S) -> Any:
        """Call a verb by its name in JSON-RPC; its result.

        Raises:
            Problem: it answered with an error.
            OSError: no connection, or no answer in time.
        """
        request = {"jsonrpc": "2.0", "method": method, "params": params or {}, "id": "1"}
        answer = self.call("POST", "/jsonrpc", request, timeout_s=timeout_s)
        if "error" in answer:
            raise Problem(200, answer["error"])
        return answer["result"]
