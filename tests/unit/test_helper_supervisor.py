"""storage.oop.supervisor: when a domain's helper is asked, given up, replaced, and left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from vdsm.base.errors import Busy, CommandFailed, Failed, NotResponding, Unfinished, Unreachable
from vdsm.storage.oop.client import HelperClient, Late, Lost
from vdsm.storage.oop.supervisor import HelperLimits, Supervisor

NEVER = 1000.0


class FakeHelper(HelperClient):
    """A helper without a process, whose calls do what the test says."""

    def __init__(self, domain: Domain, number: int) -> None:
        self.domain, self.number = domain, number
        self.asked = 0
        self.closed, self.killable = False, domain.killable

    @property
    def pid(self) -> int:
        return self.number

    @property
    def gone(self) -> bool:
        return self.closed and self.killable

    @property
    def in_flight(self) -> int:
        return 0

    def call(self, name: str, arguments: list[Any], options: dict[str, Any], until_s: float) -> Any:
        self.asked += 1
        return self.domain.do(name)

    def close(self) -> None:
        self.closed = True


class Domain:
    """A supervisor whose helpers all do the same."""

    def __init__(self, do: Callable[[str], object], *, killable: bool = True, **limits: Any) -> None:
        self.do, self.killable = do, killable
        self.helpers: list[FakeHelper] = []
        self.supervisor = Supervisor("d", HelperLimits(**{"patience_s": 0.0, **limits}), self.begin)

    def begin(self, _: str) -> FakeHelper:
        helper = FakeHelper(self, len(self.helpers) + 1)
        self.helpers.append(helper)
        return helper

    def ask(self, name: str = "stat") -> Any:
        return self.supervisor.call(name, [], {}, 1.0)

    def late(self, _: str = "") -> None:
        raise Late

    def lost(self, _: str = "") -> None:
        raise Lost


def test_one_helper_does_all_calls_and_is_started_by_the_first() -> None:
    domain = Domain(lambda name: name)
    assert domain.helpers == []
    assert [domain.ask(), domain.ask("read")] == ["stat", "read"]
    assert [helper.asked for helper in domain.helpers] == [2]
    stats = domain.supervisor.stats()
    assert (stats.calls, stats.started, stats.pid, stats.in_flight, stats.not_responding_s) == (2, 1, 1, 0, None)


def test_errors_of_the_file_system_are_answers() -> None:
    def refuse(_: str) -> None:
        raise TimeoutError(110, "Connection timed out")  # what a soft NFS mount says

    domain = Domain(refuse)
    with pytest.raises(TimeoutError):
        domain.ask()
    assert (domain.supervisor.stats().late, domain.supervisor.stats().not_responding_s) == (0, None)


def test_late_call_gives_the_helper_up_and_the_next_finds_out() -> None:
    domain = Domain(lambda name: name)
    domain.ask()
    domain.do = domain.late
    with pytest.raises(Unfinished):
        domain.ask()
    assert domain.helpers[0].closed
    assert domain.supervisor.stats().not_responding_s is not None
    domain.do = lambda name: name
    assert domain.ask() == "stat"
    stats = domain.supervisor.stats()
    assert (stats.started, stats.late, stats.abandoned, stats.not_responding_s) == (2, 1, 0, None)


def test_while_it_is_doubtful_calls_fail_at_once_until_the_back_off_has_passed() -> None:
    domain = Domain(lambda name: name, first_delay_s=NEVER)
    domain.do = domain.late
    for _ in range(2):  # the first, and the one that finds out at once
        with pytest.raises(Unfinished):
            domain.ask()
    for _ in range(10):
        with pytest.raises(NotResponding) as caught:
            domain.ask()
    assert caught.value.what == "storage domain d"
    stats = domain.supervisor.stats()
    assert (stats.started, stats.late, stats.refused) == (2, 2, 10)


def test_helpers_that_do_not_die_are_few_and_block_the_domain_until_they_go() -> None:
    domain = Domain(lambda name: name, killable=False, abandoned=2, first_delay_s=0.0)
    domain.do = domain.late
    for _ in range(2):
        with pytest.raises(Unfinished):
            domain.ask()
    for _ in range(10):
        with pytest.raises(NotResponding):
            domain.ask()
    assert (len(domain.helpers), domain.supervisor.stats().abandoned) == (2, 2)
    domain.do = lambda name: name
    domain.helpers[0].killable = True
    assert domain.ask() == "stat"
    assert domain.supervisor.stats().abandoned == 1


def test_one_call_finds_out_while_the_others_wait_for_it() -> None:
    domain = Domain(lambda name: name, patience_s=20.0)
    domain.do = domain.late
    with pytest.raises(Unfinished):
        domain.ask()
    inside, let_go = threading.Event(), threading.Event()

    def slow(name: str) -> str:
        inside.set()
        assert let_go.wait(20)
        return name

    domain.do = slow
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(domain.ask())) for _ in range(5)]
    threads[0].start()
    assert inside.wait(20)
    for thread in threads[1:]:
        thread.start()
    assert domain.helpers[-1].asked == 1
    let_go.set()
    for thread in threads:
        thread.join(20)
    assert (found, domain.helpers[-1].asked) == (["stat"] * 5, 5)


def test_too_many_calls_are_busy() -> None:
    inside, let_go = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        inside.set()
        assert let_go.wait(20)

    domain = Domain(slow, calls=1)
    thread = threading.Thread(target=domain.ask)
    thread.start()
    assert inside.wait(20)
    with pytest.raises(Busy):
        domain.ask()
    let_go.set()
    thread.join(20)
    domain.ask()


def test_reads_are_asked_again_when_the_helper_dies_and_changes_are_not() -> None:
    outcomes = iter([Lost, None, Lost])

    def die(_: str) -> None:
        if (error := next(outcomes)) is not None:
            raise error

    domain = Domain(die)
    domain.ask("read")
    assert len(domain.helpers) == 2
    with pytest.raises(Unfinished):
        domain.ask("create")
    assert domain.supervisor.stats().not_responding_s is None


def test_helpers_that_die_at_once_are_started_with_back_off() -> None:
    domain = Domain(lambda name: name, first_delay_s=NEVER)
    domain.do = domain.lost
    with pytest.raises(Unfinished):
        domain.ask("read")
    with pytest.raises(Unreachable, match="failed 2 times"):
        domain.ask("read")
    assert len(domain.helpers) == 2


def test_helper_that_cannot_be_started() -> None:
    def begin(_: str) -> FakeHelper:
        raise CommandFailed("python", 127, "", "no such file")

    supervisor = Supervisor("d", HelperLimits(first_delay_s=NEVER), begin)
    for _ in range(2):
        with pytest.raises(Unreachable, match="cannot be started"):
            supervisor.call("stat", [], {}, 1.0)
    with pytest.raises(Unreachable, match="the next is started in"):
        supervisor.call("stat", [], {}, 1.0)


def test_defect_of_the_helper_is_an_answer() -> None:
    def fail(_: str) -> None:
        raise Failed("the file helper's stat", "TypeError")

    domain = Domain(fail)
    with pytest.raises(Failed):
        domain.ask()
    assert domain.supervisor.stats().not_responding_s is None


def test_closed_it_asks_nobody() -> None:
    domain = Domain(lambda name: name)
    domain.ask()
    domain.supervisor.close()
    assert domain.helpers[0].closed
    with pytest.raises(Unreachable):
        domain.ask()
