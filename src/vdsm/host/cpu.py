"""The host's processors: model, flags, topology, and what libvirt can make of them for a guest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CpuPlace:
    """Where one online logical CPU sits."""

    cpu_id: int
    core_id: int
    die_id: int
    socket_id: int
    numa_cell_id: int


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """The processors; counts are totals of the host, not per socket."""

    model: str
    speed_mhz: float
    sockets: int
    cores: int
    threads: int
    online: tuple[int, ...]
    flags: tuple[str, ...]
    """Of /proc/cpuinfo and libvirt's host model, and ``model_X`` for every CPU model X that guests can have."""
    places: tuple[CpuPlace, ...]
    affinity: tuple[int, ...]
    """CPUs that this process is bound to; empty when it may use all."""
    tsc_frequency_hz: int | None
    tsc_scaling: bool
