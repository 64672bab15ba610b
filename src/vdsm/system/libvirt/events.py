"""libvirt's event loop and callbacks. A callback makes a fact of what it is told and hands it on, nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

import libvirt  # noqa: TID251 - vdsm.system.libvirt is its one place

from vdsm.base import threads
from vdsm.system.libvirt.facts import (
    AgentConnected,
    ConsoleClient,
    DevicesChanged,
    Event,
    IoError,
    PauseCause,
    Paused,
    Rebooted,
    Resumed,
    ShutdownBy,
    ShuttingDown,
    Started,
    StopCause,
    Stopped,
)

log = logging.getLogger(__name__)

Listener = Callable[[Event], None]

_CLOSED: Final = {0: "connection error", 1: "the daemon ended", 2: "the daemon does not answer pings", 3: "closed here"}
_PAUSED: Final = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED: PauseCause.USER,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR: PauseCause.IO_ERROR,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY: PauseCause.POSTCOPY,
}
_STOPPED: Final = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: StopCause.SHUTDOWN,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: StopCause.DESTROYED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: StopCause.CRASHED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: StopCause.MIGRATED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: StopCause.SAVED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: StopCause.FAILED,
}
_SHUTDOWN: Final = {
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST: ShutdownBy.GUEST,
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST: ShutdownBy.HOST,
}


class EventLoop:
    """Runs libvirt's event loop in a thread. libvirt has one loop per process; the last one started runs it."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread: threads.Thread | None = None

    def start(self) -> None:
        """Register the loop; must come before the first connection is opened."""
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(_to_log, None)  # otherwise the binding prints every error
        self._thread = threads.start("lv-events", self._run)

    def _run(self) -> None:
        while not self._stopping.is_set():
            libvirt.virEventRunDefaultImpl()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is None:
            return
        self._stopping.set()
        wake = libvirt.virEventAddTimeout(0, _nothing, None)
        self._thread.join(1.0)
        libvirt.virEventRemoveTimeout(wake)


def _nothing(_timer: int, _opaque: Any) -> None:
    """Only wakes the loop up."""


def _to_log(_context: Any, error: Any) -> None:
    log.debug("libvirt: %s", error[2])


def subscribe(conn: libvirt.virConnect, listener: Listener, closed: Callable[[str], None]) -> None:
    """Have the connection's events delivered to ``listener`` and its end to ``closed``, from libvirt's thread."""
    conn.registerCloseCallback(_on_close, closed)
    for number, callback in _CALLBACKS.items():
        conn.domainEventRegisterAny(None, number, callback, listener)


def _on_close(_conn: libvirt.virConnect, reason: int, closed: Callable[[str], None]) -> None:
    closed(_CLOSED.get(reason, "connection lost"))


def lifecycle(vm_id: str, event: int, detail: int) -> Event | None:
    """The fact behind a lifecycle event's numbers; None for those that mean nothing here."""
    if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
        return Started(vm_id)
    if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
        return Paused(vm_id, _PAUSED.get(detail, PauseCause.OTHER))
    if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
        return Resumed(vm_id)
    if event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
        return ShuttingDown(vm_id, _SHUTDOWN.get(detail, ShutdownBy.UNKNOWN))
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
        return Stopped(vm_id, _STOPPED.get(detail, StopCause.OTHER))
    return None


def _on_lifecycle(_c: Any, domain: libvirt.virDomain, event: int, detail: int, listener: Listener) -> None:
    if (fact := lifecycle(domain.UUIDString(), event, detail)) is not None:
        listener(fact)


def _on_reboot(_c: Any, domain: libvirt.virDomain, listener: Listener) -> None:
    listener(Rebooted(domain.UUIDString()))


def _on_io_error(
    _c: Any, domain: libvirt.virDomain, _path: str, alias: str, action: int, reason: str, listener: Listener
) -> None:
    listener(IoError(domain.UUIDString(), alias, reason, paused=action == 1))


def _on_graphics(
    _c: Any,
    domain: libvirt.virDomain,
    phase: int,
    _local: dict[str, Any],
    remote: dict[str, Any],
    _scheme: str,
    _subject: Any,
    listener: Listener,
) -> None:
    if phase == libvirt.VIR_DOMAIN_EVENT_GRAPHICS_CONNECT:
        return  # not yet through the authentication: Initialize follows
    connected = phase == libvirt.VIR_DOMAIN_EVENT_GRAPHICS_INITIALIZE
    listener(ConsoleClient(domain.UUIDString(), str(remote.get("node", "")), connected))


def _on_agent(_c: Any, domain: libvirt.virDomain, state: int, _reason: int, listener: Listener) -> None:
    connected = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
    listener(AgentConnected(domain.UUIDString(), connected))


def _on_device(_c: Any, domain: libvirt.virDomain, *rest: Any) -> None:
    rest[-1](DevicesChanged(domain.UUIDString()))


_CALLBACKS: Final[dict[int, Callable[..., None]]] = {
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: _on_lifecycle,
    libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: _on_reboot,
    libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: _on_io_error,
    libvirt.VIR_DOMAIN_EVENT_ID_GRAPHICS: _on_graphics,
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: _on_agent,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: _on_device,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: _on_device,
    libvirt.VIR_DOMAIN_EVENT_ID_DISK_CHANGE: _on_device,
    libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE: _on_device,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: _on_device,
}
