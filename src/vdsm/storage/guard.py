"""Work that may change a shared domain only as long as somebody says so: asked at each change, wherever it is made.

Who starts such work puts ``allowed`` around it; the door to a domain's files (``oop.pool``) asks before each call that
changes something. What is between the two - steps, back ends, journals - need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

# Goes along into worker threads with the context (``base.threads``). No state: it is set only within the block.
_asked: Final[ContextVar[Callable[[], None] | None]] = ContextVar("vdsm_guard", default=None)


@contextmanager
def guarded(allowed: Callable[[], None]) -> Iterator[None]:
    """In the block, ``allowed`` is asked now and before each change of a file; what it raises ends the change."""
    allowed()
    token = _asked.set(allowed)
    try:
        yield
    finally:
        _asked.reset(token)


def check() -> None:
    """Ask, if anybody is to be asked."""
    allowed = _asked.get()
    if allowed is not None:
        allowed()
