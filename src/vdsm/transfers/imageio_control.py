"""The control socket of the image daemon (ovirt-imageio): HTTP on a unix socket, one connection for each request.

PUT /tickets/ID {ticket}    GET /tickets/ID    PATCH /tickets/ID {"timeout": S}    DELETE /tickets/ID
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, Final

from vdsm.transfers.errors import ImageDaemonRefused, ImageDaemonSilent, NoSuchTicket, TicketBusy

_DEADLINE_S: Final = 10.0
_PROBE_S: Final = 2.0
_MAX_ANSWER: Final = 1 << 20


class ImageioControl:
    """Speaks to one daemon. Safe for several threads.

    Args:
        address: its control socket.
        remove_s: seconds that the daemon itself waits for a transfer to let go of a ticket that is removed.
    """

    def __init__(self, address: Path, remove_s: float) -> None:
        self._address: Final = address
        self._remove_s: Final = remove_s

    def answers(self) -> bool:
        """Whether the daemon is there and serves."""
        try:
            status, _ = self._ask("GET", "/tickets/00000000-0000-0000-0000-000000000000", None, _PROBE_S)
        except ImageDaemonSilent:
            return False
        return status in {200, 404}

    def add(self, ticket: dict[str, Any]) -> None:
        """Add or replace a ticket.

        Raises:
            ImageDaemonSilent: no answer.
            ImageDaemonRefused: it is not wanted.
        """
        self._request("PUT", str(ticket["uuid"]), ticket)

    def get(self, ticket_id: str) -> dict[str, Any]:
        """What the daemon says of a ticket.

        Raises:
            NoSuchTicket: there is none.
            ImageDaemonSilent: no answer.
            ImageDaemonRefused: an answer that makes no sense.
        """
        body = self._request("GET", ticket_id, None)
        try:
            found = json.loads(body)
        except ValueError as error:
            raise ImageDaemonRefused("reading a ticket", f"its answer is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ImageDaemonRefused("reading a ticket", "its answer is no ticket")
        return found

    def extend(self, ticket_id: str, timeout_s: int) -> None:
        """Let a ticket expire in ``timeout_s`` seconds from now.

        Raises:
            NoSuchTicket: there is none.
            ImageDaemonSilent: no answer.
        """
        self._request("PATCH", ticket_id, {"timeout": timeout_s})

    def remove(self, ticket_id: str) -> None:
        """Make a ticket worthless; nothing if there is none.

        Raises:
            TicketBusy: a transfer did not let go in time.
            ImageDaemonSilent: no answer.
        """
        self._request("DELETE", ticket_id, None, self._remove_s + _DEADLINE_S)

    def _request(self, method: str, ticket_id: str, content: Any, timeout_s: float = _DEADLINE_S) -> bytes:
        body = None if content is None else json.dumps(content).encode()
        status, answer = self._ask(method, f"/tickets/{ticket_id}", body, timeout_s)
        if status == http.client.NOT_FOUND:
            raise NoSuchTicket(ticket_id)
        if status == http.client.CONFLICT:
            raise TicketBusy(ticket_id)
        if status >= 300:
            raise ImageDaemonRefused(f"ticket {ticket_id}", answer.decode("utf-8", "replace")[:500].strip())
        return answer

    def _ask(self, method: str, path: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
        connection = _UnixConnection(self._address, timeout_s)
        try:
            connection.request(method, path, body=body)
            response = connection.getresponse()
            return response.status, response.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise ImageDaemonSilent(f"the image daemon at {self._address}", str(error) or repr(error)) from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, address: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._address = str(address)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._address)
