"""Changing single devices of a running VM: the XML for libvirt's update of a device.

libvirt wants the whole device again with just the changed part different, so these start from the live XML.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import Final, Literal

from vdsm.base.errors import BadParameter, NotFound
from vdsm.virt.disks import Location
from vdsm.virt.domxml import tree

REMOVABLE = frozenset({"cdrom", "floppy"})


def medium(live_xml: str, target: str, location: Location | None) -> str:
    """The disk XML that puts a medium into a removable drive, or takes it out (``location`` None).

    Raises:
        NotFound: the VM has no such drive.
        BadParameter: the drive is not removable; names ``target``.
    """
    disk = next(
        (
            element
            for element in tree.parse_own(live_xml).iterfind("devices/disk")
            if tree.attribute(element, "target", "dev") == target
        ),
        None,
    )
    if disk is None:
        raise NotFound("drive", target)
    if disk.get("device") not in REMOVABLE:
        raise BadParameter("target", f"{target} is not a CD or floppy drive")
    for tag in ("source", "backingStore"):
        for old in disk.findall(tag):
            disk.remove(old)
    block = location is not None and location.block
    disk.set("type", "block" if block else "file")
    if location is not None:
        disk.insert(0, ET.Element("source", {"dev" if block else "file": location.path}))
    driver = disk.find("driver")
    if driver is not None and driver.get("type") is None:
        driver.set("type", "raw")  # an emptied drive loses it, and without it libvirt would guess
    return ET.tostring(disk, encoding="unicode")


# The protocol's: a client uses no more of what its user types either, and libvirt refuses what is longer.
VNC_PASSWORD: Final = 8


def ticket(
    live_xml: str,
    kind: str,
    password: str,
    valid_to: datetime,
    connected: Literal["keep", "disconnect", "fail"] | None = None,
) -> str:
    """The graphics XML that sets a display's password until ``valid_to``. The result contains the password.

    ``connected`` says what happens to who is connected now; None leaves it to the display.

    Raises:
        NotFound: the VM has no display of this kind.
    """
    graphics = next(
        (element for element in tree.parse_own(live_xml).iterfind("devices/graphics") if element.get("type") == kind),
        None,
    )
    if graphics is None:
        raise NotFound("display", kind)
    graphics.set("passwd", password[:VNC_PASSWORD] if kind == "vnc" else password)
    graphics.set("passwdValidTo", valid_to.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    if connected is not None:
        graphics.set("connected", connected)
    return ET.tostring(graphics, encoding="unicode")
