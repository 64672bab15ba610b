"""What can be asked of a running VM, with its arguments. Creation and destruction are the fleet's own methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vdsm.base.secrets import Secret
from vdsm.virt.lifecycle import Request


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop the CPUs."""

    request: ClassVar[Request] = Request.PAUSE


@dataclass(frozen=True, slots=True)
class Cont:
    """Let the CPUs go on."""

    request: ClassVar[Request] = Request.CONT


@dataclass(frozen=True, slots=True)
class Reset:
    """Press the reset button."""

    request: ClassVar[Request] = Request.RESET


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Ask the guest to end, or to start again.

    Its agent is asked first when it is connected, then, after ``step_s`` seconds (None: the configured time), the
    power button is pressed; after as long again the VM is powered off if ``force``, else it goes on. ``delay_s``
    seconds pass before anything is done.
    """

    reboot: bool = False
    delay_s: float = 0.0
    step_s: float | None = None
    force: bool = False

    @property
    def request(self) -> Request:
        """Its row in the state table."""
        return Request.REBOOT if self.reboot else Request.SHUTDOWN


@dataclass(frozen=True, slots=True)
class SetTicket:
    """Set the password of the VM's displays for ``valid_s`` seconds from now.

    ``connected`` says what becomes of those who are connected; QEMU's VNC server always keeps them.
    """

    password: Secret
    valid_s: float
    connected: Literal["keep", "disconnect", "fail"] = "keep"

    request: ClassVar[Request] = Request.SET_TICKET


@dataclass(frozen=True, slots=True)
class ChangeMedium:
    """Put ``path`` into the CD or floppy drive ``target``; "" ejects. ``block``: the path is a block device."""

    target: str
    path: str
    block: bool = False

    request: ClassVar[Request] = Request.CHANGE_MEDIA


Ask = Pause | Cont | Reset | Shutdown | SetTicket | ChangeMedium
