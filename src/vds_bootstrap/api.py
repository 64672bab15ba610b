"""A small client of the agent's REST API on its unix socket, with the standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "/api/v1"


class ApiError(RuntimeError):
    """The agent answered with an error (status and its words), or not at all (status 0)."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Api:
    """One connection per request; nothing is kept."""

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """What the agent has at a path below /api/v1."""
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Do something."""
        return self._ask("POST", path, body)

    def delete(self, path: str) -> Any:
        """Remove something."""
        return self._ask("DELETE", path)

    def is_ready(self) -> bool:
        """Whether the agent answers and has finished starting."""
        try:
            self.get("/vms")
        except ApiError:
            return False
        return True

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = _UnixConnection(self._path, self._timeout_s)
        headers = {"Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, PREFIX + path, body=data, headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"the agent does not answer on {self._path}: {error}") from error
        finally:
            connection.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise ApiError(answer.status, f"{method} {PREFIX}{path}: {_problem(text)}")
        return json.loads(text) if text else None


def _problem(text: bytes) -> str:
    """The words of a problem+json answer."""
    try:
        problem = json.loads(text)
        return str(problem.get("detail") or problem.get("title") or problem)
    except (ValueError, AttributeError):
        return text.decode(errors="replace")[:500]
