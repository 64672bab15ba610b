"""Real VMs for measurements: a libvirt of their own, and domains that are nearly nothing."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.agents import GUEST
from bench.client import Connection, request

from lab.light import LightHost  # isort: skip


@contextmanager
def libvirt_host() -> Iterator[LightHost]:
    """A private libvirtd, without KVM."""
    with LightHost(Path(f"/tmp/vb{os.getpid()}"), "bench") as light:
        # libvirtd finds out at the first start what QEMU can do.
        light.virsh("domcapabilities", "--virttype", "qemu")
        yield light


def xml(name: str, disk: Path | None = None) -> str:
    """A domain of 64 MiB without anything to start from; with a qcow2 disk it is the tiny guest, with 128 MiB."""
    boot = "<boot dev='hd'/>"
    devices = ""
    if disk is not None:
        boot = f"<kernel>{GUEST}/vmlinux</kernel><initrd>{GUEST}/initrd.img</initrd><cmdline>console=ttyS0</cmdline>"
        devices = f"""<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='user'><model type='virtio'/></interface>"""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid.uuid4()}</uuid>
  <memory unit='MiB'>{128 if disk else 64}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='pty'><target port='0'/></serial>
    <memballoon model='virtio'/>
    {devices}
  </devices>
</domain>
"""


def ident(domain_xml: str) -> str:
    """The id in an XML of `xml`."""
    return domain_xml.partition("<uuid>")[2].partition("</uuid>")[0]


def create(connection: Connection, domain_xml: str) -> None:
    """Send VM.create and wait for the event that says that the VM runs. The connection must subscribe to events."""
    vm_id = ident(domain_xml)
    connection.socket.sendall(request("VM.create", {"vmID": vm_id, "vmParams": {"xml": domain_xml}}))
    status = connection.event(vm_id, leaves="WaitForLaunch")
    if status == "Down":
        raise RuntimeError(f"VM {vm_id} could not be started")


def destroy(connection: Connection, vm_id: str) -> None:
    """End a VM and wait until it has."""
    connection.ask("VM.destroy", {"vmID": vm_id})
