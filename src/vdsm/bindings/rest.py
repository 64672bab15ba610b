"""REST: an ASGI application with one route per verb below /api/v1, and the few paths beside them.

    /api/v1                 an index                          public
    /api/v1/openapi.json    the OpenAPI document              public
    /docs, /errors/NAME     the reference for people          public
    /api/v1/<verb's path>   the verbs                         each verb's role
    /api/v1/events          server-sent events                viewer
    /api/v1/jsonrpc         JSON-RPC over HTTP                each verb's role
    /metrics                for Prometheus                    viewer

Lives on the event loop and never waits there: verbs go through the dispatcher. The caller is who the connection says
(``scope["state"]["caller"]``), unless an Authorization header says more. Every error is a problem+json.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from vdsm.api.contract import Role, Verb
from vdsm.base import logs
from vdsm.base.errors import BadParameter, Denied, Unauthenticated, Unfinished, VdsmError
from vdsm.base.threads import Pool as Workers
from vdsm.bindings.arguments import Arguments, Parts
from vdsm.bindings.dispatch import Outcome, Pending
from vdsm.bindings.ovf_store import OvfDoor
from vdsm.bindings.pages import read_page
from vdsm.bindings.peers import Caller, Way
from vdsm.bindings.problems import (
    ForeignOrigin,
    Malformed,
    NoSuchPath,
    TooLarge,
    TooSlow,
    WrongContentType,
    WrongMethod,
    problem_response,
)
from vdsm.bindings.sse import EventLog, EventStream
from vdsm.bindings.tokens import TokenStore, token_caller

log = logging.getLogger(__name__)

PREFIX: Final = "/api/v1"
FLOW_HEADER: Final = "X-Correlation-Id"
BODY_DEADLINE_S: Final = 60.0
METRICS_DEADLINE_S: Final = 10.0
# How long a sender whose body was refused gets to notice, and how much it may send meanwhile.
LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 1 << 20
_JSON: Final = "application/json"
_FLOW: Final = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
_CONTENT_TYPE: Final = re.compile(r'application/json\s*(;\s*charset="?utf-?8"?\s*)?', re.IGNORECASE)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
}

Endpoint = Callable[[Request], Awaitable[Any]]


class BoundVerb(Protocol):
    """What REST needs of a verb that is bound to its implementation."""

    @property
    def verb(self) -> Verb:
        """Its declaration."""

    def call_clean(self, values: Mapping[str, Any]) -> bytes | None:
        """Named values in, the result's JSON out; None when the verb has none."""


class Dispatch(Protocol):
    """What REST needs of a dispatcher."""

    def run(
        self, name: str, function: Callable[[Parts], bytes | None], argument: Parts, caller: Caller, flow: str = ""
    ) -> bytes | Pending[bytes | Exception | None] | None:
        """Run a function in place of a verb: its role, its pool, its deadline."""


