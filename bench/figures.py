"""A measured figure, its bound, and the table of them."""

from __future__ import annotations

import json
import signal
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One figure: what was measured, its median, and between which values it lay.

    ``bound`` None: told for comparison only.
    """

    what: str
    value: float
    unit: str
    bound: float | None = None
    sense: Literal["at most", "at least"] = "at most"
    low: float | None = None
    high: float | None = None
    count: int = 1
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None when there is none."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.sense == "at most" else self.value >= self.bound


def median_of(
    what: str,
    values: Sequence[float],
    unit: str,
    bound: float | None = None,
    sense: Literal["at most", "at least"] = "at most",
    note: str = "",
) -> Figure:
    """The median of several measurements, with the smallest and the largest."""
    return Figure(what, statistics.median(values), unit, bound, sense, min(values), max(values), len(values), note)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _row(figure: Figure) -> tuple[str, ...]:
    spread = f"{_number(figure.low)} .. {_number(figure.high)} ({figure.count})" if figure.low is not None else ""
    sign = {"at most": "<=", "at least": ">="}[figure.sense]
    bound = "" if figure.bound is None else f"{sign} {_number(figure.bound)}"
    verdict = {None: "", True: "ok", False: "MISSED"}[figure.holds]
    return figure.what, _number(figure.value), figure.unit, bound, verdict, spread, figure.note


def table(figures: Iterable[Figure]) -> str:
    """The figures for people."""
    head = ("figure", "median", "unit", "bound", "", "lowest .. highest (of)", "")
    rows = [head, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def as_json(figures: Iterable[Figure]) -> str:
    """The figures for programs."""
    return json.dumps([{**asdict(figure), "holds": figure.holds} for figure in figures], indent=1)


def end_on_signals() -> None:
    """Let SIGTERM end a measurement as an exception does: what it has started and made goes with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def finish(figures: Sequence[Figure]) -> int:
    """Print the figures of one measurement; returns the exit status: 1 when a bound was missed."""
    sys.stdout.write(table(figures) + "\n")
    return int(any(figure.holds is False for figure in figures))


def progress(text: str) -> None:
    """Say what is being done, where it does not disturb the figures."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
