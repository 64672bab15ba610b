"""What building a VM's XML needs to know of this host, put together from what other parts found out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from defusedxml.ElementTree import fromstring

from vdsm.base.config import Config
from vdsm.base.errors import VdsmError
from vdsm.host.capabilities import Capabilities
from vdsm.host.hardware import HardwareSource
from vdsm.host.hypervisor import HypervisorFacts
from vdsm.services.acceleration import Acceleration
from vdsm.storage.formats.tree import GROUP as STORAGE_GROUP
from vdsm.virt.spec import Limits
from vdsm.virt.traits import HostTraits

log = logging.getLogger(__name__)

# An Engine's newest cluster level knows machines only by these names of one distribution. A VM that asks for one gets
# the newest that this host's QEMU has; so the host reports them where it has the one on the right.
MACHINE_ALIASES: Final[Mapping[str, str]] = {"pc-q35-rhel9.6.0": "q35", "pc-i440fx-rhel7.6.0": "pc"}


class TraitsSource:
    """The host's traits, made when the first VM asks for them and again when the host's capabilities are new."""

    def __init__(
        self,
        config: Config,
        capabilities: Callable[[], Capabilities],
        hardware: HardwareSource,
        acceleration: Acceleration,
        guests: HypervisorFacts,
    ) -> None:
        self._config = config
        self._capabilities = capabilities
        self._hardware = hardware
        self._acceleration = acceleration
        self._guests = guests
        self._emulator = ""
        self._kept: tuple[Capabilities, HostTraits] | None = None

    def current(self) -> HostTraits:
        """The traits of now.

        Raises:
            Unreachable, Unfinished, HypervisorFailed: libvirt has not told yet what it has.
        """
        capabilities = self._capabilities()
        kept = self._kept
        if kept is not None and kept[0] is capabilities:
            return kept[1]
        traits = self._made(capabilities)
        self._kept = (capabilities, traits)
        return traits

    def _made(self, capabilities: Capabilities) -> HostTraits:
        virt, paths = self._config.virt, self._config.paths
        system = capabilities.system.operating_system
        return HostTraits(
            domain_type="kvm" if self._acceleration.works() else "qemu",
            emulator=self._emulator_path(),
            machines=frozenset(capabilities.emulated_machines) - MACHINE_ALIASES.keys(),
            limits=Limits(max_memory_mib=virt.max_memory_mib, max_vcpus=virt.max_vcpus),
            os_name=system.name,
            os_version=system.version,
            host_serial=self._host_id(),
            run_dir=paths.run_dir,
            log_dir=paths.log_dir,
            storage_label=self._storage_label(),
            display_address=virt.display_address,
            network_addresses={
                name: network.ip.address
                for name, network in capabilities.network.networks.items()
                if network.ip.address
            },
        )

    def _storage_label(self) -> str:
        """QEMU's own user with the group that images of storage domains belong to; root needs no group."""
        host = fromstring(self._guests.capabilities_xml())
        label = host.findtext("host/secmodel[model='dac']/baselabel[@type='qemu']") or ""
        user = label.partition(":")[0]
        return f"{user}:+{STORAGE_GROUP}" if user not in {"", "0", "+0"} else ""

    def _emulator_path(self) -> str:
        if not self._emulator:
            self._emulator = fromstring(self._guests.domain_capabilities_xml()).findtext("path") or ""
        return self._emulator

    def _host_id(self) -> str:
        try:
            return self._hardware.current().uuid
        except VdsmError as error:
            log.warning("guests do not learn the host's id: %s", error)
            return ""
