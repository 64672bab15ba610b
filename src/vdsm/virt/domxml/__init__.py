"""libvirt's domain XML: built from a description, checked when it comes from outside, read back into facts.

VmSpec --build---+
                 +--> Prepared --place--> libvirt --> live XML --describe--> DomainFacts
XML ----prepare--+                                       |
                                                         +--medium, ticket--> XML of a changed device
"""

from __future__ import annotations

from vdsm.virt.domxml.construction import mac_of
from vdsm.virt.domxml.description import describe
from vdsm.virt.domxml.facts import (
    ConsoleFacts,
    DiskFacts,
    DomainFacts,
    GraphicsFacts,
    NicFacts,
    Owner,
    Prepared,
)
from vdsm.virt.domxml.preparation import build, place, prepare
from vdsm.virt.domxml.tree import AGENT as MARK_NAMESPACE
from vdsm.virt.domxml.update import medium, ticket

__all__ = [
    "MARK_NAMESPACE",
    "ConsoleFacts",
    "DiskFacts",
    "DomainFacts",
    "GraphicsFacts",
    "NicFacts",
    "Owner",
    "Prepared",
    "build",
    "describe",
    "mac_of",
    "medium",
    "place",
    "prepare",
    "ticket",
]
