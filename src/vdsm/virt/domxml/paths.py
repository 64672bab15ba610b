"""What of the host a domain XML from outside may touch: a closed table, everything else is refused.

Domain XML can name files, sockets, devices and programs of the host in a great many places, and libvirt opens them as
root. So the check is not a list of what is bad: every attribute whose name or value could be a path, and every text
that could be one, must have a rule here. The paths of disks and of a directly booted kernel have no rule of where they
may be; they are collected for ``disks.Images``, which looks at the real file system.
"""

from __future__ import annotations

import posixpath
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from vdsm.base.errors import BadParameter
from vdsm.virt.disks import ImageRef
from vdsm.virt.domxml import tree

_DISK_SOURCE: Final = {"file": "file", "block": "dev"}
_RANDOM: Final = frozenset({"/dev/random", "/dev/urandom", "/dev/hwrng"})
_FIRMWARE: Final = ("/usr/share/OVMF/", "/usr/share/edk2/", "/usr/share/qemu/", "/usr/share/seabios/")
_NVRAM: Final = ("/var/lib/libvirt/qemu/nvram/",)

# Devices that an Engine or this agent's own builder uses, and which types of them. A type that reaches out on its own
# (a network disk, a TCP character device, a display on a socket) is not there.
_DEVICES: Final[Mapping[str, frozenset[str] | None]] = {
    "channel": frozenset({"unix", "spicevmc", "spiceport", "pty", "qemu-vdagent"}),
    "console": frozenset({"unix", "pty", "null"}),
    "controller": None,
    "disk": frozenset(_DISK_SOURCE),
    "emulator": None,
    "graphics": frozenset({"vnc", "spice", "egl-headless"}),
    "hostdev": None,
    "hub": None,
    "input": frozenset({"mouse", "tablet", "keyboard"}),
    "interface": frozenset({"bridge", "network", "user", "direct", "hostdev"}),
    "iommu": None,
    "lease": None,
    "memballoon": None,
    "memory": None,
    "panic": None,
    "redirdev": frozenset({"spicevmc"}),
    "redirfilter": None,
    "rng": None,
    "serial": frozenset({"unix", "pty", "null"}),
    "smartcard": frozenset({"spicevmc"}),
    "sound": None,
    "tpm": None,
    "video": None,
    "vsock": None,
    "watchdog": None,
}

# Names of attributes that are paths, programs or host devices somewhere in libvirt's schema.
_PATHY: Final = frozenset({
    "binary",
    "bundle",
    "cacert",
    "database",
    "dev",
    "dir",
    "file",
    "keyfile",
    "mount",
    "path",
    "rendernode",
    "script",
    "socket",
    "tap",
    "template",
    "vhost",
    "vhostfd",
})

# Names of elements whose text is a path.
_PATHY_TAGS: Final = _PATHY | {"dtb", "init", "table"}

# Elements that may be there more than once. For all others at the top and for the parts of a device it would be left
# to the parser which one counts, and libvirt's might take another one than was checked.
_REPEATED: Final = frozenset({"sysinfo"})
_PARTS: Final = frozenset({"driver", "mac", "source", "target"})

# Texts that are free, or are secrets and numbers which may well begin with a slash.
_FREE_TEXT: Final = frozenset({
    "cmdline",
    "description",
    "devices/disk/product",
    "devices/disk/serial",
    "devices/disk/vendor",
    "launchSecurity/dhCert",
    "launchSecurity/session",
    "name",
    "os/cmdline",
    "resource/partition",
    "title",
})

# Top-level elements that are never an Engine's and take the VM out of its confinement or into another hypervisor.
_REFUSED_TOP: Final = frozenset({"bootloader", "bootloader_args", "idmap", "seclabel"})

_Rule = Callable[[str, str], None]


def check(root: ET.Element) -> tuple[ImageRef, ...]:
    """Refuse whatever reaches outside of a VM; return the images that it names.

    Raises:
        BadParameter: names the element, as in ``xml.devices.disk[vda].source``.
    """
    for child in root:
        if child.tag in _REFUSED_TOP:
            raise BadParameter(f"xml.{child.tag}", "is not allowed")
    _check_single(root, "xml", lambda tag: tag not in _REPEATED)
    images = list(_boot_images(root))
    for element, field in _devices(root):
        _check_device(element, field)
        if element.tag == "disk":
            images += _disk_images(element, field)
    for child in root:
        if child.tag not in {"metadata", "devices"}:
            _walk(child, child.tag, f"xml.{tree.local(child)}")
    return tuple(images)


