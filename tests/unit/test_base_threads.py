"""base.threads: bounds, context, errors, deadlines; no sleeping."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from vdsm.base import logs, threads
from vdsm.base.errors import Busy, Unfinished
from vdsm.base.threads import Pool, itmap, tmap

PATIENCE_S = 20


class Gate:
    """A job that says that it has begun and then waits to be let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self) -> str:
        self.begun.release()
        assert self.open.wait(PATIENCE_S)
        return threading.current_thread().name


def test_full_pool_refuses_at_once_and_recovers() -> None:
    pool, gate = Pool("p", 2, 1), Gate()
    futures = [pool.submit(gate) for _ in range(3)]
    for _ in range(2):
        assert gate.begun.acquire(timeout=PATIENCE_S)
    with pytest.raises(Busy, match="too many p requests"):
        pool.submit(gate)
    stats = pool.stats()
    assert (stats.threads, stats.running, stats.waiting, stats.refused, stats.done) == (2, 2, 1, 1, 0)
    gate.open.set()
    assert {future.result(PATIENCE_S) for future in futures} <= {"p/0", "p/1"}
    assert pool.submit(str, 5).result(PATIENCE_S) == "5"
    assert pool.stats().done == 4
    assert pool.stop(PATIENCE_S)


def test_whoever_has_the_result_finds_the_worker_free() -> None:
    pool = Pool("p", 1, 0)
    for number in range(500):
        assert pool.submit(int, number).result(PATIENCE_S) == number
    assert pool.stats().threads == 1


def test_threads_are_made_when_needed() -> None:
    pool = Pool("p", 8, 8)
    assert pool.stats().threads == 0
    pool.submit(int).result(PATIENCE_S)
    assert pool.stats().threads == 1


def test_what_a_job_raises_reaches_the_one_who_asked() -> None:
    pool = Pool("p", 1, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(PATIENCE_S)
    assert pool.submit(int).result(PATIENCE_S) == 0


def test_context_of_the_submitter_is_carried_over_and_not_changed() -> None:
    pool = Pool("p", 1, 1)

    def change() -> str:
        before = logs.flow_id.get()
        logs.flow_id.set("changed")
        return before

    token = logs.flow_id.set("f1")
    try:
        assert pool.submit(change).result(PATIENCE_S) == "f1"
        assert pool.submit(change).result(PATIENCE_S) == "f1"
        assert logs.flow_id.get() == "f1"
    finally:
        logs.flow_id.reset(token)


def test_stopped_pool_cancels_the_waiting_and_leaves_the_hanging_behind() -> None:
    pool, gate = Pool("p", 1, 2), Gate()
    running, waiting = pool.submit(gate), pool.submit(gate)
    assert gate.begun.acquire(timeout=PATIENCE_S)
    assert not pool.stop(0.0)
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE_S)
    with pytest.raises(Busy):
        pool.submit(int)
    gate.open.set()
    assert running.result(PATIENCE_S) == "p/0"
    assert pool.stop(PATIENCE_S)


def test_cancelled_job_never_runs() -> None:
    pool, gate = Pool("p", 1, 2), Gate()
    pool.submit(gate)
    ran = threading.Event()
    later = pool.submit(ran.set)
    assert later.cancel()
    gate.open.set()
    pool.submit(int).result(PATIENCE_S)
    assert not ran.is_set()
    assert pool.stats().waiting == 0


@pytest.mark.parametrize(("workers", "queue"), [(0, 1), (1, -1)])
def test_pool_of_no_size_is_refused(workers: int, queue: int) -> None:
    with pytest.raises(ValueError, match="workers must be"):
        Pool("p", workers, queue)


def test_error_that_leaves_a_thread_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    thread = threads.start("t", lambda: 1 // 0)
    thread.join(PATIENCE_S)
    assert thread.daemon
    assert "thread t died" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_tmap_keeps_the_order_and_the_bound() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def square(number: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        with lock:
            now[0] -= 1
        return number * number

    assert tmap(square, range(50), workers=3, timeout_s=PATIENCE_S) == [n * n for n in range(50)]
    assert most[0] <= 3


def test_tmap_raises_the_first_items_error_after_all_have_finished() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        if number in {1, 3}:
            raise KeyError(number)

    with pytest.raises(KeyError, match="1"):
        tmap(work, range(5), workers=2, timeout_s=PATIENCE_S)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_hanging_call_ends_the_map_and_begins_no_more_items() -> None:
    gate, begun = threading.Event(), []

    def hang(number: int) -> None:
        begun.append(number)
        gate.wait(PATIENCE_S)

    with pytest.raises(Unfinished, match="map of hang"):
        list(itmap(hang, range(9), workers=1, timeout_s=0.05))
    gate.set()
    assert begun == [0]


def test_itmap_yields_outcomes_with_their_items() -> None:
    outcomes = {item: future.exception() for item, future in itmap(bool, [0, 1, 2], workers=2, timeout_s=PATIENCE_S)}
    assert outcomes == {0: None, 1: None, 2: None}


def test_maps_of_nothing_are_empty() -> None:
    assert tmap(str, [], workers=2, timeout_s=0) == []
