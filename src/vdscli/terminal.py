"""What people see: tables and cards aligned by what a terminal shows, colours, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "grey": "90", "bold": "1"}


class Cell(NamedTuple):
    """A text and the colour it has where there are colours."""

    text: str
    colour: str = ""


class Column(NamedTuple):
    """A column's title; numbers go to the right."""

    title: str
    right: bool = False


def cleaned(text: object) -> str:
    """A text from outside as it may be shown: no control characters, nothing that moves the cursor."""
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join("?" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else char for char in shown)


def width(text: str) -> int:
    """How many columns a terminal needs for a text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in {"W", "F"}) for char in text
    )


def shortened(text: str, columns: int) -> str:
    """The text cut to what fits, with a mark where it was cut."""
    if width(text) <= columns:
        return text
    kept = ""
    for char in text:
        if width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "…" if columns > 0 else ""


def painted(text: str, colour: str) -> str:
    """The text in a colour."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour and text else text


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]], *, colour: bool) -> list[str]:
    """The lines of a table with a head; no line ends in blanks."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    cells = [[Cell(cleaned(cell.text), cell.colour) for cell in row] for row in cells]
    head = [Cell(column.title, "bold") for column in columns]
    widths = [max(width(row[index].text) for row in [head, *cells]) for index in range(len(columns))]
    lines = []
    for row in [head, *cells]:
        parts = []
        for cell, column, space in zip(row, columns, widths, strict=True):
            blanks = " " * (space - width(cell.text))
            shown = painted(cell.text, cell.colour if colour else "")
            parts.append(blanks + shown if column.right else shown + blanks)
        lines.append("  ".join(parts).rstrip())
    return lines


def card(facts: Iterable[tuple[str, str | Cell | Sequence[str]]], *, colour: bool) -> list[str]:
    """The lines of a name-value card; a value of several lines is indented, an empty one left out."""
    shown = [(name, value) for name, value in facts if value and value != Cell("")]
    space = max((width(name) for name, _ in shown), default=0)
    lines = []
    for name, value in shown:
        texts: Sequence[str | Cell] = [value] if isinstance(value, str | Cell) else value
        for index, text in enumerate(texts):
            cell = text if isinstance(text, Cell) else Cell(text)
            label = name if index == 0 else ""
            start = painted(label, "bold" if colour else "") + " " * (space - width(label))
            lines.append(f"{start}  {painted(cleaned(cell.text), cell.colour if colour else '')}".rstrip())
    return lines


class Output:
    """Writes a command's result to stdout, and what is only for people to stderr."""

    def __init__(self, *, as_json: bool, quiet: bool, no_colour: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.colour = not no_colour and _has_colours(sys.stdout)
        self._progress = not quiet and not as_json and sys.stderr.isatty()
        self._shown = ""
        self._gathered: list[Any] | None = None

    def value(self, value: Any) -> None:
        """One JSON document: for people when they look, on one line for programs."""
        indent = 2 if sys.stdout.isatty() else None
        print(json.dumps(value, indent=indent, ensure_ascii=False), flush=indent is None)

    def line(self, text: str, colour: str = "") -> None:
        """One line of the result."""
        print(painted(cleaned(text), colour if self.colour else ""))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]]) -> None:
        """A table."""
        print("\n".join(table(columns, rows, colour=self.colour)))

    def card(self, facts: Iterable[tuple[str, str | Cell | Sequence[str]]]) -> None:
        """A name-value card."""
        print("\n".join(card(facts, colour=self.colour)))

    def done(self, text: str, value: Any) -> None:
        """Say that something was done: a sentence, or the value as JSON."""
        self.clear_progress()
        if self._gathered is not None:
            self._gathered.append(value)
        elif self.as_json:
            self.value(value)
        elif not self.quiet:
            self.line(text)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Make one JSON document, an array, of all that is done meanwhile."""
        if not self.as_json:
            yield
            return
        gathered: list[Any] = []
        self._gathered = gathered
        try:
            yield
        finally:
            self._gathered = None
            self.value(gathered)

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        if not self.quiet:
            self.clear_progress()
            print(cleaned(text), file=sys.stderr)

    def progress(self, text: str) -> None:
        """Show what is being waited for, in place; nothing where nobody looks."""
        if self._progress and text != self._shown:
            sys.stderr.write(f"\r\x1b[K{cleaned(text)}")
            sys.stderr.flush()
            self._shown = text

    def clear_progress(self) -> None:
        """Take the progress line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = ""


def _has_colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