def device_fields(root: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    """Each device with the field that an error names it by: disks by their target, others by number."""
    return _devices(root)


def _devices(root: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    counts: dict[str, int] = {}
    for element in root.iterfind("devices/*"):
        number = counts.get(element.tag, 0)
        counts[element.tag] = number + 1
        name = tree.attribute(element, "target", "dev") if element.tag == "disk" else ""
        yield element, f"xml.devices.{tree.local(element)}[{name or number}]"


def _check_device(element: ET.Element, field: str) -> None:
    if element.tag not in _DEVICES:
        raise BadParameter(field, "is not allowed")
    types = _DEVICES[element.tag]
    kind = element.get("type", "file" if element.tag == "disk" else "")
    if types is not None and kind not in types:
        raise BadParameter(f"{field}@type", f"must be {', '.join(sorted(types))}, is {kind!r:.80}")
    if element.tag == "smartcard" and element.get("mode") != "passthrough":
        raise BadParameter(f"{field}@mode", "must be passthrough")
    _check_single(element, field, _PARTS.__contains__)
    _walk(element, f"devices/{element.tag}", field)


def _check_single(parent: ET.Element, field: str, applies: Callable[[str], bool]) -> None:
    seen = set()
    for child in parent:
        if child.tag in seen and applies(child.tag):
            raise BadParameter(f"{field}.{tree.local(child)}", "is there more than once")
        seen.add(child.tag)


def _disk_images(disk: ET.Element, field: str) -> Iterator[ImageRef]:
    source = disk.find("source")
    name = _DISK_SOURCE[disk.get("type", "file")]
    path = source.get(name, "") if source is not None else ""
    if not path:
        if disk.get("device", "disk") not in {"cdrom", "floppy"}:
            raise BadParameter(f"{field}.source", "is missing")
        return
    if path.startswith("PAYLOAD:"):
        raise BadParameter(f"{field}.source", "payload disks are not supported yet")
    image_format = tree.attribute(disk, "driver", "type")
    if image_format not in {"raw", "qcow2"}:
        # Without a format QEMU or libvirt would guess it from what the guest has written.
        raise BadParameter(f"{field}.driver@type", f"must be raw or qcow2, is {image_format!r:.80}")
    yield ImageRef(
        field=f"{field}.source",
        target=tree.attribute(disk, "target", "dev"),
        path=path,
        format=image_format,
        readonly=disk.find("readonly") is not None or disk.get("device") == "cdrom",
    )


def _boot_images(root: ET.Element) -> Iterator[ImageRef]:
    for name in ("kernel", "initrd"):
        if path := tree.text_of(root, f"os/{name}"):
            yield ImageRef(field=f"xml.os.{name}", target=name, path=path, format=None, readonly=True)


def _walk(element: ET.Element, where: str, field: str) -> None:
    """Check an element and everything beneath it; ``where`` is the key of the tables."""
    if element.tag.startswith("{"):
        raise BadParameter(field, "elements of other namespaces are allowed in metadata only")
    text = (element.text or "").strip()
    rule = _TEXT_RULES.get(where)
    if rule is not None:
        if text:
            rule(field, text)
    elif (text.startswith("/") and where not in _FREE_TEXT and not where.startswith("sysinfo/")) or (
        text and element.tag in _PATHY_TAGS
    ):
        raise BadParameter(field, f"a path of the host is not allowed here: {text!r:.80}")
    for name, value in element.attrib.items():
        _check_attribute(f"{where}@{name}", name, f"{field}@{name}", value)
    for child in element:
        _walk(child, f"{where}/{child.tag}", f"{field}.{tree.local(child)}")


def _check_attribute(where: str, name: str, field: str, value: str) -> None:
    if name.startswith("{"):
        raise BadParameter(field, "attributes of other namespaces are allowed in metadata only")
    rule = _ATTRIBUTE_RULES.get(where)
    if rule is not None:
        rule(field, value)
    elif (name in _PATHY or value.startswith("/")) and name != "passwd":
        raise BadParameter(field, f"a path or device of the host is not allowed here: {value!r:.80}")


def _any(field: str, value: str) -> None:
    """Checked elsewhere, or harmless."""


def _host_nic(field: str, value: str) -> None:
    if "/" in value:
        raise BadParameter(field, f"must be the name of a network device, is {value!r:.80}")


def _random(field: str, value: str) -> None:
    if value not in _RANDOM:
        raise BadParameter(field, f"must be {', '.join(sorted(_RANDOM))}, is {value!r:.80}")


def _inside(*directories: str) -> _Rule:
    def rule(field: str, value: str) -> None:
        if posixpath.normpath(value) != value or not value.startswith(directories):
            raise BadParameter(field, f"must be inside of {' or '.join(directories)}, is {value!r:.80}")

    return rule


# "devices/interface/script@path" is not here on purpose: libvirt runs it as root. Nor is "sysinfo/entry@file".
_ATTRIBUTE_RULES: Final[Mapping[str, _Rule]] = {
    "devices/channel/source@path": _any,  # rewritten: adaptation.py
    "devices/console/source@path": _any,
    "devices/serial/source@path": _any,
    "devices/serial/log@file": _any,
    "devices/console/log@file": _any,
    "devices/disk/source@file": _any,  # an ImageRef
    "devices/disk/source@dev": _any,
    "devices/disk/target@dev": _host_nic,
    "devices/interface/source@dev": _host_nic,
    "devices/interface/target@dev": _host_nic,
    "devices/interface/backend@vhost": _inside("/dev/vhost-net"),
    "devices/lease/target@path": _any,  # a placeholder: leases.py
    "devices/memory/target@dev": _host_nic,
    "os/boot@dev": _host_nic,
    "os/nvram@template": _inside(*_FIRMWARE),
}

_TEXT_RULES: Final[Mapping[str, _Rule]] = {
    "devices/emulator": _any,  # replaced by the host's: adaptation.py
    "devices/rng/backend": _random,
    "os/kernel": _any,  # an ImageRef
    "os/initrd": _any,
    "os/loader": _inside(*_FIRMWARE),
    "os/nvram": _inside(*_NVRAM),
}
