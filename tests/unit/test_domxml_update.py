"""The XML that changes a device of a running VM."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from vdsm.base.errors import BadParameter, NotFound
from vdsm.virt import domxml
from vdsm.virt.disks import Location

LIVE = (Path(__file__).parent.parent / "samples/live-vm.xml").read_text()


def test_a_medium_is_put_in():
    disk = ET.fromstring(domxml.medium(LIVE, "sdc", Location("/images/a & b.iso")))
    assert (disk.get("type"), disk.get("device")) == ("file", "cdrom")
    assert disk.find("source").attrib == {"file": "/images/a & b.iso"}
    assert disk.find("driver").get("type") == "raw"
    assert disk.find("target").attrib == {"dev": "sdc", "bus": "sata"}
    assert disk.find("alias").get("name") == "ua-8fb0d152-3ea2-4e3f-8d71-526c9e807f66"


def test_a_device_is_put_in():
    disk = ET.fromstring(domxml.medium(LIVE, "sdc", Location("/dev/sr0", block=True)))
    assert disk.get("type") == "block"
    assert disk.find("source").attrib == {"dev": "/dev/sr0"}


def test_a_medium_is_taken_out():
    disk = ET.fromstring(domxml.medium(LIVE, "sdc", None))
    assert disk.find("source") is None
    assert disk.get("type") == "file"


def test_no_such_drive():
    with pytest.raises(NotFound, match="sdz"):
        domxml.medium(LIVE, "sdz", None)


def test_a_fixed_disk_is_not_taken_out():
    with pytest.raises(BadParameter, match="vda"):
        domxml.medium(LIVE, "vda", None)


def test_a_ticket_changes_nothing_but_the_password():
    until = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone(timedelta(hours=2)))
    graphics = ET.fromstring(domxml.ticket(LIVE, "vnc", 'p"<&>', until))
    assert graphics.get("passwd") == 'p"<&>'
    assert graphics.get("passwdValidTo") == "2026-03-04T03:06:07"
    assert graphics.get("connected") is None
    assert (graphics.get("port"), graphics.get("keymap")) == ("5900", "en-us")
    assert graphics.find("listen").get("address") == "127.0.0.1"


def test_who_is_connected_may_be_thrown_out():
    graphics = ET.fromstring(domxml.ticket(LIVE, "vnc", "x", datetime.now(UTC), "disconnect"))
    assert graphics.get("connected") == "disconnect"


def test_no_such_display():
    with pytest.raises(NotFound, match="spice"):
        domxml.ticket(LIVE, "spice", "x", datetime.now(UTC))
