"""A few named alarms of one owner. Set and rung in its strand; ``due`` may be asked from any thread."""

from __future__ import annotations

from collections.abc import Callable

from vdsm.base.clock import monotonic_s


class Alarms:
    """Named functions to be called at a time; setting a name again moves it."""

    __slots__ = ("_alarms",)

    def __init__(self) -> None:
        self._alarms: dict[str, tuple[float, Callable[[], None]]] = {}

    def set(self, name: str, after_s: float, function: Callable[[], None]) -> None:
        """Call ``function`` in ``after_s`` seconds, or somewhat later."""
        self._alarms[name] = (monotonic_s() + after_s, function)

    def drop(self, name: str) -> None:
        """Do not."""
        self._alarms.pop(name, None)

    def clear(self) -> None:
        """Drop all."""
        self._alarms.clear()

    def due(self, now_s: float) -> bool:
        """Whether any time has come."""
        return any(due_s <= now_s for due_s, _ in list(self._alarms.values()))

    def ring(self) -> None:
        """Call those whose time has come; each is called once."""
        now_s = monotonic_s()
        for name, (due_s, function) in list(self._alarms.items()):
            if due_s <= now_s and self._alarms.pop(name, None) is not None:
                function()
