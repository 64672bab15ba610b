"""The log of events, and what readers of its stream get."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import pytest

from rest import RestHouse, http_scope
from vdsm.api.events import HostConnectionEvent, VmStatusEvent
from vdsm.base.errors import BadParameter, Busy
from vdsm.bindings.sse import MAX_READERS, EventLog

A, B = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ID = re.compile(rb"^id: (\S+)$", re.MULTILINE)


def status(vm_id: str = A, number: int = 0) -> VmStatusEvent:
    return VmStatusEvent(vm_id=vm_id, status="Up", status_time=number, notify_time=number)


class Visit:
    """One reader of the stream, as an ASGI server would have it."""

    def __init__(self, events: EventLog, query: dict[str, str] | None = None, last_event_id: str | None = None) -> None:
        self.got = b""
        self.scope = {"type": "http", "state": {"abort": self._abort}}
        self.aborted = False
        self.takes = asyncio.Event()
        self.takes.set()
        self._changed = asyncio.Condition()
        self._gone = asyncio.Event()
        self.ended = False
        stream = events.stream((query or {}).items(), last_event_id)
        self.task = asyncio.ensure_future(stream(self.scope, self._receive, self._send))

    def _abort(self) -> None:
        self.aborted = True
        self._gone.set()

    async def _receive(self):
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message) -> None:
        await self.takes.wait()
        async with self._changed:
            if message["type"] == "http.response.body":
                self.got += message["body"]
                self.ended = not message["more_body"]
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    async def numbers(self, count: int) -> list[int]:
        await self.until(lambda: len(self._events()) >= count)
        return [data["notify_time"] for _, data in self._events()]

    def _events(self) -> list[tuple[str, dict]]:
        found = re.findall(rb"event: (\w+)\ndata: (.*)\n\n", self.got)
        return [(name.decode(), json.loads(data)) for name, data in found]

    def names(self) -> list[str]:
        return [name for name, _ in self._events()]

    def last_id(self) -> str:
        return ID.findall(self.got)[-1].decode()

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 10)


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), 30))


def test_events_arrive_in_clean_form():
    async def main() -> None:
        events = EventLog()
        visit = Visit(events)
        await visit.until(lambda: b"retry: 2000" in visit.got)
        events.publish(status(A, 4))
        await visit.numbers(1)
        assert b'event: VM_status\ndata: {"notify_time":4,"vm_id":"%s","status":"Up","status_time":4}' % A.encode() in (
            visit.got
        )
        await visit.leave()
        assert events.stats().readers == 0

    run(main)


def test_resumes_where_it_was():
    async def main() -> None:
        events = EventLog()
        first = Visit(events)
        await first.until(lambda: bool(first.got))
        events.publish(status(A, 1))
        await first.numbers(1)
        await first.leave()
        for number in (2, 3):
            events.publish(status(A, number))
        for again in (Visit(events, None, first.last_id()), Visit(events, {"last_event_id": first.last_id()})):
            assert await again.numbers(2) == [2, 3]
            assert "reset" not in again.names()
            await again.leave()

    run(main)


def test_resumes_before_the_first_event_ever_came():
    async def main() -> None:
        events = EventLog()
        first = Visit(events)
        await first.until(lambda: bool(first.got))
        await first.leave()
        events.publish(status(A, 1))
        again = Visit(events, None, first.last_id())
        assert await again.numbers(1) == [1]
        await again.leave()

    run(main)


@pytest.mark.parametrize(
    "ident", ["otherrun-1", "", "nonsense", "{epoch}-0", "{epoch}-99", "{epoch}-x", "{epoch}-" + "9" * 30]
)
def test_reset_when_events_were_missed(ident):
    async def main() -> None:
        events = EventLog(capacity=2)
        for number in range(1, 5):
            events.publish(status(A, number))
        epoch = events.ident(0).decode().removesuffix("-0")
        visit = Visit(events, None, ident.format(epoch=epoch))
        await visit.until(lambda: bool(visit.got))
        events.publish(status(A, 9))
        if ident:
            await visit.until(lambda: visit.names() == ["reset", "VM_status"])
        else:
            await visit.until(lambda: visit.names() == ["VM_status"])
        await visit.leave()

    run(main)


def test_the_oldest_that_is_kept_can_be_resumed_from():
    async def main() -> None:
        events = EventLog(capacity=2)
        for number in range(1, 5):
            events.publish(status(A, number))
        visit = Visit(events, None, events.ident(2).decode())
        assert await visit.numbers(2) == [3, 4]
        assert "reset" not in visit.names()
        await visit.leave()

    run(main)


def test_filters():
    async def main() -> None:
        events = EventLog()
        of_b, links, both = Visit(events, {"vm_id": B}), Visit(events, {"types": "host_conn"}), Visit(events)
        for visit in (of_b, links, both):
            await visit.until(lambda visit=visit: bool(visit.got))
        events.publish(status(A, 1))
        events.publish(HostConnectionEvent(notify_time=2))
        events.publish(status(B, 3))
        assert await both.numbers(3) == [1, 2, 3]
        assert await of_b.numbers(1) == [3]
        assert await links.numbers(1) == [2]
        for visit in (of_b, links, both):
            await visit.leave()

    run(main)


def test_a_reader_that_is_away_comes_back_to_filtered_events_without_reset():
    async def main() -> None:
        events = EventLog(capacity=4)
        visit = Visit(events, {"vm_id": B})
        await visit.until(lambda: bool(visit.got))
        for number in range(20):
            events.publish(status(A, number))
            await asyncio.sleep(0)
        events.publish(status(B, 50))
        assert await visit.numbers(1) == [50]
        await visit.leave()

    run(main)


@pytest.mark.parametrize(("query", "field"), [({"types": "x"}, "types"), ({"type": "VM_status"}, "type")])
def test_bad_queries(query, field):
    with pytest.raises(BadParameter) as caught:
        EventLog().stream(query.items(), None)
    assert caught.value.field == field


def test_silence_is_broken():
    async def main() -> None:
        visit = Visit(EventLog(keep_alive_s=0.01))
        await visit.until(lambda: visit.got.count(b": alive\n\n") >= 2)
        await visit.leave()

    run(main)


def test_a_connection_that_takes_nothing_is_cut_off():
    async def main() -> None:
        events = EventLog(send_deadline_s=0.02)
        visit = Visit(events)
        await visit.until(lambda: bool(visit.got))
        visit.takes.clear()
        events.publish(status())
        await asyncio.wait_for(visit.task, 10)
        assert visit.aborted
        assert (events.stats().cut, events.stats().readers) == (1, 0)

    run(main)


def test_a_reader_slower_than_the_ring_is_cut_off():
    async def main() -> None:
        events = EventLog(capacity=3)
        visit = Visit(events)
        await visit.until(lambda: bool(visit.got))
        visit.takes.clear()
        for number in range(2):
            events.publish(status(A, number))
            await asyncio.sleep(0.01)
        for number in range(10):
            events.publish(status(A, number))
        visit.takes.set()
        await asyncio.wait_for(visit.task, 10)
        assert visit.aborted
        assert events.stats().cut == 1

    run(main)


def test_the_end_of_the_agent_ends_streams_cleanly():
    async def main() -> None:
        events = EventLog()
        visit = Visit(events)
        await visit.until(lambda: bool(visit.got))
        events.publish(status(A, 1))
        events.stop()
        await asyncio.wait_for(visit.task, 10)
        assert visit.ended
        assert visit.names() == ["VM_status"]
        assert not visit.aborted
        late = Visit(events)
        await asyncio.wait_for(late.task, 10)
        assert late.ended

    run(main)


def test_too_many_readers():
    async def main() -> None:
        events = EventLog()
        visits = [Visit(events) for _ in range(MAX_READERS)]
        for visit in visits:
            await visit.until(lambda visit=visit: bool(visit.got))
        with pytest.raises(Busy):
            events.stream((), None)
        for visit in visits:
            await visit.leave()
        assert events.stats().readers == 0

    run(main)


def test_stream_over_the_application():
    house = RestHouse()
    house.events.stop()
    sent = house.asgi(http_scope("GET", "/api/v1/events"), [])
    assert (b"content-type", b"text/event-stream; charset=utf-8") in sent[0]["headers"]
    assert not sent[-1]["more_body"]
    assert house.ask("HEAD", "/api/v1/events").status_code == 200
    assert house.ask("GET", "/api/v1/events?types=none").json()["field"] == "types"
