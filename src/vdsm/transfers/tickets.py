"""The tickets of the image daemon. They are written down, so that they survive the daemon's death.

    <directory>/tickets.json   {"version": 1, "tickets": [{"expires_s": ..., "ticket": {...}}, ...]}

The directory is gone after a reboot, so the monotonic clock orders what is in the file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import VdsmError
from vdsm.base.persist import persist_file, read_file
from vdsm.transfers.errors import NoSuchTicket
from vdsm.transfers.imageio_daemon import DaemonSettings, ImageDaemon
from vdsm.transfers.kept_process import remove

log = logging.getLogger(__name__)

_VERSION: Final = 1
_MAX_BYTES: Final = 16 << 20


class _Kept(msgspec.Struct):
    expires_s: float
    ticket: dict[str, Any]


class _File(msgspec.Struct):
    version: int
    tickets: list[_Kept]


class Tickets:
    """All tickets of this host, and the daemon that serves them. Safe for several threads.

    Args:
        settings: how the daemon runs.
    """

    def __init__(self, settings: DaemonSettings) -> None:
        self._place: Final = settings.directory / "tickets.json"
        self._lock = threading.Lock()
        self._kept = _read(self._place)
        self.daemon: Final = ImageDaemon(settings, self._restore)
        """The daemon."""

    def recover(self) -> None:
        """Go on where an earlier agent was: find its daemon, or start one if there are tickets that count."""
        try:
            if not self.daemon.recover() and self._current():
                self.daemon.ensure()
        except VdsmError as error:
            log.error("transfers of before cannot go on: %s", error)  # noqa: TRY400 - the message says all

    def add(self, ticket: Mapping[str, Any]) -> None:
        """Let its holder transfer; a ticket of the same id is replaced.

        Args:
            ticket: as the daemon wants it, checked.

        Raises:
            NoImageDaemon, ImageDaemonSilent, ImageDaemonRefused: it is not.
        """
        self.daemon.ensure()
        self.daemon.control.add(dict(ticket))
        with self._lock:
            self._kept[ticket["uuid"]] = _Kept(monotonic_s() + ticket["timeout"], dict(ticket))
            self._write()

    def get(self, ticket_id: str) -> dict[str, Any]:
        """What the daemon says of a ticket.

        Raises:
            NoSuchTicket: there is none.
            ImageDaemonSilent: no answer.
        """
        self._need(ticket_id)
        found = self.daemon.control.get(ticket_id)
        with self._lock:
            kept = self._kept.get(ticket_id)
            if kept is not None and isinstance(idle_s := found.get("idle_time"), int):
                # Each transfer makes a ticket last anew.
                kept.expires_s = max(kept.expires_s, monotonic_s() - idle_s + kept.ticket["timeout"])
        return found

    def extend(self, ticket_id: str, timeout_s: int) -> None:
        """Let a ticket expire in ``timeout_s`` seconds from now.

        Raises:
            NoSuchTicket: there is none.
            ImageDaemonSilent: no answer.
        """
        self._need(ticket_id)
        self.daemon.control.extend(ticket_id, timeout_s)
        with self._lock:
            kept = self._kept.get(ticket_id)
            if kept is not None:
                kept.expires_s = monotonic_s() + timeout_s
                self._write()

    def remove(self, ticket_id: str) -> None:
        """Make a ticket worthless; nothing if there is none.

        Raises:
            TicketBusy: a transfer did not let go in time.
            ImageDaemonSilent: no answer.
        """
        with self._lock:
            # First of all: a daemon that is started anew must not get it again.
            if self._kept.pop(ticket_id, None) is not None:
                self._write()
        if self.daemon.recover():
            self.daemon.control.remove(ticket_id)

    def stop(self) -> None:
        """End all transfers and the daemon."""
        with self._lock:
            self._kept.clear()
            remove(self._place)
        self.daemon.stop()

    def _need(self, ticket_id: str) -> None:
        """A daemon that died is started anew by its watch; without tickets there is none to ask.

        Raises:
            NoSuchTicket: no daemon, and no such ticket.
        """
        if not self.daemon.recover():
            with self._lock:
                known = ticket_id in self._kept
            if not known:
                raise NoSuchTicket(ticket_id)
            self.daemon.ensure()

    def _restore(self) -> None:
        """Give a fresh daemon the tickets that have not expired."""
        for kept in self._current():
            try:
                self.daemon.control.add(kept.ticket)
                self.daemon.control.extend(kept.ticket["uuid"], max(1, int(kept.expires_s - monotonic_s())))
            except VdsmError as error:
                log.error("ticket %.8s... is lost: %s", kept.ticket["uuid"], error)  # noqa: TRY400 - the message says all

    def _current(self) -> list[_Kept]:
        with self._lock:
            now_s = monotonic_s()
            return [kept for kept in self._kept.values() if kept.expires_s > now_s]

    def _write(self) -> None:
        now_s = monotonic_s()
        self._kept = {ident: kept for ident, kept in self._kept.items() if kept.expires_s > now_s}
        if self._kept:
            persist_file(self._place, msgspec.json.encode(_File(_VERSION, list(self._kept.values()))))
        else:
            remove(self._place)


def _read(place: Path) -> dict[str, _Kept]:
    try:
        content = read_file(place, max_bytes=_MAX_BYTES)
        found = _File(_VERSION, []) if content is None else msgspec.json.decode(content, type=_File)
    except (msgspec.MsgspecError, VdsmError, OSError) as error:
        log.warning("the tickets of before cannot be read: %s", error)
        return {}
    if found.version != _VERSION:
        return {}
    return {kept.ticket["uuid"]: kept for kept in found.tickets if "uuid" in kept.ticket}
