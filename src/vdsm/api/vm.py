"""The verbs of virtual machines."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from vdsm.api.contract import Answer, Pool, Role, Text, Wire, delete, get, namespace, post, put, verb
from vdsm.api.vm_types import (
    Definition,
    DefinitionRequest,
    PathDrive,
    Screenshot,
    VmInfo,
    VmParams,
    VmState,
    VmStats,
)

VmIdParam = Annotated[str, Wire("vmID"), msgspec.Meta(description="the VM's id, a UUID")]
DefinitionName = Annotated[str, msgspec.Meta(description="the VM's name")]


@namespace("VM")
class Vm(Protocol):
    """Virtual machines that run on this host, or ended here and were not yet destroyed."""

    @verb(
        rest=post("/vms", body="vm_params", status=201),
        role=Role.OPERATOR,
        pool=Pool.LIFECYCLE,
        legacy="create",
    )
    def create(self, vm_params: VmParams, vm_id: Annotated[str | None, Wire("vmID")] = None) -> VmStats:
        """Start a VM from a domain XML or from a typed description.

        Answers at once, in the state WaitForLaunch; its events and `VM.getStats` tell the rest. A start that fails
        leaves the VM listed as Down with its reason until it is destroyed, and nothing else behind.

        Args:
            vm_params: the VM.
            vm_id: its id, a UUID, where ``vm_params`` does not say it.

        Raises:
            BadParameter: names the field that is wrong; nothing was created.
            VmExists: a VM of this id or name is there already.
        """

    @verb(rest=delete("/vms/{vm_id}"), role=Role.OPERATOR, pool=Pool.LIFECYCLE, legacy="destroy")
    def destroy(self, vm_id: VmIdParam, graceful_attempts: Annotated[int, msgspec.Meta(ge=0, le=100)] = 1) -> None:
        """Power a VM off at once and forget it; a VM that is Down is forgotten.

        Works also while its QEMU does not respond.

        Args:
            vm_id: the VM's id, a UUID.
            graceful_attempts: how often it is asked to end before it is killed.

        Raises:
            NoSuchVm: this host does not have it.
            Unfinished: its QEMU did not end in time; it is still being ended.
        """

    @verb(rest=post("/vms/{vm_id}/pause"), role=Role.OPERATOR, pool=Pool.LIFECYCLE, legacy="pause")
    def pause(self, vm_id: VmIdParam) -> VmState:
        """Stop a VM's CPUs; it keeps its memory.

        Raises:
            NoSuchVm: this host does not have it.
            WrongState: it is not running.
            NotResponding: its QEMU does not answer.
        """

    @verb(rest=post("/vms/{vm_id}/cont"), role=Role.OPERATOR, pool=Pool.LIFECYCLE, name="cont", legacy="cont")
    def resume(self, vm_id: VmIdParam) -> VmState:
        """Let a paused VM go on.

        Raises:
            NoSuchVm: this host does not have it.
            WrongState: it is not paused.
            NotResponding: its QEMU does not answer.
        """

    @verb(rest=post("/vms/{vm_id}/reset"), role=Role.OPERATOR, pool=Pool.LIFECYCLE, legacy="reset")
    def reset(self, vm_id: VmIdParam) -> VmState:
        """Reset a VM as by its reset button; the guest is not asked.

        Raises:
            NoSuchVm: this host does not have it.
            WrongState: it is not running.
            NotResponding: its QEMU does not answer.
        """

    @verb(rest=post("/vms/{vm_id}/shutdown"), role=Role.OPERATOR, pool=Pool.LIFECYCLE, legacy="shutdown")
    def shutdown(
        self,
        vm_id: VmIdParam,
        delay: Annotated[Text, msgspec.Meta(ge=0, le=86_400)] = 0,
        message: Annotated[str, msgspec.Meta(max_length=1024)] = "",
        reboot: bool = False,  # noqa: FBT001, FBT002 - the original's parameter
        timeout: Annotated[Text, msgspec.Meta(ge=0, le=86_400)] | None = None,
        force: bool = False,  # noqa: FBT001, FBT002 - the original's parameter
    ) -> VmState:
        """Ask the guest to shut down (or reboot): its agent when it is connected, else the power button.

        Args:
            vm_id: the VM.
            delay: seconds to wait before asking.
            message: shown to the guest's users where the agent can.
            reboot: start again instead of ending.
            timeout: seconds until the next way is tried; None: the configured time.
            force: power off when no way worked within ``timeout``.

        Raises:
            NoSuchVm: this host does not have it.
            WrongState: it is not running.
        """

    @verb(rest=get("/vms/{vm_id}/stats"), pool=Pool.INLINE, answer=Answer.LIST, legacy="getVmStats")
    def get_stats(self, vm_id: VmIdParam) -> VmStats:
        """A VM's state and last samples, with their age.

        Raises:
            NoSuchVm: this host does not have it.
        """

    @verb(rest=get("/vms/{vm_id}"), legacy="getVmInfo")
    def get_info(self, vm_id: VmIdParam) -> VmInfo:
        """A VM and its devices as they are now.

        Raises:
            NoSuchVm: this host does not have it.
        """

    @verb(rest=put("/vms/{vm_id}/ticket"), role=Role.OPERATOR, pool=Pool.LIFECYCLE, legacy="setVmTicket")
    def set_ticket(
        self,
        vm_id: VmIdParam,
        password: Annotated[str, msgspec.Meta(min_length=1, max_length=64)],
        ttl: Annotated[Text, msgspec.Meta(ge=0, le=86_400 * 365)] = 120,
        existing_conn_action: Literal["keep", "disconnect", "fail"] = "keep",
        params: dict[str, str] = {},  # noqa: B006 - never changed: it is the contract's default
    ) -> None:
        """Set the password that opens the VM's display for the next ``ttl`` seconds; it is never logged.

        Args:
            vm_id: the VM.
            password: the ticket. VNC uses its first 8 characters.
            ttl: seconds until it expires; 0 expires at once.
            existing_conn_action: what happens to those who are connected: keep, disconnect, or fail.
            params: the Engine's userName and userId, kept for the log.

        Raises:
            NoSuchVm: this host does not have it.
            WrongState: it has no display, or does not run.
        """

    @verb(
        rest=put("/vms/{vm_id}/cd"),
        role=Role.OPERATOR,
        pool=Pool.LIFECYCLE,
        name="changeCD",
        legacy="changeCD",
    )
    def change_cd(self, vm_id: VmIdParam, drive_spec: PathDrive | str) -> VmState:
        """Put another image into the VM's CD drive, or none (an empty path).

        Args:
            vm_id: the VM's id, a UUID.
            drive_spec: the image: its path, or an object with it.

        Raises:
            NoSuchVm: this host does not have it.
            BadParameter: the image cannot be used; the old one stays.
            WrongState: it has no CD drive, or does not run.
        """

    @verb(rest=put("/vms/{vm_id}/floppy"), role=Role.OPERATOR, pool=Pool.LIFECYCLE, legacy="changeFloppy")
    def change_floppy(self, vm_id: VmIdParam, drive_spec: PathDrive | str) -> VmState:
        """Put another image into the VM's floppy drive, or none (an empty path).

        Args:
            vm_id: the VM's id, a UUID.
            drive_spec: the image: its path, or an object with it.

        Raises:
            NoSuchVm: this host does not have it.
            BadParameter: the image cannot be used; the old one stays.
            WrongState: it has no floppy drive, or does not run.
        """

    @verb(rest=get("/vms/{vm_id}/screenshot"), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
    def screenshot(self, vm_id: VmIdParam) -> Screenshot:
        """A picture of the VM's display.

        Raises:
            NoSuchVm: this host does not have it.
            WrongState: it has no display, or does not run.
            NotResponding: its QEMU does not answer.
        """


@namespace("Definition")
class Definitions(Protocol):
    """VMs that a stand-alone host remembers, to start them by name and at boot. A manager does not need them."""

    @verb(rest=get("/definitions"))
    def list(self) -> list[Definition]:
        """All definitions, by name."""

    @verb(rest=get("/definitions/{name}"))
    def get(self, name: DefinitionName) -> Definition:
        """One definition.

        Raises:
            NotFound: there is none of this name.
        """

    @verb(rest=post("/definitions", body="definition", status=201), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
    def create(self, definition: DefinitionRequest) -> Definition:
        """Remember a VM; it is not started.

        Args:
            definition: the VM.

        Raises:
            AlreadyExists: there is one of this name or id.
            BadParameter: names the field that is wrong.
        """

    @verb(rest=put("/definitions/{name}/autostart"), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
    def set_autostart(self, name: DefinitionName, enabled: bool) -> Definition:  # noqa: FBT001 - a setting
        """Say whether the VM starts with the agent.

        Args:
            name: the VM's name.
            enabled: whether it does.

        Raises:
            NotFound: there is none of this name.
        """

    @verb(rest=post("/definitions/{name}/start"), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
    def start(self, name: DefinitionName) -> VmStats:
        """Start the VM of this name.

        Raises:
            NotFound: there is none of this name.
            VmExists: it runs already.
            BadParameter: something that it needs is not as it was, a disk for instance.
        """

    @verb(rest=delete("/definitions/{name}"), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
    def delete(self, name: DefinitionName) -> None:
        """Forget a definition; a VM that runs from it goes on, its disks stay.

        Raises:
            NotFound: there is none of this name.
        """
