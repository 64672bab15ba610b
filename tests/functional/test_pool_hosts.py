"""Two hosts, one pool: the SPM dies or loses its lease, another takes over; nobody who lost it writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from domain_parts import eventually
from pool_worlds import POOL, SLOW_S, Host, places
from vdsm.base.clock import boottime_s
from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import LeaseLost
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import AttachedStatus, DomainRole, StorageType
from vdsm.storage.locks.lock_twin import SharedDisk, TwinHost
from vdsm.storage.pool.pool_errors import NotSpm, TasksRunning
from vdsm.storage.pool.spm import SpmRole
from vdsm.storage.pool.write_gate import WriteGate

ACTIVE = AttachedStatus.ACTIVE
TASK = "0a000000-0000-4000-8000-000000000001"


class Mark(msgspec.Struct, frozen=True):
    """Write a file in three parts."""

    path: str
    slow: bool = False


class Marks:
    """A kind of operation that stops between its steps when asked, for the test to look."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self.kinds = [self.kind("mark", Policy.UNDO), self.kind("mark on", Policy.RESUME)]

    def kind(self, name: str, policy: Policy) -> Kind[Mark]:
        return Kind(name, 1, Mark, self.steps, policy=policy)

    def steps(self, given: Mark) -> list[Step]:
        path = Path(given.path)

        def write(number: int, run: Run) -> None:
            path.with_name(f"{path.name}.{number}").write_text(str(number))
            if given.slow and number == 1 and not self.go.is_set():
                self.reached.set()
                self.go.wait(SLOW_S)

        def remove(number: int, run: Run) -> None:
            path.with_name(f"{path.name}.{number}").unlink(missing_ok=True)

        return [
            Step(
                f"part {number}",
                lambda run, number=number: write(number, run),  # type: ignore[misc]
                lambda run, number=number: remove(number, run),  # type: ignore[misc]
            )
            for number in range(3)
        ]


