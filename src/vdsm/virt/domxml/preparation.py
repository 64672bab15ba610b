"""From a domain XML, whoever wrote it, to one that this host may start.

    text --parse--> tree --identity, limits--> --paths--> --adaptation--> --mark--> Prepared --place--> Prepared

``prepare`` looks at nothing but the XML. The images it names are then made ready by ``disks.Images``, and ``place``
puts their locations in.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId, parse_vm_id
from vdsm.virt.disks import Location
from vdsm.virt.domxml import adaptation, construction, leases, paths, tree
from vdsm.virt.domxml.description import MARK, describe_tree
from vdsm.virt.domxml.facts import Owner, Prepared
from vdsm.virt.leases import LeaseLocation
from vdsm.virt.spec import MIN_MEMORY_MIB, Limits, VmSpec
from vdsm.virt.traits import HostTraits

MAX_NAME: Final = 255  # characters; an Engine's names are longer than those that people may give here


def prepare(xml: str, vm_id: VmId, owner: Owner, traits: HostTraits) -> Prepared:
    """Check a domain XML from outside, make it fit this host and mark it as ``owner``'s.

    Raises:
        BadParameter: it is not well-formed, not the VM that was announced, too large for the host, or reaches outside
            of what a VM may touch; names the element, as in ``xml.devices.disk[vda].source``.
    """
    root = tree.parse_outside(xml)
    _check_identity(root, vm_id)
    _check_size(root, traits.limits)
    images = paths.check(root)
    adaptation.adapt(root, vm_id, traits)
    _mark(root, owner)
    facts = describe_tree(root)
    ids = {disk.target: disk for disk in facts.disks}
    return Prepared(
        vm_id=vm_id,
        name=facts.name,
        xml=tree.to_text(root),
        facts=facts,
        images=tuple(
            replace(
                ref,
                pool_id=ids[ref.target].pool_id,
                domain_id=ids[ref.target].domain_id,
                image_id=ids[ref.target].image_id,
                volume_id=ids[ref.target].volume_id,
            )
            if ref.target in ids
            else ref
            for ref in images
        ),
        leases=leases.collect(root, facts.disks),
    )


def build(spec: VmSpec, owner: Owner, traits: HostTraits) -> Prepared:
    """Build the domain XML of a typed description, and prepare it in the same way.

    Raises:
        BadParameter: the description cannot be a VM on this host; names the description's field, also in the
            images that are returned.
    """
    prepared = prepare(construction.domain_xml(spec, traits), spec.vm_id, owner, traits)
    return replace(prepared, images=construction.images(spec), leases=construction.leases(spec))


def place(
    prepared: Prepared,
    locations: Mapping[str, Location],
    storage_label: str = "",
    lease_locations: Mapping[tuple[str, str], LeaseLocation] | None = None,
) -> Prepared:
    """Put in where the images and leases really are.

    Args:
        prepared: the domain.
        locations: by the target of each of ``prepared.images``.
        storage_label: who QEMU must be to get at images of storage domains; see ``HostTraits``.
        lease_locations: by the domain and id of each of ``prepared.leases``.
    """
    root = tree.parse_own(prepared.xml)
    if storage_label and any(location.shared for location in locations.values()):
        tree.add(tree.add(root, "seclabel", type="static", model="dac", relabel="yes"), "label", storage_label)
    for disk in root.iterfind("devices/disk"):
        location = locations.get(tree.attribute(disk, "target", "dev"))
        source = disk.find("source")
        if location is not None and source is not None:
            _place(disk, source, location)
    for name in ("kernel", "initrd"):
        element = root.find(f"os/{name}")
        if element is not None and name in locations:
            element.text = locations[name].path
    leases.fill(root, lease_locations or {})
    facts = describe_tree(root)
    return replace(prepared, xml=tree.to_text(root), facts=facts)


def _place(disk: ET.Element, source: ET.Element, location: Location) -> None:
    # QEMU's driver for files refuses block devices and the other way round.
    disk.set("type", "block" if location.block else "file")
    for name in ("file", "dev"):
        source.attrib.pop(name, None)
    source.set("dev" if location.block else "file", location.path)
    if location.shared:
        for old in source.findall("seclabel"):
            source.remove(old)
        tree.add(source, "seclabel", model="dac", relabel="no")
    driver = disk.find("driver")
    if driver is not None and not location.block and driver.get("io") == "native" and driver.get("cache") != "none":
        del driver.attrib["io"]


def _check_identity(root: ET.Element, vm_id: VmId) -> None:
    if root.tag != "domain":
        raise BadParameter("xml", f"must be a <domain>, is a <{tree.local(root)}>")
    kind = root.get("type", "")
    if kind not in {"kvm", "qemu"}:
        raise BadParameter("xml.domain@type", f"must be kvm or qemu, is {kind!r:.80}")
    text = tree.text_of(root, "uuid")
    if not text:
        raise BadParameter("xml.uuid", "is missing")
    if parse_vm_id(text, "xml.uuid") != vm_id:
        raise BadParameter("xml.uuid", f"must be the VM's id {vm_id}, is {text!r:.80}")
    name = tree.text_of(root, "name")
    if not name:
        raise BadParameter("xml.name", "is missing")
    if len(name) > MAX_NAME or not name.isprintable() or "/" in name:
        raise BadParameter("xml.name", f"must be at most {MAX_NAME} printable characters without '/', is {name!r:.80}")
    if root.find("devices") is None:
        raise BadParameter("xml.devices", "is missing")


def _check_size(root: ET.Element, limits: Limits) -> None:
    memory_kib = tree.kib(root.find("memory"))
    if memory_kib is None:
        raise BadParameter("xml.memory", "must be an amount of memory")
    if not MIN_MEMORY_MIB <= memory_kib / 1024 <= limits.max_memory_mib:
        raise BadParameter(
            "xml.memory", f"must be {MIN_MEMORY_MIB} to {limits.max_memory_mib} MiB, is {memory_kib} KiB"
        )
    current = root.find("currentMemory")
    if current is not None and not 0 < (tree.kib(current) or 0) <= memory_kib:
        raise BadParameter("xml.currentMemory", f"must be an amount of memory up to {memory_kib} KiB")
    largest = root.find("maxMemory")
    if largest is not None and (tree.kib(largest) or 0) < memory_kib:
        raise BadParameter("xml.maxMemory", f"must be an amount of memory from {memory_kib} KiB")
    _check_vcpus(root, limits)


def _check_vcpus(root: ET.Element, limits: Limits) -> None:
    vcpu = root.find("vcpu")
    if vcpu is None:
        return  # libvirt's default is one
    count = tree.integer(vcpu.text or "")
    if count is None or not 1 <= count <= limits.max_vcpus:
        raise BadParameter("xml.vcpu", f"must be 1 to {limits.max_vcpus}, is {vcpu.text!r:.80}")
    current = vcpu.get("current")
    if current is not None and not 1 <= (tree.integer(current) or 0) <= count:
        raise BadParameter("xml.vcpu@current", f"must be 1 to {count}, is {current!r:.80}")


def _mark(root: ET.Element, owner: Owner) -> None:
    """Put our mark into the metadata, in place of any that came with it."""
    metadata = root.find("metadata")
    if metadata is None:
        metadata = tree.add(root, "metadata")
    for old in metadata.findall(MARK):
        metadata.remove(old)
    tree.add(metadata, MARK, instance=owner.instance, origin=owner.origin, created=owner.created)
