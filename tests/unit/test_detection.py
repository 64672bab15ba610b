from __future__ import annotations

import os
import socket

import pytest

from vdsm.api.contract import Role
from vdsm.base.errors import Denied
from vdsm.bindings.broker import Broker
from vdsm.bindings.listener import detect
from vdsm.bindings.peers import Credentials, Way, certificate_caller, credentials, unix_caller
from vdsm.bindings.stomp_session import heart_beats


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"CONNECT\naccept-version:1.2\n\n\0", "stomp"),
        (b"STOMP\n", "stomp"),
        (b"SEND\n", "stomp"),
        (b"SUBSCRIBE\n", "stomp"),
        (b"UNSUBSCRIBE", "stomp"),
        (b"DISCONNECT\r\n", "stomp"),
        (b"GET / HTTP/1.1\r\n", "http"),
        (b"PUT / ", "http"),
        (b"POST /api", "http"),
        (b"DELETE /", "http"),
        (b"HEAD / ", "http"),
        (b"PATCH / ", "http"),
        (b"OPTIONS * ", "http"),
        (b"", None),
        (b"S", None),
        (b"SEN", None),
        (b"UNSUBSCRIB", None),
        (b"G", None),
        (b"GET", None),
        (b"DE", None),
        (b"\n", "other"),
        (b"GETX", "other"),
        (b"get / ", "other"),
        (b"send\n", "other"),
        (b"SENT\n", "other"),
        (b"\x16\x03\x01", "other"),
        (b"SSH-2.0-x", "other"),
        (b"UNSUBSCRIBX", "other"),
    ],
)
def test_the_first_bytes_tell_the_protocol(first: bytes, kind: str | None) -> None:
    assert detect(first) == kind


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("0,15000", (0, 15000)),
        ("5000,0", (5000, 0)),
        (" 1 , 2 ", (1, 2)),
        ("", (0, 0)),
        ("5", (0, 0)),
        ("a,b", (0, 0)),
        ("-1,5", (0, 0)),
        ("1,2,3", (0, 0)),
        ("9" * 400 + ",1", (86_400_000, 1)),
    ],
)
def test_heart_beats_are_read_leniently(text: str, pair: tuple[int, int]) -> None:
    assert heart_beats(text) == pair


@pytest.mark.parametrize(
    ("destination", "is_request"),
    [
        ("jms.topic.vdsm_requests", True),
        ("jms.topic.vdsm_irs_requests", True),
        ("jms.topic.vdsm_requests.sub.queue", True),
        ("jms.topic.vdsm_requestsx", False),
        ("jms.topic", False),
        ("jms.queue.events", False),
        ("", False),
    ],
)
def test_request_queues_are_two_and_what_is_below_them(destination: str, is_request: bool) -> None:
    assert Broker().is_request_queue(destination) is is_request


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        who = credentials(ours)
    assert (who.pid, who.uid) == (os.getpid(), os.geteuid())
    assert who.groups == {os.getegid(), *os.getgroups()}


@pytest.mark.parametrize(
    ("who", "group", "allowed"),
    [
        (Credentials(1, 0, frozenset({0})), None, True),
        (Credentials(1, 0, frozenset({0})), 36, True),
        (Credentials(1, 1000, frozenset({1000, 36})), 36, True),
        (Credentials(1, 1000, frozenset({36})), 36, True),
        (Credentials(1, 1000, frozenset({1000})), 36, False),
        (Credentials(1, 36, frozenset({1000})), 36, False),
        (Credentials(1, 1000, frozenset({0})), None, False),
    ],
)
def test_root_and_the_group_may_use_the_unix_socket(who: Credentials, group: int | None, allowed: bool) -> None:
    if allowed:
        caller = unix_caller(who, group)
        assert (caller.role, caller.way) == (Role.ADMIN, Way.UNIX)
    else:
        with pytest.raises(Denied):
            unix_caller(who, group)


def test_a_certificate_names_the_caller() -> None:
    subject = ((("organizationName", "Test"),), (("commonName", "engine.example.com"),))
    caller = certificate_caller({"subject": subject})
    assert caller is not None
    assert (caller.name, caller.role, caller.way) == ("engine.example.com", Role.ADMIN, Way.CERTIFICATE)
    assert certificate_caller({}) is None
    assert certificate_caller(None) is None
