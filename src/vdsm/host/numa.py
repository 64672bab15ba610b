"""NUMA nodes of the host: CPUs, memory, distances, huge pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vdsm.system import procfs, sysfs
from vdsm.system.procfs import parse_meminfo


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


def gather() -> tuple[NumaNode, ...]:
    """The nodes of this machine; a kernel without NUMA is one node with everything.

    A single node's memory is the machine's: a kernel that takes its memory into use lazily tells less for the node.
    """
    infos = sysfs.numa_nodes()
    if len(infos) < 2:
        return (_whole_machine(),)
    return tuple(
        NumaNode(
            index=node.index,
            cpus=node.cpus,
            memory_mib=parse_meminfo(sysfs.node_meminfo(node.index)).get(b"MemTotal", 0) // 1024,
            distances=node.distances,
            huge_pages=_huge_pages(f"devices/system/node/node{node.index}/hugepages"),
        )
        for node in infos
    )


def _huge_pages(base: str) -> dict[int, int]:
    return {size: sysfs.huge_page_count(size, "nr_hugepages", base) for size in sysfs.huge_page_sizes(base)}


def _whole_machine() -> NumaNode:
    return NumaNode(
        index=0,
        cpus=sysfs.online_cpus(),
        memory_mib=parse_meminfo(procfs.read("meminfo"))[b"MemTotal"] // 1024,
        distances=(10,),
        huge_pages=_huge_pages(sysfs.HUGE_PAGES),
    )


def node_of_cpu(nodes: tuple[NumaNode, ...]) -> dict[int, int]:
    """Logical CPU -> index of its node."""
    return {cpu: node.index for node in nodes for cpu in node.cpus}
