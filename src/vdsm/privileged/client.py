"""Asks supervdsmd, from vdsmd or any program of root's."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from vdsm.base import logs
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import BadParameter, Failed, Unfinished, Unreachable
from vdsm.privileged.calls import (
    MOUNT_CALLS,
    Hardware,
    ImageFacts,
    ImageFormat,
    KvmFacts,
    MountOutcome,
    PathFacts,
    RepositoryAccess,
    UnmountOutcome,
)
from vdsm.privileged.frames import FrameBuffer, Reply, Request, decode_error, frame

if TYPE_CHECKING:
    import os

R = TypeVar("R")

_CHUNK: Final = 65536
_MAX_REPLY: Final = 16 << 20
# Connections that are kept for the next call.
_KEEP: Final = 4


class PrivilegedClient:
    """``Privileged`` by way of supervdsmd; may be used by many threads at once.

    Connects when needed and again after supervdsmd was restarted. Every call may raise what ``Privileged`` says, and

        Unreachable: supervdsmd does not run, or died during the call (every call may be repeated).
        Unfinished: no answer within ``deadline_s`` seconds; for mounts ``mount_deadline_s`` more.
        Busy, Denied: supervdsmd has too much to do; it does not obey this user.
    """

    def __init__(
        self, socket_path: str | os.PathLike[str], deadline_s: float, *, mount_deadline_s: float = 60.0
    ) -> None:
        self._path: Final = str(socket_path)
        self._deadline_s: Final = deadline_s
        # A mount that comes too late is taken back, which may take as long once more.
        self._mount_deadline_s: Final = deadline_s + 2 * mount_deadline_s
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []

    def hardware(self) -> Hardware:
        """See ``Privileged.hardware``."""
        return self._call("hardware", Hardware)

    def initiator_name(self) -> str:
        """See ``Privileged.initiator_name``."""
        return self._call("initiator_name", str)

    def lock_manager(self) -> str:
        """See ``Privileged.lock_manager``."""
        return self._call("lock_manager", str)

    def inspect_path(self, path: str) -> PathFacts:
        """See ``Privileged.inspect_path``."""
        return self._call("inspect_path", PathFacts, path=path)

    def inspect_image(self, path: str, format: ImageFormat) -> ImageFacts:  # noqa: A002 - the domain's word
        """See ``Privileged.inspect_image``."""
        return self._call("inspect_image", ImageFacts, path=path, format=format)

    def probe_kvm(self, kernel: str, initrd: str) -> KvmFacts:
        """See ``Privileged.probe_kvm``."""
        return self._call("probe_kvm", KvmFacts, kernel=kernel, initrd=initrd)

    def inspect_access(self, path: str) -> RepositoryAccess:
        """See ``Privileged.inspect_access``."""
        return self._call("inspect_access", RepositoryAccess, path=path)

    def prepare_repository(self) -> None:
        """See ``Privileged.prepare_repository``."""
        self._call("prepare_repository", type(None))

    def mount(self, source: str, target: str, vfs_type: str, options: str) -> MountOutcome:
        """See ``Privileged.mount``."""
        done = self._call("mount", str, source=source, target=target, vfs_type=vfs_type, options=options)
        return "already" if done == "already" else "mounted"

    def unmount(self, target: str, force: bool, lazy: bool) -> UnmountOutcome:  # noqa: FBT001 - it has names on the wire
        """See ``Privileged.unmount``."""
        done = self._call("unmount", str, target=target, force=force, lazy=lazy)
        return "absent" if done == "absent" else "unmounted"

    def abandoned(self) -> int:
        """See ``Privileged.abandoned``."""
        return self._call("abandoned", int)

    def close(self) -> None:
        """Close idle connections; a later call opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _call(self, name: str, kind: type[R], **args: str | bool) -> R:
        data = frame(msgspec.json.encode(Request(name, _encoded(args), logs.flow_id.get())))
        seconds = self._mount_deadline_s if name in MOUNT_CALLS else self._deadline_s
        try:
            reply = self._exchange(data, monotonic_s() + seconds)
        except TimeoutError as error:
            raise Unfinished(f"supervdsm {name}", seconds) from error
        if reply.error is not None:
            raise decode_error(reply.error)
        try:
            return msgspec.json.decode(reply.result, type=kind)
        except msgspec.DecodeError as error:
            raise Failed(f"supervdsm {name}", f"bad answer: {error}") from error

    def _exchange(self, data: bytes, until: float) -> Reply:
        connection = self._kept()
        if connection is not None:
            try:
                return self._ask(connection, data, until)
            except Unreachable:
                # It was restarted since. Every call may be repeated.
                pass
        return self._ask(self._connect(), data, until)

    def _kept(self) -> socket.socket | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            # An idle connection has nothing to say but that it was closed.
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._deadline_s)
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            raise Unreachable("supervdsm", f"{self._path}: {error.strerror or error}") from error
        return connection

    def _ask(self, connection: socket.socket, data: bytes, until: float) -> Reply:
        """Send and wait for the answer; keeps the connection only if it is as good as new."""
        try:
            body = self._transfer(connection, data, until)
            reply = msgspec.json.decode(body, type=Reply)
        except TimeoutError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            raise Unreachable("supervdsm", str(error)) from error
        except BaseException:
            connection.close()
            raise
        with self._lock:
            keep = len(self._idle) < _KEEP
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        return reply

    def _transfer(self, connection: socket.socket, data: bytes, until: float) -> bytes:
        buffer = FrameBuffer(_MAX_REPLY)
        connection.settimeout(_left(until))
        # A refused client finds the reason in front of the end of file.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        while True:
            connection.settimeout(_left(until))
            received = connection.recv(_CHUNK)
            if not received:
                raise ConnectionResetError("it closed the connection")
            body = buffer.feed(received)
            if body is not None:
                return body


def _encoded(args: dict[str, str | bool]) -> dict[str, msgspec.Raw]:
    encoded = {}
    for key, value in args.items():
        try:
            encoded[key] = msgspec.Raw(msgspec.json.encode(value))
        except UnicodeEncodeError as error:
            raise BadParameter(key, "is not UTF-8") from error
    return encoded


def _left(until: float) -> float:
    left = until - monotonic_s()
    if left <= 0:
        raise TimeoutError
    return left
