"""supervdsmd's socket: who may connect, reading of requests, handing them to a bounded pool, answering.

    accept -> peer allowed? -> idle -> request whole -> busy (a worker runs the call and answers) -> idle
                                +-> end of file, junk, too long: closed

Calls that may wait for a server on the network have a pool of their own, so that dead ones hinder no other call.
One thread owns all connections and never waits for a client or for a call: it reads what is there. A worker sends its
answer under a deadline. Only the owner closes a connection, and never while a worker uses it.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import stat
import struct
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

import msgspec

from vdsm.base import logs
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import BadParameter, Busy, Denied, Failed, Unreachable, VdsmError
from vdsm.base.threads import Pool
from vdsm.privileged.calls import MOUNT_CALLS
from vdsm.privileged.frames import (
    FrameBuffer,
    Reply,
    Request,
    decode_arguments,
    encode_error,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from vdsm.base.config import Supervdsm
    from vdsm.privileged.calls import Privileged

log = logging.getLogger(__name__)

_CREDENTIALS: Final = struct.Struct("=iII")
_CHUNK: Final = 65536
# Seconds that a client gets to take an answer.
_SEND_S: Final = 5
# Seconds that running calls get when the server stops.
_STOP_S: Final = 2.0


class Server:
    """Serves ``Privileged`` on a unix socket.

    Args:
        implementation: does the work.
        path: where the socket is made; a stale one is removed.
        allowed_uids: the user ids that may call.
        settings: sizes of pool and frames.
        owner: (uid, gid) that the socket gets; its mode is 0660.
    """

    def __init__(
        self,
        implementation: Privileged,
        path: Path,
        allowed_uids: Collection[int],
        settings: Supervdsm,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._implementation = implementation
        self._path = path
        self._allowed = frozenset(allowed_uids)
        self._settings = settings
        self._owner = owner
        self._pool = Pool("supervdsm", settings.workers, settings.queue)
        self._mounts = Pool("supervdsm-mount", settings.mount_workers, settings.queue)
        self._finished: SimpleQueue[_Connection] = SimpleQueue()
        self._connections: set[_Connection] = set()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False

    def serve(self) -> None:
        """Serve until :meth:`stop` is called from another thread or a signal handler.

        Raises:
            Unreachable: another server has the socket, or it cannot be made.
        """
        with self._listen() as listener, selectors.DefaultSelector() as selector:
            made = self._path.stat()
            selector.register(listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            log.info("serving on %s for users %s", self._path, sorted(self._allowed))
            try:
                while not self._stopping:
                    for key, _ in selector.select():
                        self._serve_ready(key, listener, selector)
            finally:
                self._close(made)
        log.info("stopped")

    def stop(self) -> None:
        """Make :meth:`serve` return; may be called from a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def _serve_ready(
        self, key: selectors.SelectorKey, listener: socket.socket, selector: selectors.BaseSelector
    ) -> None:
        if key.fileobj is listener:
            self._accept(listener, selector)
        elif isinstance(key.data, _Connection):
            self._read(key.data, selector)
        else:
            os.eventfd_read(self._wake)
            self._release(selector)

    def _listen(self) -> socket.socket:
        """Make the socket under another name: who finds its own finds it open, with the right owner and mode."""
        self._refuse_occupied()
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o117)
        try:
            unfinished.unlink(missing_ok=True)
            listener.bind(os.fspath(unfinished))
            if self._owner is not None:
                _give(unfinished, self._owner)
            listener.listen(self._settings.connections)
            unfinished.rename(self._path)
        except OSError as error:
            listener.close()
            unfinished.unlink(missing_ok=True)
            raise Unreachable(f"socket {self._path}", str(error)) from error
        finally:
            os.umask(mask)
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        return listener

    def _refuse_occupied(self) -> None:
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise Unreachable(f"socket {self._path}", "something else has this name")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # noqa: FBT003 - the standard library's signature
            try:
                probe.connect(os.fspath(self._path))
            except ConnectionRefusedError:
                return  # a dead server's; it will be replaced
            except BlockingIOError:
                pass  # somebody listens, with a full backlog
        raise Unreachable(f"socket {self._path}", "another server serves it")

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            client, _ = listener.accept()
        except OSError as error:
            log.warning("accept: %s", error)
            return
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        connection = _Connection(client, uid, FrameBuffer(self._settings.frame_bytes))
        if uid not in self._allowed:
            log.warning("refused user %d (pid %d)", uid, pid)
            connection.answer_and_close(Denied("supervdsm", "root"))
        elif len(self._connections) >= self._settings.connections:
            log.warning("refused pid %d: %d connections", pid, len(self._connections))
            connection.answer_and_close(Busy("supervdsm"))
        else:
            self._connections.add(connection)
            selector.register(client, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection, selector: selectors.BaseSelector) -> None:
        try:
            data = connection.socket.recv(_CHUNK, socket.MSG_DONTWAIT)
            body = connection.buffer.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, BadParameter) as error:
            self._drop(connection, selector, error)
            return
        if not data:
            self._drop(connection, selector, None)
        elif body is not None and connection.busy and connection.next is not None:
            self._drop(connection, selector, BadParameter("frame", "came before the answers to two others"))
        elif body is not None and connection.busy:
            # A worker answers before it gives the connection back, and the client may be faster than that.
            connection.next = body
        elif body is not None:
            self._dispatch(connection, body)

    def _drop(self, connection: _Connection, selector: selectors.BaseSelector, error: Exception | None) -> None:
        """Listen to this client no more. A worker that is busy for it comes to its end first."""
        selector.unregister(connection.socket)
        connection.gone = True
        if error is not None:
            log.warning("closed a connection of user %d: %s", connection.uid, error)
        if not connection.busy:
            if isinstance(error, VdsmError):
                connection.answer_and_close(error)
            connection.socket.close()
            self._connections.discard(connection)

    def _dispatch(self, connection: _Connection, body: bytes) -> None:
        connection.busy = True
        try:
            self._pool_for(body).submit(self._work, connection, body)
        except Busy as error:
            connection.busy = False
            connection.send(Reply(error=encode_error(error)), dont_wait=True)

    def _pool_for(self, body: bytes) -> Pool:
        """Who does a request; one that cannot be read is refused by the common pool."""
        try:
            name = msgspec.json.decode(body, type=_Name).call
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._pool
        return self._mounts if name in MOUNT_CALLS else self._pool

    def _release(self, selector: selectors.BaseSelector) -> None:
        while True:
            try:
                connection = self._finished.get_nowait()
            except Empty:
                return
            connection.busy = False
            if connection.failed and not connection.gone:
                self._drop(connection, selector, None)
            elif connection.gone:
                connection.socket.close()
                self._connections.discard(connection)
            elif connection.next is not None:
                body, connection.next = connection.next, None
                self._dispatch(connection, body)

    def _work(self, connection: _Connection, body: bytes) -> None:
        """In a worker: run one call and answer it."""
        try:
            reply = self._reply(connection, body)
            if len(reply.result) > self._settings.frame_bytes:
                reply = Reply(error=encode_error(Failed("supervdsm", "the answer is too long")))
            connection.send(reply)
        except Exception:
            # Nobody waits for this worker's future; the client must not wait for an answer that cannot be made.
            connection.failed = True
            log.exception("no answer")
        finally:
            self._finished.put(connection)
            os.eventfd_write(self._wake, 1)

    def _reply(self, connection: _Connection, body: bytes) -> Reply:
        began = monotonic_s()
        name = "?"
        try:
            request = msgspec.json.decode(body, type=Request)
            name = request.call
            logs.flow_id.set(request.flow[:80])
            arguments = decode_arguments(request.call, request.args)
            result = getattr(self._implementation, request.call)(**arguments)
            reply = Reply(result=msgspec.Raw(msgspec.json.encode(result)))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reply = _refusal(name, BadParameter("request", str(error)))
        except VdsmError as error:
            reply = _refusal(name, error)
        except Exception as error:
            log.exception("%s(%s): internal error", name, "")
            reply = _refusal(name, Failed(name, f"internal error {type(error).__name__} in supervdsm"))
        log.info("%.40r for user %d: %.3f s", name, connection.uid, monotonic_s() - began)
        return reply

    def _close(self, made: os.stat_result) -> None:
        """Leave nothing: the socket's name goes, if it is still ours; running calls get a moment."""
        try:
            now = self._path.stat()
            if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
                self._path.unlink()
        except FileNotFoundError:
            log.warning("%s was gone already", self._path)
        for pool in (self._pool, self._mounts):
            if not pool.stop(_STOP_S):
                log.warning("calls that still run are left behind: %s", pool.stats())
        for connection in self._connections:
            if not connection.busy:
                connection.socket.close()


