"""Fixtures of the lab's own tests."""

from __future__ import annotations

import pytest

from .fixtures import lab, nodes, pytest_runtest_makereport
from .host_fixtures import hosts, pytest_runtest_makereport_of_hosts

__all__ = ["hosts", "lab", "nodes", "pytest_runtest_makereport", "pytest_runtest_makereport_of_hosts"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests with nodes time: whichever comes first builds the image, minutes on a machine without a cache."""
    for item in items:
        if item.get_closest_marker("node") is not None:
            item.add_marker(pytest.mark.timeout(900), append=False)
