"""What is to be moved, in pieces; and which of them are done, written down so that a transfer can go on later."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vdscli.transfer.checksum import data_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vdscli.transfer.wire import Extent

PIECE: Final = 8 << 20
# A smaller hole costs less as data than as a request of its own.
_SMALL_HOLE: Final = 1 << 20
_VERSION: Final = 1


class Piece(NamedTuple):
    """A part of an image: data of at most `PIECE` bytes, or zeros of any length."""

    offset: int
    length: int
    zero: bool


def of_extents(extents: Iterable[Extent]) -> list[Piece]:
    """The pieces of an image whose extents are known."""
    return list(_cut((item.start, item.start + item.length) for item in _merged(extents) if not item.zero))


def of_file(path: str, size: int) -> list[Piece]:
    """The pieces of a local file, zeros included, as if zeros followed up to ``size`` bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        length = os.fstat(descriptor).st_size
        found = [*data_ranges(descriptor, length)]
    finally:
        os.close(descriptor)
    pieces: list[Piece] = []
    position = 0
    for start, end in [*found, (size, size)]:
        if start > position:
            pieces.append(Piece(position, start - position, zero=True))
        pieces += _cut([(start, end)])
        position = end
    return pieces


def _merged(extents: Iterable[Extent]) -> list[Extent]:
    merged: list[Extent] = []
    for extent in extents:
        small = bool(merged) and not merged[-1].zero and extent.length < _SMALL_HOLE
        item = extent._replace(zero=extent.zero and not small)
        if merged and merged[-1].zero == item.zero:
            merged[-1] = merged[-1]._replace(length=merged[-1].length + item.length)
        else:
            merged.append(item)
    return merged


def _cut(ranges: Iterable[tuple[int, int]]) -> Iterator[Piece]:
    for start, end in ranges:
        position = start
        while position < end:
            # Pieces end on multiples of their size, so that reads and writes past the page cache are aligned.
            after = min(end, (position // PIECE + 1) * PIECE)
            yield Piece(position, after - position, zero=False)
            position = after


class Journal:
    """A file that says which pieces are done, and of what. For one thread.

    Args:
        path: the file.
        subject: what is moved from where to where; another subject begins anew.
    """

    def __init__(self, path: Path, subject: dict[str, Any]) -> None:
        self._path = path
        self._subject = subject
        self._done = _read(path, subject)

    @property
    def begun(self) -> bool:
        """Whether an earlier run has done something."""
        return bool(self._done)

    def left(self, pieces: Iterable[Piece]) -> list[Piece]:
        """The pieces that are not done."""
        return [piece for piece in pieces if (piece.offset, piece.length) not in self._done]

    def note(self, pieces: Iterable[Piece]) -> None:
        """Write down that these are done, too; their data must be durable."""
        self._done.update((piece.offset, piece.length) for piece in pieces)
        self._save()

    def reset(self) -> None:
        """Begin anew, and write that down."""
        self._done.clear()
        self._save()

    def remove(self) -> None:
        """Forget it."""
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        write(self._path, {"version": _VERSION, "subject": self._subject, "done": sorted(self._done)})


def write(path: Path, document: dict[str, Any]) -> None:
    """Replace a small file in one step."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote; nothing when it is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path, subject: dict[str, Any]) -> set[tuple[int, int]]:
    found = read(path)
    if found.get("version") != _VERSION or found.get("subject") != subject:
        return set()
    try:
        return {(int(offset), int(length)) for offset, length in found["done"]}
    except (KeyError, TypeError, ValueError):
        return set()
