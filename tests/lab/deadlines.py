"""Waiting, always with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TooLate(AssertionError):
    """What was waited for did not come in time."""


def eventually(found: Callable[[], T], what: str, timeout_s: float = 60.0, pause_s: float = 0.05) -> T:
    """Ask until the answer is true, and return it.

    Raises:
        TooLate: it never was; ``what`` is named.
    """
    end = time.monotonic() + timeout_s
    while not (answer := found()):
        if time.monotonic() > end:
            raise TooLate(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(pause_s)
    return answer
