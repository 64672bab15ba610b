"""Fixtures and marks for all tests."""

from __future__ import annotations

import pytest

from guest import tiny_guest
from needs import require

__all__ = ["tiny_guest"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(*mark.args)
