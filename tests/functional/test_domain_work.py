"""Making and formatting domains through the journal: killed at every point, refused, resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_storage_domains import attach, fill

from domain_parts import LocalDoors, Place, registry, request
from dooms import memory_directory
from storage_domains import Full
from vdsm.operations.host_journal import HostJournal
from vdsm.operations.kinds import Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.storage.domains.domain_errors import DomainAttached, LongDescription, NotMounted
from vdsm.storage.domains.domain_opener import FileDoors
from vdsm.storage.domains.domain_work import DomainKinds, DomainWork
from vdsm.storage.errors import DomainExists, NoSpace, NoSuchDomain, StorageFailed
from vdsm.storage.files.localfiles import LocalFiles

HARNESS = Path(__file__).with_name("domain_crash.py")
STRIDE = 1 if os.environ.get("VDSM_EXHAUSTIVE") else 23


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("what", "outcome"), [("make", "before"), ("format", "after"), ("bare", "made")])
def test_killed_at_every_point_nothing_is_left_between(what: str, outcome: str) -> None:
    with memory_directory() as place:
        argv = [sys.executable, str(HARNESS), str(place / "base"), what, str(STRIDE)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["points"] >= 30
    assert seen["kills"] > 1.5 * seen["points"]
    assert seen[outcome] > 0.8 * seen["points"]


@dataclass
class Agent:
    """What one process has of the agent, with a journal that outlives it."""

    places: list[Place]
    journal: Path
    doors: FileDoors = field(default_factory=LocalDoors)

    def __post_init__(self) -> None:
        self.journal.mkdir(exist_ok=True)
        self.domains = registry(self.places, self.doors)
        kinds = DomainKinds(self.domains)
        self.operations = Operations(Kinds(kinds.all), HostJournal(self.journal), Locks(), workers=2)
        self.work = DomainWork(self.domains, kinds, self.operations)
        self.resumed = self.operations.resume()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.of(tmp_path / "place")


def test_domain_is_made_and_formatted_and_nothing_stays_in_the_journal(place: Place, tmp_path: Path) -> None:
    agent = Agent([place], tmp_path / "journal")
    made = agent.work.create(request(place, name="x"))
    assert agent.domains.validate(made.id).description == "x"
    fill(made.path)
    agent.work.format(made.id)
    assert list(Path(place.path).iterdir()) == []
    assert (agent.operations.views(), list((tmp_path / "journal").iterdir())) == ([], [])
    with pytest.raises(NoSuchDomain):
        agent.domains.find(made.id)


def test_refusals_are_those_of_the_registry(place: Place, tmp_path: Path) -> None:
    agent = Agent([place], tmp_path / "journal")
    with pytest.raises(NotMounted):
        agent.work.create(request(Place("/nowhere", place.type, "/nowhere")))
    with pytest.raises(LongDescription) as long:
        agent.work.create(request(place, name="x" * 51))
    assert (long.value.length, long.value.code) == (51, 387)
    made = agent.work.create(request(place))
    with pytest.raises(DomainExists):
        agent.work.create(request(place))
    attach(agent.domains, made.id)
    with pytest.raises(DomainAttached) as attached:
        agent.work.format(made.id)
    assert attached.value.code == 391
    agent.work.format(made.id, auto_detach=True)
    with pytest.raises(NoSuchDomain):
        agent.work.format(made.id)
    assert (agent.operations.views(), list((tmp_path / "journal").iterdir())) == ([], [])


@pytest.mark.parametrize("room", range(11))
def test_storage_that_is_full_on_the_way_is_said_and_left_empty(place: Place, tmp_path: Path, room: int) -> None:
    agent = Agent([place], tmp_path / "journal", LocalDoors(Full(room)))
    if room < 10:
        with pytest.raises(NoSpace):
            agent.work.create(request(place))
        assert list(Path(place.path).iterdir()) == []
    else:
        agent.work.create(request(place))
    assert agent.operations.views() == []


class Stubborn(LocalFiles):
    """Files of which some cannot be removed."""

    kept = "stuck"

    def unlink(self, path: str) -> None:
        if path.endswith(self.kept):
            raise OSError(5, "Input/output error", path)
        super().unlink(path)


def test_formatting_that_storage_refuses_is_ended_later(place: Place, tmp_path: Path) -> None:
    stubborn = Stubborn()
    agent = Agent([place], tmp_path / "journal", LocalDoors(stubborn))
    made = agent.work.create(request(place))
    Path(f"{made.path}/images/stuck").touch()
    with pytest.raises(StorageFailed, match="Input/output"):
        agent.work.format(made.id)
    with pytest.raises(NoSuchDomain):
        agent.domains.find(made.id)
    agent.work.settle()
    view = agent.operations.wait(agent.operations.views()[0].id, 60)
    assert view.phase == "unfinished"
    stubborn.kept = "nothing"
    agent.work.settle()
    agent.operations.wait(view.id, 60)
    assert list(Path(place.path).iterdir()) == []
    agent.work.settle()
    assert (agent.operations.views(), list((tmp_path / "journal").iterdir())) == ([], [])


def test_without_its_connection_nothing_is_settled_by_mistake(place: Place, tmp_path: Path) -> None:
    """An empty mount point must not be taken for a domain that is gone."""
    stubborn = Stubborn()
    first = Agent([place], tmp_path / "journal", LocalDoors(stubborn))
    made = first.work.create(request(place))
    Path(f"{made.path}/images/stuck").touch()
    with pytest.raises(StorageFailed):
        first.work.format(made.id)
    first.operations.stop(20)
    Path(place.path).rename(tmp_path / "away")
    second = Agent([], tmp_path / "journal")
    view = second.operations.wait(second.resumed[0].id, 60)
    assert (view.phase, view.fault and view.fault.code) == ("unfinished", 360)
    (tmp_path / "away").rename(place.path)
    second.places.append(place)
    second.work.settle()
    second.operations.wait(view.id, 60)
    assert list(Path(place.path).iterdir()) == []
