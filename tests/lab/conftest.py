"""Fixtures of the lab's own tests."""

from __future__ import annotations

from .fixtures import lab, nodes, pytest_runtest_makereport

__all__ = ["lab", "nodes", "pytest_runtest_makereport"]
