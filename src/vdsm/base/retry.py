"""Retry what may work the next time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from vdsm.base.clock import monotonic_s, sleep_s

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

R = TypeVar("R")


def retry(
    function: Callable[[], R],
    *,
    expected: tuple[type[Exception], ...],
    attempts: int,
    delay_s: float,
    deadline_s: float,
) -> R:
    """Call ``function`` until it returns: at most ``attempts`` times, ``delay_s`` seconds apart.

    No attempt is begun later than ``deadline_s`` seconds after the first, nor is that passed by sleeping; a deadline
    for the attempt itself is the function's own business.

    Raises:
        Exception: the last attempt's error if it is one of ``expected``; any other error at once.
    """
    until = monotonic_s() + deadline_s
    attempt = 1
    while True:
        try:
            return function()
        except expected as error:
            if attempt >= attempts or monotonic_s() + delay_s > until:
                raise
            log.debug("attempt %d of %d failed: %s", attempt, attempts, error)
        attempt += 1
        sleep_s(delay_s)
