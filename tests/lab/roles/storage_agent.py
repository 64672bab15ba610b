"""Runs in a node: vdsmd with all of its storage, without libvirt, and for a sanlock whose clock may run faster.

python -P storage_agent.py RATE
"""

from __future__ import annotations

import sys
from functools import partial

import vdsm.__main__ as vdsmd
from vdsm import storage_wiring
from vdsm.storage.locks.sanlock_lock import SanlockSettings
from vdsm.virt.simulated import SimulatedHost, SimulatedHypervisor
from vdsm.wiring import Agent, Simulated


class NoGuests:
    """What the simulated hypervisor says of the host."""

    def capabilities_xml(self) -> str:
        return "<capabilities><host><cpu><arch>x86_64</arch></cpu></host></capabilities>"

    def domain_capabilities_xml(self) -> str:
        return "<domainCapabilities/>"

    def cpu_models(self) -> tuple[str, ...]:
        return ("qemu64",)

    def versions(self) -> tuple[str, str]:
        return "9.0.0", "7.2.0"


def main() -> int:
    rate = float(sys.argv[1])
    # Only a test's daemon has another clock than the machine: there is no option for it.
    storage_wiring.SanlockSettings = partial(SanlockSettings, clock_rate=rate)
    vdsmd.Agent = lambda config: Agent(config, Simulated(SimulatedHypervisor(SimulatedHost()), NoGuests()))
    return vdsmd.main([])


sys.exit(main())
