"""Turns SIGINT, SIGTERM and SIGHUP into one exception, at places where it does no harm."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody asked this command to end; not an Exception, so that nobody takes it for a failure."""


class Signals:
    """Raises Stopped in the main thread, at once or at the end of a ``deferred`` part."""

    def __init__(self) -> None:
        self._deferred = 0
        self._asked = False
        self._over = False

    def install(self) -> None:
        """Take over the three signals; one that is ignored (nohup) stays ignored."""
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def finish(self) -> None:
        """From now on signals are taken no notice of: the command is ending already."""
        self._over = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep a signal back until this part is done."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        self._raise_if_asked()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._over:
            return
        self._asked = True
        if not self._deferred:
            self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self._asked and not self._over and not self._deferred:
            self._asked = False
            raise Stopped