class Pair:
    """Two hosts on shared domains; ``a`` is the SPM."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.disk = SharedDisk()
        self.twins = [TwinHost(self.disk, "a"), TwinHost(self.disk, "b")]
        for twin in self.twins:
            twin.valid_s = 80.0
        self.slept_s = 0.0
        self.marks = [Marks(), Marks()]
        self.places = places(base, 2, StorageType.POSIXFS)
        self.a, self.b = self.host(0), self.host(1)
        self.ids: list[DomainId] = [self.a.new_domain(place) for place in self.places]
        self.a.pools.create(POOL, "a pool", self.ids[0], 1, self.ids)
        for host in (self.a, self.b):
            self.connect(host)
        assert self.a.become_spm().result == "success"

    def host(self, index: int) -> Host:
        kinds = self.marks[index].kinds
        options = {"gate": self.gate} if index == 0 else {}
        return Host(self.base, self.places, index + 1, self.twins[index], kinds, options=options)

    def gate(self, domain: Domain, host_id: int) -> WriteGate:
        """As ``spm_gate``; with a clock that goes on while ``a`` stands still."""
        return WriteGate(domain.lock, domain.lock.sdm, host_id, clock=lambda: boottime_s() + self.slept_s)

    def thaw(self) -> None:
        """``a`` goes on after it has stood still for long."""
        self.slept_s += 200.0
        self.marks[0].go.set()

    def connect(self, host: Host) -> None:
        host.pools.connect(POOL, host.number, self.ids[0], 1, dict.fromkeys(self.ids, ACTIVE))

    def mark(self, index: int, kind: int = 0, *, slow: bool = True) -> str:
        """Begin an operation on a host, and wait until it is in its second step."""
        marks, host = self.marks[index], (self.a, self.b)[index]
        task = host.pools.spm(POOL).submit(marks.kinds[kind], Mark(str(self.base / "mark"), slow), TASK)
        if slow:
            assert marks.reached.wait(SLOW_S)
        return task

    def parts(self) -> list[str]:
        return sorted(path.name for path in self.base.glob("mark.*"))

    def records(self) -> dict[str, str]:
        master = Path(self.a.domains.find(self.ids[0]).master_path)
        found = [json.loads(path.read_text()) for path in (master / "operations").glob("*.json")]
        return {record["id"]: record["phase"] for record in found}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    for marks in made.marks:
        marks.go.set()
    made.a.end()
    made.b.end()


def test_only_one_is_spm_and_each_knows_who(pair: Pair) -> None:
    status = pair.b.pools.spm_status(POOL)
    assert (status.status, status.lver, status.host_id) == (SpmRole.FREE, 2, 1)
    assert pair.b.become_spm().code == 651
    assert pair.b.pools.spm_status(POOL).status is SpmRole.FREE
    assert pair.a.pools.spm_status(POOL).status is SpmRole.SPM
    pair.a.pools.spm_stop(POOL)
    assert pair.b.pools.spm_status(POOL).host_id == -1
    assert pair.b.become_spm().result == "success"
    status = pair.a.pools.spm_status(POOL)
    assert (status.lver, status.host_id) == (3, 2)


@pytest.mark.parametrize(
    ("kind", "result", "parts"), [(0, "cleanSuccess", []), (1, "success", ["mark.0", "mark.1", "mark.2"])]
)
def test_dead_spms_task_is_settled_by_the_next(pair: Pair, kind: int, result: str, parts: list[str]) -> None:
    task = pair.mark(0, kind)
    assert pair.a.tasks.status(task).state == "running"
    pair.twins[0].power_off()
    assert pair.b.become_spm().code == 651
    pair.disk.expire(pair.twins[0])
    pair.marks[1].go.set()
    assert pair.b.become_spm().result == "success"
    status = pair.b.ended(task)
    assert (status.id, status.result) == (task, result)
    assert pair.b.tasks.info(task).verb == ("mark", "mark on")[kind]
    assert pair.parts() == parts
    # What the dead one still does when it wakes up: its step goes on, and nothing after it.
    pair.b.tasks.clear(task)
    pair.thaw()
    eventually(lambda: pair.a.fenced)
    assert pair.parts() == parts
    assert pair.records() == {}


def test_thawed_spm_writes_nothing_more(pair: Pair) -> None:
    task = pair.mark(0)
    term = pair.a.pools.spm(POOL)
    pair.twins[0].kill_process()
    assert pair.b.become_spm().result == "success"
    pair.b.ended(task)
    before = (pair.parts(), pair.records(), [pair.b.metadata(ident) for ident in pair.ids])
    pair.thaw()
    eventually(lambda: pair.a.fenced)
    eventually(lambda: pair.a.pools.spm_status(POOL).status is SpmRole.FREE)
    with pytest.raises(NotSpm):
        pair.a.pools.attach(pair.ids[1], POOL)
    with pytest.raises((NotSpm, LeaseLost)):
        term.submit(pair.marks[0].kinds[0], Mark(str(pair.base / "other")))
    assert (pair.parts(), pair.records(), [pair.b.metadata(ident) for ident in pair.ids]) == before
    assert list(pair.base.glob("other*")) == []


def test_lease_that_is_lost_at_rest_is_noticed(pair: Pair) -> None:
    pair.twins[0].kill_process()
    eventually(lambda: pair.a.fenced)
    assert pair.a.pools.spm_status(POOL).status is SpmRole.FREE
    with pytest.raises(NotSpm):
        pair.a.tasks.statuses()
    assert pair.b.become_spm().result == "success"


def test_finished_task_of_the_dead_is_told_by_the_next(pair: Pair) -> None:
    task = pair.mark(0, slow=False)
    told = pair.a.ended(task)
    assert (told.result, told.code, told.message) == ("success", 0, "1 jobs completed successfully")
    pair.twins[0].kill_process()
    pair.b.become_spm()
    assert pair.b.tasks.statuses() == [told]
    pair.b.tasks.clear(task)
    assert pair.b.tasks.statuses() == []


def test_busy_spm_is_not_stopped(pair: Pair) -> None:
    task = pair.mark(0)
    with pytest.raises(TasksRunning) as refused:
        pair.a.pools.spm_stop(POOL)
    assert (refused.value.code, task in str(refused.value)) == (653, True)
    pair.marks[0].go.set()
    pair.a.ended(task)
    pair.a.pools.spm_stop(POOL)
    assert pair.a.fenced == []
    assert pair.b.become_spm().result == "success"


def test_task_is_stopped_and_explained(pair: Pair) -> None:
    task = pair.mark(0)
    assert pair.a.tasks.explain(task).done == ("part 0",)
    pair.a.tasks.stop(task)
    assert pair.a.tasks.status(task).state == "aborting"
    pair.marks[0].go.set()
    ended = pair.a.ended(task)
    assert (ended.result, ended.code, pair.parts()) == ("cleanSuccess", 411, [])
    pair.a.tasks.stop(task)
    pair.a.tasks.revert(task)


def test_master_moves_under_a_running_task(pair: Pair) -> None:
    task = pair.mark(0, 1)
    switch = pair.a.pools.switch_master(POOL, pair.ids[0], pair.ids[1], 2)
    assert pair.a.ended(switch).result == "success"
    pair.marks[0].go.set()
    assert pair.a.ended(task).result == "success"
    master = Path(pair.a.domains.find(pair.ids[1]).master_path)
    assert {path.stem for path in (master / "operations").iterdir()} == {task, switch}
    assert pair.records() == {}
    lock = pair.b.domains.find(pair.ids[0]).lock
    assert lock.inspect(lock.sdm).owners == ()
    pair.twins[0].kill_process()
    pair.b.pools.connect(POOL, 2, pair.ids[1], 2, dict.fromkeys(pair.ids, ACTIVE))
    assert pair.b.become_spm().result == "success"
    assert {status.id for status in pair.b.tasks.statuses()} == {task, switch}


def test_of_two_masters_the_managers_counts(pair: Pair) -> None:
    pair.a.domains.update(pair.ids[1], lambda metadata: replace(metadata, role=DomainRole.MASTER))
    pair.twins[0].kill_process()
    pair.b.become_spm()
    pair.b.pools.domain_changed(pair.ids[1])
    assert [pair.b.metadata(ident).role for ident in pair.ids] == [DomainRole.MASTER, DomainRole.REGULAR]
