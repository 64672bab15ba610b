"""operations.locks: who gets what, when, and in which order."""

from __future__ import annotations

import random
import threading

import pytest

from vdsm.base.errors import WrongState
from vdsm.operations.locks import Claim, Locked, Locks, Mode, Resource

A, B, C = (Resource("image", name) for name in "abc")
SHARED, EXCLUSIVE = Mode.SHARED, Mode.EXCLUSIVE


def test_sharers_share_and_others_wait() -> None:
    locks = Locks()
    one = locks.claim("one", [(A, SHARED)], timeout_s=None)
    two = locks.claim("two", [(A, SHARED)], timeout_s=None)
    three = locks.claim("three", [(A, EXCLUSIVE)], timeout_s=None)
    assert (one.held, two.held, three.held) == (True, True, False)
    locks.release(one)
    assert not three.held
    locks.release(two)
    assert three.held


def test_nobody_is_overtaken_by_who_is_in_his_way() -> None:
    locks = Locks()
    reader = locks.claim("reader", [(A, SHARED)], timeout_s=None)
    writer = locks.claim("writer", [(A, EXCLUSIVE)], timeout_s=None)
    late = locks.claim("late", [(A, SHARED)], timeout_s=None)
    assert not late.held
    locks.release(reader)
    assert (writer.held, late.held) == (True, False)
    locks.release(writer)
    assert late.held


def test_all_or_nothing() -> None:
    locks = Locks()
    first = locks.claim("first", [(B, EXCLUSIVE)], timeout_s=None)
    both = locks.claim("both", [(B, EXCLUSIVE), (A, SHARED)], timeout_s=None)
    reader = locks.claim("reader", [(A, SHARED)], timeout_s=None)
    assert (both.held, reader.held) == (False, True)
    locks.release(first)
    assert both.held


def test_who_gives_up_lets_those_behind_him_through() -> None:
    locks = Locks()
    locks.claim("reader", [(A, SHARED)], timeout_s=None)
    writer = locks.claim("writer", [(A, EXCLUSIVE)], timeout_s=None)
    late = locks.claim("late", [(A, SHARED)], timeout_s=None)
    locks.release(writer)
    assert late.held
    locks.release(writer)
    assert [use.owner for use in locks.uses()] == ["reader", "late"]


def test_the_same_twice_is_the_stronger_once() -> None:
    locks = Locks()
    one = locks.claim("one", [(A, SHARED), (A, EXCLUSIVE), (A, SHARED)], timeout_s=None)
    assert dict(one.wants) == {A: EXCLUSIVE}
    locks.release(one)
    assert locks.uses() == []


def test_an_owner_claims_once() -> None:
    locks = Locks()
    one = locks.claim("one", [(A, SHARED)], timeout_s=None)
    with pytest.raises(WrongState):
        locks.claim("one", [(B, SHARED)], timeout_s=None)
    locks.release(one)
    assert locks.claim("one", [(B, SHARED)], timeout_s=None).held


def test_who_wants_nothing_has_it() -> None:
    assert Locks().claim("one", [], timeout_s=0.0).held


def test_deadline_is_told_and_names_the_holders() -> None:
    locks = Locks()
    told: list[Claim] = []
    settled = threading.Event()

    def expired(claim: Claim) -> None:
        told.append(claim)
        settled.set()

    locks.claim("holder", [(A, EXCLUSIVE)], timeout_s=0.0)
    late = locks.claim("late", [(A, SHARED), (B, SHARED)], timeout_s=0.01, expired=expired)
    behind = locks.claim("behind", [(B, EXCLUSIVE)], timeout_s=None)
    assert settled.wait(20)
    assert (told, late.held) == ([late], False)
    assert behind.settled.wait(20)
    assert behind.held
    refusal = locks.refusal(late)
    assert (refusal.resources, refusal.holders, refusal.code) == ("image a", "holder", 851)


def test_shorter_deadline_that_comes_later_is_not_missed() -> None:
    locks = Locks()
    locks.claim("holder", [(A, EXCLUSIVE)], timeout_s=None)
    long = locks.claim("long", [(A, SHARED)], timeout_s=1000)
    short = locks.claim("short", [(A, SHARED)], timeout_s=0.01)
    assert short.settled.wait(20)
    assert (long.over, short.over) == (False, True)
    locks.release(long)


def test_hold_waits_and_gives_back() -> None:
    locks = Locks()
    with (
        locks.hold("one", [(A, EXCLUSIVE)], timeout_s=10),
        pytest.raises(Locked) as caught,
        locks.hold("two", [(A, SHARED)], timeout_s=0.01),
    ):
        raise AssertionError
    assert (caught.value.resources, caught.value.holders) == ("image a", "one")
    assert locks.uses() == []


@pytest.mark.parametrize("seed", range(20))
def test_random_claims_are_never_in_conflict_and_all_come_through(seed: int) -> None:
    choose = random.Random(seed)
    locks = Locks()
    pending: list[Claim] = []
    finished = 0
    for number in range(200):
        wants = [(item, choose.choice([SHARED, EXCLUSIVE])) for item in choose.sample([A, B, C], choose.randint(1, 3))]
        pending.append(locks.claim(str(number), wants, timeout_s=None))
        held = [claim for claim in pending if claim.held]
        for claim in held:
            for other in held:
                shared = set(claim.wants) & set(other.wants) if other is not claim else set()
                assert all(claim.wants[item] == other.wants[item] == SHARED for item in shared)
        # Who is not held has somebody before him in his way.
        for claim in pending:
            before = [other for other in pending if other.number < claim.number]
            free = all(
                EXCLUSIVE not in {claim.wants[item], other.wants[item]}
                for other in before
                for item in set(claim.wants) & set(other.wants)
            )
            assert claim.held == free
        for claim in held:
            if choose.random() < 0.5:
                locks.release(claim)
                pending.remove(claim)
                finished += 1
    while pending:
        claim = next(claim for claim in pending if claim.held)
        locks.release(claim)
        pending.remove(claim)
        finished += 1
    assert finished == 200
    assert locks.uses() == []


def test_threads_exclude_one_another() -> None:
    locks = Locks()
    inside: list[int] = []
    worst: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            with locks.hold(f"thread {number}", [(A, EXCLUSIVE), (B, SHARED)], timeout_s=60):
                inside.append(number)
                worst.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(worst), max(worst)) == (400, 1)
