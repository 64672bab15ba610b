"""Making a domain XML from outside fit this host: what a manager leaves open, and what the host has elsewhere.

Only where needed: on a host with KVM an Engine's XML keeps its CPU, features and timers. Expects a tree that ``paths``
has checked.
"""

from __future__ import annotations

import re
import secrets
import xml.etree.ElementTree as ET
from typing import Final

from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId
from vdsm.virt.domxml import tree
from vdsm.virt.traits import HostTraits

# Where managers believe the emulator to be; any of them means the host's own.
_EMULATORS: Final = frozenset({
    "/usr/bin/kvm",
    "/usr/bin/qemu-kvm",
    "/usr/bin/qemu-system-x86_64",
    "/usr/libexec/qemu-kvm",
})

# The directories of the original's consoles; the sockets get their place in this agent's own.
_CONSOLE_DIRS: Final = ("/var/run/ovirt-vmconsole-console/", "/run/ovirt-vmconsole-console/")

# "pc-q35-rhel9.6.0" and the like exist on one Linux family only; the newest of the same chipset stands for them.
_VENDOR_MACHINE: Final = re.compile(r"(pc-q35|pc-i440fx)-rhel[0-9.]+")
_VERSIONED_MACHINE: Final = re.compile(r"(pc-q35|pc-i440fx)-([0-9]+)\.([0-9]+)")

_KVM_FEATURES: Final = ("hyperv", "kvm", "ioapic", "pvspinlock")
_KVM_TIMERS: Final = frozenset({"hypervclock", "kvmclock", "pit", "tsc"})

_EXPIRED: Final = "1970-01-01T00:00:01"

_PLACEHOLDERS: Final = ("OS-NAME:", "OS-VERSION:", "HOST-SERIAL:")

# A manager's own name of a filter and the one that libvirt ships for the same purpose.
_FILTERS: Final = {"vdsm-no-mac-spoofing": "no-mac-spoofing"}

# The original defines a network in libvirt for each of a manager's.
_LIBVIRT_NETWORK: Final = "vdsm-"


def lock(graphics: ET.Element) -> None:
    """Give a display a password that nobody knows and that was never valid, so nobody gets in without a ticket."""
    graphics.set("passwd", secrets.token_urlsafe(6))  # QEMU cuts VNC passwords at 8 characters
    graphics.set("passwdValidTo", _EXPIRED)


def adapt(root: ET.Element, vm_id: VmId, traits: HostTraits) -> None:
    """Change the tree so that it fits the host.

    Raises:
        BadParameter: something cannot be had on this host; names the element.
    """
    if root.get("type") == "kvm" and traits.domain_type == "qemu":
        _emulate(root)
    _adapt_machine(root, traits)
    _adapt_emulator(root, traits)
    _fill_placeholders(root, traits)
    _adapt_consoles(root, vm_id, traits)
    _adapt_channels(root)
    _adapt_displays(root, traits)
    _adapt_filters(root, traits)


def _emulate(root: ET.Element) -> None:
    """Replace what only KVM can do."""
    root.set("type", "qemu")
    cpu = root.find("cpu")
    if cpu is not None:
        _emulate_cpu(cpu)
    for name in _KVM_FEATURES:
        _remove(root.find("features"), name)
    clock = root.find("clock")
    for timer in root.findall("clock/timer"):
        if clock is not None and timer.get("name") in _KVM_TIMERS:
            clock.remove(timer)
    for driver in root.iterfind("devices/interface/driver"):
        if driver.get("name") == "vhost":
            # An emulated guest gains nothing by it, and such hosts often do not have it.
            del driver.attrib["name"]


def _emulate_cpu(cpu: ET.Element) -> None:
    """Keep a named model and the topology; "as the host's" becomes all that the emulator can do."""
    if cpu.get("mode") in {"host-passthrough", "host-model"}:
        cpu.attrib.clear()
        cpu.set("mode", "maximum")
        for name in ("model", "vendor", "feature", "cache", "maxphysaddr"):
            _remove(cpu, name)
    # libvirt would compare the model with the host's CPU, on which the guest does not run.
    cpu.set("check", "none")


def _remove(parent: ET.Element | None, tag: str) -> None:
    for child in parent.findall(tag) if parent is not None else ():
        if parent is not None:
            parent.remove(child)


def _adapt_machine(root: ET.Element, traits: HostTraits) -> None:
    os_type = root.find("os/type")
    if os_type is None or (os_type.text or "").strip() != "hvm":
        raise BadParameter("xml.os.type", "must be hvm")
    if (arch := os_type.get("arch", "x86_64")) != "x86_64":
        raise BadParameter("xml.os.type@arch", f"must be x86_64, is {arch!r:.80}")
    machine = os_type.get("machine", "q35")
    if traits.machines and machine not in traits.machines:
        machine = _substitute(machine, traits.machines)
    os_type.set("machine", machine)


