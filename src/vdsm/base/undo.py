"""Undo: take back the steps of a block that fails (DeferableContext's descendant)."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

log = logging.getLogger(__name__)

P = ParamSpec("P")


class Undo:
    """Remembers how to take back each step; when the block raises, does so in reverse order.

        with Undo() as undo:
            path = images.prepare(disk)
            undo.add(images.teardown, disk)
            hypervisor.create(xml)

    A step whose undoing fails is logged and does not keep the others from being undone; the block's own error is what
    the caller sees. A block that ends well keeps everything.
    """

    def __init__(self) -> None:
        self._steps: list[partial[object]] = []

    def add(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remember that ``function(*args, **kwargs)`` takes back the step just done."""
        self._steps.append(partial(function, *args, **kwargs))

    def commit(self) -> None:
        """Forget all steps so far: they stay done, whatever happens from here."""
        self._steps.clear()

    def roll_back(self) -> None:
        """Take back all steps, the last one first."""
        while self._steps:
            step = self._steps.pop()
            try:
                step()
            except Exception:
                log.exception("could not undo a step (%s)", getattr(step.func, "__qualname__", step.func))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.roll_back()
