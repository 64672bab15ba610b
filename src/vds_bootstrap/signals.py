"""Turns SIGINT, SIGTERM and SIGHUP into one exception, at places where it does no harm."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
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

    @staticmethod
    def end_with_make() -> None:
        """Have the kernel send SIGTERM when make, our parent, is killed by force; another parent does not matter."""
        parent = Path(f"/proc/{os.getppid()}/comm")
        if parent.exists() and parent.read_text(encoding="utf-8").strip() == "make":
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

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
