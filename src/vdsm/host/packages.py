"""Versions of the software underneath, by the names that the protocol uses for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package under its protocol name ("qemu-kvm"), whatever the distribution calls it."""

    name: str
    version: str
    release: str
    build_time_s: int | None = None
    """Seconds since 1970 where the package database knows it (rpm)."""
