"""Fairness among storage domains: one that does not answer must not take all of storage's workers.

Each domain has so many places. Who finds them taken waits a little, because a healthy domain frees one in milliseconds;
behind calls that have been at it for long nobody waits: Busy, at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy
from vdsm.storage.ids import DomainId, parse_domain_id

# When all calls have been under way for so long, nobody is let in line behind them.
_LONG_S: Final = 1.0


class _Gate:
    """The calls at one domain: when each began."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.waiting = 0


class Gates:
    """Bounded places for each domain; may be used by many threads at once.

    Args:
        places: calls at a time, for each domain.
        patience_s: how long one waits for a place, at the most.
    """

    def __init__(self, places: int, patience_s: float = 2.0) -> None:
        self._places: Final = places
        self._patience_s: Final = patience_s
        self._changed: Final = threading.Condition()
        self._gates: dict[str, _Gate] = {}

    @contextmanager
    def domain(self, text: str, field: str = "storagedomainID") -> Iterator[DomainId]:
        """A place at the domain of this id, while the block runs.

        Raises:
            InvalidParameter: it is no domain's id; names ``field``.
            Busy: its places are taken by calls that do not come back.
        """
        domain_id = parse_domain_id(text, field)
        with self.place(domain_id):
            yield domain_id

    @contextmanager
    def place(self, name: str) -> Iterator[None]:
        """A place at anything that may hang by itself."""
        with self._changed:
            gate = self._gates.setdefault(name, _Gate())
            self._wait(gate, name)
            began_s = monotonic_s()
            gate.began.append(began_s)
        try:
            yield
        finally:
            with self._changed:
                gate.began.remove(began_s)
                if not gate.began and not gate.waiting:
                    self._gates.pop(name, None)
                self._changed.notify_all()

    def under_way(self) -> dict[str, int]:
        """How many calls there are at each domain that has any."""
        with self._changed:
            return {name: len(gate.began) for name, gate in self._gates.items() if gate.began}

    def _wait(self, gate: _Gate, name: str) -> None:
        until_s = monotonic_s() + self._patience_s
        gate.waiting += 1
        try:
            while len(gate.began) >= self._places:
                now_s = monotonic_s()
                if now_s >= until_s or now_s - max(gate.began) > _LONG_S:
                    raise Busy(f"storage ({name})")
                self._changed.wait(min(until_s, now_s + _LONG_S / 4) - now_s)
        finally:
            gate.waiting -= 1
