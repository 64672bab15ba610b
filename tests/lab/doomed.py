"""A process with a fleet on a light host's libvirt, made to be killed: ``python doomed.py URI DIRECTORY INSTANCE N``.

Prints a line per VM that runs, then "ready", then does its work until it is killed.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.fleets import Lab, reaches
from vdsm.virt.hypervisor import LibvirtHypervisor
from vdsm.virt.lifecycle import Status


def main(uri: str, directory: str, instance: str, count: str) -> None:
    """Run until killed."""
    lab = Lab(Path(directory))
    lab.instance = instance
    fleet = lab.fleet(LibvirtHypervisor(uri))
    vms = [lab.vm(agent_channel=True) for _ in range(int(count))]
    for prepared in vms:
        fleet.create(prepared)
    for prepared in vms:
        reaches(fleet, prepared.vm_id, Status.POWERING_UP, Status.UP)
        print(prepared.vm_id, flush=True)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
