"""The verbs of virtual machines."""

from __future__ import annotations

import base64
import logging
from typing import Final, Literal

from vdsm.api import vm_types as api
from vdsm.base.errors import BadParameter, WrongState
from vdsm.base.ids import VmId, new_vm_id, parse_vm_id
from vdsm.base.secrets import Secret
from vdsm.services import vm_answers
from vdsm.services.launching import Launcher
from vdsm.services.vm_answers import StatsAnswers
from vdsm.services.vm_specs import spec_of
from vdsm.virt import requests
from vdsm.virt.disks import ImageRef, Images
from vdsm.virt.domxml.facts import DiskFacts
from vdsm.virt.fleet import Fleet
from vdsm.virt.view import VmView

log = logging.getLogger(__name__)

_NOT_YET: Final = {
    "memory_dump_volume": "memoryDumpVolume",
    "memory_conf_volume": "memoryConfVolume",
    "nvram_data": "_X_nvramdata",
    "tpm_data": "_X_tpmdata",
}


class VmService:
    """Implements ``api.vm.Vm``."""

    def __init__(self, fleet: Fleet, launcher: Launcher, images: Images, answers: StatsAnswers) -> None:
        self._fleet = fleet
        self._launcher = launcher
        self._images = images
        self._answers = answers

    def create(self, vm_params: api.VmParams, vm_id: str | None = None) -> api.VmStats:
        """Start a VM."""
        for field, wire_name in _NOT_YET.items():
            if getattr(vm_params, field) is not None:
                raise BadParameter(f"vmParams.{wire_name}", "this version cannot start a VM from saved state")
        ident = _one_id(vm_id, vm_params.vm_id)
        if vm_params.xml is not None:
            _refuse_description(vm_params)
            if ident is None:
                raise BadParameter("vmID", "is missing: an XML is started under the id that it has")
            return vm_answers.stats(self._launcher.from_xml(vm_params.xml, ident))
        if vm_params.name is None:
            raise BadParameter("name", "is missing: give a name and a description, or xml")
        return vm_answers.stats(self._launcher.from_spec(spec_of(vm_params, vm_params.name, ident or new_vm_id())))

    def destroy(self, vm_id: str, graceful_attempts: int = 1) -> None:
        """Power a VM off and forget it."""
        del graceful_attempts  # libvirt asks QEMU before it kills it, in any case
        self._fleet.destroy(parse_vm_id(vm_id))

    def pause(self, vm_id: str) -> api.VmState:
        """Stop its CPUs."""
        return self._ask(vm_id, requests.Pause())

    def resume(self, vm_id: str) -> api.VmState:
        """Let it go on."""
        return self._ask(vm_id, requests.Cont())

    def reset(self, vm_id: str) -> api.VmState:
        """Press its reset button."""
        return self._ask(vm_id, requests.Reset())

    def shutdown(
        self,
        vm_id: str,
        delay: int = 0,
        message: str = "",
        reboot: bool = False,  # noqa: FBT001, FBT002 - the contract's
        timeout: int | None = None,
        force: bool = False,  # noqa: FBT001, FBT002 - the contract's
    ) -> api.VmState:
        """Ask the guest to end."""
        if message:
            log.info("VM %s is asked to end: %s", vm_id, message)
        ask = requests.Shutdown(
            reboot=reboot, delay_s=float(delay), step_s=None if timeout is None else float(timeout), force=force
        )
        return self._ask(vm_id, ask)

    def get_stats(self, vm_id: str) -> api.VmStats:
        """Its last samples."""
        return self._answers.of(self._fleet.get(parse_vm_id(vm_id)))

    def get_info(self, vm_id: str) -> api.VmInfo:
        """Its devices."""
        return vm_answers.info(self._fleet.get(parse_vm_id(vm_id)))

    def set_ticket(
        self,
        vm_id: str,
        password: str,
        ttl: int = 120,
        existing_conn_action: Literal["keep", "disconnect", "fail"] = "keep",
        params: dict[str, str] = {},  # noqa: B006 - never changed
    ) -> None:
        """Open its display for a while."""
        log.info("VM %s gets a ticket for %d s for %s", vm_id, ttl, params.get("userName", "its caller"))
        self._ask(vm_id, requests.SetTicket(Secret(password), float(ttl), existing_conn_action))

    def change_cd(self, vm_id: str, drive_spec: api.PathDrive | str) -> api.VmState:
        """Change its CD."""
        return self._change_medium(vm_id, "cdrom", drive_spec)

    def change_floppy(self, vm_id: str, drive_spec: api.PathDrive | str) -> api.VmState:
        """Change its floppy."""
        return self._change_medium(vm_id, "floppy", drive_spec)

    def screenshot(self, vm_id: str) -> api.Screenshot:
        """A picture of its display."""
        picture = self._fleet.screenshot(parse_vm_id(vm_id))
        return api.Screenshot(
            data=base64.b64encode(picture.data).decode(), encoding="base64", mime_type=picture.mime_type
        )

    def _ask(self, vm_id: str, ask: requests.Ask) -> api.VmState:
        return vm_answers.state(self._fleet.request(parse_vm_id(vm_id), ask))

    def _change_medium(self, vm_id: str, device: str, drive_spec: api.PathDrive | str) -> api.VmState:
        ident = parse_vm_id(vm_id)
        drive = _drive(self._fleet.get(ident), device)
        path = drive_spec if isinstance(drive_spec, str) else drive_spec.path
        if not path:
            return self._ask(ident, requests.ChangeMedium(drive.target, ""))
        ref = ImageRef(field="driveSpec", target=drive.target, path=path, format="raw", readonly=True)
        location = self._images.prepare(ref)
        return self._ask(ident, requests.ChangeMedium(drive.target, location.path, block=location.block))


def _one_id(outer: str | None, inner: str | None) -> VmId | None:
    if outer is not None and inner is not None and parse_vm_id(outer) != parse_vm_id(inner, "vmParams.vmId"):
        raise BadParameter("vmParams.vmId", f"is not vmID, {outer}")
    given = outer if outer is not None else inner
    return None if given is None else parse_vm_id(given, "vmID" if outer is not None else "vm_id")


def _refuse_description(params: api.VmParams) -> None:
    blank = api.VmParams()
    for field in api.VmDescription.__struct_fields__:
        if getattr(params, field) != getattr(blank, field):
            raise BadParameter(field, "cannot be given together with xml")


def _drive(view: VmView, device: str) -> DiskFacts:
    for disk in view.facts.disks:
        if disk.device == device:
            return disk
    raise WrongState(f"change the {device}", f"{view.name} has no {device} drive")