class JsonRpc(Protocol):
    """What REST needs of JSON-RPC."""

    def handle(self, body: bytes, caller: Caller, flow: str = "") -> bytes | Pending[bytes | None] | None:
        """Serve one message or batch: the answer, or None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestParts:
    """What the application is made of.

    ``ovf`` moves whole volumes, where there is storage. ``workers`` renders the metrics; ``metrics`` gives them as
    Prometheus text. ``limit`` is the largest body in bytes.
    """

    verbs: Mapping[str, BoundVerb]
    dispatcher: Dispatch
    jsonrpc: JsonRpc
    tokens: TokenStore
    events: EventLog
    metrics: Callable[[str], tuple[bytes, str]]
    workers: Workers
    ovf: OvfDoor | None = None
    limit: int = 8 << 20
    body_deadline_s: float = BODY_DEADLINE_S
    linger_s: float = LINGER_S


class RestApp:
    """The ASGI application."""

    def __init__(self, parts: RestParts) -> None:
        self._parts = parts
        self._pages: dict[str, bytes] = {}
        self._router = Router(list(self._routes()), redirect_slashes=False, default=self._nothing_there)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        headers = Headers(scope=scope)
        flow = _flow_of(headers)
        scope.setdefault("state", {})["flow"] = flow
        exchange = _Exchange(receive, send, flow, unread=_has_body(headers), linger_s=self._parts.linger_s)
        with_flow = logs.flow_id.set(flow)
        try:
            await self._router(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            log.debug("%s %s: the client went away", scope["method"], scope["path"][:200])
        except Exception as error:
            if not isinstance(error, VdsmError):
                log.exception("%s %s failed unexpectedly", scope["method"], scope["path"][:200])
            if exchange.began:
                raise
            await problem_response(error, flow, _HEADERS)(scope, exchange.receive, exchange.send)
        finally:
            logs.flow_id.reset(with_flow)

    def _routes(self) -> Any:
        by_path: dict[str, dict[str, Endpoint]] = {}
        for bound in self._parts.verbs.values():
            route = bound.verb.rest
            by_path.setdefault(PREFIX + route.path, {})[route.method] = self._verb_endpoint(bound)
        by_path[PREFIX] = {"GET": self._index}
        by_path[f"{PREFIX}/openapi.json"] = {"GET": self._page_endpoint("openapi.json", _JSON)}
        by_path[f"{PREFIX}/events"] = {"GET": self._events}
        by_path[f"{PREFIX}/jsonrpc"] = by_path["/jsonrpc"] = {"POST": self._jsonrpc}
        by_path["/metrics"] = {"GET": self._metrics}
        by_path["/docs"] = {"GET": self._page_endpoint("reference.html", "text/html; charset=utf-8")}
        by_path["/docs/reference.css"] = {"GET": self._page_endpoint("reference.css", "text/css; charset=utf-8")}
        by_path["/errors/{name}"] = {"GET": _error_page}
        by_path["/"] = {"GET": self._front_page, **({"PUT": self._put_volume} if self._parts.ovf else {})}
        for path, endpoints in by_path.items():
            # Starlette's own 405 is no problem+json: all methods come here.
            yield Route(path, _by_method(endpoints), methods=_METHODS)

    def _verb_endpoint(self, bound: BoundVerb) -> Endpoint:
        verb = bound.verb
        arguments = Arguments(verb)

        def call(parts: Parts) -> bytes | None:
            values = arguments.values(parts)
            try:
                return bound.call_clean(values)
            except BadParameter as error:
                raise arguments.renamed(error, values) from error

        async def serve(request: Request) -> Response:
            caller = self._caller(request, verb.role, verb.name)
            body = await self._json_body(request) if arguments.reads_body else b""
            parts = Parts(request.path_params, request.query_params.multi_items(), body)
            answer = await _settled(self._parts.dispatcher.run(verb.name, call, parts, caller, request.state.flow))
            if answer is None:
                return Response(None, 204, _HEADERS)
            return _body_response(request, answer, verb.rest.status, _JSON)

        return serve

    def _page_endpoint(self, name: str, media_type: str) -> Endpoint:
        async def serve(request: Request) -> Response:
            if name not in self._pages:
                self._pages[name] = read_page(name)
            response = _body_response(request, self._pages[name], 200, media_type)
            response.headers.update(_PAGE_HEADERS)
            return response

        return serve

    async def _index(self, request: Request) -> Response:
        links = {
            "openapi": f"{PREFIX}/openapi.json",
            "docs": "/docs",
            "events": f"{PREFIX}/events",
            "jsonrpc": f"{PREFIX}/jsonrpc",
            "metrics": "/metrics",
            "host": f"{PREFIX}/host/stats",
            "vms": f"{PREFIX}/vms",
        }
        return _body_response(request, msgspec.json.encode({"name": "vdsm", "api": "v1", "links": links}), 200, _JSON)

    async def _front_page(self, request: Request) -> Response:
        ovf = self._parts.ovf
        if ovf is None or not ovf.is_for(request):
            return RedirectResponse("/docs", 302)
        self._caller(request, Role.OPERATOR, "reading a volume")
        return await ovf.get(request)

    async def _put_volume(self, request: Request) -> Response:
        ovf = self._parts.ovf
        if ovf is None:
            raise NoSuchPath("/")
        self._caller(request, Role.OPERATOR, "writing a volume")
        return await ovf.put(request)

    async def _events(self, request: Request) -> EventStream | Response:
        self._caller(request, Role.VIEWER, "events")
        stream = self._parts.events.stream(request.query_params.multi_items(), request.headers.get("last-event-id"))
        if request.method == "HEAD":
            return Response(None, 200, _HEADERS, "text/event-stream")
        return stream

    async def _jsonrpc(self, request: Request) -> Response:
        caller = self._caller(request, Role.VIEWER, "JSON-RPC")
        body = await self._json_body(request)
        answer = await _settled(self._parts.jsonrpc.handle(body, caller, request.state.flow))
        return Response(answer, 204 if answer is None else 200, _HEADERS, None if answer is None else _JSON)

    async def _metrics(self, request: Request) -> Response:
        self._caller(request, Role.VIEWER, "metrics")
        work = self._parts.workers.submit(self._parts.metrics, request.headers.get("accept", ""))
        try:
            async with asyncio.timeout(METRICS_DEADLINE_S):
                body, media_type = await asyncio.wrap_future(work)
        except TimeoutError as error:
            raise Unfinished("rendering the metrics", METRICS_DEADLINE_S) from error
        return _body_response(request, body, 200, media_type)

    async def _nothing_there(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        raise NoSuchPath(scope["path"][:200])

    def _caller(self, request: Request, role: Role, what: str) -> Caller:
        """Who asks, before anything of the body is read.

        Raises:
            Unauthenticated: nobody known.
            Denied: somebody whose role is too low.
            ForeignOrigin: a browser asks for a page of another site.
        """
        authorization = request.headers.get("authorization")
        caller: Caller | None
        if authorization is not None:
            caller = token_caller(authorization, self._parts.tokens)
        else:
            caller = getattr(request.state, "caller", None)
        if caller is None:
            raise Unauthenticated("a client certificate or a bearer token is needed")
        if not caller.role.includes(role):
            raise Denied(what, role)
        if request.method not in {"GET", "HEAD"} and caller.way is not Way.TOKEN:
            _refuse_foreign_pages(request.headers)
        return caller

    async def _json_body(self, request: Request) -> bytes:
        body = await self._body(request)
        content_type = request.headers.get("content-type", "")
        # A page of another site cannot send this type without asking first.
        if body and not _CONTENT_TYPE.fullmatch(content_type.strip()):
            raise WrongContentType(content_type[:200] or "not said")
        return body

    async def _body(self, request: Request) -> bytes:
        """The body, refused as soon as it is known to be too large.

        Raises:
            TooLarge, TooSlow, Malformed: it cannot be taken.
            ClientDisconnect: it never came.
        """
        limit = self._parts.limit
        announced = request.headers.get("content-length", "0")
        if not announced.isdecimal():
            raise Malformed("the Content-Length is no number")
        if int(announced) > limit:
            raise TooLarge(limit)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._parts.body_deadline_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise TooLarge(limit)
                    chunks.append(chunk)
        except TimeoutError as error:
            raise TooSlow(self._parts.body_deadline_s) from error
        return b"".join(chunks)


class _Exchange:
    """One request and its answer, as they pass: puts the flow id on the answer, and deals with a body left unread.

    What is left of a body would keep the connection for as long as its sender likes, so the connection is closed after
    the answer. The sender gets a moment to notice: closing at once could take the answer from it.
    """

    __slots__ = ("_closing", "_flow", "_linger_s", "_receive", "_send", "_unread", "began")

    def __init__(self, receive: Receive, send: Send, flow: str, *, unread: bool, linger_s: float) -> None:
        self._receive = receive
        self._send = send
        self._flow = (FLOW_HEADER.lower().encode(), flow.encode())
        self._unread = unread
        self._linger_s = linger_s
        self._closing = False
        self.began = False
        """Whether the answer began."""

    async def receive(self) -> Message:
        message = await self._receive()
        self._unread = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            self._closing = self._unread
            more = [self._flow, (b"connection", b"close")] if self._closing else [self._flow]
            message["headers"] = [*message.get("headers", ()), *more]
        elif self._closing and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                while self._unread and self._linger_s and size < _LINGER_BYTES:
                    size += len((await self.receive()).get("body", b""))


def _by_method(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    names = sorted({*endpoints, "HEAD"} if "GET" in endpoints else endpoints)
    allowed = ", ".join(names)

    async def serve(request: Request) -> Any:
        endpoint = endpoints.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            raise WrongMethod(request.method[:20], allowed)
        return await endpoint(request)

    return serve


def _body_response(request: Request, body: bytes, status: int, media_type: str) -> Response:
    headers = {**_HEADERS, "Content-Length": str(len(body))}
    return Response(None if request.method == "HEAD" else body, status, headers, media_type)


async def _error_page(request: Request) -> Response:
    return RedirectResponse(f"/docs#error-{request.path_params['name']}", 302)


def _refuse_foreign_pages(headers: Headers) -> None:
    """A browser that holds a client certificate sends it for every page: only the host's own may change something."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise ForeignOrigin(origin[:200])


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _flow_of(headers: Headers) -> str:
    given = headers.get(FLOW_HEADER, "")
    return given if _FLOW.fullmatch(given) else secrets.token_hex(4)


async def _settled(outcome: Any) -> Any:
    if isinstance(outcome, Pending):
        arrival: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        outcome.then(lambda settled: None if arrival.done() else arrival.set_result(settled))
        outcome = await arrival
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
