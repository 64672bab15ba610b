"""The agent's clocks. Monotonic for everything that is measured or ordered; wall time only to be shown."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

# The Engine orders events and polls of a host by one number of milliseconds. Old engines failed below INT_MAX, so the
# protocol adds it (facts: wire.md, events).
NOTIFY_OFFSET_MS: Final = 2**31 - 1


def monotonic_s() -> float:
    """Seconds of the monotonic clock."""
    return time.monotonic()


def boottime_s() -> float:
    """Seconds since the machine started, those during which it was suspended included; the same for all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def notify_time_ms(at_s: float | None = None) -> int:
    """The protocol's ordering time of now, or of the monotonic instant ``at_s``, in milliseconds."""
    return NOTIFY_OFFSET_MS + int((time.monotonic() if at_s is None else at_s) * 1000)


def now_utc() -> datetime:
    """Wall time, aware, UTC. To be shown, never to be compared with."""
    return datetime.now(UTC)


def sleep_s(seconds: float) -> None:
    """Sleep; for retries and back-off in worker threads."""
    time.sleep(seconds)
