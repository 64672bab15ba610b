from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from vdsm.api.contract import Pool, Role
from vdsm.base import logs
from vdsm.base.errors import Busy, Denied, NoSuchVerb, Recovering, Unfinished
from vdsm.base.threads import Pool as Workers
from vdsm.bindings.dispatch import Dispatcher, Pending
from vdsm.bindings.peers import Caller, Way
from wire import RawVerb

ADMIN = Caller("root", Role.ADMIN, Way.UNIX)


class Bench:
    """A dispatcher over small pools; its blocking verb waits until it is released."""

    def __init__(self, deadline_s: float = 60.0) -> None:
        self.released = threading.Event()
        self.entered = threading.Semaphore(0)
        self.ready = True
        self.pools = {Pool.QUERY: Workers("query", 1, 1), Pool.LIFECYCLE: Workers("lifecycle", 1, 0)}
        verbs = [
            RawVerb("Host.ping", lambda _: b"true", while_starting=True),
            RawVerb("Host.who", lambda _: f'"{logs.caller.get()} {logs.flow_id.get()}"'.encode()),
            RawVerb("VM.who", lambda _: f'"{logs.caller.get()} {logs.flow_id.get()}"'.encode(), Pool.QUERY),
            RawVerb("VM.create", lambda _: b"1", role=Role.OPERATOR),
            RawVerb("VM.fail", lambda _: bytes(1 // 0), Pool.QUERY),
            RawVerb("VM.stuck", self._block, Pool.LIFECYCLE),
            RawVerb("VM.slow", self._block, Pool.QUERY),
        ]
        self.dispatcher = Dispatcher({verb.name: verb for verb in verbs}, self.pools, lambda: self.ready, deadline_s)

    def _block(self, _: bytes) -> bytes:
        self.entered.release()
        self.released.wait(30)
        return b"true"

    def call(self, name: str, caller: Caller = ADMIN, flow: str = ""):
        return self.dispatcher.call(name, b"{}", caller, flow)

    def close(self) -> None:
        self.released.set()
        for pool in self.pools.values():
            pool.stop(5.0)


def on_loop(test: Callable, **options) -> None:
    async def run() -> None:
        bench = Bench(**options)
        try:
            await test(bench)
        finally:
            bench.close()

    asyncio.run(run())


async def outcome(pending: Pending) -> object:
    future: asyncio.Future = asyncio.get_running_loop().create_future()
    pending.then(future.set_result)
    return await asyncio.wait_for(future, 30)


def test_an_inline_verb_answers_at_once() -> None:
    async def test(bench: Bench) -> None:
        assert bench.call("Host.ping") == b"true"

    on_loop(test)


def test_caller_and_flow_id_are_known_where_the_verb_runs_and_nowhere_else() -> None:
    async def test(bench: Bench) -> None:
        assert bench.call("Host.who", flow="f1") == b'"root f1"'
        assert await outcome(bench.call("VM.who", flow="f2")) == b'"root f2"'
        assert await outcome(bench.call("VM.who")) == b'"root "'
        assert (logs.caller.get(), logs.flow_id.get()) == ("", "")

    on_loop(test)


def test_an_unknown_verb_is_named() -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(NoSuchVerb, match=r"there is no verb Host\.pong"):
            bench.call("Host.pong")

    on_loop(test)


@pytest.mark.parametrize(("role", "allowed"), [(Role.VIEWER, False), (Role.OPERATOR, True), (Role.ADMIN, True)])
def test_a_verb_wants_its_role(role: Role, allowed: bool) -> None:
    async def test(bench: Bench) -> None:
        caller = Caller("someone", role, Way.TOKEN)
        if allowed:
            assert bench.call("VM.create", caller) == b"1"
        else:
            with pytest.raises(Denied, match=r"VM\.create needs the role operator"):
                bench.call("VM.create", caller)

    on_loop(test)


def test_while_starting_only_some_verbs_answer() -> None:
    async def test(bench: Bench) -> None:
        bench.ready = False
        assert bench.call("Host.ping") == b"true"
        for name in ("VM.create", "VM.slow"):
            with pytest.raises(Recovering):
                bench.call(name)

    on_loop(test)


def test_what_a_verb_raises_in_a_pool_is_the_outcome() -> None:
    async def test(bench: Bench) -> None:
        assert isinstance(await outcome(bench.call("VM.fail")), ZeroDivisionError)

    on_loop(test)


def test_a_full_pool_is_busy_at_once_and_others_go_on() -> None:
    async def test(bench: Bench) -> None:
        stuck = bench.call("VM.stuck")
        with pytest.raises(Busy):
            bench.call("VM.stuck")
        assert await outcome(bench.call("VM.who")) == b'"root "'
        bench.released.set()
        assert await outcome(stuck) == b"true"

    on_loop(test)


def test_a_verb_that_takes_too_long_is_unfinished() -> None:
    async def test(bench: Bench) -> None:
        stuck = bench.call("VM.stuck")
        assert isinstance(await outcome(stuck), Unfinished)
        bench.released.set()

    on_loop(test, deadline_s=0.05)


def test_a_verb_that_was_never_begun_is_busy_and_never_runs() -> None:
    async def test(bench: Bench) -> None:
        first, second = bench.call("VM.slow"), bench.call("VM.slow")
        assert isinstance(await outcome(first), Unfinished)
        assert isinstance(await outcome(second), Busy)
        bench.released.set()
        bench.pools[Pool.QUERY].stop(10.0)
        assert bench.entered.acquire(timeout=1)
        assert not bench.entered.acquire(blocking=False)

    on_loop(test, deadline_s=0.05)


def test_another_function_runs_as_its_verb_would() -> None:
    async def test(bench: Bench) -> None:
        assert bench.dispatcher.run("Host.ping", lambda values: values["a"], {"a": 5}, ADMIN) == 5
        assert await outcome(bench.dispatcher.run("VM.who", lambda values: values["a"], {"a": 5}, ADMIN)) == 5
        with pytest.raises(Denied):
            bench.dispatcher.run("VM.create", str, 1, Caller("v", Role.VIEWER, Way.TOKEN))

    on_loop(test)
