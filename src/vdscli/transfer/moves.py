"""Upload and download of image data: what the stages of the pipeline do, with a file on one side."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from vdscli.transfer.pieces import Journal, Piece
from vdscli.transfer.pipeline import Pipeline, Workers
from vdscli.transfer.wire import Address, ImageConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE_S: Final = 30.0
_SAVE_S: Final = 2.0
_BLOCK: Final = 4096
# A part of zeros of this length that is written becomes a hole.
_HOLE: Final = 64 << 10


class Target(NamedTuple):
    """The image: where its daemon is, and the ticket for it."""

    address: Address
    ticket_id: str

    def connect(self) -> ImageConnection:
        """A connection of its own."""
        return ImageConnection(self.address, self.ticket_id, PATIENCE_S)


class _File:
    """A local file past the page cache, where that works and the piece allows."""

    def __init__(self, path: str, flags: int) -> None:
        self._usual = os.open(path, flags | os.O_CLOEXEC)
        try:
            self._direct = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            self._direct = -1

    def close(self) -> None:
        """Close it."""
        os.close(self._usual)
        if self._direct >= 0:
            os.close(self._direct)

    def descriptor(self, offset: int, length: int) -> int:
        """What to use for a part of the file."""
        aligned = self._direct >= 0 and not offset % _BLOCK and not length % _BLOCK
        return self._direct if aligned else self._usual

    def give_up_direct(self, error: OSError) -> None:
        """Use the page cache from now on, if that is what an error is about."""
        if error.errno != errno.EINVAL or self._direct < 0:
            raise error
        os.close(self._direct)
        self._direct = -1


class _FileReader(_File):
    def __init__(self, path: str) -> None:
        super().__init__(path, os.O_RDONLY)

    def handle(self, piece: Piece, buffer: memoryview) -> None:
        """Read it; what is behind the file's end is zeros."""
        done = 0
        while done < len(buffer):
            try:
                offset = piece.offset + done
                count = os.preadv(self.descriptor(offset, len(buffer) - done), [buffer[done:]], offset)
            except OSError as error:
                self.give_up_direct(error)
                continue
            if not count:
                buffer[done:] = bytes(len(buffer) - done)
                return
            done += count


class _FileWriter(_File):
    def __init__(self, path: str) -> None:
        super().__init__(path, os.O_WRONLY)

    def handle(self, piece: Piece, buffer: memoryview) -> None:
        """Write it into a file that is zeros so far."""
        start = 0
        while start < len(buffer):
            end = start + _HOLE
            if is_zero(buffer[start:end]):
                start = end
                continue
            while end < len(buffer) and not is_zero(buffer[end : end + _HOLE]):
                end += _HOLE
            self._write(piece.offset + start, buffer[start:end])
            start = end

    def _write(self, offset: int, data: memoryview) -> None:
        while data:
            try:
                count = os.pwrite(self.descriptor(offset, len(data)), data, offset)
            except OSError as error:
                self.give_up_direct(error)
                continue
            offset += count
            data = data[count:]


class _Sender:
    def __init__(self, connection: ImageConnection) -> None:
        self._connection = connection
        self.close = connection.close

    def handle(self, piece: Piece, buffer: memoryview) -> None:
        """Send it."""
        if piece.zero or is_zero(buffer):
            self._connection.zero(piece.offset, piece.length)
        else:
            self._connection.write(piece.offset, buffer)


class _Receiver:
    def __init__(self, connection: ImageConnection) -> None:
        self._connection = connection
        self.close = connection.close

    def handle(self, piece: Piece, buffer: memoryview) -> None:
        """Receive it."""
        self._connection.read(piece.offset, buffer)


class Move(NamedTuple):
    """One transfer: pieces, how many connections, the journal, and who is told of bytes that are done."""

    pieces: Sequence[Piece]
    connections: int
    journal: Journal
    moved: Callable[[int], None]


def upload(path: str, target: Target, move: Move) -> None:
    """Write a file's pieces into an image; all is durable then.

    Raises:
        CliError: the daemon refused or is gone; the journal knows what is done.
        OSError: the file cannot be read.
    """
    control = target.connect()
    try:
        _run(
            move,
            Workers(min(2, move.connections), lambda: _FileReader(path)),
            Workers(move.connections, lambda: _Sender(target.connect())),
            control.flush,
        )
    finally:
        control.close()


def download(target: Target, path: str, move: Move) -> None:
    """Write an image's pieces into a file that is there, zeros where nothing was written; all is durable then.

    Raises:
        CliError: the daemon refused or is gone; the journal knows what is done.
        OSError: the file cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _run(
            move,
            Workers(move.connections, lambda: _Receiver(target.connect())),
            Workers(min(2, move.connections), lambda: _FileWriter(path)),
            lambda: os.fsync(descriptor),
        )
    finally:
        os.close(descriptor)


def is_zero(data: memoryview) -> bool:
    """Whether there is nothing but zeros; fast when there is not."""
    # A byte array is compared with any buffer by memcmp.
    return data[0] == 0 and bytearray(len(data)) == data


def _run(move: Move, fetch: Workers, store: Workers, make_durable: Callable[[], object]) -> None:
    since: list[Piece] = []
    saved_s = time.monotonic()

    def settle() -> None:
        if since:
            make_durable()
            move.journal.note(since)
            since.clear()

    def done(pieces: list[Piece]) -> None:
        nonlocal saved_s
        since.extend(pieces)
        move.moved(sum(piece.length for piece in pieces))
        if time.monotonic() - saved_s >= _SAVE_S:
            settle()
            saved_s = time.monotonic()

    try:
        Pipeline(move.pieces, fetch, store).run(done)
    except KeyboardInterrupt:
        settle()
        raise
    settle()
    make_durable()
