"""The verbs of image transfers: tickets of the image daemon, and NBD servers.

A ticket lets its holder read or write one image through the image daemon (ovirt-imageio) at
``https://HOST:54322/images/<ticket>``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from vdsm.api.contract import Pool, Reply, Request, Role, Wire, delete, get, namespace, post, put, verb

_INT32 = 2**31 - 1
Seconds = Annotated[int, msgspec.Meta(ge=1, le=_INT32)]
TicketIdParam = Annotated[str, msgspec.Meta(description="the ticket's id, a UUID")]
ServerIdParam = Annotated[str, Wire("server_id"), msgspec.Meta(description="the server's id, a UUID")]


class ImageTicket(Request, frozen=True, kw_only=True):
    """Who holds it may transfer one image."""

    uuid: str
    """Its id, a UUID: the secret."""
    timeout: Seconds
    """Seconds until it expires; each transfer with it, and extending it, begins them anew."""
    size: Annotated[int, msgspec.Meta(ge=0)]
    """Bytes of the image that may be read or written."""
    url: str
    """What is transferred: `file:///...` of a prepared volume, or `nbd:unix:/...` of an NBD server."""
    ops: tuple[Literal["read", "write"], ...]
    """What may be done; writing includes reading."""
    inactivity_timeout: Annotated[Seconds | None, Wire("inactivity_timeout")] = None
    """Seconds until a silent client is disconnected; 60 if not given."""
    sparse: bool = False
    """Whether zeros give space back."""
    dirty: bool = False
    """Whether the NBD server tells what an incremental backup needs."""
    transfer_id: Annotated[str | None, Wire("transfer_id")] = None
    """The Engine's id of the transfer, for logs."""
    filename: str | None = None
    """What a browser calls the downloaded file."""


class TicketInfo(Reply, frozen=True, kw_only=True):
    """A ticket and how far its transfer is."""

    uuid: str
    size: int
    url: str
    timeout: int
    """Seconds."""
    ops: tuple[str, ...]
    active: bool
    """Whether a transfer is going on."""
    idle_time: Annotated[int, Wire("idle_time")]
    """Seconds since the last transfer."""
    expires: int
    """When it expires: monotonic seconds of the host."""
    inactivity_timeout: Annotated[int, Wire("inactivity_timeout")] = 60
    canceled: bool = False
    connections: int = 0
    sparse: bool = False
    dirty: bool = False
    transferred: int | None = None
    """Bytes; not known of a ticket that may read and write."""
    transfer_id: Annotated[str | None, Wire("transfer_id")] = None
    filename: str | None = None


class NbdConfig(Request, frozen=True, kw_only=True):
    """Which volume an NBD server serves, and how."""

    sd_id: Annotated[str, Wire("sd_id")]
    """The storage domain's id."""
    img_id: Annotated[str, Wire("img_id")]
    """The image's id."""
    vol_id: Annotated[str, Wire("vol_id")]
    """The volume's id."""
    readonly: bool = False
    discard: bool = False
    """Whether discarded data gives space back."""
    detect_zeroes: Annotated[bool, Wire("detect_zeroes")] = False
    """Whether written zeros are noticed; with ``discard`` they give space back."""
    backing_chain: Annotated[bool | None, Wire("backing_chain")] = None
    """Whether the volumes underneath show through; true if not given."""
    bitmap: str | None = None
    """The dirty bitmap that is told to clients, with ``readonly`` only."""


@namespace("Host", service="ImageTickets")
class ImageTickets(Protocol):
    """Tickets for the image daemon."""

    @verb(
        rest=post("/image-tickets", body="ticket", status=201),
        role=Role.OPERATOR,
        pool=Pool.HOST,
        name="add_image_ticket",
    )
    def add_image_ticket(self, ticket: ImageTicket) -> None:
        """Let the holder of a ticket transfer an image; a ticket of the same id is replaced.

        Args:
            ticket: what may be done.

        Raises:
            BadParameter: names the field that is wrong, an url to a place that is not for images included.
            NoImageDaemon: the image daemon cannot be started.
            ImageDaemonSilent: it does not answer.
            ImageDaemonRefused: it does not want the ticket.
        """

    @verb(rest=get("/image-tickets/{uuid}"), role=Role.OPERATOR, pool=Pool.HOST, name="get_image_ticket")
    def get_image_ticket(self, uuid: TicketIdParam) -> TicketInfo:
        """How far a ticket's transfer is.

        Raises:
            NoSuchTicket: there is none of this id.
            ImageDaemonSilent: the image daemon does not answer.
        """

    @verb(rest=put("/image-tickets/{uuid}/timeout"), role=Role.OPERATOR, pool=Pool.HOST, name="extend_image_ticket")
    def extend_image_ticket(self, uuid: TicketIdParam, timeout: Annotated[int, msgspec.Meta(ge=0, le=_INT32)]) -> None:
        """Let a ticket expire later, or sooner.

        Args:
            uuid: the ticket's id, a UUID.
            timeout: seconds from now.

        Raises:
            NoSuchTicket: there is none of this id.
            ImageDaemonSilent: the image daemon does not answer.
        """

    @verb(rest=delete("/image-tickets/{uuid}"), role=Role.OPERATOR, pool=Pool.HOST, name="remove_image_ticket")
    def remove_image_ticket(self, uuid: TicketIdParam) -> None:
        """Make a ticket worthless and end its transfers; one that is not there is gone already.

        Raises:
            TicketBusy: a transfer did not let go yet; it cannot go on, and the ticket can be removed a little later.
            ImageDaemonSilent: the image daemon does not answer.
        """


@namespace("NBD")
class Nbd(Protocol):
    """NBD servers: one volume each, on a unix socket of this host."""

    @verb(
        rest=post("/nbd-servers/{server_id}", body="config"),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
        name="start_server",
    )
    def start_server(self, server_id: ServerIdParam, config: NbdConfig) -> str:
        """Serve a volume's content; its url, `nbd:unix:/...`. The same again answers the same.

        Args:
            server_id: the server's id, a UUID.
            config: what is served.

        Raises:
            BadParameter: names the field that is wrong.
            NbdServerExists: a server of this id serves something else.
            NbdServerFailed: it could not be started.
            NoSuchVolume: there is no such volume.
            SharedVolume: a template's volume is served with ``readonly`` only.
        """

    @verb(rest=delete("/nbd-servers/{server_id}"), role=Role.OPERATOR, pool=Pool.STORAGE, name="stop_server")
    def stop_server(self, server_id: ServerIdParam) -> None:
        """End an NBD server; one that is not there is gone already.

        Raises:
            Unfinished: its process could not be ended, because its storage does not answer.
        """
