"""The host's processors: model, flags, topology, and what libvirt can make of them for a guest."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vdsm.host.hypervisor import GuestSupport
from vdsm.host.numa import NumaNode, node_of_cpu
from vdsm.system import procfs, sysfs
from vdsm.system.procfs import parse_cpuinfo
from vdsm.system.sysfs import CpuPosition


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


def gather(guests: GuestSupport, nodes: tuple[NumaNode, ...]) -> CpuFacts:
    """The processors of this machine."""
    info = parse_cpuinfo(procfs.read("cpuinfo"))
    positions = sysfs.cpu_positions()
    node_of = node_of_cpu(nodes)
    online = tuple(position.cpu_id for position in positions)
    bound = tuple(sorted(os.sched_getaffinity(0)))
    return CpuFacts(
        model=info.model,
        speed_mhz=info.mhz,
        sockets=len({position.socket_id for position in positions}),
        cores=len({position.siblings for position in positions}),
        threads=len(positions),
        online=online,
        flags=combined_flags(info.flags, guests),
        places=tuple(_place(position, node_of) for position in positions),
        affinity=() if bound == online else bound,
        tsc_frequency_hz=guests.tsc_frequency_hz,
        tsc_scaling=guests.tsc_scaling,
    )


def combined_flags(kernel: tuple[str, ...], guests: GuestSupport) -> tuple[str, ...]:
    """The kernel's flags, then what libvirt adds, then the models as ``model_X``; each once, in that order.

    Managers match a host against a table of processors by these names: "nx", "vmx" or "svm", "model_Nehalem".
    """
    models = (f"model_{name}" for name in guests.cpu_models)
    return tuple(dict.fromkeys((*kernel, *guests.cpu_features, *models)))


def _place(position: CpuPosition, node_of: dict[int, int]) -> CpuPlace:
    return CpuPlace(
        cpu_id=position.cpu_id,
        core_id=position.core_id,
        die_id=position.die_id,
        socket_id=position.socket_id,
        numa_cell_id=node_of.get(position.cpu_id, 0),
    )
