from __future__ import annotations

import asyncio
import json
import threading

import pytest

from vdsm.api.events import Event, HostConnectionEvent, JobEvent, VmStatusEvent
from vdsm.bindings.broker import Broker
from vdsm.bindings.event_hub import EventHub, StompEvents, method
from vdsm.bindings.stomp import Parser


def host_event(number: int) -> HostConnectionEvent:
    return HostConnectionEvent(notify_time=number)


def vm_event() -> VmStatusEvent:
    return VmStatusEvent(notify_time=2**31, vm_id="a-b", status="Down", status_time=2**31, exit_code=0, exit_reason=6)


class Inbox:
    def __init__(self) -> None:
        self.frames: list = []

    def deliver(self, frame: bytes) -> None:
        self.frames += Parser(1 << 20).feed(frame)


def encoded(event: Event) -> dict:
    return json.loads(StompEvents(Broker(), lambda: True).encode(event))


def test_a_vm_event_has_its_body_under_the_id_and_notify_time_beside_it() -> None:
    event = encoded(vm_event())
    assert event["jsonrpc"] == "2.0"
    assert "id" not in event
    assert event["method"] == "|virt|VM_status|a-b"
    assert set(event["params"]) == {"a-b", "notify_time"}
    assert event["params"]["notify_time"] == 2**31
    body = event["params"]["a-b"]
    assert body["status"] == "Down"
    assert body["statusTime"] == str(2**31)
    assert (body["exitCode"], body["exitReason"]) == (0, 6)
    assert "notify_time" not in body


def test_a_host_event_has_a_filler_for_its_id() -> None:
    assert encoded(host_event(5)) == {"jsonrpc": "2.0", "method": "|net|host_conn|no_id", "params": {"notify_time": 5}}


def test_a_job_event_has_its_fields_flat() -> None:
    event = encoded(JobEvent(notify_time=5, id="j1", status="done", job_type="virt", description="d"))
    assert event["method"] == "|jobs|status|j1"
    assert event["params"] == {
        "id": "j1",
        "status": "done",
        "job_type": "virt",
        "description": "d",
        "notify_time": 5,
    }


@pytest.mark.parametrize("fields", [("virt", "VM_status", ""), ("a|b", "c", "d|"), ("", "", "")])
def test_a_method_has_exactly_four_fields_of_which_only_the_first_is_empty(fields: tuple[str, str, str]) -> None:
    first, *others = method(*fields).split("|")
    assert first == ""
    assert len(others) == 3
    assert all(others)


def test_events_go_to_subscribers_of_the_queue_and_above_it_once_ready() -> None:
    broker, inbox, other = Broker(), Inbox(), Inbox()
    ready = [False]
    events = StompEvents(broker, lambda: ready[0])
    broker.subscribe(inbox, "1", "jms.queue.events")
    broker.subscribe(inbox, "2", "jms")
    broker.subscribe(other, "1", "jms.queue.events.more")
    events.deliver(host_event(1))
    assert inbox.frames == []
    ready[0] = True
    events.deliver(host_event(2))
    assert [frame.headers["subscription"] for frame in inbox.frames] == ["1", "2"]
    assert {frame.headers["destination"] for frame in inbox.frames} == {"jms.queue.events"}
    assert other.frames == []
    broker.unsubscribe(inbox, "1", "jms.queue.events")
    broker.unsubscribe(inbox, "2", "jms")
    events.deliver(host_event(3))
    assert len(inbox.frames) == 2


def test_events_of_many_threads_arrive_on_the_loop_in_one_order_for_all_sinks() -> None:
    async def run() -> tuple[list[Event], list[Event]]:
        hub = EventHub()
        early = host_event(-1)
        hub.publish(early)
        first: list[Event] = []
        second: list[Event] = []
        hub.start(first.append, second.append)
        loop_thread = threading.get_ident()
        threads = [
            threading.Thread(target=lambda start=start: [hub.publish(host_event(start + n)) for n in range(100)])
            for start in range(0, 400, 100)
        ]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(30):
            while len(first) < 401:
                await asyncio.sleep(0)
        assert loop_thread == threading.get_ident()
        hub.stop()
        hub.publish(early)
        await asyncio.sleep(0)
        return first, second

    first, second = asyncio.run(run())
    assert first == second
    assert first[0].notify_time == -1
    assert sorted(event.notify_time for event in first) == list(range(-1, 400))
    for start in range(0, 400, 100):
        own = [event.notify_time for event in first if start <= event.notify_time < start + 100]
        assert own == list(range(start, start + 100))


def test_a_sink_that_fails_does_not_keep_others_from_events() -> None:
    async def run() -> list[Event]:
        hub = EventHub()
        got: list[Event] = []
        hub.start(lambda event: event.nothing_of_this_name, got.append)
        hub.publish(host_event(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return got

    assert len(asyncio.run(run())) == 1


def test_the_line_is_bounded() -> None:
    hub = EventHub(capacity=3)
    for number in range(5):
        hub.publish(host_event(number))
    assert hub.lost == 2