class _Name(msgspec.Struct):
    """All of a request that is looked at before a worker has it."""

    call: str


def _give(path: Path, owner: tuple[int, int]) -> None:
    """Change a socket's owner. The directory may be the unprivileged user's, who may put something else there."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not the socket that was made")
        os.chown(f"/proc/self/fd/{descriptor}", *owner)
    finally:
        os.close(descriptor)


class _Connection:
    """One client.

    ``busy``: a worker has it; ``gone``: nobody listens to it; ``failed``: an answer did not get out;
    ``next``: a request that came while it was busy.
    """

    def __init__(self, client: socket.socket, uid: int, buffer: FrameBuffer) -> None:
        # Blocking for workers, who send; the owner reads with MSG_DONTWAIT.
        client.setblocking(True)  # noqa: FBT003 - the standard library's signature
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_S, 0))
        self.socket: Final = client
        self.uid: Final = uid
        self.buffer: Final = buffer
        self.busy = False
        self.gone = False
        self.failed = False
        self.next: bytes | None = None

    def send(self, reply: Reply, *, dont_wait: bool = False) -> None:
        """Send an answer; a client that does not take it is marked as failed."""
        data = frame(msgspec.json.encode(reply))
        flags = socket.MSG_NOSIGNAL | (socket.MSG_DONTWAIT if dont_wait else 0)
        try:
            self.socket.sendall(data, flags)
        except OSError as error:
            self.failed = True
            log.warning("a client of user %d did not take its answer: %s", self.uid, error)

    def answer_and_close(self, error: VdsmError) -> None:
        """Say why, if the client listens, and close."""
        self.send(Reply(error=encode_error(error)), dont_wait=True)
        self.socket.close()


def _refusal(name: str, error: VdsmError) -> Reply:
    log.info("%.40r failed: %s", name, error)
    return Reply(error=encode_error(error))
