"""What libvirt knows of the host, on an open connection."""

from __future__ import annotations

import libvirt  # noqa: TID251 - vdsm.system.libvirt is its one place


def capabilities(conn: libvirt.virConnect) -> str:
    """The capabilities XML."""
    return conn.getCapabilities()


def domain_capabilities(conn: libvirt.virConnect, domain_type: str) -> str:
    """The domain capabilities XML for guests of this type (kvm or qemu)."""
    return conn.getDomainCapabilities(None, None, None, domain_type, 0)


def cpu_models(conn: libvirt.virConnect, architecture: str) -> tuple[str, ...]:
    """All CPU models that libvirt knows for an architecture."""
    return tuple(conn.getCPUModelNames(architecture, 0))


def versions(conn: libvirt.virConnect) -> tuple[str, str]:
    """Versions of libvirt and of QEMU, as "9.0.0"."""
    return _dotted(conn.getLibVersion()), _dotted(conn.getVersion())


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
