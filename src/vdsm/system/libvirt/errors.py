"""libvirt's errors as the agent's."""

from __future__ import annotations

from typing import Final

import libvirt  # noqa: TID251 - vdsm.system.libvirt is its one place

from vdsm.base.errors import HypervisorFailed, NotFound, NotResponding, Unreachable, VdsmError

# libvirt waits this long for a domain that another call holds (QEMU_JOB_WAIT_TIME) before it says "timeout".
JOB_WAIT_S: Final = 30.0

_LOST: Final = frozenset({libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_RPC})
_AGENT_SILENT: Final = frozenset({
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
})


def translate(error: libvirt.libvirtError, what: str, *, alive: bool) -> VdsmError:
    """The agent's error for libvirt's.

    Args:
        error: what the binding raised.
        what: the call and its object, to begin the message with.
        alive: whether the connection still was one when the call failed.
    """
    code = error.get_error_code() or 0
    message = error.get_error_message() or str(error)
    if not alive or code in _LOST:
        return Unreachable("libvirt", message)
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFound("domain", what)
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return NotResponding(what, JOB_WAIT_S)
    if code in _AGENT_SILENT:
        return NotResponding("the guest agent", 0.0)
    return HypervisorFailed(what, message, code)
