"""A volume as the agent's API has it: made, prepared, opened for a transfer, and given back."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vdscli.client import quoted
from vdscli.failures import NOT_FOUND, CliError, RequestFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdscli.client import Client
    from vdscli.transfer.undo import Undo

_TICKET_S: Final = 300
_TASK_S: Final = 600.0
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.5
_BLANK: Final = "00000000-0000-0000-0000-000000000000"


class VolumeKey(NamedTuple):
    """Which volume; ``pool`` is the blank id for the one that is connected."""

    domain: str
    image: str
    volume: str
    pool: str = _BLANK


class NewVolume(NamedTuple):
    """What a new volume is: ``size`` in bytes as a guest sees it, ``format`` RAW or COW."""

    size: int
    format: str
    preallocate: str
    description: str


class VolumeApi:
    """One volume of an agent.

    Args:
        client: speaks to the agent.
        key: which volume.
        undo: notes what is open.
    """

    def __init__(self, client: Client, key: VolumeKey, undo: Undo) -> None:
        self._client = client
        self._undo = undo
        self.key: Final = key
        self._image = f"/storage-domains/{quoted(key.domain)}/images/{quoted(key.image)}"
        self._path = f"{self._image}/volumes/{quoted(key.volume)}"

    def info(self) -> dict[str, Any] | None:
        """What its metadata says; None when there is no such volume."""
        try:
            found: dict[str, Any] = self._client.get(self._path)
        except RequestFailed as error:
            if error.exit_code == NOT_FOUND:
                return None
            raise
        return found

    def create(self, new: NewVolume) -> None:
        """Make it, ILLEGAL as long as it is not filled.

        Raises:
            CliError: it was not made.
        """
        task = self._client.post(
            f"{self._image}/volumes",
            {
                "volume_id": self.key.volume,
                "size": new.size,
                "vol_format": new.format,
                "preallocate": new.preallocate,
                "description": new.description,
                "pool_id": self.key.pool,
                "legal": False,
            },
        )
        self._finish(task, f"making volume {self.key.volume}")

    def delete_image(self) -> None:
        """Delete the image with all its volumes."""
        self._finish(self._client.delete(self._image, pool_id=self.key.pool), f"deleting image {self.key.image}")

    def set_legal(self, *, legal: bool) -> None:
        """Say whether its content may be used."""
        body = {"legality": "LEGAL" if legal else "ILLEGAL", "pool_id": self.key.pool}
        self._client.put(f"{self._path}/legality", body)

    def verify(self) -> None:
        """Have the agent look whether the data is a harmless image.

        Raises:
            CliError: it is not.
        """
        self._client.post(f"{self._path}/verify-untrusted", {"pool_id": self.key.pool})

    @contextmanager
    def prepared(self) -> Iterator[str]:
        """Its path on the host, usable meanwhile."""
        body = {"volume_id": self.key.volume, "pool_id": self.key.pool, "allow_illegal": True}
        with self._undo.noted("POST", f"{self._image}/teardown", {"pool_id": self.key.pool}):
            yield str(self._client.post(f"{self._image}/prepare", body)["path"])

    @contextmanager
    def served(self, *, readonly: bool) -> Iterator[str]:
        """The url of an NBD server of its content, what it stands on included."""
        server_id = str(uuid.uuid4())
        config = {"sd_id": self.key.domain, "img_id": self.key.image, "vol_id": self.key.volume}
        options = {"readonly": readonly, "discard": not readonly, "detect_zeroes": False}
        with self._undo.noted("DELETE", f"/nbd-servers/{server_id}"):
            yield str(self._client.post(f"/nbd-servers/{server_id}", {**config, **options}))

    @contextmanager
    def ticket(self, url: str, size: int, *, write: bool, sparse: bool) -> Iterator[str]:
        """A ticket for its data, worthless afterwards."""
        ticket_id = str(uuid.uuid4())
        ticket = {
            "uuid": ticket_id,
            "timeout": _TICKET_S,
            "size": size,
            "url": url,
            "ops": ["write" if write else "read"],
            "sparse": sparse,
        }
        with self._undo.noted("DELETE", f"/image-tickets/{ticket_id}"):
            self._client.post("/image-tickets", ticket)
            yield ticket_id

    def _finish(self, task_id: str, what: str) -> None:
        """Wait for a task's end and forget it.

        Raises:
            CliError: it failed, or takes too long.
        """
        until_s = time.monotonic() + _TASK_S
        pause_s = _FIRST_PAUSE_S
        path = f"/tasks/{quoted(task_id)}"
        while (status := self._client.get(path))["task_state"] != "finished":
            if time.monotonic() > until_s:
                raise CliError(f"{what} takes too long: task {task_id} goes on")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        self._client.delete(path)
        if status["task_result"] != "success":
            raise CliError(f"{what} failed: {status['message']}")
