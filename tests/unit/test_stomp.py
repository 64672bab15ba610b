from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.bindings import stomp
from vdsm.bindings.stomp import SMALL_TAIL, TLS_RECORD, Frame, Parser

MAX_BODY = 4096
MAX_HEAD = 2048

LETTERS = "abXY-_. 019/{}\"'\t\x7f\x85žě漢😀"
NAMES = st.text(LETTERS, min_size=1, max_size=20)
VALUES = st.text(LETTERS + ":", max_size=40)
COMMANDS = st.sampled_from(["SEND", "SUBSCRIBE", "MESSAGE", "DISCONNECT", "ERROR"])


@st.composite
def frames(draw) -> tuple[bytes, Frame]:
    """A frame on the wire and what it means."""
    command = draw(COMMANDS)
    headers = draw(st.dictionaries(NAMES, VALUES, max_size=6))
    counted = draw(st.booleans())
    body = draw(st.binary(max_size=300))
    if not counted:
        body = body.replace(b"\0", b"")
    else:
        headers["content-length"] = str(len(body))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    head = end.join([command, *(f"{name}:{value}" for name, value in headers.items())]) + end * 2
    beats = draw(st.sampled_from([b"", b"\n", b"\r\n", b"\n\n\n"]))
    return head.encode() + body + b"\0" + beats, Frame(command, headers, body)


def parse(*pieces: bytes) -> list[Frame]:
    parser = Parser(MAX_BODY, MAX_HEAD)
    found = [frame for piece in pieces for frame in parser.feed(piece)]
    assert parser.error is None
    return found


def refuse(*pieces: bytes) -> str:
    parser = Parser(MAX_BODY, MAX_HEAD)
    for piece in pieces:
        parser.feed(piece)
    assert parser.error is not None
    return str(parser.error)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(frames(), max_size=5), st.lists(st.integers(min_value=0), max_size=12))
def test_a_stream_means_the_same_however_it_is_cut(pairs: list[tuple[bytes, Frame]], places: list[int]) -> None:
    stream = b"".join(data for data, _ in pairs)
    assert parse(*cut(stream, places)) == [frame for _, frame in pairs]


@given(st.lists(frames(), max_size=3))
def test_a_stream_may_come_byte_by_byte(pairs: list[tuple[bytes, Frame]]) -> None:
    stream = b"".join(data for data, _ in pairs)
    assert parse(*(stream[place : place + 1] for place in range(len(stream)))) == [frame for _, frame in pairs]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from([b"SEND\n", b"content-length:9\n", b"\n\n", b"\0", b"a:b\n", b"CONNECT\r\n\r\n"]),
        ),
        max_size=60,
    )
)
def test_junk_is_refused_without_an_exception_and_without_growing(pieces: list[bytes]) -> None:
    parser = Parser(100, 100)
    for piece in pieces:
        for frame in parser.feed(piece):
            assert len(frame.body) <= 100
        assert len(parser._buffer) <= 100 + 100 + 200
    if parser.error is not None:
        assert parser.feed(b"SEND\n\n\0") == []
        assert not parser._buffer


def test_a_value_is_all_that_follows_the_first_colon() -> None:
    assert parse(b"SEND\na:b:c\n:x\n\n\0") == [Frame("SEND", {"a": "b:c", "": "x"}, b"")]


def test_only_the_first_of_repeated_headers_counts() -> None:
    assert parse(b"SEND\na:1\na:2\n\n\0")[0].headers == {"a": "1"}


def test_the_first_content_length_counts() -> None:
    assert parse(b"SEND\ncontent-length:2\ncontent-length:9\n\n{}\0")[0].body == b"{}"


def test_escapes_are_undone_and_what_is_no_escape_stays() -> None:
    assert parse(rb"SEND" + b"\n" + rb"a:x\cy\n\\\q" + b"\n\n\0")[0].headers == {"a": "x:y\n\\\\q"}


def test_connect_knows_no_escapes() -> None:
    assert parse(b"CONNECT\na:x\\cy\n\n\0")[0].headers == {"a": r"x\cy"}


def test_a_body_of_a_given_length_may_hold_nuls_and_other_frames() -> None:
    body = b"a\0b\n\nSEND\n\n\0"
    assert parse(b"SEND\ncontent-length:%d\n\n%s\0\n" % (len(body), body))[0].body == body


def test_an_empty_line_within_a_body_without_length_ends_nothing() -> None:
    assert [frame.body for frame in parse(b"SEND\n\n{\n\n}\0", b"SEND\n\n\r\n\0")] == [b"{\n\n}", b"\r\n"]


