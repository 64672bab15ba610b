"""Fixtures of the lab's own tests."""

from __future__ import annotations

from .fixtures import lab, nodes, pytest_runtest_makereport
from .host_fixtures import hosts, pytest_runtest_makereport_of_hosts

__all__ = ["hosts", "lab", "nodes", "pytest_runtest_makereport", "pytest_runtest_makereport_of_hosts"]
