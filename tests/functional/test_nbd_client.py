"""The NBD client and servers that are none, that lie, hang up or are silent: an error in time, no wrong answer."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from vdsm.base.errors import Failed, Unfinished
from vdsm.system.nbd_client import NbdClient

HELLO = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)
REPLY = 0x3E889045565A9
CHUNK = 0x668E33EF


def answer(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", REPLY, option, kind, len(data)) + data


def ready(size: int) -> bytes:
    """All that a server says until it takes requests."""
    return HELLO + answer(8, 1) + answer(7, 3, struct.pack(">HQH", 0, size, 0)) + answer(7, 1)


def chunk(kind: int, data: bytes, *, done: bool = True, cookie: int = 1) -> bytes:
    return struct.pack(">IHHQI", CHUNK, done, kind, cookie, len(data)) + data


def serve(folder: Path, says: bytes, *, hang_up: bool = True) -> Path:
    """A server that says what it is told to, whatever it is asked."""
    address = folder / "socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(address))
    listener.listen(1)

    def talk() -> None:
        with listener, listener.accept()[0] as peer, suppress(ConnectionError):
            peer.sendall(says)
            if hang_up:
                peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass

    threading.Thread(target=talk, daemon=True).start()
    return address


def read(address: Path) -> list[tuple[int, int, bytes | None]]:
    with NbdClient(address, timeout_s=20) as client:
        return [(part.offset, part.length, part.data) for part in client.read(0, 8)]


def data(offset: int, content: bytes) -> bytes:
    return struct.pack(">Q", offset) + content


def hole(offset: int, length: int) -> bytes:
    return struct.pack(">QI", offset, length)


def test_chunks_come_in_any_order(tmp_path: Path) -> None:
    says = ready(8) + chunk(2, hole(5, 3), done=False) + chunk(1, data(0, b"abcde"))
    assert read(serve(tmp_path, says)) == [(0, 5, b"abcde"), (5, 3, None)]


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no NBD server"),
        (HELLO, "hung up"),
        (HELLO + answer(8, (1 << 31) + 1), "refused option 8"),
        (HELLO + answer(9, 1), "out of place"),
        (HELLO + struct.pack(">QIII", REPLY, 8, 1, 1 << 31), "out of place"),
        (HELLO + answer(8, 1) + answer(7, 1), "did not tell the size"),
        (ready(8), "hung up"),
        (ready(8) + bytes(16), "out of place"),
        (ready(8) + chunk(1, data(0, b"abcde")), "end of a read out"),
        (ready(8) + chunk(1, data(3, b"abcde")), "part of a read out"),
        (ready(8) + chunk(1, data(0, b"abcdefgh"), cookie=2), "another request"),
        (ready(8) + chunk(0x8001, struct.pack(">IH", 5, 0)), "error 5"),
        (ready(8) + struct.pack(">IHHQI", CHUNK, 1, 1, 1, 1 << 31), "too long"),
    ],
)
def test_wrong_answers_are_errors(tmp_path: Path, says: bytes, reason: str) -> None:
    with pytest.raises(Failed, match=reason):
        read(serve(tmp_path, says))


SILENT: list[Callable[[Path], Path]] = [
    lambda folder: serve(folder, b"", hang_up=False),
    lambda folder: serve(folder, ready(8), hang_up=False),
]


@pytest.mark.parametrize("server", SILENT)
def test_silence_has_a_deadline(tmp_path: Path, server: Callable[[Path], Path]) -> None:
    with pytest.raises(Unfinished), NbdClient(server(tmp_path), timeout_s=0.2) as client:
        client.read(0, 8)


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="No such file"):
        NbdClient(tmp_path / "none", timeout_s=1)