def test_a_body_may_begin_with_a_line_end_after_a_head_of_cr_lf() -> None:
    assert parse(b"SEND\r\n\r\n\nx\0")[0].body == b"\nx"


def test_headers_do_not_leak_from_one_frame_into_the_next() -> None:
    same, other = b"SEND\na:1\n\nx\0", b"SEND\nb:2\n\ny\0"
    found = parse(same, same, other, same)
    assert [dict(frame.headers) for frame in found] == [{"a": "1"}, {"a": "1"}, {"b": "2"}, {"a": "1"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\n\n", "unknown command 'GET / HTTP/1.1'"),
        (b"\xff\xfe\n\n", "not UTF-8"),
        (b"SEND\nnonsense\n\n\0", "without a colon: 'nonsense'"),
        (b"SEND\ncontent-length:-1\n\n\0", "content-length"),
        (b"SEND\ncontent-length:1_0\n\n\0", "content-length"),
        (b"SEND\ncontent-length:\xd9\xa1\n\n\0", "content-length"),
        (b"SEND\ncontent-length:1\n\nxy\0", "no NUL after a body of 1 bytes"),
        (b"SEND\ncontent-length:4097\n\n", "4097 bytes exceeds the limit of 4096"),
        (b"SEND\ncontent-length:99999999999999999\n\n", "exceeds the limit"),
        (b"SEND\ncontent-length:9999999999999999999999\n\n", "content-length"),
        (b"SEND\n\n" + b"x" * 4097, "4097 bytes exceeds the limit"),
        (b"SEND\n\n" + b"x" * 4097 + b"\0", "4097 bytes exceeds the limit"),
        (b"SEND\n" + b"a:b\n" * 600, "header section exceeds 2048"),
        (b"S" * 2048, "header section exceeds 2048"),
        (b"DISCONNECT\n\0", "ended within its headers"),
        (b"SEND\na:\0b\n\n\0", "ended within its headers"),
    ],
)
def test_a_broken_stream_is_refused_with_its_reason(data: bytes, words: str) -> None:
    assert words in refuse(data)
    assert words in refuse(*(data[place : place + 1] for place in range(len(data))))


def test_the_largest_allowed_body_passes() -> None:
    body = b"x" * MAX_BODY
    assert parse(b"SEND\ncontent-length:4096\n\n" + body + b"\0", b"SEND\n\n" + body + b"\0")[1].body == body


def test_frames_before_a_broken_one_count() -> None:
    parser = Parser(MAX_BODY)
    assert len(parser.feed(b"SEND\n\n\0nonsense\n\n\0")) == 1
    assert parser.error is not None


@given(VALUES, VALUES.filter(bool), st.binary(max_size=600))
def test_what_is_encoded_is_parsed_back(destination: str, subscription: str, body: bytes) -> None:
    data = stomp.message(stomp.message_head(destination, subscription), body)
    (frame,) = parse(data)
    assert frame.command == "MESSAGE"
    assert frame.body == body
    assert frame.headers["destination"] == destination
    assert frame.headers["subscription"] == subscription
    assert frame.headers["content-type"] == "application/json"


def test_values_with_line_ends_cannot_make_headers() -> None:
    data = stomp.encode("RECEIPT", {"receipt-id": "1\nx:y\r\n\\"})
    assert parse(data)[0].headers == {"receipt-id": "1\nx:y\r\n\\"}
    assert data.count(b"\n") == 3


def test_the_length_counts_bytes_not_characters() -> None:
    body = '{"name":"žluťoučký"}'.encode()
    assert b"content-length:%d\n" % len(body) in stomp.message(stomp.message_head("d", "s"), body)


@given(st.integers(min_value=0, max_value=3 * TLS_RECORD))
def test_no_frame_ends_with_a_small_tls_record(size: int) -> None:
    head = stomp.message_head("jms.topic.vdsm_responses", "s")
    body = b"x" * size
    data = stomp.message(head, body)
    tail = len(data) % TLS_RECORD
    assert len(data) <= TLS_RECORD or tail == 0 or tail >= SMALL_TAIL
    (frame,) = Parser(1 << 20).feed(data)
    assert frame.body.rstrip(b" ") == body
    if len(data) <= TLS_RECORD:
        assert frame.body == body


@pytest.mark.parametrize("tail", [1, 290, SMALL_TAIL - 1])
def test_a_frame_with_a_small_last_record_is_padded(tail: int) -> None:
    head = stomp.message_head("d", None)
    around = len(stomp.message(head, b"x" * 20000)) - 20000
    data = stomp.message(head, b"x" * (2 * TLS_RECORD + tail - around))
    assert len(data) == 2 * TLS_RECORD + SMALL_TAIL
