"""The state table of a VM, walked."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.base.errors import WrongState
from vdsm.virt.lifecycle import ALIVE, HAPPENINGS, REQUESTS, RUNNING, Happening, Request, Status, after, on

NOT_YET = {Status.MIGRATION_SOURCE, Status.MIGRATION_DESTINATION, Status.SAVING_STATE, Status.RESTORING_STATE}


@pytest.mark.parametrize(("status", "request_"), list(product(Status, Request)))
def test_request_is_in_the_table_or_refused_by_name(status: Status, request_: Request) -> None:
    if (status, request_) in REQUESTS:
        assert after(status, request_) is REQUESTS[status, request_]
        return
    with pytest.raises(WrongState) as refused:
        after(status, request_)
    assert str(refused.value) == f"cannot {request_.value} while {status.value}"


def test_refusal_in_words() -> None:
    with pytest.raises(WrongState, match=r"^cannot pause while Down$"):
        after(Status.DOWN, Request.PAUSE)
    with pytest.raises(WrongState, match=r"^cannot reset while Paused$"):
        after(Status.PAUSED, Request.RESET)


def test_words_are_those_of_the_protocol() -> None:
    assert {status.value for status in Status} == {
        "WaitForLaunch",
        "Powering up",
        "Up",
        "Paused",
        "Powering down",
        "RebootInProgress",
        "Migration Source",
        "Migration Destination",
        "Saving State",
        "Restoring state",
        "Down",
    }


def test_down_vm_only_takes_destroy() -> None:
    assert [request for status, request in REQUESTS if status is Status.DOWN] == [Request.DESTROY]


def test_vm_can_be_destroyed_and_can_end_in_every_state() -> None:
    for status in Status:
        assert after(status, Request.DESTROY) is Status.DOWN
        assert on(status, Happening.ENDED) is (None if status is Status.DOWN else Status.DOWN)


def test_every_state_but_the_future_ones_is_reached() -> None:
    reached = {Status.WAIT_FOR_LAUNCH}
    while True:
        more = {to for (start, _), to in [*REQUESTS.items(), *HAPPENINGS.items()] if start in reached}
        if more <= reached:
            break
        reached |= more
    assert reached == set(Status) - NOT_YET


@given(st.lists(st.sampled_from([*Request, *Happening])))
def test_down_is_final_and_a_vm_runs_only_after_its_launch(causes: list[Request | Happening]) -> None:
    status = Status.WAIT_FOR_LAUNCH
    launched = False
    for cause in causes:
        before = status
        if isinstance(cause, Request):
            try:
                status = after(status, cause)
            except WrongState:
                continue
        else:
            status = on(status, cause) or status
            launched = launched or (
                before is Status.WAIT_FOR_LAUNCH and cause in {Happening.LAUNCHED, Happening.LAUNCHED_PAUSED}
            )
        assert before is not Status.DOWN or status is Status.DOWN
        assert status not in ALIVE or launched


def test_running_states_can_be_paused() -> None:
    for status in RUNNING:
        assert after(status, Request.PAUSE) is Status.PAUSED
        assert on(status, Happening.PAUSED) is Status.PAUSED
