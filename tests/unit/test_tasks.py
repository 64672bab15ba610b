"""The words and numbers of tasks, as the Engine reads them."""

from __future__ import annotations

import pytest

from vdsm.operations.journal import MemoryJournal
from vdsm.operations.kinds import Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import Fault, OperationView, Phase
from vdsm.storage.ids import PoolId
from vdsm.storage.pool.pool_errors import NoSuchTask, NotSpm, error_of
from vdsm.storage.pool.spm import Spm
from vdsm.storage.pool.tasks import Tasks, status_of

POOL = PoolId("5bb00001-0000-4000-8000-000000000001")
FULL = Fault("no_space", 397, "the domain is full")


def view(phase: Phase, *, waiting: bool = False, fault: Fault | None = None, cancelled: bool = False) -> OperationView:
    return OperationView(
        id="a",
        kind="createVolume",
        phase=phase,
        waiting=waiting,
        progress=0,
        step="",
        fault=fault,
        cancelled=cancelled,
        stalled="",
        begun="",
        notes={},
    )


@pytest.mark.parametrize(
    ("given", "state", "result", "code", "message"),
    [
        (view(Phase.RUNNING, waiting=True), "init", "", 0, "Task is initializing"),
        (view(Phase.RUNNING), "running", "", 0, "running job 1 of 1"),
        (view(Phase.RUNNING, cancelled=True), "aborting", "", 0, "running job 1 of 1"),
        (view(Phase.UNDOING, fault=FULL), "cleaning", "", 397, "the domain is full"),
        (view(Phase.DONE), "finished", "success", 0, "1 jobs completed successfully"),
        (view(Phase.UNDONE, fault=FULL), "finished", "cleanSuccess", 397, "the domain is full"),
        (view(Phase.UNFINISHED, fault=FULL), "finished", "failure", 397, "the domain is full"),
        (view(Phase.HALF_UNDONE, fault=FULL), "finished", "cleanFailure", 397, "the domain is full"),
        (view(Phase.UNDONE, fault=Fault("x", 0, "odd")), "finished", "cleanSuccess", 100, "odd"),
    ],
)
def test_words(given: OperationView, state: str, result: str, code: int, message: str) -> None:
    found = status_of(given)
    assert (found.state, found.result, found.code, found.message) == (state, result, code, message)


class NoPool:
    """A host in no pool, or in one whose SPM is another."""

    def __init__(self, pool_id: PoolId | None) -> None:
        self.host_tasks = Operations(Kinds([]), MemoryJournal(), Locks())
        self.pool_id = pool_id

    def current(self) -> PoolId | None:
        return self.pool_id

    def spm(self, pool_id: PoolId) -> Spm:
        raise NotSpm(pool_id)


def test_host_in_no_pool_has_no_tasks() -> None:
    tasks = Tasks(NoPool(None))
    assert (tasks.statuses(), tasks.infos()) == ([], [])
    for ask in (tasks.status, tasks.info, tasks.clear, tasks.stop, tasks.revert, tasks.explain):
        with pytest.raises(NoSuchTask) as refused:
            ask("0a000000-0000-4000-8000-000000000001")
        assert refused.value.code == 401


def test_host_that_is_not_the_spm_says_so() -> None:
    tasks = Tasks(NoPool(POOL))
    for ask in (tasks.statuses, tasks.infos):
        with pytest.raises(NotSpm) as refused:
            ask()
        assert refused.value.code == 654
    with pytest.raises(NoSuchTask):
        tasks.status("0a000000-0000-4000-8000-000000000001")


def test_error_of_an_operation_keeps_its_number() -> None:
    found = error_of(FULL, "attaching")
    assert (found.name, found.code, str(found)) == ("no_space", 397, "the domain is full")
    assert type(found).code == 397
