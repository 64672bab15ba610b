"""Reading a domain's XML into facts.

Runs for every VM at once when the agent starts, so: one parse, one pass over the devices, no searching.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Final

from vdsm.base.ids import VmId
from vdsm.virt.domxml import tree
from vdsm.virt.domxml.facts import ConsoleFacts, DiskFacts, DomainFacts, GraphicsFacts, NicFacts, Owner

MARK: Final = f"{{{tree.AGENT}}}agent"
AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"

# These change while a VM runs without a device having changed: a guest's agent connects, a ticket is set.
_PASSING: Final = frozenset({
    ("target", "state"),
    ("graphics", "passwd"),
    ("graphics", "passwdValidTo"),
    ("graphics", "connected"),
})

_Ids = dict[str, str]


def describe(xml: str) -> DomainFacts:
    """Read the XML that libvirt gives for a domain.

    Raises:
        ValueError: it is no domain XML at all; libvirt never gives that.
    """
    try:
        root = tree.parse_own(xml)
    except ET.ParseError as error:
        raise ValueError(f"not a domain: {error}") from error
    return describe_tree(root)


def describe_tree(root: ET.Element) -> DomainFacts:
    """Read a parsed domain; what is missing becomes "", 0 or None."""
    marks = _metadata(root)
    devices = root.find("devices")
    by_tag: dict[str, list[ET.Element]] = {}
    for device in devices if devices is not None else ():
        by_tag.setdefault(device.tag, []).append(device)
    memory_kib = tree.kib(root.find("memory")) or 0
    current_kib = tree.kib(root.find("currentMemory"))
    vcpu = root.find("vcpu")
    max_vcpus = tree.integer(vcpu.text or "") if vcpu is not None else None
    os_type = root.find("os/type")
    return DomainFacts(
        vm_id=VmId(tree.text_of(root, "uuid").lower()),
        name=tree.text_of(root, "name"),
        domain_type=root.get("type", ""),
        machine=os_type.get("machine", "") if os_type is not None else "",
        cpu_model=_cpu_model(root.find("cpu")),
        memory_kib=memory_kib,
        current_memory_kib=memory_kib if current_kib is None else current_kib,
        max_memory_kib=tree.kib(root.find("maxMemory")) or memory_kib,
        min_memory_kib=_first_int(marks, "minGuaranteedMemoryMb", "memGuaranteedSize") * 1024,
        vcpus=tree.integer(vcpu.get("current", "")) or max_vcpus or 1 if vcpu is not None else 1,
        max_vcpus=max_vcpus or 1,
        disks=tuple(_disk(element, marks.disks) for element in by_tag.get("disk", ())),
        nics=tuple(_nic(element, marks.nics) for element in by_tag.get("interface", ())),
        graphics=tuple(_graphics(element) for element in by_tag.get("graphics", ())),
        console=_console(by_tag),
        agent_channel=any(
            tree.attribute(channel, "target", "name") == AGENT_CHANNEL for channel in by_tag.get("channel", ())
        ),
        balloon=any(element.get("model") != "none" for element in by_tag.get("memballoon", ())),
        acpi=root.find("features/acpi") is not None,
        clock_offset_s=_signed(tree.attribute(root, "clock", "adjustment")),
        launch_paused=marks.values.get("launchPaused", "").lower() == "true",
        resume_behavior=marks.values.get("resumeBehavior", "") or "auto_resume",
        owner=marks.owner,
        devices_hash=_devices_hash(root),
    )


class _Marks:
    """What the metadata says: the owner, plain values, ids of disks by device name and of NICs by address."""

    __slots__ = ("disks", "nics", "owner", "values")

    def __init__(self) -> None:
        self.owner: Owner | None = None
        self.values: dict[str, str] = {}
        self.disks: dict[str, _Ids] = {}
        self.nics: dict[str, _Ids] = {}


def _metadata(root: ET.Element) -> _Marks:
    marks = _Marks()
    for child in root.iterfind("metadata/*"):
        if child.tag == MARK:
            marks.owner = Owner(
                instance=child.get("instance", ""),
                origin="local" if child.get("origin") == "local" else "engine",
                created=child.get("created", ""),
            )
        elif child.tag == f"{{{tree.OVIRT_VM}}}vm":
            _read_vm(child, marks)
    return marks


def _read_vm(vm: ET.Element, marks: _Marks) -> None:
    for child in vm:
        name = tree.local(child)
        if name != "device":
            marks.values[name] = (child.text or "").strip()
            continue
        ids = {tree.local(item): (item.text or "").strip() for item in child}
        if child.get("devtype") == "disk":
            marks.disks[child.get("name", "")] = ids
        elif mac := child.get("mac_address"):
            marks.nics[mac.lower()] = ids


def _first_int(marks: _Marks, *names: str) -> int:
    return next((number for name in names if (number := tree.integer(marks.values.get(name, "")))), 0)


def _signed(text: str) -> int:
    number = tree.integer(text.removeprefix("-"))
    if number is None:
        return 0
    return -number if text.startswith("-") else number


def _cpu_model(cpu: ET.Element | None) -> str:
    if cpu is None:
        return ""
    return tree.text_of(cpu, "model") or cpu.get("mode", "")


def _disk(disk: ET.Element, metadata: dict[str, _Ids]) -> DiskFacts:
    parts = {child.tag: child for child in disk}
    nothing = ET.Element("nothing")
    target, source, driver = (parts.get(tag, nothing) for tag in ("target", "source", "driver"))
    name = target.get("dev", "")
    ids = metadata.get(name, {})
    serial = parts.get("serial")
    return DiskFacts(
        target=name,
        bus=target.get("bus", ""),
        device=disk.get("device", "disk"),
        kind=disk.get("type", ""),
        path=source.get("file") or source.get("dev") or source.get("name") or "",
        format=driver.get("type", ""),
        readonly="readonly" in parts,
        shareable="shareable" in parts,
        serial=(serial.text or "").strip() if serial is not None else "",
        alias=parts.get("alias", nothing).get("name", ""),
        pool_id=ids.get("poolID", ""),
        domain_id=ids.get("domainID", ""),
        image_id=ids.get("imageID", ""),
        volume_id=ids.get("volumeID", ""),
        guid=ids.get("GUID", ""),
    )


def _nic(nic: ET.Element, metadata: dict[str, _Ids]) -> NicFacts:
    parts = {child.tag: child for child in nic}
    nothing = ET.Element("nothing")
    mac = parts.get("mac", nothing).get("address", "").lower()
    source = parts.get("source", nothing)
    bridge = source.get("bridge", "")
    network = metadata.get(mac, {}).get("network", "")
    return NicFacts(
        target=parts.get("target", nothing).get("dev", ""),
        mac=mac,
        model=parts.get("model", nothing).get("type", ""),
        kind=nic.get("type", ""),
        network=network or source.get("network", "") or bridge or source.get("dev", ""),
        bridge=bridge,
        link_up=parts.get("link", nothing).get("state", "up") == "up",
        alias=parts.get("alias", nothing).get("name", ""),
    )


def _graphics(graphics: ET.Element) -> GraphicsFacts:
    listen = next(
        (item.get("address") for item in graphics.iterfind("listen") if item.get("address")),
        graphics.get("listen", ""),
    )
    return GraphicsFacts(
        kind=graphics.get("type", ""),
        port=_port(graphics.get("port")),
        tls_port=_port(graphics.get("tlsPort")),
        address=listen or "",
    )


def _port(text: str | None) -> int | None:
    number = tree.integer(text or "")
    return number if number else None


def _console(by_tag: dict[str, list[ET.Element]]) -> ConsoleFacts | None:
    for element in (*by_tag.get("serial", ()), *by_tag.get("console", ())):
        kind = element.get("type", "")
        if kind in {"unix", "pty"}:
            return ConsoleFacts(kind=kind, path=tree.attribute(element, "source", "path"))
    return None


def _devices_hash(root: ET.Element) -> str:
    """A number as text, the same in every process for the same devices and metadata.

    Independent of the order of attributes and of devices (a restarted libvirtd lists them otherwise), of white
    space and of what changes while a VM runs.
    """
    digest = hashlib.blake2b(digest_size=8)
    for device in sorted("\x1e".join(_canonical(device)) for device in root.iterfind("devices/*")):
        digest.update(device.encode())
    for child in root.iterfind("metadata/*"):
        if child.tag != MARK:
            digest.update("\x1e".join(_canonical(child)).encode())
    return str(int.from_bytes(digest.digest(), "big", signed=True))


def _canonical(element: ET.Element) -> Iterator[str]:
    yield element.tag
    for name, value in sorted(element.attrib.items()):
        if (element.tag, name) not in _PASSING:
            yield f"{name}\x1f{value}"
    if element.text and (text := element.text.strip()):
        yield text
    for child in element:
        yield from _canonical(child)
    yield "\x1d"
