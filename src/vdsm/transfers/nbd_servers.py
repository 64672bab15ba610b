"""The NBD servers of this host: one process for each, found again after a restart of the agent.

<directory>/<id>.sock   the server's socket
<directory>/<id>.json   which process it is, and what it serves
<directory>/<id>.log    its complaints
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from vdsm.base.errors import BadParameter, CommandFailed, VdsmError
from vdsm.base.persist import persist_file, read_file
from vdsm.system import qemu_img, qemu_nbd
from vdsm.system.qemu_nbd import Export, Layer
from vdsm.transfers.errors import NbdServerExists, NbdServerFailed
from vdsm.transfers.kept_process import Identity, KeptProcess, answers_within, remove

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_START_S: Final = 10.0
_STOP_S: Final = 5.0
_HEADER_S: Final = 10.0
_COMPLAINT_BYTES: Final = 2000


@dataclass(frozen=True, slots=True)
class ServedVolume:
    """A prepared volume, as an NBD server needs it.

    Attributes:
        chain: its file and those underneath, the leaf first, each with its format, as the metadata says.
        shared: a template's volume, which is only read.
    """

    chain: tuple[Layer, ...]
    shared: bool = False


class VolumePaths(Protocol):
    """Where volumes are; storage knows."""

    def paths(self, domain_id: str, image_id: str, volume_id: str) -> ServedVolume:
        """The prepared chain of a volume.

        Raises:
            VdsmError: there is no such volume, or it cannot be used.
        """


class _Record(msgspec.Struct, frozen=True):
    identity: Identity
    export: Export


class NbdServers:
    """All NBD servers. Safe for several threads.

    Args:
        directory: where their sockets are; it is made when needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._servers: dict[str, tuple[KeptProcess, Export]] = {}

    def recover(self) -> None:
        """Find the servers that an earlier agent started; what is left of ended ones is removed."""
        for place in sorted(self._directory.glob("*.json")):
            server_id = place.stem
            with self._one(server_id):
                record = _read(place)
                process = KeptProcess(record.identity) if record else None
                if record is not None and process is not None and process.is_alive():
                    log.info("found the NBD server %s (pid %d) again", server_id, record.identity.pid)
                    self._servers[server_id] = (process, record.export)
                else:
                    self._forget(server_id)

    def start(self, server_id: str, export: Export) -> str:
        """Start a server, or find that it serves the same already; its url.

        Raises:
            NbdServerExists: it serves something else.
            NbdServerFailed: it could not be started.
            BadParameter: an image of the chain would open other files.
        """
        address = self.address(server_id)
        with self._one(server_id):
            found = self._servers.get(server_id)
            if found is not None and found[0].is_alive():
                if found[1] != export:
                    raise NbdServerExists(server_id)
                return qemu_nbd.url(address)
            _check_headers(export)
            self._directory.mkdir(mode=0o750, exist_ok=True)
            self._forget(server_id)
            process = self._started(server_id, export)
            self._servers[server_id] = (process, export)
            record = _Record(process.identity, export)
            persist_file(self._path(server_id, "json"), msgspec.json.encode(record))
        log.info("the NBD server %s (pid %d) serves %s", server_id, process.identity.pid, export.chain[0].path)
        return qemu_nbd.url(address)

    def stop(self, server_id: str) -> None:
        """End a server; nothing if there is none.

        Raises:
            Unfinished: its process could not be ended.
        """
        with self._one(server_id):
            found = self._servers.get(server_id)
            if found is not None:
                found[0].stop(_STOP_S)
                log.info("the NBD server %s was ended", server_id)
            self._forget(server_id)
        with self._lock:
            self._locks.pop(server_id, None)

    def stop_all(self) -> None:
        """End all servers; the directory goes, too."""
        for server_id in self.running():
            try:
                self.stop(server_id)
            except VdsmError as error:
                log.error("the NBD server %s: %s", server_id, error)  # noqa: TRY400 - the message says all
        try:
            self._directory.rmdir()
        except OSError as error:
            log.debug("%s stays: %s", self._directory, error)

    def running(self) -> list[str]:
        """The ids of the servers, ended ones that nobody stopped included."""
        return sorted(self._servers)

    def address(self, server_id: str) -> Path:
        """The socket of a server."""
        return self._path(server_id, "sock")

    def _started(self, server_id: str, export: Export) -> KeptProcess:
        """A server that answers; past the page cache where the file system can."""
        said = ""
        for direct in (True, False):
            with self._path(server_id, "log").open("wb") as complaints:
                said = self._attempt(server_id, export, complaints.fileno(), direct=direct)
            found = self._servers.get(server_id)
            if found is not None:
                return found[0]
            said = said or _tail(self._path(server_id, "log"))
            remove(self.address(server_id))
        self._forget(server_id)
        raise NbdServerFailed(f"starting the NBD server {server_id}", said or "no answer in time")

    def _attempt(self, server_id: str, export: Export, log_to: int, *, direct: bool) -> str:
        """Start it; why not, or nothing said."""
        address = self.address(server_id)
        try:
            child = qemu_nbd.start(export, address, direct=direct, log_to=log_to)
        except CommandFailed as error:
            return str(error)
        try:
            process = KeptProcess.of_child(child)
        except ProcessLookupError:
            child.stop(0.0)
            return ""
        if answers_within(lambda: qemu_nbd.serves(address), process, _START_S):
            self._servers[server_id] = (process, export)
        else:
            child.stop(0.0)
        return ""

    def _forget(self, server_id: str) -> None:
        found = self._servers.pop(server_id, None)
        if found is not None:
            found[0].stop(0.0)  # clears an ended child away
        remove(*(self._path(server_id, kind) for kind in ("json", "sock", "log")))

    def _path(self, server_id: str, kind: str) -> Path:
        return self._directory / f"{server_id}.{kind}"

    @contextmanager
    def _one(self, server_id: str) -> Iterator[None]:
        """One change at a time for each server; others do not wait for it."""
        with self._lock:
            lock = self._locks.setdefault(server_id, threading.Lock())
        with lock:
            yield


def _check_headers(export: Export) -> None:
    """Refuse an image whose data would be in a file that it names itself."""
    for layer in export.chain:
        if layer.format == "qcow2":
            header = qemu_img.read_header(layer.path, timeout_s=_HEADER_S)
            if header is None:
                raise BadParameter("vol_id", f"{os.path.basename(layer.path)} is no qcow2 image")  # noqa: PTH119
            if header.data_file is not None:
                raise BadParameter("vol_id", "its data would be in another file, which its header names")


def _read(place: Path) -> _Record | None:
    try:
        return msgspec.json.decode(read_file(place) or b"", type=_Record)
    except (msgspec.MsgspecError, VdsmError, OSError) as error:
        log.warning("%s cannot be read: %s", place, error)
        return None


def _tail(place: Path) -> str:
    try:
        return place.read_bytes()[-_COMPLAINT_BYTES:].decode("utf-8", "replace").strip()
    except OSError:
        return ""
