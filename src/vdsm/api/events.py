"""Events, typed: published once, delivered to STOMP subscribers and as server-sent events.

On STOMP an event is a notification ``|component|operation|id`` whose params always have ``notify_time``: milliseconds
on the clock that also gives ``statusTime``. As a server-sent event it is named by its operation.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from vdsm.api.contract import Reply, Text, Wire
from vdsm.api.vm_types import DisplayInfo

NO_ID = "no_id"


class Event(Reply, frozen=True, kw_only=True):
    """Base of all events."""

    component: ClassVar[str]
    operation: ClassVar[str]
    by_id: ClassVar[bool] = False
    """Whether STOMP carries the body under the id: ``{"<vmid>": {...}}``."""

    notify_time: Annotated[int, Wire("notify_time")]

    @property
    def ident(self) -> str:
        """What the event is about; a filler where it is about the host, as the last field must not be empty."""
        return NO_ID


class VmStatusEvent(Event, frozen=True, kw_only=True):
    """A VM's state, exit, display or devices changed."""

    component: ClassVar[str] = "virt"
    operation: ClassVar[str] = "VM_status"
    by_id: ClassVar[bool] = True

    vm_id: str
    status: str
    status_time: Text
    vm_name: str | None = None
    hash: str | None = None
    exit_code: int | None = None
    exit_message: str | None = None
    exit_reason: int | None = None
    pause_code: str | None = None
    time_offset: str | None = None
    client_ip: Annotated[str | None, Wire("clientIp")] = None
    display_info: list[DisplayInfo] | None = None
    monitor_response: Annotated[Text | None, Wire("monitorResponse")] = None
    guest_agent: Annotated[bool | None, Wire("guestAgent")] = None

    @property
    def ident(self) -> str:
        """The VM's id."""
        return self.vm_id


class HostConnectionEvent(Event, frozen=True, kw_only=True):
    """The host's addresses or links changed: a manager asks for the capabilities again."""

    component: ClassVar[str] = "net"
    operation: ClassVar[str] = "host_conn"


class JobEvent(Event, frozen=True, kw_only=True):
    """A job's state changed."""

    component: ClassVar[str] = "jobs"
    operation: ClassVar[str] = "status"

    id: str
    status: str
    job_type: Annotated[str, Wire("job_type")]
    description: str
    progress: float | None = None
    error: dict[str, Any] | None = None

    @property
    def ident(self) -> str:
        """The job's id."""
        return self.id


class TaskEvent(Event, frozen=True, kw_only=True):
    """A storage task's state changed."""

    component: ClassVar[str] = "storage"
    operation: ClassVar[str] = "task_status"

    id: str
    verb: str
    task_state: str
    task_result: str
    code: int
    message: str

    @property
    def ident(self) -> str:
        """The task's id."""
        return self.id


class StorageDomainEvent(Event, frozen=True, kw_only=True):
    """A storage domain can be used from now on, or cannot any more."""

    component: ClassVar[str] = "storage"
    operation: ClassVar[str] = "domain_status"

    id: str
    valid: bool
    code: int
    """0, or the number of the error that keeps it from use."""
    reason: str

    @property
    def ident(self) -> str:
        """The domain's id."""
        return self.id


EVENTS: tuple[type[Event], ...] = (VmStatusEvent, HostConnectionEvent, JobEvent, TaskEvent, StorageDomainEvent)
