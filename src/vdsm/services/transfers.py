"""Tickets and NBD servers: the verbs."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from vdsm.api.transfer import ImageTicket, NbdConfig, TicketInfo
from vdsm.base.errors import BadParameter
from vdsm.services.storage_gates import Gates
from vdsm.storage.errors import SharedVolume
from vdsm.system.qemu_nbd import Export
from vdsm.transfers.errors import ImageDaemonRefused
from vdsm.transfers.nbd_servers import NbdServers, VolumePaths
from vdsm.transfers.places import Places, check_id
from vdsm.transfers.tickets import Tickets

_INT32: Final = 2**31 - 1
_SECONDS: Final = ("timeout", "idle_time", "expires", "inactivity_timeout")


class TicketService:
    """The verbs of image tickets.

    Args:
        tickets: all of this host.
        places: what their urls may be.
    """

    def __init__(self, tickets: Tickets, places: Places) -> None:
        self._tickets = tickets
        self._places = places

    def add_image_ticket(self, ticket: ImageTicket) -> None:
        """Let the holder of a ticket transfer an image."""
        ident = check_id(ticket.uuid, "ticket.uuid")
        self._places.check(ticket.url, "ticket.url")
        if not ticket.ops:
            raise BadParameter("ticket.ops", 'must have "read" or "write"')
        if ticket.filename is not None and not ticket.filename.isprintable():
            # It becomes a header of the daemon's answers.
            raise BadParameter("ticket.filename", "has characters that no header can have")
        values = {name: value for name, value in msgspec.structs.asdict(ticket).items() if value is not None}
        self._tickets.add({**values, "uuid": ident, "ops": list(ticket.ops)})

    def get_image_ticket(self, uuid: str) -> TicketInfo:
        """How far a ticket's transfer is."""
        found: dict[str, Any] = self._tickets.get(check_id(uuid, "uuid"))
        for name in _SECONDS:
            if isinstance(found.get(name), int):
                found[name] = min(max(found[name], 0), _INT32)
        try:
            return msgspec.convert(found, TicketInfo)
        except msgspec.ValidationError as error:
            raise ImageDaemonRefused("reading a ticket", f"its answer is not as expected: {error}") from error

    def extend_image_ticket(self, uuid: str, timeout: int) -> None:
        """Let a ticket expire later, or sooner."""
        self._tickets.extend(check_id(uuid, "uuid"), timeout)

    def remove_image_ticket(self, uuid: str) -> None:
        """Make a ticket worthless."""
        self._tickets.remove(check_id(uuid, "uuid"))


class NbdService:
    """The verbs of NBD servers.

    Args:
        servers: all of this host.
        volumes: finds the files of volumes.
        gates: keep a domain that does not answer from taking all workers.
    """

    def __init__(self, servers: NbdServers, volumes: VolumePaths, gates: Gates) -> None:
        self._servers = servers
        self._volumes = volumes
        self._gates = gates

    def start_server(self, server_id: str, config: NbdConfig) -> str:
        """Serve a volume's content; its url."""
        ident = check_id(server_id, "server_id")
        for field in ("sd_id", "img_id", "vol_id"):
            check_id(getattr(config, field), f"config.{field}")
        _check_bitmap(config)
        with self._gates.domain(config.sd_id, "config.sd_id"):
            return self._start(ident, config)

    def _start(self, ident: str, config: NbdConfig) -> str:
        volume = self._volumes.paths(config.sd_id, config.img_id, config.vol_id)
        if volume.shared and not config.readonly:
            raise SharedVolume(config.vol_id)
        if config.bitmap is not None and volume.chain[0].format != "qcow2":
            raise BadParameter("config.bitmap", "a raw volume has none")
        whole = config.backing_chain is not False
        export = Export(
            chain=volume.chain if whole else volume.chain[:1],
            readonly=config.readonly,
            discard=config.discard,
            detect_zeroes=config.detect_zeroes,
            bitmap=config.bitmap,
        )
        return self._servers.start(ident, export)

    def stop_server(self, server_id: str) -> None:
        """End an NBD server."""
        self._servers.stop(check_id(server_id, "server_id"))


def _check_bitmap(config: NbdConfig) -> None:
    if config.bitmap is None:
        return
    check_id(config.bitmap, "config.bitmap")
    if not config.readonly:
        raise BadParameter("config.bitmap", "is for reading: it needs readonly")
    if config.backing_chain is False:
        raise BadParameter("config.bitmap", "is of the whole chain: it needs backing_chain")
