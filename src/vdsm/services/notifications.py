"""What happened in a domain, told as the contract's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vdsm.api.events import Event, HostConnectionEvent, JobEvent, StorageDomainEvent, TaskEvent, VmStatusEvent
from vdsm.base.clock import notify_time_ms
from vdsm.operations.records import OperationView
from vdsm.services import storage_answers
from vdsm.services.vm_answers import display
from vdsm.storage.domains.monitor import DomainReport
from vdsm.storage.ids import DomainId
from vdsm.storage.images.jobs import JobView
from vdsm.storage.pool.tasks import status_of
from vdsm.virt.lifecycle import Status
from vdsm.virt.view import VmChange, What

_SILENT: Final = -1


class Notifications:
    """Turns changes into events and hands them to ``publish``, which must not wait."""

    def __init__(self, publish: Callable[[Event], None]) -> None:
        self._publish = publish

    def vm_changed(self, change: VmChange) -> None:
        """A VM's state, devices, display, agent or responsiveness changed."""
        if change.what != What.REMOVED:
            self._publish(vm_event(change))

    def network_changed(self) -> None:
        """The host's addresses or links changed."""
        self._publish(HostConnectionEvent(notify_time=notify_time_ms()))

    def domain_changed(self, domain_id: DomainId, report: DomainReport) -> None:
        """A storage domain became valid or invalid."""
        self._publish(
            StorageDomainEvent(
                notify_time=notify_time_ms(),
                id=domain_id,
                valid=report.valid,
                code=report.code,
                reason=report.reason,
            )
        )

    def task_changed(self, view: OperationView) -> None:
        """A storage task's state changed."""
        status = status_of(view)
        self._publish(
            TaskEvent(
                notify_time=notify_time_ms(),
                id=view.id,
                verb=view.kind,
                task_state=status.state,
                task_result=status.result,
                code=status.code,
                message=status.message,
            )
        )

    def job_changed(self, view: JobView) -> None:
        """A job's state changed."""
        job = storage_answers.job(view)
        self._publish(
            JobEvent(
                notify_time=notify_time_ms(),
                id=job.id,
                status=job.status,
                job_type=job.job_type,
                description=job.description,
                progress=job.progress,
                error=job.error,
            )
        )


def vm_event(change: VmChange) -> VmStatusEvent:
    """The event of a change: the status always, the rest where it changed or belongs to the status."""
    view, what = change.view, change.what
    # An answer that was begun in this very millisecond may be from before the change, and must not count as much.
    now_ms = notify_time_ms() + 1
    down = view.exit if view.status is Status.DOWN else None
    return VmStatusEvent(
        notify_time=now_ms,
        vm_id=view.vm_id,
        status=view.status.value,
        status_time=now_ms,
        vm_name=view.name,
        hash=view.facts.devices_hash if what & (What.DEVICES | What.STATUS) and down is None else None,
        exit_code=None if down is None else int(down.code),
        exit_message=None if down is None else down.message,
        exit_reason=None if down is None else int(down.reason),
        time_offset=None if down is None else str(view.facts.clock_offset_s),
        pause_code=view.pause_code.value if view.status is Status.PAUSED else None,
        display_info=[display(item) for item in view.facts.graphics]
        if what & (What.CONSOLE | What.DEVICES) and down is None
        else None,
        client_ip=view.client_address if what & What.CONSOLE else None,
        monitor_response=(0 if view.responding else _SILENT) if what & What.RESPONDING else None,
        guest_agent=view.agent_connected if what & What.AGENT else None,
    )
