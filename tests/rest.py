"""The REST application in the test's own process, on verbs of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Literal, Protocol, TypeVar

import httpx
import msgspec

from vdsm.api.contract import (
    Pool,
    Reply,
    Request,
    Role,
    Text,
    Wire,
    delete,
    get,
    namespace,
    post,
    put,
    verb,
    verbs_of,
)
from vdsm.api.token import Token
from vdsm.base import logs
from vdsm.base.errors import BadParameter, Busy, NoSuchVm, NotFound, WrongState
from vdsm.base.threads import Pool as Workers
from vdsm.bindings.dispatch import Dispatcher
from vdsm.bindings.jsonrpc import JsonRpc
from vdsm.bindings.peers import Caller, Way
from vdsm.bindings.rest import RestApp, RestParts
from vdsm.bindings.sse import EventLog
from vdsm.bindings.verbs import bind

T = TypeVar("T")
BASE = "http://host.test"


class Wheel(Request, frozen=True, kw_only=True):
    size: Annotated[int, msgspec.Meta(ge=1, le=9)]
    kind: Literal["steel", "wood"] = "steel"


class Car(Request, frozen=True, kw_only=True):
    name: str
    wheels: tuple[Wheel, ...] = ()
    spare_wheel: Annotated[Wheel | None, Wire("spareWHEEL")] = None


class Seen(Reply, frozen=True, kw_only=True):
    what: str
    number: Text = 0
    missing: str | None = None


@namespace("Toy")
class Toys(Protocol):
    """Toys."""

    @verb(rest=get("/toys"), pool=Pool.INLINE)
    def list(
        self, names: Annotated[tuple[str, ...], Wire("nameList")] = (), count: int = 0, broken: bool = False
    ) -> list[str]:
        """All."""

    @verb(rest=post("/toys", body="car", status=201), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
    def create(self, car: Car, toy_id: str | None = None) -> Seen:
        """Make one."""

    @verb(rest=get("/toys/{toy_id}"), pool=Pool.QUERY)
    def look(self, toy_id: Annotated[str, Wire("toyID")]) -> Seen:
        """One."""

    @verb(rest=put("/toys/{toy_id}/speed"), role=Role.OPERATOR, pool=Pool.INLINE)
    def set_speed(self, toy_id: str, speed: Annotated[Text, msgspec.Meta(ge=0)], loud: bool = False) -> Seen:
        """Set."""

    @verb(rest=post("/toys/{toy_id}/stop"), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
    def stop(self, toy_id: str) -> None:
        """Stop."""

    @verb(rest=delete("/toys/{toy_id}"), role=Role.ADMIN, pool=Pool.INLINE)
    def destroy(self, toy_id: str, attempts: Annotated[int, msgspec.Meta(ge=0)] = 1) -> None:
        """Break."""

    @verb(rest=get("/trouble/{kind}"), pool=Pool.INLINE)
    def trouble(self, kind: str) -> str:
        """Fail."""


class ToyService:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def list(self, names=(), count=0, broken=False):
        self.calls.append((names, count, broken))
        return [*names, str(count), str(broken)]

    def create(self, car, toy_id=None):
        if car.name == "taken":
            raise BadParameter("car.spareWHEEL.size", "is not to be had")
        return Seen(what=f"{car.name} with {len(car.wheels)}", number=7)

    def look(self, toy_id):
        if toy_id == "none":
            raise NoSuchVm(toy_id)
        if toy_id == "bad":
            raise BadParameter("toyID", "is bad")
        return Seen(what=f"{toy_id} of {logs.caller.get()} in {logs.flow_id.get()}")

    def set_speed(self, toy_id, speed, loud=False):
        return Seen(what=f"{toy_id} {speed} {loud}")

    def stop(self, toy_id):
        self.calls.append(("stop", toy_id))

    def destroy(self, toy_id, attempts=1):
        self.calls.append(("destroy", toy_id, attempts))

    def trouble(self, kind):
        raise {
            "busy": Busy("toy"),
            "state": WrongState("fly", "Down"),
            "gone": NotFound("toy", kind),
            "bug": KeyError("secret of the house"),
        }[kind]


class KnownTokens:
    """Tokens by their secrets."""

    def __init__(self) -> None:
        self.known = {f"{role}-secret": Token(name=f"a {role}", role=role, created="now") for role in Role}

    def find(self, secret: str) -> Token | None:
        return self.known.get(secret)


ROOT = Caller("root", Role.ADMIN, Way.UNIX)


class RestHouse:
    """The application and what is around it."""

    def __init__(self, caller: Caller | None = ROOT, **changed: Any) -> None:
        self.caller = caller
        self.service = ToyService()
        self.is_ready = True
        verbs = bind({item.name: item for item in verbs_of(Toys)}, {"Toy": self.service})
        workers = {pool: Workers(pool.value, 2, 8) for pool in Pool if pool is not Pool.INLINE}
        self.observed: list[tuple[str, str]] = []
        dispatcher = Dispatcher(
            verbs,
            workers,
            lambda: self.is_ready,
            observe=lambda name, outcome, _seconds: self.observed.append((name, outcome)),
        )
        self.events = EventLog(capacity=8, keep_alive_s=0.05)
        parts = {
            "verbs": verbs,
            "dispatcher": dispatcher,
            "jsonrpc": JsonRpc(dispatcher),
            "tokens": KnownTokens(),
            "events": self.events,
            "metrics": lambda accept: (b"some 1\n", "text/plain"),
            "workers": workers[Pool.QUERY],
        }
        self.rest = RestApp(RestParts(**{**parts, **changed}))

    async def app(self, scope, receive, send) -> None:
        """The application as the listener calls it: the connection says who the caller is."""
        scope["state"] = {"caller": self.caller}
        await self.rest(scope, receive, send)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request."""

        async def run(client: httpx.AsyncClient) -> httpx.Response:
            return await client.request(method, path, **more)

        return self.with_client(run)

    def with_client(self, run: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        async def main() -> T:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=BASE, timeout=20) as client:
                return await run(client)

        return asyncio.run(main())

    def asgi(self, scope: dict[str, Any], messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """One request as bare ASGI; after the messages the client says nothing more."""

        async def main() -> list[dict[str, Any]]:
            sent: list[dict[str, Any]] = []
            left = iter(messages)

            async def receive() -> dict[str, Any]:
                for message in left:
                    return message
                await asyncio.Event().wait()
                raise AssertionError

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            async with asyncio.timeout(20):
                await self.app(scope, receive, send)
            return sent

        return asyncio.run(main())


def http_scope(method: str, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
