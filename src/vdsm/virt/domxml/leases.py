"""The leases of a domain XML: collected from outside with placeholders for where they are, which are then filled in.

    <lease><key>LEASE</key><lockspace>DOMAIN</lockspace>
        <target path="LEASE-PATH:LEASE:DOMAIN" offset="LEASE-OFFSET:LEASE:DOMAIN"/></lease>

A real path is refused: sanlock would write to it, as root.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Final

from vdsm.base.errors import BadParameter
from vdsm.virt.domxml import tree
from vdsm.virt.domxml.facts import DiskFacts
from vdsm.virt.leases import LeaseLocation, LeaseRef

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PARTS: Final = ("key", "lockspace", "target")


def collect(root: ET.Element, disks: tuple[DiskFacts, ...]) -> tuple[LeaseRef, ...]:
    """The leases that a domain names; those of its own disks' volumes know their image.

    Raises:
        BadParameter: one is not as in the module's text; names the element, as in ``xml.devices.lease[0].key``.
    """
    volumes = {(disk.domain_id, disk.volume_id): disk.image_id for disk in disks if disk.volume_id}
    found = []
    for index, element in enumerate(root.iterfind("devices/lease")):
        field = f"xml.devices.lease[{index}]"
        domain_id, lease_id = _address(element, field)
        found.append(LeaseRef(field, domain_id, lease_id, volumes.get((domain_id, lease_id), "")))
    if len({(ref.domain_id, ref.lease_id) for ref in found}) < len(found):
        raise BadParameter("xml.devices.lease", "the same lease is there more than once")
    return tuple(found)


def fill(root: ET.Element, locations: Mapping[tuple[str, str], LeaseLocation]) -> None:
    """Put in where the leases are, by their domains and ids."""
    for element in root.iterfind("devices/lease"):
        target = element.find("target")
        location = locations.get((tree.text_of(element, "lockspace"), tree.text_of(element, "key")))
        if target is not None and location is not None:
            target.set("path", location.path)
            target.set("offset", str(location.offset))


def add(devices: ET.Element, domain_id: str, lease_id: str) -> None:
    """Add a lease whose place is not known yet."""
    lease = tree.add(devices, "lease")
    tree.add(lease, "lockspace", domain_id)
    tree.add(lease, "key", lease_id)
    tree.add(lease, "target", path=f"LEASE-PATH:{lease_id}:{domain_id}", offset=f"LEASE-OFFSET:{lease_id}:{domain_id}")


def _address(element: ET.Element, field: str) -> tuple[str, str]:
    for part in _PARTS:
        if len(element.findall(part)) != 1:
            raise BadParameter(f"{field}.{part}", "must be there once")
    domain_id, lease_id = tree.text_of(element, "lockspace"), tree.text_of(element, "key")
    for part, ident in (("lockspace", domain_id), ("key", lease_id)):
        if not _ID.fullmatch(ident):
            raise BadParameter(f"{field}.{part}", f"must be a lower-case UUID, is {ident!r:.80}")
    for name in ("path", "offset"):
        wanted = f"LEASE-{name.upper()}:{lease_id}:{domain_id}"
        given = tree.attribute(element, "target", name)
        if given != wanted:
            raise BadParameter(f"{field}.target@{name}", f"must be {wanted}, is {given!r:.80}")
    return domain_id, lease_id
