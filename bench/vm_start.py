"""VM.create to running, against ``virsh create`` of the same XML, by turns on one private libvirt.

    python -m bench.vm_start

Ours is from the moment VM.create is sent over STOMP and TLS to the event that says that the VM runs; virsh's is until
the command returns. A call of libvirt's from a program that is connected already is shown beside them: it is what both
wait for.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import libvirt

from bench import vms
from bench.agents import GUEST, Agent, Helper, place
from bench.client import Connection
from bench.figures import Figure, finish, median_of, progress
from bench.quiet import rest

BOUND = 1.05
_REST_S = 0.3
# Of the simulated hypervisor; long enough for the events before it to have gone out.
LAUNCH_S = 0.05


def by_agent(connection: Connection, domain_xml: str) -> float:
    began_s = time.monotonic()
    vms.create(connection, domain_xml)
    took_s = time.monotonic() - began_s
    vms.destroy(connection, vms.ident(domain_xml))
    return took_s


def by_virsh(uri: str, domain_xml: str, directory: Path) -> float:
    file = directory / "virsh.xml"
    file.write_text(domain_xml)
    began_s = time.monotonic()
    subprocess.run(["virsh", "-q", "-c", uri, "create", str(file)], check=True, capture_output=True, timeout=60)
    took_s = time.monotonic() - began_s
    command = ["virsh", "-q", "-c", uri, "destroy", vms.ident(domain_xml)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return took_s


def by_library(bare: libvirt.virConnect, domain_xml: str) -> float:
    began_s = time.monotonic()
    domain = bare.createXML(domain_xml, 0)
    took_s = time.monotonic() - began_s
    domain.destroy()
    return took_s


def compare(kind: str, pairs: int, *, guest: bool) -> list[Figure]:
    ours, virsh, library = [], [], []
    with vms.libvirt_host() as light, place(light.uri) as where, Helper(where), Agent(where) as agent:
        agent.wait_ready()
        connection = agent.connect(events=True)
        bare = libvirt.open(light.uri)
        disk = where.directory / "images/disk.qcow2" if guest else None
        if disk is not None:
            make_disk(disk)
        time.sleep(5.0)
        turns = [
            (ours, lambda xml: by_agent(connection, xml)),
            (virsh, lambda xml: by_virsh(light.uri, xml, where.directory)),
            (library, lambda xml: by_library(bare, xml)),
        ]
        for number in range(pairs + 1):
            shift = number % len(turns)
            for took, start in turns[shift:] + turns[:shift]:
                took.append(start(vms.xml(f"bench-{number}", disk)))
                rest(_REST_S)
        bare.close()
        connection.close()
    # The first of each warms caches.
    ours, virsh, library = ours[1:], virsh[1:], library[1:]
    ratio = statistics.median(ours) / statistics.median(virsh)
    return [
        median_of(f"VM.create to running, {kind}", [value * 1000 for value in ours], "ms"),
        median_of(f"virsh create, {kind}", [value * 1000 for value in virsh], "ms"),
        median_of(f"libvirt's call alone, {kind}", [value * 1000 for value in library], "ms"),
        Figure(f"VM.create beside virsh create, {kind}", ratio, "x", BOUND, count=pairs),
    ]


def own_part(runs: int, *, guest: bool) -> Figure:
    """What the agent adds: the same on a simulated hypervisor, less the time that this one takes for a start."""
    with place() as where, Helper(where), Agent(where, 0, LAUNCH_S) as agent:
        agent.wait_ready()
        connection = agent.connect(events=True)
        disk = where.directory / "images/disk.qcow2" if guest else None
        if disk is not None:
            make_disk(disk)
        time.sleep(3.0)
        took = []
        for number in range(runs + 3):
            took.append((by_agent(connection, vms.xml(f"bench-{number}", disk)) - LAUNCH_S) * 1000)
            rest(0.05)
        connection.close()
    kind = "tiny guest with a disk" if guest else "firmware only"
    return median_of(f"the agent's own part of VM.create, {kind}", took[3:], "ms")


def make_disk(path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1G"], check=True, timeout=30)


def figures(*, pairs: int = 15) -> list[Figure]:
    progress("the agent's own part")
    has_guest = (GUEST / "vmlinux").exists()
    found = [own_part(30, guest=guest) for guest in (False, True) if has_guest or not guest]
    progress("VM.create beside virsh create, firmware only")
    found += compare("firmware only", pairs, guest=False)
    if has_guest:
        progress("VM.create beside virsh create, tiny guest with a disk")
        found += compare("tiny guest with a disk", pairs, guest=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args(argv)
    return finish(figures(pairs=options.pairs))


if __name__ == "__main__":
    sys.exit(main())
