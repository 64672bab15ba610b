"""Places at storage domains: how many are under way, who waits, and who is refused at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from vdsm.base.errors import Busy
from vdsm.services import storage_gates
from vdsm.services.storage_gates import Gates
from vdsm.storage.errors import InvalidParameter

ONE, OTHER = "5bb00001-0000-4000-8000-000000000001", "5bb00001-0000-4000-8000-000000000002"
# No test that passes waits for so long.
LONG_S = 60.0


def test_one_domain_takes_no_place_of_another():
    gates = Gates(2, patience_s=0.0)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(gates.domain(ONE))
        with pytest.raises(Busy):
            inside.enter_context(gates.domain(ONE))
        inside.enter_context(gates.domain(OTHER))
        assert gates.under_way() == {ONE: 2, OTHER: 1}
    assert gates.under_way() == {}
    with gates.domain(ONE):
        assert gates.under_way() == {ONE: 1}


def test_a_place_that_becomes_free_is_taken_by_who_waits():
    gates = Gates(1, patience_s=LONG_S)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with gates.place("x"):
            inside.set()
            leave.wait(LONG_S)

    def come() -> None:
        with gates.place("x"):
            pass

    with ThreadPoolExecutor(2) as workers:
        holder = workers.submit(hold)
        assert inside.wait(LONG_S)
        waiter = workers.submit(come)
        leave.set()
        holder.result(LONG_S)
        waiter.result(LONG_S)
    assert gates.under_way() == {}


def test_behind_calls_that_do_not_come_back_nobody_waits(monkeypatch: pytest.MonkeyPatch):
    now_s = [100.0]
    monkeypatch.setattr(storage_gates, "monotonic_s", lambda: now_s[0])
    gates = Gates(1, patience_s=LONG_S)
    with gates.place("x"):
        now_s[0] += 5.0
        with pytest.raises(Busy), gates.place("x"):
            raise AssertionError


def test_a_call_that_fails_gives_its_place_back():
    gates = Gates(1)
    with pytest.raises(KeyError), gates.place("x"):
        raise KeyError
    assert gates.under_way() == {}


def test_what_is_no_id_is_named():
    with pytest.raises(InvalidParameter) as refused, Gates(1).domain("../x", "sd_id"):
        raise AssertionError
    assert refused.value.field == "sd_id"
