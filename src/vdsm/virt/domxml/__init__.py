"""libvirt's domain XML: built from a description, checked when it comes from outside, read back into facts.

VmSpec --build--> XML --+
                        +--> prepare --> Prepared --place--> libvirt --> live XML --describe--> DomainFacts
an Engine's XML --------+
"""

from __future__ import annotations

from vdsm.virt.domxml.facts import (
    ConsoleFacts,
    DiskFacts,
    DomainFacts,
    GraphicsFacts,
    NicFacts,
    Owner,
    Prepared,
)

__all__ = [
    "ConsoleFacts",
    "DiskFacts",
    "DomainFacts",
    "GraphicsFacts",
    "NicFacts",
    "Owner",
    "Prepared",
]
