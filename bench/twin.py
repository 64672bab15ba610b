"""vdsmd on the simulated hypervisor; COUNT VMs run already when it starts, and starting one takes LAUNCH_S seconds.

python -m bench.twin COUNT LAUNCH_S CONFIG
"""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from pathlib import Path

import msgspec
import uvloop

from vdsm.base import config as configuration
from vdsm.base import logs
from vdsm.base.config import Config
from vdsm.base.ids import VmId
from vdsm.virt import domxml
from vdsm.virt.simulated import SimulatedHost, SimulatedHypervisor
from vdsm.virt.spec import DiskSpec, Limits, NicSpec, VmSpec
from vdsm.virt.traits import HostTraits
from vdsm.wiring import Agent, Simulated

_CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model></cpu></host>
<guest><os_type>hvm</os_type>
<arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator><machine>pc-q35-7.2</machine><machine>q35</machine>
<domain type='qemu'/></arch></guest></capabilities>"""
_DOMAIN_CAPABILITIES = """<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>qemu</domain><cpu>
<mode name='custom' supported='yes'><model usable='yes'>qemu64</model></mode></cpu></domainCapabilities>"""


class Facts:
    """What the simulated hypervisor says of the host."""

    def capabilities_xml(self) -> str:
        return _CAPABILITIES

    def domain_capabilities_xml(self) -> str:
        return _DOMAIN_CAPABILITIES

    def cpu_models(self) -> tuple[str, ...]:
        return ("qemu64",)

    def versions(self) -> tuple[str, str]:
        return "9.0.0", "7.2.0"


def vm(number: int, instance: str, config: Config) -> domxml.Prepared:
    """A VM as people have them: a disk, a CD drive, a network card, a console and the guest agent's channel."""
    spec = VmSpec(
        vm_id=VmId(str(uuid.uuid5(uuid.UUID(instance), str(number)))),
        name=f"vm-{number:04}",
        memory_mib=1024,
        disks=(DiskSpec(path=f"/var/lib/vdsm/images/vm-{number:04}.qcow2"), DiskSpec(path=None, device="cdrom")),
        nics=(NicSpec(),),
    )
    traits = HostTraits(
        domain_type="qemu",
        emulator="/usr/bin/qemu-system-x86_64",
        machines=frozenset(),
        limits=Limits(max_memory_mib=1 << 20, max_vcpus=64),
        os_name="bench",
        os_version="1",
        host_serial="bench",
        run_dir=config.paths.run_dir,
        log_dir=config.paths.log_dir,
    )
    return domxml.build(spec, domxml.Owner(instance), traits)


def domains(count: int, config: Config) -> list[str]:
    """So many domain XMLs; made once per place, as that is not the agent's work."""
    kept = Path(config.paths.state_dir) / f"twin-{count}.json"
    if not kept.exists():
        instance = (kept.parent / "instance").read_text().strip()
        kept.write_bytes(msgspec.json.encode([vm(number, instance, config).xml for number in range(count)]))
    return msgspec.json.decode(kept.read_bytes(), type=list[str])


async def serve(config: Config, count: int, launch_s: float) -> None:
    host = SimulatedHost()
    for xml in domains(count, config):
        host.connect_agent(host.run(xml))
    agent = Agent(config, Simulated(SimulatedHypervisor(host, launch_s=launch_s), Facts()))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    agent.start()
    await ended.wait()
    await agent.stop()


def main() -> None:
    count, launch_s, path = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    config = configuration.load(path)
    logs.configure(config.log.level, config.log_file("vdsm"))
    uvloop.run(serve(config, count, launch_s))


if __name__ == "__main__":
    main()