def _substitute(machine: str, known: frozenset[str]) -> str:
    vendor = _VENDOR_MACHINE.fullmatch(machine)
    versions = [
        (int(match[2]), int(match[3]), match[0])
        for match in map(_VERSIONED_MACHINE.fullmatch, known)
        if match is not None and vendor is not None and match[1] == vendor[1]
    ]
    if not versions:
        raise BadParameter("xml.os.type@machine", f"this host's QEMU does not know {machine!r:.80}")
    return max(versions)[2]


def _adapt_emulator(root: ET.Element, traits: HostTraits) -> None:
    for emulator in root.iterfind("devices/emulator"):
        path = (emulator.text or "").strip()
        if path not in _EMULATORS and path != traits.emulator:
            raise BadParameter("xml.devices.emulator", f"must be {traits.emulator} or left out, is {path!r:.80}")
        emulator.text = traits.emulator
    devices = root.find("devices")
    if devices is not None and devices.find("emulator") is None:
        tree.add(devices, "emulator", traits.emulator)


def _fill_placeholders(root: ET.Element, traits: HostTraits) -> None:
    values = dict(zip(_PLACEHOLDERS, (traits.os_name, traits.os_version, traits.host_serial), strict=True))
    for entry in root.iterfind("sysinfo/system/entry"):
        for placeholder, value in values.items():
            if (entry.text or "").strip().startswith(placeholder):
                entry.text = value


def _adapt_consoles(root: ET.Element, vm_id: VmId, traits: HostTraits) -> None:
    """Give each serial port its socket; a console element may stand for the serial port of the same number."""
    for tag in ("serial", "console"):
        for number, port in enumerate(root.findall(f"devices/{tag}")):
            field = f"xml.devices.{tag}[{number}]"
            _check_log(port, field, vm_id, traits)
            if port.get("type") == "unix":
                _adapt_socket(port, field, traits.console_socket(vm_id, number), traits)


def _check_log(port: ET.Element, field: str, vm_id: VmId, traits: HostTraits) -> None:
    log = port.find("log")
    if log is not None and log.get("file") != traits.console_log(vm_id):
        raise BadParameter(f"{field}.log@file", f"must be {traits.console_log(vm_id)}, is {log.get('file')!r:.80}")


def _adapt_socket(port: ET.Element, field: str, place: str, traits: HostTraits) -> None:
    source = port.find("source")
    if source is None:
        source = tree.add(port, "source", mode="bind")
    path = source.get("path", place)
    known = (*_CONSOLE_DIRS, f"{traits.run_dir}/console/")
    directory, _, name = path.rpartition("/")
    if f"{directory}/" not in known or not name:
        raise BadParameter(f"{field}.source@path", f"must be in {' or '.join(known)}, is {path!r:.80}")
    if source.get("mode", "bind") != "bind":
        raise BadParameter(f"{field}.source@mode", "must be bind")
    source.set("mode", "bind")
    source.set("path", place)


def _adapt_channels(root: ET.Element) -> None:
    """Let libvirt choose the sockets of channels; it tells where they are, and keeps them apart by VM."""
    for number, channel in enumerate(root.findall("devices/channel")):
        source = channel.find("source")
        if source is None:
            continue
        if source.get("mode", "bind") != "bind":
            raise BadParameter(f"xml.devices.channel[{number}].source@mode", "must be bind")
        if channel.get("type") in {"unix", "pty"}:
            channel.remove(source)


def _adapt_displays(root: ET.Element, traits: HostTraits) -> None:
    """Displays on a manager's network listen at this host's address there; none is open without a ticket."""
    for graphics in root.iterfind("devices/graphics"):
        if graphics.get("type") in {"vnc", "spice"} and not graphics.get("passwd"):
            lock(graphics)
        for listen in graphics.findall("listen"):
            network = listen.get("network", "")
            if listen.get("type") == "network" and network.startswith(_LIBVIRT_NETWORK):
                address = traits.network_addresses.get(network.removeprefix(_LIBVIRT_NETWORK), traits.display_address)
                listen.attrib.clear()
                listen.attrib.update(type="address", address=address)


def _adapt_filters(root: ET.Element, traits: HostTraits) -> None:
    for number, interface in enumerate(root.iterfind("devices/interface")):
        reference = interface.find("filterref")
        wanted = reference.get("filter", "") if reference is not None else ""
        if reference is None or wanted in traits.network_filters or wanted not in _FILTERS:
            continue
        if traits.network_filters and _FILTERS[wanted] not in traits.network_filters:
            # Left out, the guest would be free to forge addresses, and nobody would know.
            raise BadParameter(
                f"xml.devices.interface[{number}].filterref",
                f"libvirt on this host has neither the filter {wanted} nor {_FILTERS[wanted]}",
            )
        reference.set("filter", _FILTERS[wanted])
