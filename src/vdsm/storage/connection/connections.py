"""Connections to storage: what a manager asks to be mounted or linked, and what of it is there.

    LOCALFS                      a link below mnt to the directory
    NFS, POSIXFS, GLUSTERFS      a mount, made by the root helper; looked at with the eyes of those who will use it

    connect     not there -> mounted -> may be used: done; may not: unmounted, 469
                there already: done, without another look
    disconnect  umount -f -l, and the mount point is removed; what is not there is fine

Each connection has a thread and a deadline of its own, and nothing here looks into a mount, so a dead server costs no
other connection anything. At one place one thing is done at a time; the same request made twice at once is carried out
once. Nothing is remembered: what there is, also after a restart of the agent, is what the kernel and the tree say.

Source: storage format, section 1.3.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import BadParameter, CommandFailed, Unfinished, VdsmError
from vdsm.storage.connection.mount_requests import Connection, MountRequest, NfsDefaults, mount_request
from vdsm.storage.connection.mount_table import MountTable, likely_type, normalized
from vdsm.storage.errors import (
    ConnectionFailed,
    InvalidParameter,
    MountFailed,
    StorageAccessDenied,
)
from vdsm.storage.formats.mounts import directory_name, normalize
from vdsm.storage.kinds import StorageType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vdsm.privileged.calls import Privileged
    from vdsm.storage.connection.repository import Repository
    from vdsm.system.mounts import Mount

log = logging.getLogger(__name__)

__all__ = ["Connection", "Connections", "Mounted", "NfsDefaults", "Status"]

_MOST_AT_ONCE: Final = 32
# Seconds beside the mount and its taking back: looks at access, and a busy machine.
_MARGIN_S: Final = 60.0
_FUSE: Final = "fuse"


@dataclass(frozen=True, slots=True)
class Status:
    """How one connection came out: 0, or the error's number, and what went wrong in words."""

    id: str
    code: int
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A connection that is there.

    Attributes:
        path: its mount point, or its link.
        type: the kind; of a mount that this agent's former run made, as far as the table of mounts tells.
        spec: the normalized address, or the directory.
    """

    path: str
    type: StorageType
    spec: str


class Connections:
    """All connections of this host; used by many threads at once.

    Args:
        repository: the tree of mount points.
        privileged: the root helper.
        mount_deadline_s: seconds that the helper gives a mount.
        nfs: what NFS connections get that do not say it.
        leaving: called with a place before it is unmounted, so that nobody keeps it busy.
        table: the table of mounts of now.
    """

    def __init__(
        self,
        repository: Repository,
        privileged: Privileged,
        *,
        mount_deadline_s: float = 60.0,
        nfs: NfsDefaults | None = None,
        leaving: Callable[[str], None] | None = None,
        table: Callable[[], MountTable] = MountTable.read,
    ) -> None:
        self._repository: Final = repository
        self._privileged: Final = privileged
        self._deadline_s: Final = 2 * mount_deadline_s + _MARGIN_S
        self._nfs: Final = nfs or NfsDefaults()
        self._leaving: Final = leaving
        self._table: Final = table
        # The kernel and the root helper know no links on the way to the tree.
        self._real_root: Final = str(Path(repository.root).resolve())
        self._places: Final = _Places(self._deadline_s)
        self._types: dict[str, StorageType] = {}
        self._unchecked: set[str] = set()

    def connect(self, connections: Sequence[Connection]) -> list[Status]:
        """Mount or link; what is there already is fine.

        Returns:
            A status for each, in their order: 1000 a bad field, 469 no access, 477 mount failed or server silent, 451.
        """
        return self._each("connect", self._connect, connections)

    def disconnect(self, connections: Sequence[Connection]) -> list[Status]:
        """Unmount or unlink, also what is in use or hangs; what is not there is fine.

        Returns:
            A status for each, in their order: 1000 a bad field, 477 cannot be unmounted, 451.
        """
        return self._each("disconnect", self._disconnect, connections)

    def validate(self, connections: Sequence[Connection]) -> list[Status]:
        """Check requests and, of LOCALFS, the directory; nothing is mounted."""
        return self._each("validate", self._validate, connections)

    def mounts(self) -> list[Mounted]:
        """Everything of ours that is mounted or linked now, ordered by path; a frozen mount is listed like others."""
        table = self._table()
        found = [
            self._mounted(item)
            for folder in (self._repository.mounts, self._repository.gluster_mounts)
            for item in table.directly_below(self._real(folder))
        ]
        for path, target in self._repository.linked_directories().items():
            if _is_name_of(path, target):
                found.append(Mounted(path, StorageType.LOCALFS, target))
        return sorted(found, key=lambda mounted: mounted.path)

    def _each(
        self, verb: str, action: Callable[[Connection, str], None], connections: Sequence[Connection]
    ) -> list[Status]:
        found = [Status(connection.id, MountFailed.code, "it takes too long") for connection in connections]
        pairs = list(enumerate(connections))
        one = partial(self._one, verb, action)
        try:
            for (number, _), done in threads.itmap(one, pairs, workers=_MOST_AT_ONCE, timeout_s=self._deadline_s):
                found[number] = done.result()
        except Unfinished as error:
            log.error("%s: %s", verb, error)  # noqa: TRY400 - the deadline says it all
        return found

    def _one(self, verb: str, action: Callable[[Connection, str], None], pair: tuple[int, Connection]) -> Status:
        connection = pair[1]
        began = monotonic_s()
        code, reason = 0, ""
        try:
            path = self._repository.mount_of(connection.spec, connection.type)
            self._places.do(path, (verb, replace(connection, id="")), partial(action, connection, path))
        except VdsmError as error:
            code, reason = _code(error), str(error)
            log.warning("%s %s %r: %s", verb, connection.type.value, connection.spec, error)
        except Exception as error:
            code, reason = ConnectionFailed.code, type(error).__name__
            log.exception("%s %s %r", verb, connection.type.value, connection.spec)
        seconds = monotonic_s() - began
        log.info("%s %s %r: %d, %.3f s", verb, connection.type.value, connection.spec, code, seconds)
        return Status(connection.id, code, reason)

    def _connect(self, connection: Connection, path: str) -> None:
        if connection.type is StorageType.LOCALFS:
            directory = self._directory(connection)
            self._repository.link_directory(path, directory)
            return
        request = mount_request(connection, self._nfs)
        found = self._table().at(self._real(path))
        if found is None:
            self._mount(request, path)
        elif not _is_same(found, request.source):
            raise MountFailed(f"mounting {request.source!r:.200}", f"{found.source} is mounted on {path}")
        self._types[path] = connection.type
        if found is None or path in self._unchecked:
            self._check_mounted(path)

    def _mount(self, request: MountRequest, path: str) -> None:
        self._repository.make_mount_point(path)
        try:
            self._privileged.mount(request.source, self._real(path), request.vfs_type, request.options)
        except VdsmError:
            # Without its directory nothing can come up late. Where that is too late already, it is looked at later.
            self._repository.remove_mount_point(path)
            if self._table().at(self._real(path)) is not None:
                self._unchecked.add(path)
            raise

    def _check_mounted(self, path: str) -> None:
        self._unchecked.add(path)
        try:
            self._check_access(path, self._real(path))
        except VdsmError:
            self._unmount(path)
            raise
        self._unchecked.discard(path)

    def _check_access(self, path: str, looked_at: str) -> None:
        access = self._privileged.inspect_access(looked_at)
        if not access.agent:
            raise StorageAccessDenied("the agent's user", path)
        if not access.qemu:
            raise StorageAccessDenied("virtual machines' user", path)

    def _directory(self, connection: Connection) -> str:
        """The directory of a LOCALFS connection, once it is known to be one that may be used."""
        directory = normalize(connection.spec)
        if not directory.startswith("/"):
            raise InvalidParameter("connection", f"must be an absolute path, is {connection.spec!r:.80}")
        access = self._privileged.inspect_access(directory)
        if not access.is_directory:
            raise InvalidParameter("connection", f"{directory!r:.200} is not a directory")
        if not (access.agent and access.qemu):
            raise StorageAccessDenied("virtual machines' user" if access.agent else "the agent's user", directory)
        return directory

    def _disconnect(self, connection: Connection, path: str) -> None:
        if connection.type is StorageType.LOCALFS:
            if self._leaving is not None:
                self._leaving(path)
            self._repository.unlink_directory(path)
            return
        if connection.type.is_block or connection.type is StorageType.CIFS:
            raise InvalidParameter("domainType", f"{connection.type.value} is not mounted")
        self._unmount(path)

    def _unmount(self, path: str) -> None:
        if self._table().at(self._real(path)) is not None:
            if self._leaving is not None:
                self._leaving(path)
            self._privileged.unmount(self._real(path), force=True, lazy=True)
        self._repository.remove_mount_point(path)
        self._types.pop(path, None)
        self._unchecked.discard(path)

    def _validate(self, connection: Connection, path: str) -> None:
        del path  # making the name was the check
        if connection.type is StorageType.LOCALFS:
            self._directory(connection)
        else:
            mount_request(connection, self._nfs)

    def _mounted(self, item: Mount) -> Mounted:
        path = self._repository.root + item.target.removeprefix(self._real_root)
        return Mounted(path, self._types.get(path) or likely_type(item), normalized(item.source))

    def _real(self, path: str) -> str:
        return self._real_root + path.removeprefix(self._repository.root)


class _Places:
    """Lets one thing happen at a place at a time; who asks for what is under way gets its outcome."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s: Final = patience_s
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[object, Future[None]]] = {}

    def do(self, place: str, what: object, action: Callable[[], None]) -> None:
        """Carry out an action.

        Raises:
            Unfinished: another one is under way for too long.
            VdsmError: what the action raises.
        """
        until = monotonic_s() + self._patience_s
        while True:
            mine: Future[None] = Future()
            with self._lock:
                asked, future = self._busy.setdefault(place, (what, mine))
            if future is mine:
                break
            if not _ended(future, until):
                raise Unfinished(f"what is being done at {place}", self._patience_s)
            if asked == what:
                return future.result()
        try:
            action()
        except BaseException as error:
            self._settle(place)
            mine.set_exception(error)
            raise
        self._settle(place)
        mine.set_result(None)
        return None

    def _settle(self, place: str) -> None:
        with self._lock:
            del self._busy[place]


def _ended(future: Future[None], until_s: float) -> bool:
    try:
        future.exception(max(0.0, until_s - monotonic_s()))
    except TimeoutError:
        return False
    return True


def _is_same(found: Mount, source: str) -> bool:
    # A FUSE program calls its source as it likes; the place, made from the address, says enough.
    return found.vfs_type.startswith(_FUSE) or normalized(found.source) == normalized(source)


def _is_name_of(path: str, directory: str) -> bool:
    try:
        return path.rpartition("/")[2] == directory_name(directory)
    except InvalidParameter:
        return False


def _code(error: VdsmError) -> int:
    """The number for a manager, which tells bad requests, missing access and failed mounts apart."""
    match error:
        case InvalidParameter() | StorageAccessDenied() | MountFailed() | ConnectionFailed():
            return error.code
        case BadParameter():
            return InvalidParameter.code
        case CommandFailed() | Unfinished():
            return MountFailed.code
        case _:
            return ConnectionFailed.code
