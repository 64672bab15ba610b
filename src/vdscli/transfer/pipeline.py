"""Two stages with a few buffers between: while one piece is being written, the next one is being read.

pieces -> [fetch] x N -> full buffers -> [store] x M -> done, and the buffers go back to the first stage
"""

from __future__ import annotations

import mmap
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from vdscli.transfer.pieces import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vdscli.transfer.pieces import Piece

_LOOK_S: Final = 0.2

T = TypeVar("T")


class Stage(Protocol):
    """One worker of a stage: has its own connection or file."""

    def handle(self, piece: Piece, buffer: memoryview) -> None:
        """Fill the buffer with the piece, or store it."""

    def close(self) -> None:
        """Let go of what it has."""


class Workers(NamedTuple):
    """How many workers a stage has, and what makes one."""

    number: int
    make: Callable[[], Stage]


class _Full(NamedTuple):
    piece: Piece
    buffer: mmap.mmap


class Pipeline:
    """Moves pieces once.

    Args:
        pieces: what is moved, in this order roughly.
        fetch: the first stage; pieces of zeros pass it unread.
        store: the second stage.
    """

    def __init__(self, pieces: Sequence[Piece], fetch: Workers, store: Workers) -> None:
        self._todo: SimpleQueue[Piece] = SimpleQueue()
        for piece in pieces:
            self._todo.put(piece)
        self._left = len(pieces)
        self._fetch = fetch
        self._store = store
        self._empty: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(fetch.number + store.number + 1):
            self._empty.put(mmap.mmap(-1, PIECE))
        self._full: SimpleQueue[_Full] = SimpleQueue()
        self._done: SimpleQueue[Piece] = SimpleQueue()
        self._errors: SimpleQueue[BaseException] = SimpleQueue()
        self._ended = threading.Event()

    def run(self, done: Callable[[list[Piece]], None]) -> None:
        """Move all; ``done`` is called every now and then, in this thread, with the pieces that are done since.

        Raises:
            Exception: what the first failing worker raised.
            KeyboardInterrupt: as it came; what is done has been told.
        """
        threads = [self._thread(self._fetch, self._fetch_all) for _ in range(self._fetch.number)]
        threads += [self._thread(self._store, self._store_all) for _ in range(self._store.number)]
        left = self._left
        try:
            while left and self._errors.empty():
                finished = self._finished()
                left -= len(finished)
                done(finished)
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()
        if not self._errors.empty():
            done(self._finished())
            raise self._errors.get()

    def _finished(self) -> list[Piece]:
        found: list[Piece] = []
        try:
            found.append(self._done.get(timeout=_LOOK_S))
            while True:
                found.append(self._done.get_nowait())
        except Empty:
            return found

    def _thread(self, workers: Workers, work: Callable[[Stage], None]) -> threading.Thread:  # noqa: TID251 - a program of its own
        def guarded() -> None:
            try:
                stage = workers.make()
                try:
                    work(stage)
                finally:
                    stage.close()
            except BaseException as error:  # noqa: BLE001 - the one who runs it gets it
                self._errors.put(error)
                self._ended.set()

        thread = threading.Thread(target=guarded, daemon=True)  # noqa: TID251 - as above
        thread.start()
        return thread

    def _fetch_all(self, stage: Stage) -> None:
        while not self._ended.is_set():
            try:
                piece = self._todo.get_nowait()
            except Empty:
                return
            buffer = self._wait(self._empty)
            if buffer is None:
                return
            if not piece.zero:
                with memoryview(buffer)[: piece.length] as view:
                    stage.handle(piece, view)
            self._full.put(_Full(piece, buffer))

    def _store_all(self, stage: Stage) -> None:
        while (item := self._wait(self._full)) is not None:
            with memoryview(item.buffer)[: 0 if item.piece.zero else item.piece.length] as view:
                stage.handle(item.piece, view)
            self._empty.put(item.buffer)
            self._done.put(item.piece)

    def _wait(self, queue: SimpleQueue[T]) -> T | None:
        while not self._ended.is_set():
            try:
                return queue.get(timeout=_LOOK_S)
            except Empty:
                continue
        return None
