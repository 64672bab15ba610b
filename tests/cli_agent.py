"""An agent for tests of the command line: real HTTP on a unix socket, answers made from the contract's own types."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec

from vdsm.api import host_types, token, vm_types
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import VdsmError
from vdsm.bindings.forms import Dialect, Forms
from vdsm.bindings.problems import problem

FORMS = Forms(Dialect.CLEAN)
Answer = object | Callable[[Any], object]


def clean(value: object, declared: Any) -> object:
    """A value as REST shows it."""
    leave = FORMS.shape(declared).leave
    return msgspec.json.decode(msgspec.json.encode(leave(value) if leave else value))


def stats(name: str, vm_id: str, status: str = "Up", **more: Any) -> vm_types.VmStats:
    """A VM's stats."""
    return vm_types.VmStats(**{
        "vm_id": vm_id,
        "vm_name": name,
        "status": status,
        "status_time": 1,
        "hash": "x",
        "stats_age": monotonic_s(),
        **more,
    })


def definition(name: str, vm_id: str, **more: Any) -> vm_types.Definition:
    """A definition."""
    shape = vm_types.VmDescription(name=name, memory_mib=more.pop("memory_mib", 256))
    return vm_types.Definition(**{
        "name": name,
        "vm_id": vm_id,
        "autostart": False,
        "status": "Down",
        "description": shape,
        **more,
    })


class Agent:
    """Records requests; answers from `routes`, a table of (method, path) -> value, error or function of the body."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.routes: dict[tuple[str, str], Answer] = {}
        self.streams: list[bytes] = []
        self.vms(live=[], defined=[])

    def vms(self, *, live: list[vm_types.VmStats], defined: list[vm_types.Definition]) -> None:
        """Have these VMs."""
        states = [
            vm_types.VmState(vm_id=vm.vm_id, status=vm.status, vm_name=vm.vm_name, status_time=vm.status_time)
            for vm in live
        ]
        self.on("GET", "/vms", clean(states, list[vm_types.VmState]))
        self.on("GET", "/vm-stats", lambda _body: clean(live, list[vm_types.VmStats]))
        self.on("GET", "/definitions", clean(defined, list[vm_types.Definition]))
        for vm in live:
            self.on("GET", f"/vms/{vm.vm_id}/stats", clean(vm, vm_types.VmStats))
        for item in defined:
            self.on("GET", f"/definitions/{item.name}", clean(item, vm_types.Definition))

    def on(self, method: str, path: str, answer: Answer) -> None:
        """Answer so from now on; an error is sent as the agent sends it."""
        self.routes[method, path] = answer

    def in_turn(self, method: str, path: str, *answers: object) -> None:
        """Give these answers one after the other; the last stays."""
        left = list(answers)
        self.on(method, path, lambda _body: left.pop(0) if len(left) > 1 else left[0])

    def asked(self, method: str) -> list[tuple[str, Any]]:
        """Paths and bodies of the requests of one method."""
        return [(path, body) for verb, path, body in self.requests if verb == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    agent: Agent

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = self.path.removeprefix("/api/v1")
        self.agent.requests.append((self.command, path, body))
        self.agent.headers.append(dict(self.headers))
        if path == "/events":
            self._stream()
            return
        answer = self.agent.routes.get((self.command, path), NoRoute(path))
        if callable(answer):
            answer = answer(body)
        self._send(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _send(self, answer: object) -> None:
        status, kind = 200, "application/json"
        if isinstance(answer, VdsmError):
            status, kind = answer.status, "application/problem+json"
            answer = msgspec.to_builtins(problem(answer, "f"))
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(204 if answer is None else status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(0 if answer is None else len(raw)))
        self.end_headers()
        if answer is not None:
            self.wfile.write(raw)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.agent.streams:
            self.wfile.write(self.agent.streams.pop(0))
        self.close_connection = True

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


class NoRoute(VdsmError):
    """The test did not say what to answer."""

    status = 501

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"no route {self.path}"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def serving(socket_path: Path) -> Iterator[Agent]:
    """An agent at this socket."""
    agent = Agent(socket_path)
    handler = type("Handler", (_Handler,), {"agent": agent})
    with _Server(str(socket_path), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield agent
        server.shutdown()
        thread.join(5)


HOST_STATS: Any = {
    "stats_age": 0.5, "cpu_user": 10.0, "cpu_sys": 5.0, "cpu_idle": 85.0, "cpu_load": 0.42, "mem_used": 40,
    "mem_free": 1000, "mem_available": 4096, "swap_total": 0, "swap_free": 0, "ksm_state": False, "ksm_pages": 0,
    "vm_count": 2, "vm_active": 1, "cpu_user_vdsmd": 1.0, "cpu_sys_vdsmd": 0.5, "network": {}, "disk_stats": {},
    "storage_domains": {},
}  # fmt: skip


def known_fields(struct: type[msgspec.Struct]) -> set[str]:
    """The names that REST has for a struct's fields."""
    return {field.name for field in msgspec.structs.fields(struct)}


__all__ = ["HOST_STATS", "Agent", "clean", "definition", "host_types", "known_fields", "serving", "stats", "token"]
