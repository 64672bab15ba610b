"""NUMA nodes of the host: CPUs, memory, distances, huge pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NumaNode:
    """One node that has memory or CPUs."""

    index: int
    cpus: tuple[int, ...]
    memory_mib: int
    distances: tuple[int, ...]
    """To every node in index order; 10 is the node itself."""
    huge_pages: Mapping[int, int]
    """Page size in KiB -> pages allocated on this node."""
