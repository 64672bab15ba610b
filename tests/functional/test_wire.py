"""The network port over real sockets: every trap of the Engine's client library, and clients that misbehave."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import certificates as pki
from certificates import Certificates
from vdsm.api.contract import Pool
from vdsm.api.events import HostConnectionEvent, VmStatusEvent
from vdsm.base import logs
from vdsm.base.errors import Failed, NoSuchVm
from vdsm.bindings.listener import Doors
from vdsm.bindings.pacing import OutputLimits
from vdsm.bindings.stomp import SMALL_TAIL, TLS_RECORD
from vdsm.bindings.stomp_session import StompLimits
from vdsm.bindings.tls import TlsFiles
from wire import (
    CONNECT,
    EVENTS,
    REQUESTS,
    RESPONSES,
    Client,
    Closed,
    LiveServer,
    RawVerb,
    TlsClient,
    client_context,
    dial,
    encode,
    send,
    subscribe,
)

FRAME_BYTES = 1 << 20
# What the Engine's client needs between two frames, in seconds.
GAP_S = 0.005
SUBSCRIBE_RESPONSES = subscribe(RESPONSES, "r-id")
SUBSCRIBE_EVENTS = subscribe(EVENTS, "e-id")
OPENING = (CONNECT, SUBSCRIBE_RESPONSES, SUBSCRIBE_EVENTS)


class Gate:
    """A verb that waits until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, _: bytes) -> bytes:
        self.opened.wait(60)
        return b"true"


def text(raw_params: bytes) -> bytes:
    """A text of the wanted size."""
    return b'"%s"' % (b"x" * json.loads(raw_params)["size"])


def fail(_: bytes) -> bytes:
    raise NoSuchVm("1234")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def verbs(gate: Gate) -> list[RawVerb]:
    return [
        RawVerb("Host.ping", lambda _: b"true", while_starting=True),
        RawVerb("Host.echo", bytes),
        RawVerb("Host.text", text),
        RawVerb("Host.flow", lambda _: json.dumps(logs.flow_id.get()).encode()),
        RawVerb("Host.poolFlow", lambda _: json.dumps(logs.flow_id.get()).encode(), Pool.QUERY),
        RawVerb("VM.fail", fail),
        RawVerb("VM.wait", gate, Pool.LIFECYCLE),
    ]


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return pki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def doors(certs: Certificates) -> Doors:
    return Doors("127.0.0.1", 0, certs.host_files)


@pytest.fixture
def server(verbs: list[RawVerb], doors: Doors) -> Iterator[LiveServer]:
    with LiveServer(verbs, doors, StompLimits(frame_bytes=FRAME_BYTES, requests=4)) as server:
        yield server


@pytest.fixture
def plain(verbs: list[RawVerb]) -> Iterator[LiveServer]:
    with LiveServer(verbs, Doors("127.0.0.1", 0), StompLimits(frame_bytes=FRAME_BYTES)) as server:
        yield server


