"""The verbs of the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from vdsm.api import host_types as api
from vdsm.api.vm_types import IoTune, VmInfo, VmState, VmStats
from vdsm.base import logs
from vdsm.base.errors import VdsmError
from vdsm.base.ids import VmId, parse_vm_id
from vdsm.host.capabilities import Capabilities
from vdsm.host.hardware import HardwareSource
from vdsm.host.statistics import Reading
from vdsm.services import host_answers, storage_answers, vm_answers
from vdsm.services.host_answers import VmCounts
from vdsm.services.vm_answers import StatsAnswers
from vdsm.storage.domains.monitor import DomainReport
from vdsm.storage.ids import DomainId
from vdsm.virt.fleet import Fleet
from vdsm.virt.lifecycle import Status
from vdsm.virt.view import VmView

log = logging.getLogger(__name__)


class CapabilityFacts(Protocol):
    """Where the host's capabilities come from."""

    def current(self) -> Capabilities:
        """The last gathered ones."""


class Readings(Protocol):
    """Where the host's statistics come from."""

    def current(self) -> Reading:
        """The last sample, with its age."""


class HostService:
    """Implements ``api.host.Host``."""

    def __init__(
        self,
        fleet: Fleet,
        capabilities: CapabilityFacts,
        statistics: Readings,
        hardware: HardwareSource,
        answers: StatsAnswers,
        *,
        domain_reports: Callable[[], Mapping[DomainId, DomainReport]],
        report_kvm: bool,
    ) -> None:
        """Build.

        Args:
            fleet: the VMs.
            capabilities: what the host has.
            statistics: its load.
            hardware: the machine.
            answers: keeps the answers of VMs.
            domain_reports: how each watched storage domain is; must not wait.
            report_kvm: claim KVM whatever the probe said, for managers that take no host without.
        """
        self._fleet = fleet
        self._capabilities = capabilities
        self._statistics = statistics
        self._hardware = hardware
        self._answers = answers
        self._domain_reports = domain_reports
        self._report_kvm = report_kvm

    def ping(self) -> None:
        """Answer."""

    def ping2(self) -> None:
        """Answer."""

    def echo(self, message: str) -> str:
        """Answer with the message."""
        return message

    def get_capabilities(self) -> api.Capabilities:
        """The last gathered capabilities."""
        facts = self._capabilities.current()
        return host_answers.capabilities(
            facts,
            kvm_enabled=facts.kvm or self._report_kvm,
            host_uuid=self._host_uuid(),
        )

    def _host_uuid(self) -> str:
        try:
            return self._hardware.current().uuid
        except VdsmError as error:
            log.warning("the host's id is not known: %s", error)
            return ""

    def get_hardware_info(self) -> api.HardwareInfo:
        """The machine, as its firmware says."""
        return host_answers.hardware(self._hardware.current())

    def get_stats(self) -> api.HostStats:
        """The last sample of the host."""
        domains = {str(ident): storage_answers.health(report) for ident, report in self._domain_reports().items()}
        return host_answers.statistics(self._statistics.current(), self._counts(), domains)

    def _counts(self) -> VmCounts:
        statuses = [view.status for view in self._fleet.views()]
        return VmCounts(
            total=len(statuses),
            active=sum(status not in {Status.DOWN, Status.WAIT_FOR_LAUNCH} for status in statuses),
            incoming=statuses.count(Status.MIGRATION_DESTINATION),
            outgoing=statuses.count(Status.MIGRATION_SOURCE),
        )

    def get_vm_list(self, only_uuid: bool = False, vm_list: tuple[str, ...] = ()) -> list[VmState | str]:  # noqa: FBT001, FBT002 - the contract's
        """The VMs: states, or only ids."""
        return [view.vm_id if only_uuid else vm_answers.state(view) for view in self._chosen(vm_list)]

    def get_vm_full_list(self, vm_list: tuple[str, ...] = ()) -> list[VmInfo]:
        """The VMs with their devices."""
        return [vm_answers.info(view) for view in self._chosen(vm_list)]

    def get_all_vm_stats(self) -> list[VmStats]:
        """The last samples of all VMs."""
        views = self._fleet.views()
        self._answers.forget_all_but(views)
        return [self._answers.of(view) for view in views]

    def dumpxmls(self, vm_list: tuple[str, ...] = ()) -> dict[str, str]:
        """The XML of each VM."""
        return {view.vm_id: view.xml for view in self._chosen(vm_list)}

    def get_all_vm_io_tune_policies(self) -> dict[str, IoTune]:
        """No VM has an I/O policy: setting one comes with the devices of running VMs."""
        return {
            view.vm_id: IoTune(policy=[], current_values=[])
            for view in self._fleet.views()
            if view.status is not Status.DOWN
        }

    def set_log_level(self, level: str, name: str = "") -> None:
        """Set a logger's level."""
        logs.set_level(level, name)

    def _chosen(self, vm_ids: tuple[str, ...]) -> Iterable[VmView]:
        if not vm_ids:
            return self._fleet.views()
        wanted: set[VmId] = {parse_vm_id(vm_id, f"vmList[{index}]") for index, vm_id in enumerate(vm_ids)}
        return [view for view in self._fleet.views() if view.vm_id in wanted]
