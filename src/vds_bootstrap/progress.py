"""Tells a person what is being done and how long it takes.

    [  0.4 s] Operating system packages ... all there
    [  3.1 s] Building the tiny guest .... done (2.6 s)

A long step shows on a terminal that it is alive, with its running time; elsewhere it says so every ten seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

TERMINAL_TICK_S = 0.5
LOG_TICK_S = 10.0
QUICK_S = 0.1


class Outcome:
    """What a step says about itself at its end; ``say`` replaces the plain "done"."""

    def __init__(self) -> None:
        self.words = "done"

    def say(self, words: str) -> None:
        """Set the words that end the step's line."""
        self.words = words


class Progress:
    """Writes the lines; one object for one run of a command."""

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False) -> None:
        self._out = sys.stdout if out is None else out
        self._quiet = quiet
        self._began = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began

    def line(self, words: str = "") -> None:
        """Write a line as it is."""
        self._write(f"{words}\n")

    def note(self, words: str) -> None:
        """Write a line with the time in front."""
        self._write(f"{self._stamp()} {words}\n")

    @contextmanager
    def step(self, what: str) -> Iterator[Outcome]:
        """Announce a step, show that it lives, and say how it ended.

        The line is written when the step ends, or before that when it takes long; an error ends it with "failed".
        """
        outcome = Outcome()
        began = time.monotonic()
        ended = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(what, began, ended), name="progress", daemon=True)
        ticker.start()
        try:
            yield outcome
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            outcome.say("stopped" if stopped else "failed")
            raise
        finally:
            ended.set()
            ticker.join()
            took = time.monotonic() - began
            self._finish(what, outcome.words + (f" ({took:.1f} s)" if took >= QUICK_S else ""))

    def _finish(self, what: str, words: str) -> None:
        self._write(f"{self._clear()}{self._stamp()} {what}: {words}\n")

    def _tick(self, what: str, began: float, ended: threading.Event) -> None:
        terminal = self._out.isatty()
        while not ended.wait(TERMINAL_TICK_S if terminal else LOG_TICK_S):
            running = time.monotonic() - began
            if terminal:
                self._write(f"{self._clear()}{self._stamp()} {what} ... {running:.0f} s")
            else:
                self._write(f"{self._stamp()} {what} ... {running:.0f} s so far\n")

    def _clear(self) -> str:
        return "\r\x1b[K" if self._out.isatty() else ""

    def _stamp(self) -> str:
        return f"[{self.elapsed_s():5.1f} s]"

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except (BrokenPipeError, ValueError):
            # The terminal is gone (or its stream closed): the work must still be brought to its end.
            self._quiet = True
