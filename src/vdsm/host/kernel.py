"""Kernel and operating system: versions, boot, security modes, mitigations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vdsm.host.hardware import has_iommu, rng_sources
from vdsm.system import osrelease, procfs, sysfs

_YES: Final = frozenset({"1", "Y", "y"})


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """From /etc/os-release."""

    name: str
    version: str
    release: str
    """The version's code name where the distribution has one."""
    pretty_name: str


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """Kernel and operating system."""

    operating_system: OperatingSystem
    kernel_release: str
    kernel_args: str
    boot_id: str
    boot_time_s: int
    """Seconds since 1970."""
    memory_mib: int
    selinux_mode: int
    """1 enforcing, 0 permissive, -1 disabled or not there."""
    fips: bool
    kdump: int
    """1 a crash kernel is loaded, 0 none is, -1 this kernel does not say."""
    huge_page_sizes_kib: tuple[int, ...]
    kernel_features: Mapping[str, int]
    """IBRS, RETP, PTI: 1 when the kernel uses that mitigation."""
    vulnerabilities: Mapping[str, str]
    """The kernel's own words per CPU vulnerability."""
    auto_numa_balancing: int
    """0 off, 1 on, 2 this kernel does not have it."""
    nested: bool
    iommu: bool
    rng_sources: tuple[str, ...]


def gather() -> SystemFacts:
    """The facts of this machine."""
    words = sysfs.vulnerabilities()
    return SystemFacts(
        operating_system=operating_system(osrelease.read()),
        kernel_release=os.uname().release,
        kernel_args=procfs.read_text("cmdline") or "",
        boot_id=procfs.read_text("sys/kernel/random/boot_id") or "",
        boot_time_s=procfs.parse_stat(procfs.read("stat")).boot_time_s,
        memory_mib=procfs.parse_meminfo(procfs.read("meminfo"))[b"MemTotal"] // 1024,
        selinux_mode=_or(sysfs.read_int("fs/selinux/enforce"), -1),
        fips=procfs.read_int("sys/crypto/fips_enabled") == 1,
        kdump=_kdump(),
        huge_page_sizes_kib=sysfs.huge_page_sizes(),
        kernel_features=kernel_features(words),
        vulnerabilities=words,
        auto_numa_balancing=_numa_balancing(),
        nested=_nested(),
        iommu=has_iommu(),
        rng_sources=rng_sources(),
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _kdump() -> int:
    # Linux 6.19 moved the file into a directory of its own
    for name in ("kernel/kexec_crash_loaded", "kernel/kexec/crash_loaded"):
        loaded = sysfs.read_int(name)
        if loaded is not None:
            return int(loaded == 1)
    return -1


def _numa_balancing() -> int:
    value = procfs.read_int("sys/kernel/numa_balancing")
    return 2 if value is None else int(value > 0)


def _nested() -> bool:
    return any(sysfs.read_text(f"module/{name}/parameters/nested") in _YES for name in ("kvm_intel", "kvm_amd"))


def operating_system(values: Mapping[str, str]) -> OperatingSystem:
    """The operating system from os-release's assignments."""
    name = values.get("NAME", "Linux")
    return OperatingSystem(
        name=name,
        version=values.get("VERSION_ID", ""),
        release=values.get("VERSION_CODENAME", ""),
        pretty_name=values.get("PRETTY_NAME", name),
    )


def kernel_features(vulnerabilities: Mapping[str, str]) -> dict[str, int]:
    """Which of the classic mitigations are in use.

    Only the first clause names the mitigation itself; later ones mention others ("PBRSB-eIBRS Not affected").
    """
    spectre = _mitigation(vulnerabilities.get("spectre_v2", ""))
    return {
        "IBRS": int("IBRS" in spectre),
        "RETP": int("retpoline" in spectre.lower()),
        "PTI": int("PTI" in _mitigation(vulnerabilities.get("meltdown", ""))),
    }


def _mitigation(words: str) -> str:
    head, separator, rest = words.replace(";", ",").partition("Mitigation")
    return rest.lstrip(":, ").partition(",")[0] if separator and not head else ""
