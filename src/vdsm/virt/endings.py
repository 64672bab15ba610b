"""How a VM ended: from what libvirt saw to what a manager is told. Pure."""

from __future__ import annotations

from vdsm.base.errors import HypervisorFailed
from vdsm.system.libvirt.facts import PauseCause, ShutdownBy, StopCause
from vdsm.virt.view import Exit, ExitCode, ExitReason, PauseCode

DESTROYED = Exit(ExitCode.NORMAL, ExitReason.ADMIN_SHUTDOWN, "it was powered off on request")
MISSING = Exit(ExitCode.ERROR, ExitReason.DOMAIN_MISSING, "it ended while the agent was not running")
ENDED_UNSEEN = Exit(ExitCode.ERROR, ExitReason.DOMAIN_MISSING, "it ended while libvirt could not be reached")
LOST = Exit(ExitCode.ERROR, ExitReason.LOST_QEMU, "its QEMU process is gone")
HOST_RESTARTED = Exit(ExitCode.ERROR, ExitReason.HOST_SHUTDOWN, "the host was restarted while it ran")

_BY_CAUSE = {
    StopCause.DESTROYED: Exit(ExitCode.ERROR, ExitReason.GENERIC_ERROR, "it was powered off by another program"),
    StopCause.CRASHED: Exit(ExitCode.ERROR, ExitReason.GENERIC_ERROR, "the guest crashed"),
    StopCause.MIGRATED: Exit(ExitCode.NORMAL, ExitReason.MIGRATION_SUCCEEDED, "it was migrated to another host"),
    StopCause.SAVED: Exit(ExitCode.NORMAL, ExitReason.SAVED, "its state was saved"),
    StopCause.FAILED: LOST,
    StopCause.OTHER: Exit(ExitCode.ERROR, ExitReason.GENERIC_ERROR, "it ended for an unknown reason"),
}
_IO_REASONS = {"enospc": PauseCode.ENOSPC, "eio": PauseCode.EIO, "eperm": PauseCode.EPERM}
_PAUSE_CAUSES = {
    PauseCause.USER: PauseCode.USER,
    PauseCause.IO_ERROR: PauseCode.EIO,
    PauseCause.POSTCOPY: PauseCode.POSTCOPY,
}


def stopped(cause: StopCause, by: ShutdownBy | None, *, asked: bool) -> Exit:
    """The exit of a VM that stopped.

    Args:
        cause: how libvirt saw it end.
        by: who made it power down, where libvirt told.
        asked: whether the agent had asked the guest to shut down.
    """
    if cause is not StopCause.SHUTDOWN:
        return _BY_CAUSE[cause]
    if by is ShutdownBy.HOST:
        return Exit(ExitCode.ERROR, ExitReason.HOST_SHUTDOWN, "its QEMU was told to end by the host")
    if asked:
        return Exit(ExitCode.NORMAL, ExitReason.ADMIN_SHUTDOWN, "it was shut down on request")
    return Exit(ExitCode.NORMAL, ExitReason.USER_SHUTDOWN, "it was shut down by its user")


def not_started(error: BaseException) -> Exit:
    """The exit of a VM that could not be started; libvirt's own words where there are some."""
    message = error.reason if isinstance(error, HypervisorFailed) else str(error)
    return Exit(ExitCode.ERROR, ExitReason.START_FAILED, message)


def paused(cause: PauseCause) -> PauseCode:
    """Why a VM is paused."""
    return _PAUSE_CAUSES.get(cause, PauseCode.OTHER)


def io_error(reason: str) -> PauseCode:
    """Why a VM was paused by a failing disk, by QEMU's word for the error."""
    return _IO_REASONS.get(reason, PauseCode.OTHER)
