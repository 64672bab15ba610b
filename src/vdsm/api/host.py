"""The verbs of the host itself."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import Pool, Role, Wire, get, namespace, post, put, verb
from vdsm.api.host_types import Capabilities, HardwareInfo, HostStats
from vdsm.api.vm_types import IoTune, VmInfo, VmState, VmStats

VmIds = Annotated[tuple[str, ...], Wire("vmList")]


@namespace("Host")
class Host(Protocol):
    """The host: what it has, how it is, and what runs on it."""

    @verb(rest=post("/host/ping"), pool=Pool.INLINE, legacy="ping", while_starting=True)
    def ping(self) -> None:
        """Answer, and nothing else."""

    @verb(rest=post("/host/ping2"), pool=Pool.INLINE, while_starting=True)
    def ping2(self) -> None:
        """Answer, and nothing else; what an Engine polls after it changed a host's networks."""

    @verb(rest=post("/host/echo"), while_starting=True)
    def echo(self, message: str) -> str:
        """Answer with the message.

        Args:
            message: any text.
        """

    @verb(rest=get("/host/capabilities"), pool=Pool.HOST, legacy="getVdsCapabilities")
    def get_capabilities(self) -> Capabilities:
        """What the host has and can do: CPUs, memory, networks, packages, versions."""

    @verb(rest=get("/host/hardware"), pool=Pool.HOST, legacy="getVdsHardwareInfo")
    def get_hardware_info(self) -> HardwareInfo:
        """The machine's maker, product and serial numbers, as its firmware says."""

    @verb(rest=get("/host/stats"), pool=Pool.INLINE, legacy="getVdsStats")
    def get_stats(self) -> HostStats:
        """The host's load from the last sample."""

    @verb(rest=get("/vms"), name="getVMList", legacy="list")
    def get_vm_list(
        self,
        only_uuid: Annotated[bool, Wire("onlyUUID")] = False,  # noqa: FBT002 - the original's parameter
        vm_list: VmIds = (),
    ) -> list[VmState | str]:
        """The VMs of this host: their state, or only their ids.

        Args:
            only_uuid: only the ids.
            vm_list: only these VMs; empty for all.
        """

    @verb(rest=get("/vm-details"), name="getVMFullList")
    def get_vm_full_list(self, vm_list: VmIds = ()) -> list[VmInfo]:
        """The VMs of this host with their devices.

        Args:
            vm_list: only these VMs; empty for all.
        """

    @verb(rest=get("/vm-stats"), pool=Pool.INLINE, legacy="getAllVmStats")
    def get_all_vm_stats(self) -> list[VmStats]:
        """State and last samples of all VMs, each with its age; no QEMU is asked while the caller waits."""

    @verb(rest=get("/vm-xml"))
    def dumpxmls(self, vm_list: VmIds = ()) -> dict[str, str]:
        """The live domain XML of each VM, by id.

        Args:
            vm_list: only these VMs; empty for all.
        """

    @verb(rest=get("/vm-io-tune-policies"))
    def get_all_vm_io_tune_policies(self) -> dict[str, IoTune]:
        """The I/O limits of all VMs, by id."""

    @verb(rest=put("/host/log-level"), role=Role.ADMIN, pool=Pool.QUERY, legacy="setLogLevel")
    def set_log_level(
        self,
        level: Annotated[str, msgspec.Meta(pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$")],
        name: Annotated[str, msgspec.Meta(max_length=200)] = "",
    ) -> None:
        """Set how much a logger writes, until the agent's next start.

        Args:
            level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
            name: the logger; empty for all.
        """
