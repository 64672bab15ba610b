"""What happened in a domain, told as the contract's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vdsm.api.events import Event, HostConnectionEvent, VmStatusEvent
from vdsm.base.clock import notify_time_ms
from vdsm.services.vm_answers import display
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


def vm_event(change: VmChange) -> VmStatusEvent:
    """The event of a change: the status always, the rest where it changed or belongs to the status."""
    view, what = change.view, change.what
    now_ms = notify_time_ms()
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
