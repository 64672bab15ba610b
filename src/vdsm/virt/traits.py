"""What building a VM's XML needs to know of the host; found out once at start and handed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vdsm.base.ids import VmId
from vdsm.virt.spec import Limits


@dataclass(frozen=True, slots=True)
class HostTraits:
    """The host, as far as domain XML depends on it.

    ``machines`` are all machine names and aliases that the emulator knows; empty means not known, and then none is
    refused. ``network_filters`` are the names of libvirt's network filters, empty likewise. ``run_dir`` and
    ``log_dir`` are the agent's own; each VM's console socket and log are in their sub-directory ``console``.
    ``storage_label`` is libvirt's name of the user and group that QEMU runs as when it has images of storage domains;
    empty: as always.
    ``display_address`` is where displays listen, but for those on a network whose address is in ``network_addresses``.
    """

    domain_type: Literal["kvm", "qemu"]
    emulator: str
    machines: frozenset[str]
    limits: Limits
    os_name: str
    os_version: str
    host_serial: str
    network_filters: frozenset[str] = frozenset()
    run_dir: str = "/run/vdsm"
    log_dir: str = "/var/log/vdsm"
    storage_label: str = ""
    display_address: str = "127.0.0.1"
    network_addresses: Mapping[str, str] = field(default_factory=dict)

    def console_socket(self, vm_id: VmId, port: int = 0) -> str:
        """The socket of a VM's serial console; further ports have their own."""
        suffix = f"-{port}" if port else ""
        return f"{self.run_dir}/console/{vm_id}{suffix}.sock"

    def console_log(self, vm_id: VmId) -> str:
        """The file that virtlogd writes the serial console's output to, and rotates."""
        return f"{self.log_dir}/console/{vm_id}.log"
