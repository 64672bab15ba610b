"""What the kernel says under /sys: CPUs, NUMA nodes, huge pages, page merging, adapters, network devices.

Readers of files that the kernel answers from memory. A file that is not there (another kernel, no such hardware)
is None or an empty collection, never an error. Formats: Documentation/ABI of the kernel.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

ROOT: Final = "/sys"
HUGE_PAGES: Final = "kernel/mm/hugepages"
_SIZE = re.compile(r"hugepages-(\d+)kB")


@dataclass(frozen=True, slots=True)
class CpuPosition:
    """The topology numbers of one online logical CPU."""

    cpu_id: int
    core_id: int
    die_id: int
    socket_id: int
    siblings: tuple[int, ...]
    """Logical CPUs of the same core, itself included."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One NUMA node."""

    index: int
    cpus: tuple[int, ...]
    distances: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FibreChannelHost:
    """One Fibre Channel port; world wide names are hex digits without 0x."""

    node_name: str
    port_name: str
    model: str


def read_text(name: str, root: str = ROOT) -> str | None:
    """One value of /sys, stripped; None where it is not there or the driver refuses."""
    try:
        descriptor = os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_int(name: str, root: str = ROOT) -> int | None:
    """One number of /sys; None where it is not there or is no number."""
    text = read_text(name, root)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def entries(name: str, root: str = ROOT) -> list[str]:
    """The sorted names in a directory of /sys; empty where it is not there."""
    try:
        return sorted(os.listdir(f"{root}/{name}"))  # noqa: PTH208 - names are wanted, a Path per entry is not
    except OSError:
        return []


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The kernel's list form: "0-2,5" -> (0, 1, 2, 5)."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first:
            numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def online_cpus(root: str = ROOT) -> tuple[int, ...]:
    """The logical CPUs in use."""
    return parse_cpu_list(read_text("devices/system/cpu/online", root) or "")


def cpu_positions(root: str = ROOT) -> tuple[CpuPosition, ...]:
    """Where every online CPU sits."""
    positions = []
    for cpu in online_cpus(root):
        topology = f"devices/system/cpu/cpu{cpu}/topology"
        positions.append(
            CpuPosition(
                cpu_id=cpu,
                core_id=read_int(f"{topology}/core_id", root) or 0,
                # -1 on machines whose firmware does not tell
                die_id=max(read_int(f"{topology}/die_id", root) or 0, 0),
                socket_id=max(read_int(f"{topology}/physical_package_id", root) or 0, 0),
                siblings=parse_cpu_list(read_text(f"{topology}/thread_siblings_list", root) or str(cpu)),
            )
        )
    return tuple(positions)


def numa_nodes(root: str = ROOT) -> tuple[NodeInfo, ...]:
    """The online NUMA nodes; empty on a kernel without NUMA."""
    base = "devices/system/node"
    return tuple(
        NodeInfo(
            index=index,
            cpus=parse_cpu_list(read_text(f"{base}/node{index}/cpulist", root) or ""),
            distances=tuple(map(int, (read_text(f"{base}/node{index}/distance", root) or "").split())),
        )
        for index in parse_cpu_list(read_text(f"{base}/online", root) or "")
    )


def node_meminfo(index: int, root: str = ROOT) -> bytes:
    """A node's meminfo in the form of /proc/meminfo, without the "Node N" columns; empty where there is none."""
    text = read_text(f"devices/system/node/node{index}/meminfo", root)
    return (text or "").replace(f"Node {index} ", "").encode()


def huge_page_sizes(base: str = HUGE_PAGES, root: str = ROOT) -> tuple[int, ...]:
    """The huge page sizes in KiB, smallest first; ``base`` may be a node's directory."""
    found = (_SIZE.fullmatch(name) for name in entries(base, root))
    return tuple(sorted(int(match[1]) for match in found if match))


def huge_page_count(size_kib: int, counter: str, base: str = HUGE_PAGES, root: str = ROOT) -> int:
    """One counter of one size, in pages: nr_hugepages, free_hugepages, resv_hugepages, ..."""
    return read_int(f"{base}/hugepages-{size_kib}kB/{counter}", root) or 0


def thp_state(root: str = ROOT) -> str:
    """Transparent huge pages: always, madvise or never."""
    text = read_text("kernel/mm/transparent_hugepage/enabled", root) or ""
    chosen = text.partition("[")[2].partition("]")[0]
    return chosen or "never"


def vulnerabilities(root: str = ROOT) -> dict[str, str]:
    """The kernel's words about each CPU vulnerability."""
    base = "devices/system/cpu/vulnerabilities"
    return {name: read_text(f"{base}/{name}", root) or "" for name in entries(base, root)}


def fibre_channel_hosts(root: str = ROOT) -> tuple[FibreChannelHost, ...]:
    """The ports of Fibre Channel adapters."""
    base = "class/fc_host"
    return tuple(
        FibreChannelHost(
            node_name=(read_text(f"{base}/{name}/node_name", root) or "").removeprefix("0x"),
            port_name=(read_text(f"{base}/{name}/port_name", root) or "").removeprefix("0x"),
            model=read_text(f"{base}/{name}/symbolic_name", root) or "",
        )
        for name in entries(base, root)
    )


def net_speed_mbit(device: str, root: str = ROOT) -> int:
    """A network device's speed; 0 when it is down or does not know."""
    return max(read_int(f"class/net/{device}/speed", root) or 0, 0)


def net_up(device: str, root: str = ROOT) -> bool:
    """Whether the device can carry packets: "unknown" (no carrier detection) counts when it has a carrier."""
    state = read_text(f"class/net/{device}/operstate", root)
    return state == "up" or (state == "unknown" and read_text(f"class/net/{device}/carrier", root) == "1")


def net_is_tap(device: str, root: str = ROOT) -> bool:
    """Whether the device is a tun or tap: the host's end of a VM's or tunnel's link."""
    return read_text(f"class/net/{device}/tun_flags", root) is not None


def net_has_hardware(device: str, root: str = ROOT) -> bool:
    """Whether a piece of (possibly emulated) hardware is behind the device."""
    return os.access(f"{root}/class/net/{device}/device", os.F_OK)


def net_mac(device: str, root: str = ROOT) -> str:
    """A network device's address, "" when it has none."""
    return read_text(f"class/net/{device}/address", root) or ""
