"""What libvirt says of the host, read from its XML: machine types, CPU models for guests, the time stamp counter.

The hypervisor itself is behind a Protocol; this module is only about the two XML texts. Formats: libvirt's
"Driver capabilities" and "Domain capabilities" pages.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Final, Protocol

from defusedxml.ElementTree import fromstring

from vdsm.base.errors import Failed

# Kept out of the host model's features: for a guest they mean nesting, for a manager "this host can virtualize",
# and the latter is what /proc/cpuinfo says.
_VIRTUALIZATION: Final = frozenset({"vmx", "svm"})


class HypervisorFacts(Protocol):
    """The few calls that capabilities need; each has a deadline of its own inside."""

    def capabilities_xml(self) -> str:
        """Libvirt's capabilities of the host.

        Raises:
            Unreachable, Unfinished, HypervisorFailed: there is no answer.
        """
        ...

    def domain_capabilities_xml(self) -> str:
        """Domain capabilities for the domain type (kvm or qemu) that guests get here; errors as above."""
        ...

    def cpu_models(self) -> tuple[str, ...]:
        """All CPU models that libvirt knows for this architecture; errors as above."""
        ...

    def versions(self) -> tuple[str, str]:
        """Versions of libvirt and QEMU, "9.0.0" and "7.2.22"; errors as above."""
        ...


@dataclass(frozen=True, slots=True)
class GuestSupport:
    """What guests can have here."""

    machines: tuple[str, ...]
    """Machine types and their aliases, of the host's own architecture."""
    cpu_models: tuple[str, ...]
    """libvirt CPU models that run here without taking features away."""
    cpu_features: tuple[str, ...]
    """Features of the host model."""
    tsc_frequency_hz: int | None
    tsc_scaling: bool
    libvirt_version: str
    qemu_version: str


def _parsed(text: str, what: str) -> ET.Element:
    try:
        return fromstring(text)
    except ET.ParseError as error:
        raise Failed(what=f"reading {what}", reason=str(error)) from error


def parse_machines(capabilities: ET.Element) -> tuple[str, ...]:
    """The machine types of the host's architecture, in libvirt's order, each once."""
    arch = capabilities.findtext("host/cpu/arch") or ""
    names: dict[str, None] = {}
    for guest in capabilities.iterfind("guest/arch"):
        if guest.get("name") == arch:
            names.update((machine.text.strip(), None) for machine in guest.iter("machine") if machine.text)
    return tuple(names)


def parse_usable_models(domain_capabilities: ET.Element) -> tuple[str, ...]:
    """CPU models marked usable='yes', sorted."""
    models = domain_capabilities.iterfind("cpu/mode[@name='custom']/model[@usable='yes']")
    return tuple(sorted({model.text.strip() for model in models if model.text}))


def parse_host_model_features(domain_capabilities: ET.Element) -> tuple[str, ...]:
    """Features that the host model requires on top of its base model, in the kernel's spelling."""
    features = domain_capabilities.iterfind("cpu/mode[@name='host-model']/feature[@policy='require']")
    names = {(feature.get("name") or "").replace("-", "_") for feature in features}
    return tuple(sorted(names - _VIRTUALIZATION - {""}))


def parse_tsc(capabilities: ET.Element) -> tuple[int | None, bool]:
    """Frequency of the time stamp counter in Hz (None: libvirt does not know) and whether it can be scaled."""
    counter = capabilities.find("host/cpu/counter[@name='tsc']")
    if counter is None:
        return None, False
    text = counter.get("frequency", "")
    return int(text) if text.isdigit() else None, counter.get("scaling") == "yes"


def gather(source: HypervisorFacts) -> GuestSupport:
    """Ask libvirt.

    Raises:
        Unreachable, Unfinished, HypervisorFailed: as the source does.
        Failed: it answered with something that is no capabilities XML.
    """
    host = _parsed(source.capabilities_xml(), "libvirt's capabilities")
    domain = _parsed(source.domain_capabilities_xml(), "libvirt's domain capabilities")
    known = frozenset(source.cpu_models())
    frequency_hz, scaling = parse_tsc(host)
    libvirt_version, qemu_version = source.versions()
    return GuestSupport(
        machines=parse_machines(host),
        # an emulator may offer models that libvirt cannot name in a domain; without a list every one counts
        cpu_models=tuple(model for model in parse_usable_models(domain) if not known or model in known),
        cpu_features=parse_host_model_features(domain),
        tsc_frequency_hz=frequency_hz,
        tsc_scaling=scaling,
        libvirt_version=libvirt_version,
        qemu_version=qemu_version,
    )
