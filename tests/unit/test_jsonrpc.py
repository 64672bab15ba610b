from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.api.contract import Role
from vdsm.base.errors import BadParameter, Busy, NoSuchVerb, NoSuchVm
from vdsm.bindings.dispatch import Pending
from vdsm.bindings.jsonrpc import MAX_BATCH, JsonRpc
from vdsm.bindings.peers import Caller, Way

CALLER = Caller("test", Role.ADMIN, Way.UNIX)


class Verbs:
    """A dispatcher of a few verbs."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes, str]] = []
        self.pending: list[Pending] = []

    def call(self, name, raw_params, caller, flow=""):
        self.calls.append((name, raw_params, flow))
        match name:
            case "Host.ping":
                return b"true"
            case "Host.echo":
                return bytes(raw_params)
            case "VM.later":
                self.pending.append(Pending())
                return self.pending[-1]
            case "VM.none":
                raise NoSuchVm("1234")
            case "VM.bad":
                raise BadParameter("disks[0].path", "is missing")
            case "VM.broken":
                raise ZeroDivisionError("a secret detail")
        raise NoSuchVerb(name)


@pytest.fixture
def verbs() -> Verbs:
    return Verbs()


@pytest.fixture
def rpc(verbs: Verbs) -> JsonRpc:
    return JsonRpc(verbs)


def ask(rpc: JsonRpc, message) -> object:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    answer = rpc.handle(body, CALLER)
    if isinstance(answer, Pending):
        if not answer.settled:
            return answer
        got: list = []
        answer.then(got.append)
        answer = got[0]
    return None if answer is None else json.loads(answer)


def request(method: str, **more) -> dict:
    return {"jsonrpc": "2.0", "method": method, "params": {}, "id": "1", **more}


@pytest.mark.parametrize("ident", ['"6b3e-uuid"', "17", "-1", "1.50", "1e3", "null", '"žluť"', '"\\u0041"', '""'])
def test_an_id_is_echoed_as_it_came(rpc: JsonRpc, ident: str) -> None:
    answer = rpc.handle(f'{{"jsonrpc":"2.0","method":"Host.ping","id": {ident} }}'.encode(), CALLER)
    assert answer == f'{{"jsonrpc":"2.0","id":{ident},"result":true}}'.encode()


@pytest.mark.parametrize("ident", ["[1]", "{}", "true", "false"])
def test_an_id_of_another_kind_is_refused(rpc: JsonRpc, verbs: Verbs, ident: str) -> None:
    answer = ask(rpc, f'{{"jsonrpc":"2.0","method":"Host.ping","id":{ident}}}'.encode())
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)
    assert verbs.calls == []


def test_an_id_that_is_not_utf8_is_refused(rpc: JsonRpc) -> None:
    answer = ask(rpc, b'{"jsonrpc":"2.0","method":"Host.ping","id":"\xff"}')
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)


def test_parameters_and_flow_id_arrive_as_they_are(rpc: JsonRpc, verbs: Verbs) -> None:
    rpc.handle(b'{"id":1,"params": {"a" : [1,\n2]},"method":"Host.echo","jsonrpc":"2.0"}', CALLER, "flow")
    rpc.handle(b'{"id":1,"method":"Host.ping","jsonrpc":"2.0"}', CALLER)
    assert verbs.calls == [("Host.echo", b'{"a" : [1,\n2]}', "flow"), ("Host.ping", b"", "")]


@pytest.mark.parametrize("method", ["Host.ping", "VM.none", "VM.broken", "No.such"])
def test_a_notification_gets_no_answer(rpc: JsonRpc, verbs: Verbs, method: str) -> None:
    assert ask(rpc, {"jsonrpc": "2.0", "method": method}) is None
    assert len(verbs.calls) == 1


def test_a_pending_notification_gets_no_answer(rpc: JsonRpc, verbs: Verbs) -> None:
    answer = ask(rpc, {"jsonrpc": "2.0", "method": "VM.later"})
    verbs.pending[0].settle(b"true")
    got: list = []
    answer.then(got.append)
    assert got == [None]


@pytest.mark.parametrize(
    ("method", "code", "message"),
    [
        ("VM.none", 1, "VM 1234 does not exist"),
        ("VM.bad", -32602, "disks[0].path: is missing"),
        ("No.such", -32601, "there is no verb No.such"),
        ("VM.broken", -32603, "internal error: ZeroDivisionError"),
    ],
)
def test_an_error_has_a_code_and_a_message_and_there_is_no_result(
    rpc: JsonRpc, method: str, code: int, message: str
) -> None:
    assert ask(rpc, request(method)) == {"jsonrpc": "2.0", "id": "1", "error": {"code": code, "message": message}}


def test_an_unexpected_error_is_logged_with_its_traceback(rpc: JsonRpc, caplog: pytest.LogCaptureFixture) -> None:
    ask(rpc, request("VM.broken"))
    assert caplog.records[-1].levelno == logging.ERROR
    assert "a secret detail" in caplog.text


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b'{"jsonrpc":"2.0","method":"Host.ping","id":1', b"nonsense", b"\xff", b"[1,", b"[" * 100_000,
     b'{"a":' * 100_000, b'{"jsonrpc":"2.0","method":"\xff","id":1}', b'{"jsonrpc":1,"x"', b"{}{}"],
)  # fmt: skip
def test_what_is_no_json_is_a_parse_error(rpc: JsonRpc, body: bytes) -> None:
    answer = ask(rpc, body)
    assert (answer["id"], answer["error"]["code"]) == (None, -32700)


@pytest.mark.parametrize(
    ("message", "ident"),
    [
        ({}, None),
        (1, None),
        ("text", None),
        (None, None),
        ({"method": "Host.ping", "id": "7"}, "7"),
        ({"jsonrpc": "1.0", "method": "Host.ping", "id": "7"}, "7"),
        ({"jsonrpc": 2.0, "method": "Host.ping", "id": 7}, 7),
        ({"jsonrpc": "2.0", "id": 7}, 7),
        ({"jsonrpc": "2.0", "method": 1, "id": 7}, 7),
        ({"jsonrpc": "2.0", "method": None, "id": [7]}, None),
    ],
)
def test_what_is_no_request_is_an_invalid_request(rpc: JsonRpc, verbs: Verbs, message, ident) -> None:
    answer = ask(rpc, message)
    assert (answer["id"], answer["error"]["code"]) == (ident, -32600)
    assert verbs.calls == []


def test_an_empty_batch_is_an_invalid_request(rpc: JsonRpc) -> None:
    assert ask(rpc, [])["error"]["code"] == -32600


def test_a_batch_is_answered_in_one_array_after_the_last_is_done(rpc: JsonRpc, verbs: Verbs) -> None:
    batch = [
        request("VM.later", id=1),
        request("Host.ping", id=2),
        {"jsonrpc": "2.0", "method": "Host.ping"},
        7,
        request("VM.later", id=3),
    ]
    answer = ask(rpc, batch)
    assert isinstance(answer, Pending)
    verbs.pending[1].settle(NoSuchVm("x"))
    assert not answer.settled
    verbs.pending[0].settle(b'"first"')
    got: list = []
    answer.then(got.append)
    answers = json.loads(got[0])
    assert [item["id"] for item in answers] == [1, 2, None, 3]
    assert answers[0]["result"] == "first"
    assert answers[2]["error"]["code"] == -32600
    assert answers[3]["error"]["code"] == 1


def test_a_batch_of_notifications_gets_no_answer(rpc: JsonRpc, verbs: Verbs) -> None:
    assert ask(rpc, [{"jsonrpc": "2.0", "method": "Host.ping"}] * 3) is None
    assert len(verbs.calls) == 3


def test_a_batch_that_is_too_long_is_refused_as_a_whole(rpc: JsonRpc, verbs: Verbs) -> None:
    assert ask(rpc, [request("Host.ping")] * (MAX_BATCH + 1))["error"]["code"] == -32600
    assert verbs.calls == []


def test_a_refusal_names_its_reason_and_the_id(rpc: JsonRpc, verbs: Verbs) -> None:
    answer = json.loads(rpc.refuse(json.dumps(request("Host.ping")).encode(), Busy("of yours")))
    assert (answer["id"], answer["error"]["code"]) == ("1", 1100)
    assert json.loads(rpc.refuse(b"junk", Busy("of yours")))["id"] is None
    assert verbs.calls == []


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["jsonrpc", "method", "id", "params", "x"]), inner, max_size=5
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_message_gets_a_json_answer_or_none(body: bytes) -> None:
    ask(JsonRpc(Verbs()), body)
