"""What can go wrong with tickets, the image daemon and NBD servers; the numbers are the original's published ones."""

from __future__ import annotations

from dataclasses import dataclass

from vdsm.base.errors import Failed, Rejected, Unreachable


@dataclass(eq=False)
class ImageDaemonSilent(Unreachable):
    """The image daemon was asked and gave no answer."""

    name = "image_daemon_silent"
    code = 481
    status = 503
    message = "the image daemon does not answer: {reason}"


@dataclass(eq=False)
class ImageDaemonRefused(Failed):
    """The image daemon refused; nothing was changed."""

    name = "image_daemon_refused"
    code = 482
    status = 500
    message = "{what}: the image daemon refused: {reason}"


@dataclass(eq=False)
class NoSuchTicket(Rejected):
    """There is no such ticket."""

    name = "no_such_ticket"
    code = 482
    status = 404
    message = "there is no ticket {ticket_id}"
    ticket_id: str


@dataclass(eq=False)
class TicketBusy(Rejected):
    """Its transfer did not let go in time: the ticket is cancelled, and can be removed a little later."""

    name = "ticket_busy"
    code = 482
    status = 409
    message = "ticket {ticket_id} is still used by a transfer"
    ticket_id: str


@dataclass(eq=False)
class NoImageDaemon(Rejected):
    """This host has no image daemon, or it is not to be started."""

    name = "no_image_daemon"
    code = 483
    status = 503
    message = "there is no image daemon: {reason}"
    reason: str


@dataclass(eq=False)
class NbdServerExists(Rejected):
    """An NBD server of this id serves something else."""

    name = "nbd_server_exists"
    code = 100
    status = 409
    message = "the NBD server {server_id} serves another volume"
    server_id: str


@dataclass(eq=False)
class NbdServerFailed(Failed):
    """An NBD server could not be started, or ended at once; nothing is left of it."""

    name = "nbd_server_failed"
    code = 100
    status = 500