@pytest.fixture
def connect(server: LiveServer, certs: Certificates) -> Iterator:
    """Make TLS clients as an Engine's; closes them in the end."""
    clients: list[TlsClient] = []

    def make(pair=certs.manager, version=ssl.TLSVersion.TLSv1_2) -> TlsClient:
        clients.append(TlsClient(dial(server.port), client_context(certs, pair, version)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def engine(connect) -> TlsClient:
    """A client that has done what an Engine does first."""
    client = connect()
    client.write(*OPENING)
    assert client.frame().command == "CONNECTED"
    return client


def host_event(number: int = 0) -> HostConnectionEvent:
    return HostConnectionEvent(notify_time=number)


# Opening frames.


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_opening_frames_may_come_in_any_order(connect, server: LiveServer, order: tuple[int, ...]) -> None:
    client = connect()
    client.write(*(OPENING[number] for number in order))
    assert client.frame().command == "CONNECTED"
    client.write(send("Host.ping"))
    answer = client.frame()
    assert (answer.headers["destination"], answer.headers["subscription"]) == (RESPONSES, "r-id")
    server.publish(host_event())
    event = client.frame()
    assert (event.headers["destination"], event.headers["subscription"]) == (EVENTS, "e-id")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_without_tls_opening_frames_may_be_glued_in_any_order(plain: LiveServer, order: tuple[int, ...]) -> None:
    with Client(dial(plain.port)) as client:
        client.write(b"".join(OPENING[number] for number in order))
        assert client.frame().command == "CONNECTED"
        assert client.ask("Host.ping")["result"] is True


@pytest.mark.parametrize("lost", range(3))
def test_one_lost_opening_frame_does_no_harm(plain: LiveServer, lost: int) -> None:
    with Client(dial(plain.port)) as client:
        client.write(b"".join(frame for number, frame in enumerate(OPENING) if number != lost))
        if lost != 0:
            assert client.frame().command == "CONNECTED"
        assert client.ask("Host.ping")["result"] is True


def test_a_request_before_anything_else_is_answered_to_its_reply_to(connect) -> None:
    client = connect()
    client.write(send("Host.ping", reply_to="my.own.queue"))
    answer = client.frame()
    assert answer.headers["destination"] == "my.own.queue"
    assert "subscription" not in answer.headers
    assert json.loads(answer.body) == {"jsonrpc": "2.0", "id": "1", "result": True}


def test_a_request_below_a_request_queue_and_a_reply_below_a_subscription(connect) -> None:
    client = connect()
    client.write(subscribe("private", "p"), send("Host.ping", destination=f"{REQUESTS}.sub", reply_to="private.x"))
    answer = client.frame()
    assert (answer.headers["destination"], answer.headers["subscription"]) == ("private.x", "p")


def test_the_second_request_queue_serves_as_well(connect) -> None:
    client = connect()
    assert client.ask("Host.ping", destination="jms.topic.vdsm_irs_requests")["result"] is True


def test_a_stream_may_come_in_pieces_of_one_byte(connect) -> None:
    client = connect()
    client.write(*(bytes([byte]) for byte in CONNECT + send("Host.ping")))
    assert client.frame().command == "CONNECTED"
    assert client.answer()["result"] is True


@pytest.mark.parametrize(
    ("wanted", "agreed"),
    [("0,15000", "15000,0"), ("0,0", "0,0"), ("10,20", "1000,1000"), ("5000,0", "0,5000"), ("nonsense", "0,0")],
)
def test_connected_swaps_the_heart_beats_and_lifts_short_ones(connect, wanted: str, agreed: str) -> None:
    client = connect()
    client.write(encode("CONNECT", {"accept-version": "1.2", "host": "null", "heart-beat": wanted}))
    frame = client.frame()
    assert frame.command == "CONNECTED"
    assert frame.headers == {"version": "1.2", "heart-beat": agreed}


@pytest.mark.parametrize("version", ["1.0", "1.1", "2.0", "1.0,1.1"])
def test_another_version_is_refused(connect, version: str) -> None:
    client = connect()
    client.write(encode("CONNECT", {"accept-version": version}))
    frame = client.frame()
    assert (frame.command, frame.headers["message"]) == ("ERROR", "Version unsupported")
    assert client.wait_closed().strip(b"\n") == b""


def test_one_of_several_versions_will_do(connect) -> None:
    client = connect()
    client.write(encode("STOMP", {"accept-version": "1.0,1.1, 1.2"}))
    assert client.frame().headers["version"] == "1.2"


# Heart-beats.


def test_a_silent_server_sends_line_ends(connect) -> None:
    client = connect()
    client.write(encode("CONNECT", {"accept-version": "1.2", "heart-beat": "0,1000"}))
    assert client.frame().command == "CONNECTED"
    assert [client.chunk(), client.chunk()] == [b"\n", b"\n"]


def test_a_client_that_promised_heart_beats_and_is_silent_is_cut_off(verbs, doors: Doors, certs: Certificates) -> None:
    with LiveServer(verbs, doors, StompLimits(min_beat_ms=100)) as server:
        client = TlsClient(dial(server.port), client_context(certs, certs.manager))
        client.write(encode("CONNECT", {"accept-version": "1.2", "heart-beat": "100,0"}))
        assert client.frame().headers["heart-beat"] == "0,100"
        client.wait_closed()
        server.until(lambda counts: not counts.get("stomp"))


def test_line_ends_of_a_client_are_no_frames(engine: TlsClient) -> None:
    engine.write(b"\n", b"\r\n\n", send("Host.ping"), b"\n")
    assert engine.answer()["result"] is True


# Framing.


def test_events_come_one_by_one_each_in_a_record_of_its_own(engine: TlsClient, server: LiveServer) -> None:
    count = 10
    began_s = time.monotonic()
    for number in range(count):
        server.publish(host_event(number))
    records = [engine.chunk() for _ in range(count)]
    took_s = time.monotonic() - began_s
    for number, record in enumerate(records):
        assert record.startswith(b"MESSAGE\n")
        assert record.endswith(b'"notify_time":%d}}\0' % number)
        assert record.count(b"\0") == 1
    # Nine gaps lie between sending the first and receiving the last, however slow this machine is.
    assert took_s >= (count - 1) * GAP_S


def test_answers_to_requests_that_came_together_are_apart(engine: TlsClient) -> None:
    began_s = time.monotonic()
    engine.write(b"".join(send("Host.ping", number) for number in range(5)))
    records = [engine.chunk() for _ in range(5)]
    assert time.monotonic() - began_s >= 4 * GAP_S
    assert [json.loads(record.partition(b"\n\n")[2][:-1])["id"] for record in records] == list(range(5))


def test_without_tls_each_event_comes_whole(plain: LiveServer) -> None:
    with Client(dial(plain.port)) as client:
        client.write(SUBSCRIBE_EVENTS, CONNECT)
        assert client.frame().command == "CONNECTED"
        began_s = time.monotonic()
        for number in range(10):
            plain.publish(host_event(number))
        events = [client.answer() for _ in range(10)]
        assert time.monotonic() - began_s >= 9 * GAP_S
    assert [event["params"]["notify_time"] for event in events] == list(range(10))


def test_after_quick_answers_a_line_end_wakes_the_client_up(connect) -> None:
    client = connect()  # and no CONNECT: no heart-beats were agreed
    for _ in range(50):
        client.write(send("Host.ping"))
        assert _records(client)[0].startswith(b"MESSAGE\n")
    assert client.chunk() == b"\n"


@pytest.mark.parametrize("size", [1000, 20_000, 100_000, 900_000])
def test_a_frame_leaves_in_full_records(engine: TlsClient, size: int) -> None:
    engine.write(send("Host.text", params={"size": size}))
    records = [engine.chunk()]
    while not records[-1].endswith(b"\0"):
        records.append(engine.chunk())
    assert b"\n\n" in records[0]
    assert all(len(record) == TLS_RECORD for record in records[:-1])
    assert len(records) == -(-sum(map(len, records)) // TLS_RECORD)


def test_no_frame_ends_with_a_small_record(engine: TlsClient) -> None:
    engine.write(send("Host.text", params={"size": 10_000}))
    around = len(b"".join(_records(engine))) - 10_000
    for tail in (1, 150, 290, SMALL_TAIL - 1, SMALL_TAIL):
        engine.write(send("Host.text", params={"size": 2 * TLS_RECORD + tail - around}))
        records = _records(engine)
        assert len(records[-1]) >= SMALL_TAIL
        body = b"".join(records).partition(b"\n\n")[2][:-1]
        assert len(json.loads(body)["result"]) == 2 * TLS_RECORD + tail - around


def _records(client: TlsClient) -> list[bytes]:
    """The records of the next frame."""
    records = [client.chunk()]
    while records[0] == b"\n":
        records = [client.chunk()]
    while not records[-1].endswith(b"\0"):
        records.append(client.chunk())
    return records


def test_the_content_length_counts_bytes(engine: TlsClient) -> None:
    engine.write(send("Host.echo", params={"text": "žluťoučký 漢字"}))
    (record,) = _records(engine)
    head, _, rest = record.partition(b"\n\n")
    (length,) = [int(line.partition(b":")[2]) for line in head.split(b"\n") if line.startswith(b"content-length:")]
    assert len(rest) == length + 1
    assert json.loads(rest[:-1])["result"] == {"text": "žluťoučký 漢字"}


def test_answers_have_the_headers_that_the_engine_wants(engine: TlsClient) -> None:
    engine.write(send("Host.ping"))
    frame = engine.frame()
    assert set(frame.headers) == {"destination", "content-type", "subscription", "content-length"}
    assert frame.headers["content-type"] == "application/json"


# Requests.


@pytest.mark.parametrize("ident", ["6b3e6b4e-uuid", 17, 1.5, None])
def test_an_id_comes_back_as_the_kind_it_was(engine: TlsClient, ident: object) -> None:
    assert engine.ask("Host.ping", ident) == {"jsonrpc": "2.0", "id": ident, "result": True}


def test_an_error_has_an_integer_code_and_no_result(engine: TlsClient) -> None:
    expected = {"code": 1, "message": "VM 1234 does not exist"}
    assert engine.ask("VM.fail") == {"jsonrpc": "2.0", "id": "1", "error": expected}
    assert engine.ask("No.such")["error"]["code"] == -32601


def test_a_body_that_is_no_json_is_answered(engine: TlsClient) -> None:
    engine.write(encode("SEND", {"destination": REQUESTS, "reply-to": RESPONSES}, b"{nonsense"))
    assert engine.answer()["error"]["code"] == -32700


def test_a_batch_is_answered_in_one_array(engine: TlsClient, gate: Gate) -> None:
    batch = [{"jsonrpc": "2.0", "method": method, "id": method} for method in ("VM.wait", "Host.ping")]
    body = json.dumps(batch).encode()
    engine.write(encode("SEND", {"destination": REQUESTS, "reply-to": RESPONSES}, body))
    assert engine.ask("Host.ping", "between")["id"] == "between"
    gate.opened.set()
    assert [item["id"] for item in engine.answer()] == ["VM.wait", "Host.ping"]


@pytest.mark.parametrize("method", ["Host.flow", "Host.poolFlow"])
def test_the_engines_flow_id_is_known_to_the_verb(engine: TlsClient, method: str) -> None:
    assert engine.ask(method, ovirtCorrelationId="flow-1:a")["result"] == "flow-1:a"
    assert engine.ask(method)["result"] == ""


def test_while_starting_verbs_answer_99_and_no_event_is_sent(engine: TlsClient, server: LiveServer) -> None:
    server.server.is_ready = False
    server.publish(host_event(1))
    assert engine.ask("Host.flow")["error"]["code"] == 99
    assert engine.ask("Host.ping")["result"] is True
    server.server.is_ready = True
    server.publish(host_event(2))
    assert engine.answer()["params"]["notify_time"] == 2


def test_a_waiting_verb_keeps_nobody_waiting_and_a_full_pool_is_busy(engine: TlsClient, connect, gate: Gate) -> None:
    other = connect()
    engine.write(*(send("VM.wait", number) for number in range(4)))
    assert engine.ask("Host.ping", "mine")["error"]["code"] == 1100
    assert other.ask("VM.wait", "full")["error"]["code"] == 1100
    assert other.ask("Host.poolFlow", "theirs")["id"] == "theirs"
    gate.opened.set()
    assert sorted(engine.answer()["id"] for _ in range(4)) == [0, 1, 2, 3]
    assert engine.ask("Host.ping", "again")["result"] is True


def test_an_answer_goes_to_the_asking_connection_only(engine: TlsClient, connect) -> None:
    other = connect()
    other.write(*OPENING)
    assert other.frame().command == "CONNECTED"
    assert engine.ask("Host.ping", "mine")["id"] == "mine"
    assert other.ask("Host.ping", "theirs")["id"] == "theirs"


def test_a_client_that_goes_away_harms_nobody(engine: TlsClient, connect, server: LiveServer, gate: Gate) -> None:
    leaver = connect()
    leaver.write(*OPENING, send("VM.wait"))
    assert leaver.frame().command == "CONNECTED"
    leaver.close()
    server.until(lambda counts: counts["stomp"] == 1)
    gate.opened.set()
    server.publish(host_event(7))
    assert engine.answer()["params"]["notify_time"] == 7
    assert engine.ask("Host.ping")["result"] is True


# Events and the simple broker.


def test_an_event_of_a_vm_is_as_the_engine_wants_it(engine: TlsClient, server: LiveServer) -> None:
    server.publish(VmStatusEvent(notify_time=2**31 + 5, vm_id="a-b-c", status="Up", status_time=2**31 + 5))
    frame = engine.frame()
    assert frame.headers["destination"] == EVENTS
    event = json.loads(frame.body)
    assert set(event) == {"jsonrpc", "method", "params"}
    assert event["jsonrpc"] == "2.0"
    fields = event["method"].split("|")
    assert fields == ["", "virt", "VM_status", "a-b-c"]
    assert event["params"]["notify_time"] == 2**31 + 5
    assert event["params"]["a-b-c"]["status"] == "Up"
    assert event["params"]["a-b-c"]["statusTime"] == str(2**31 + 5)


def test_events_end_with_the_subscription(engine: TlsClient, server: LiveServer) -> None:
    engine.write(encode("UNSUBSCRIBE", {"id": "e-id"}))
    assert engine.ask("Host.ping")["result"] is True
    server.publish(host_event())
    assert "result" in engine.ask("Host.ping")


def test_what_is_not_for_the_agent_goes_to_its_subscribers(engine: TlsClient, connect) -> None:
    other = connect()
    other.write(subscribe("chat", "c"))
    assert other.ask("Host.ping")["result"] is True
    engine.write(encode("SEND", {"destination": "chat.room", "reply-to": "x", "content-type": "text/plain"}, b"hello"))
    frame = other.frame()
    assert frame.body == b"hello"
    assert frame.headers["destination"] == "chat.room"
    assert frame.headers["subscription"] == "c"
    assert frame.headers["content-type"] == "text/plain"


def test_a_destination_without_subscribers_is_an_error_that_ends_nothing(engine: TlsClient) -> None:
    engine.write(encode("SEND", {"destination": "nobody"}, b"hello"))
    frame = engine.frame()
    assert (frame.command, frame.headers["message"]) == ("ERROR", "Subscription not available")
    assert engine.ask("Host.ping")["result"] is True


def test_receipts_are_given(engine: TlsClient) -> None:
    engine.write(encode("SUBSCRIBE", {"destination": "x", "id": "x", "receipt": "77"}))
    frame = engine.frame()
    assert (frame.command, frame.headers) == ("RECEIPT", {"receipt-id": "77"})


def test_disconnect_gets_its_receipt_and_then_the_end(engine: TlsClient, server: LiveServer) -> None:
    engine.write(encode("DISCONNECT", {"receipt": "bye"}), send("Host.ping"))
    frame = engine.frame()
    assert (frame.command, frame.headers) == ("RECEIPT", {"receipt-id": "bye"})
    assert engine.wait_closed().strip(b"\n") == b""
    engine.close()
    server.until(lambda counts: not counts.get("stomp"))


# Limits.


@pytest.mark.parametrize(
    "frame",
    [
        encode("SEND", {"destination": REQUESTS, "content-length": str(FRAME_BYTES + 1)}, b"x" * (FRAME_BYTES + 1)),
        encode("SEND", {"destination": REQUESTS}, b"x" * (FRAME_BYTES + 1)),
    ],
    ids=["declared", "not declared"],
)
def test_an_oversized_frame_is_refused_in_words(engine: TlsClient, connect, frame: bytes) -> None:
    engine.write(frame)
    refusal = engine.frame()
    assert refusal.command == "ERROR"
    assert f"the limit of {FRAME_BYTES} bytes" in refusal.headers["message"]
    assert engine.wait_closed().strip(b"\n") == b""
    assert connect().ask("Host.ping")["result"] is True


def test_the_largest_allowed_frame_passes(engine: TlsClient) -> None:
    request = b'{"jsonrpc":"2.0","method":"Host.ping","id":1}'
    body = request + b" " * (FRAME_BYTES - len(request))
    engine.write(encode("SEND", {"destination": REQUESTS, "content-length": str(FRAME_BYTES)}, body))
    assert engine.answer()["result"] is True


@pytest.mark.parametrize(
    "junk",
    [b"SEND\nnonsense\n\n\0", b"MESSAGE\n\n\0", b"BEGIN\ntransaction:1\n\n\0", b"SUBSCRIBE\nid:1\n\n\0", b"a" * 70_000],
)
def test_a_broken_stream_gets_an_error_and_the_end(engine: TlsClient, junk: bytes) -> None:
    engine.write(junk)
    assert engine.frame().command == "ERROR"
    assert engine.wait_closed().strip(b"\n") == b""


@pytest.mark.parametrize("junk", [b"\x00\x01\x02\x03", b"EHLO example.com\r\n", b"\n\n\n\n", os.urandom(300)])
def test_what_is_neither_stomp_nor_http_is_closed(connect, server: LiveServer, junk: bytes) -> None:
    client = connect()
    client.write(junk)
    assert client.wait_closed() == b""
    server.until(lambda counts: not counts.get("new"))


@pytest.mark.parametrize("first", [b"", b"SUBSCRI", b"GE"])
def test_a_client_that_does_not_say_what_it_wants_is_closed(verbs, doors: Doors, certs: Certificates, first) -> None:
    with LiveServer(verbs, replace(doors, handshake_s=0.3)) as server:
        client = TlsClient(dial(server.port), client_context(certs, certs.manager))
        if first:
            client.write(first)
        assert client.wait_closed() == b""
        assert not any(server.counts().values())


def test_a_handshake_that_never_comes_is_ended(verbs, doors: Doors) -> None:
    with LiveServer(verbs, replace(doors, handshake_s=0.3)) as server, Client(dial(server.port)) as client:
        client.wait_closed()
        server.until(lambda counts: not any(counts.values()))


def test_an_http_head_that_never_ends_is_ended(verbs, doors: Doors, certs: Certificates) -> None:
    with LiveServer(verbs, replace(doors, handshake_s=0.3)) as server:
        client = TlsClient(dial(server.port), client_context(certs, certs.manager))
        client.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert client.wait_closed() == b""
        server.until(lambda counts: not any(counts.values()))


def test_a_reader_who_never_reads_is_cut_off_and_others_are_served(verbs, doors: Doors, certs: Certificates) -> None:
    limits = StompLimits(output=OutputLimits(total_bytes=1 << 20))
    context = client_context(certs, certs.manager)
    with LiveServer(verbs, doors, limits) as server:
        slow = TlsClient(dial(server.port), context)
        slow.write(subscribe("flood", "1"))
        assert slow.ask("Host.ping")["result"] is True
        other = TlsClient(dial(server.port), context)
        flood = encode("SEND", {"destination": "flood", "content-length": "200000"}, b"x" * 200_000)
        for _ in range(1000):
            other.write(flood)
            assert other.ask("Host.ping")["result"] is True
            if server.counts()["stomp"] == 1:
                break
        assert server.counts()["stomp"] == 1
        slow.wait_closed()
        other.close()


def test_a_reader_who_takes_nothing_for_too_long_is_cut_off(verbs, doors: Doors, certs: Certificates) -> None:
    limits = StompLimits(output=OutputLimits(stall_s=0.5))
    with LiveServer(verbs, doors, limits) as server:
        client = TlsClient(dial(server.port), client_context(certs, certs.manager))
        client.write(send("Host.text", params={"size": 12_000_000}))
        server.until(lambda counts: counts.get("stomp") == 1)
        server.until(lambda counts: not counts.get("stomp"))
        client.close()


def test_a_client_that_asks_faster_than_it_reads_has_to_wait_and_loses_nothing(
    verbs, doors: Doors, certs: Certificates
) -> None:
    limits = StompLimits(output=OutputLimits(busy_bytes=100_000, busy_frames=4, total_bytes=3_000_000))
    with LiveServer(verbs, doors, limits) as server:
        client = TlsClient(dial(server.port), client_context(certs, certs.manager))
        writer = threading.Thread(
            target=client.write, args=(b"".join(send("Host.text", n, {"size": 100_000}) for n in range(100)),)
        )
        writer.start()
        writer.join()
        assert [client.answer()["id"] for _ in range(100)] == list(range(100))
        assert client.ask("Host.ping")["result"] is True
        client.close()


def test_connections_are_limited_and_free_ones_are_used_again(verbs, doors: Doors, certs: Certificates) -> None:
    context = client_context(certs, certs.manager)
    with LiveServer(verbs, replace(doors, connections=4)) as server:
        clients = [TlsClient(dial(server.port), context) for _ in range(3)]
        with pytest.raises(Closed):
            TlsClient(dial(server.port), context)
        assert server.counts()["refused"] == 1
        clients.pop().close()
        server.until(lambda counts: counts.get("new", 0) == 2)
        clients.append(TlsClient(dial(server.port), context))
        assert clients[-1].ask("Host.ping")["result"] is True
        for client in clients:
            client.close()


# Certificates and TLS.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(connect, version: ssl.TLSVersion) -> None:
    client = connect(version=version)
    assert client.tls.version() == version.name.replace("v1_", "v1.")
    assert client.ask("Host.ping")["result"] is True


def test_with_tls_1_3_nothing_comes_before_the_first_frame(connect) -> None:
    client = connect(version=ssl.TLSVersion.TLSv1_3)
    client.write(CONNECT)
    client._in.write(client._record())
    assert client.tls.read(1 << 16).startswith(b"CONNECTED\n")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused(server: LiveServer, certs: Certificates) -> None:
    context = client_context(certs, certs.manager)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    TlsClient(dial(server.port), context).close()
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, Closed)):
        TlsClient(dial(server.port), context)


@pytest.mark.parametrize("which", ["foreign", "expired"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_bad_certificate_is_refused(connect, server: LiveServer, certs: Certificates, which: str, version) -> None:
    with pytest.raises((ssl.SSLError, Closed)):
        connect(getattr(certs, which), version).ask("Host.ping")
    server.until(lambda counts: not any(counts.values()))


@pytest.mark.parametrize("first", [CONNECT, SUBSCRIBE_EVENTS, send("Host.ping")])
def test_stomp_without_a_certificate_is_closed(connect, server: LiveServer, first: bytes) -> None:
    client = connect(None)
    client.write(first)
    assert client.wait_closed() == b""


def test_plain_text_on_the_tls_port_is_closed(server: LiveServer) -> None:
    with Client(dial(server.port)) as client:
        client.write(CONNECT)
        assert b"CONNECTED" not in client.wait_closed()


def http_get(client: Client) -> tuple[bytes, bytes]:
    client.write(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = client.wait_closed().partition(b"\r\n\r\n")
    return head, body


def test_http_is_served_on_the_same_port_and_knows_the_caller(connect, engine: TlsClient) -> None:
    head, body = http_get(connect())
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ndate: " in head
    assert body == b"certificate:engine.example.com"
    assert engine.ask("Host.ping")["result"] is True


def test_http_without_a_certificate_is_served_and_has_no_caller(connect) -> None:
    head, body = http_get(connect(None))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b"None"


def test_bad_http_is_refused(connect) -> None:
    client = connect()
    client.write(b"GET  HTTP/1.1\r\n\r\n")
    assert client.wait_closed().startswith(b"HTTP/1.1 400 ")


def test_the_certificate_is_changed_without_a_stop(tmp_path: Path, verbs, certs: Certificates) -> None:
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    for source, target in zip(
        (certs.host.certificate, certs.host.key, certs.authority.certificate),
        (files.certificate, files.key, files.ca),
        strict=True,
    ):
        shutil.copy(source, target)
    context = client_context(certs, certs.manager)
    with LiveServer(verbs, Doors("127.0.0.1", 0, files)) as server:
        old = TlsClient(dial(server.port), context)
        assert ("commonName", "localhost") in itertools.chain(*old.tls.getpeercert()["subject"])
        fresh = certs.authority.issue("fresh.example.com")
        shutil.copy(fresh.certificate, files.certificate)
        with pytest.raises(Failed, match=str(files.certificate)):
            server.on_loop(server.server.listener.reload_tls)
        shutil.copy(fresh.key, files.key)
        server.on_loop(server.server.listener.reload_tls)
        new = TlsClient(dial(server.port), context)
        assert ("commonName", "fresh.example.com") in itertools.chain(*new.tls.getpeercert()["subject"])
        assert new.ask("Host.ping")["result"] is True
        assert old.ask("Host.ping")["result"] is True
        old.close()
        new.close()


# Addresses and the unix socket.


def test_every_address_means_ipv4_and_ipv6(verbs, certs: Certificates) -> None:
    hosts = ["127.0.0.1"]
    if Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in Path(
        "/proc/net/if_inet6"
    ).read_text("ascii"):
        hosts.append("::1")
    with LiveServer(verbs, Doors("::", 0, certs.host_files)) as server:
        for host in hosts:
            client = TlsClient(dial(server.port, host), client_context(certs, certs.manager))
            assert client.ask("Host.ping")["result"] is True
            client.close()


def test_an_address_that_is_taken_is_named(verbs, server: LiveServer, doors: Doors) -> None:
    with (
        pytest.raises(Failed, match=f"127.0.0.1 port {server.port}.*in use"),
        LiveServer(verbs, replace(doors, port=server.port)),
    ):
        pass


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def unix_client(path: Path) -> Client:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(30)
    connected.connect(str(path))
    return Client(connected)


def test_the_unix_socket_serves_both(open_directory: Path, verbs) -> None:
    path = open_directory / "vdsm.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with LiveServer(verbs, Doors("", 0, None, path, "daemon")):
        with unix_client(path) as client:
            client.write(*OPENING)
            assert client.frame().command == "CONNECTED"
            assert client.ask("Host.ping")["result"] is True
        with unix_client(path) as client:
            assert http_get(client)[1] == b"unix:root"
        assert path.stat().st_mode & 0o777 == 0o660
        assert path.group() == "daemon"
    assert not path.exists()


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path, verbs) -> None:
    path = tmp_path / "vdsm.sock"
    path.write_text("precious")
    with pytest.raises(Failed, match=r"vdsm\.sock"), LiveServer(verbs, Doors("", 0, None, path)):
        pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize(("group", "more", "allowed"), [(65534, [], False), (1, [], True), (65534, [1], True)])
def test_other_users_need_the_group(open_directory: Path, verbs, group: int, more: list[int], *, allowed: bool) -> None:
    path = open_directory / "vdsm.sock"
    program = "\n".join([
        "import socket, sys",
        "client = socket.socket(socket.AF_UNIX)",
        "client.settimeout(30)",
        f"client.connect({str(path)!r})",
        "try:",
        "    client.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')",
        "    print(client.recv(4096))",
        "except OSError:",
        "    print(b'')",
    ])
    with LiveServer(verbs, Doors("", 0, None, path, "daemon")):
        # The kernel's own check of the file's mode is not what is tested here.
        path.chmod(0o666)
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", program],  # not ours: the project may lie where others cannot read it
            user=65534, group=group, extra_groups=more, capture_output=True, timeout=60, check=True, cwd="/",
        )  # fmt: skip
    assert (b"HTTP/1.1 200" in done.stdout) is allowed
    assert allowed or done.stdout == b"b''\n"
