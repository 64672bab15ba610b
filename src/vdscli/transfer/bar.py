"""The progress of a transfer, on one line."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from vdscli import units

if TYPE_CHECKING:
    from vdscli.terminal import Output

_WIDTH: Final = 24
_STEP_S: Final = 0.1


class Bar:
    """Shows how far a transfer is. For one thread at a time.

    Args:
        out: where to.
        words: what is done: "upload disk.raw".
        total: bytes of all.
        before: bytes that an earlier run has done.
    """

    def __init__(self, out: Output, words: str, total: int, before: int) -> None:
        self._out = out
        self._words = words
        self._total = max(1, total)
        self._done = before
        self._before = before
        self._began_s = time.monotonic()
        self._shown_s = 0.0
        self._ended_s: float | None = None
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Since it began, up to its end."""
        return (self._ended_s or time.monotonic()) - self._began_s

    @property
    def per_second(self) -> float:
        """Bytes of the image per second, so far."""
        return (self._done - self._before) / max(0.001, self.seconds)

    def end(self) -> None:
        """All is moved: the clock stops."""
        self._ended_s = time.monotonic()

    def moved(self, count: int) -> None:
        """So many more bytes are done."""
        with self._lock:
            self._done += count
            now_s = time.monotonic()
            if now_s - self._shown_s >= _STEP_S:
                self._shown_s = now_s
                self._out.progress(self.line())

    def line(self) -> str:
        """How far it is."""
        share = min(1.0, self._done / self._total)
        full = int(share * _WIDTH)
        left_s = (self._total - self._done) / self.per_second if self.per_second else 0.0
        rest = f"{units.rate(self.per_second)}, {units.duration(left_s)} left"
        return f"{self._words} [{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%} of {units.size(self._total)}, {rest}"
