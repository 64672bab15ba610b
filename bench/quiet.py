"""Waits for moments in which nobody else uses the processors: bursts of other work are not ours to measure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

_LOOK_S: Final = 0.15
_IDLE_SHARE: Final = 0.8
_PATIENCE_S: Final = 1.5


def _ticks() -> tuple[int, int]:
    """Idle and all processor time of the machine so far."""
    values = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return values[3] + values[4], sum(values)


def rest(at_least_s: float) -> bool:
    """Wait, and then until the machine is idle; False: it was not within some seconds."""
    time.sleep(at_least_s)
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        idle, total = _ticks()
        time.sleep(_LOOK_S)
        idle_now, total_now = _ticks()
        if idle_now - idle >= _IDLE_SHARE * (total_now - total):
            return True
    return False
