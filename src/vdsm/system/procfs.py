"""What the kernel says under /proc: readers and parsers for the files that a host agent polls.

Every parser takes the file's bytes and gives plain values, so that it can be tested on a sample text; every reader
opens one small file that the kernel answers from memory. Formats: proc(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
KTHREADD: Final = "2"


@dataclass(frozen=True, slots=True)
class CpuTicks:
    """Time of one CPU since boot, in clock ticks (``TICKS_PER_S``)."""

    user: int
    """With nice; guests' time is part of it."""
    system: int
    """With interrupts."""
    idle: int
    """With waiting for I/O."""
    total: int
    """With time stolen by the hypervisor beneath."""


@dataclass(frozen=True, slots=True)
class Stat:
    """The parts of /proc/stat that do not grow with the machine's devices."""

    total: CpuTicks
    cpus: dict[int, CpuTicks]
    boot_time_s: int
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class NetCounters:
    """One line of /proc/net/dev."""

    rx_bytes: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_errors: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    point: str
    fs_type: str


@dataclass(frozen=True, slots=True)
class Cpuinfo:
    """What all CPUs have in common, from the first one; ``mhz`` is that one's present speed."""

    model: str
    mhz: float
    flags: tuple[str, ...]


def read(name: str, root: str = "/proc") -> bytes:
    """The whole content of a file of /proc.

    Raises:
        OSError: the kernel does not have it.
    """
    descriptor = os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def read_text(name: str, root: str = "/proc") -> str | None:
    """One value of /proc, stripped; None where the kernel does not have it."""
    try:
        return read(name, root).decode("utf-8", "replace").strip()
    except OSError:
        return None


def read_int(name: str, root: str = "/proc") -> int | None:
    """One number of /proc; None where the kernel does not have it or says something else."""
    text = read_text(name, root)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _ticks(columns: list[bytes]) -> CpuTicks:
    # name user nice system idle iowait irq softirq steal guest guest_nice; guest times are in user and nice already
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, columns[1:9])
    return CpuTicks(
        user=user + nice,
        system=system + irq + softirq,
        idle=idle + iowait,
        total=user + nice + system + irq + softirq + idle + iowait + steal,
    )


def parse_stat(data: bytes) -> Stat:
    """Parse /proc/stat; offline CPUs have no line."""
    end = data.index(b"intr")
    lines = data[:end].splitlines()
    cpus = {}
    for line in lines[1:]:
        columns = line.split()
        cpus[int(columns[0][3:])] = _ticks(columns)
    start = data.index(b"\nbtime ", end) + len(b"\nbtime ")
    return Stat(
        total=_ticks(lines[0].split()),
        cpus=cpus,
        boot_time_s=int(data[start : data.index(b"\n", start)]),
    )


def parse_meminfo(data: bytes) -> dict[bytes, int]:
    """Parse /proc/meminfo (or a node's meminfo without its "Node N" columns): name -> KiB, or pages for counts."""
    values = {}
    for line in data.splitlines():
        name, _, rest = line.partition(b":")
        values[name] = int(rest.split(None, 1)[0])
    return values


def parse_net_dev(data: bytes) -> dict[str, NetCounters]:
    """Parse /proc/net/dev."""
    devices = {}
    for line in data.splitlines()[2:]:
        name, _, rest = line.rpartition(b":")
        cells = rest.split()
        devices[name.strip().decode()] = NetCounters(
            rx_bytes=int(cells[0]),
            rx_errors=int(cells[2]),
            rx_dropped=int(cells[3]),
            tx_bytes=int(cells[8]),
            tx_errors=int(cells[10]),
            tx_dropped=int(cells[11]),
        )
    return devices


def parse_load(data: bytes) -> float:
    """The load average of the last minute, of /proc/loadavg."""
    return float(data.split(None, 1)[0])


def parse_process_ticks(data: bytes) -> tuple[int, int]:
    """User and system clock ticks of a process, of /proc/PID/stat; its name may hold blanks and parentheses."""
    fields = data[data.rindex(b")") + 2 :].split()
    return int(fields[11]), int(fields[12])


def parse_resident_kib(data: bytes) -> int:
    """Resident memory of a process in KiB, of /proc/PID/statm."""
    return int(data.split(None, 2)[1]) * PAGE_BYTES // 1024


def parse_cpuinfo(data: bytes) -> Cpuinfo:
    """Parse the first processor of /proc/cpuinfo."""
    values: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        if not line.strip():
            break
        name, _, value = line.partition(":")
        values[name.strip()] = value.strip()
    flags = values.get("flags") or values.get("Features") or ""
    return Cpuinfo(
        model=values.get("model name", ""),
        mhz=float(values.get("cpu MHz") or 0.0),
        flags=tuple(flags.split()),
    )


def parse_mounts(data: bytes) -> tuple[Mount, ...]:
    """Parse /proc/self/mountinfo, in the order of mounting."""
    mounts = []
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        mounts.append(Mount(point=_unescaped(left.split()[4]), fs_type=right.split(None, 1)[0]))
    return tuple(mounts)


def _unescaped(text: str) -> str:
    # the kernel writes blank, tab, newline and backslash as three octal digits
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def kernel_thread(name: str, root: str = "/proc") -> int | None:
    """The id of a kernel thread such as "ksmd"; None when there is none or its parent cannot be seen."""
    children = read_text(f"{KTHREADD}/task/{KTHREADD}/children", root)
    for pid in (children or "").split():
        if read_text(f"{pid}/comm", root) == name:
            return int(pid)
    return None
