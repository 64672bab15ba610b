"""Four nodes at once on this machine, whoever runs them."""

from __future__ import annotations

import pytest

from . import slots
from .deadlines import TooLate


@pytest.fixture(autouse=True)
def own_place(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(slots, "_DIRECTORY", tmp_path / "slots")


def test_all_or_none_are_had_and_given_back() -> None:
    three = slots.take(3)
    with pytest.raises(TooLate):
        slots.take(2, timeout_s=0.0)
    (fourth,) = slots.take(1)  # the failed attempt held nothing
    fourth.close()
    for held in three:
        held.close()
    assert len(slots.take(4)) == 4


def test_too_many_and_too_little_memory_are_refused(monkeypatch) -> None:
    with pytest.raises(ValueError, match="5 nodes"):
        slots.take(5)
    monkeypatch.setattr(slots, "available_mib", lambda: 2000)
    with pytest.raises(MemoryError, match="2 nodes need"):
        slots.take(2)
    assert len(slots.take(1)) == 1
