"""Builds what moves images: tickets and their daemon, NBD servers, and their verbs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vdsm.base import threads
from vdsm.base.config import Config
from vdsm.services.storage_gates import Gates
from vdsm.services.transfers import NbdService, TicketService
from vdsm.transfers.imageio_daemon import DaemonSettings
from vdsm.transfers.nbd_servers import NbdServers, VolumePaths
from vdsm.transfers.places import Places
from vdsm.transfers.tickets import Tickets

# Where nothing listens on the network, the daemon does not either: transfers go through its unix socket.
_LOOPBACK: Final = "127.0.0.1"


class Transfers:
    """Everything of transfers.

    Args:
        config: the agent's.
        volumes: finds the files of volumes.
    """

    def __init__(self, config: Config, volumes: VolumePaths) -> None:
        run = Path(config.paths.run_dir)
        storage = config.storage
        sockets = run / "nbd"
        self._tickets = Tickets(_daemon(config, run))
        self._servers = NbdServers(sockets)
        places = Places(
            repository=storage.repository_dir,
            run=storage.image_link_dir or str(run / "storage"),
            sockets=(str(sockets), str(run / "backup")),
        )
        self.services: Mapping[str, object] = {
            "ImageTickets": TicketService(self._tickets, places),
            "NBD": NbdService(self._servers, volumes, Gates(config.limits.storage_places)),
        }
        """The verbs' implementations, by their services' names."""

    def start(self) -> None:
        """Find what an earlier agent left running."""
        self._servers.recover()
        threads.start("transfers", self._tickets.recover)  # a daemon that hangs is waited for

    def stop(self) -> None:
        """End all transfers and what serves them."""
        self._tickets.stop()
        self._servers.stop_all()


def _daemon(config: Config, run: Path) -> DaemonSettings:
    on_network = bool(config.listen.address)
    return DaemonSettings(
        directory=run / "imageio",
        address=config.listen.address or _LOOPBACK,
        port=config.transfers.port if on_network else 0,
        pki_dir=Path(config.paths.pki_dir) if config.listen.tls and on_network else None,
        log_file=config.log_file("imageio"),
        program=Path(config.transfers.program) if config.transfers.program else None,
    )
