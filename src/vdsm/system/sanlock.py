"""sanlock's daemon, and nothing but it: the one module that imports Debian's python3-sanlock.

Every call is done by a worker under a deadline, because the daemon, or the storage beneath it, may not answer. A call
that is given up goes on in its worker and is counted; a connection on which that happens is closed when it comes back,
so that no lease is got too late.
Calls that the daemon answers from memory have workers of their own: storage that hangs never delays them.

    Daemon        the daemon: lockspaces, formatting, looking
    Connection    one registered connection of this process: leases taken on it are held until they are released, the
                  connection is closed, or the process ends; the daemon ends the process when it cannot keep them

The module is imported with the first call, so machines without it work as long as nobody needs it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, unique
from types import ModuleType
from typing import Any, Final, TypeVar

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Failed, Unfinished
from vdsm.base.threads import Pool

R = TypeVar("R")

# Numbers of sanlock's own, all of them: another host, or another process of this host, has the lease.
_HELD: Final = frozenset({-212, -213, -243, -244, -245, -246, -247, errno.EAGAIN, errno.EEXIST, errno.EBUSY})
# There is no lease, or that of another name, where one was looked for.
_NO_LEASE: Final = frozenset({-223, -224, -226, -227})
_AWAY: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EPIPE, errno.ECONNRESET, errno.EBADF})


@dataclass(eq=False)
class SanlockFailed(Failed):
    """sanlock refused. ``number``: an errno, or, below -200, a number of sanlock's own."""

    name = "sanlock_failed"
    status = 503
    number: int = 0

    @property
    def held(self) -> bool:
        """Somebody else has the lease."""
        return self.number in _HELD

    @property
    def no_lease(self) -> bool:
        """There is no such lease at that place."""
        return self.number in _NO_LEASE


@unique
class HostState(Enum):
    """What sanlock has seen of a host."""

    FREE = "free"
    LIVE = "live"
    FAIL = "fail"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Host:
    """A host of a lockspace.

    Attributes:
        host_id: its id.
        generation: how often the id was taken.
        timestamp_s: when it last showed that it is alive, by its own sanlock's monotonic clock; 0 when it is free.
        io_timeout_s: what its times are multiples of.
        state: what this host thinks of it.
    """

    host_id: int
    generation: int
    timestamp_s: int
    io_timeout_s: int
    state: HostState


@dataclass(frozen=True, slots=True)
class Spot:
    """A place on storage: path, and in bytes its offset, the size of a lease's area, and the sector."""

    path: str
    offset: int
    align: int
    sector: int


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that a connection has: names, and where it is."""

    lockspace: str
    resource: str
    path: str
    offset: int


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for what the daemon answers from memory, for what reads or writes storage, and for taking a lease.

    With its default of 10 s for one I/O, sanlock gives up an access of its own after some 40 s.
    """

    memory_s: float = 5.0
    storage_s: float = 60.0
    acquire_s: float = 60.0


class Daemon:
    """The daemon of this host; may be used by many threads at once.

    Args:
        deadlines: of the calls.
        workers: how many calls may wait for storage at the same time; as many more may wait for a worker.
    """

    def __init__(self, deadlines: Deadlines | None = None, *, workers: int = 16) -> None:
        self._deadlines: Final = deadlines or Deadlines()
        self._memory: Final = Pool("sanlock", 4, 64)
        self._storage: Final = Pool("sanlock-disk", workers, workers)
        self._lock = threading.Lock()
        self._module: ModuleType | None = None
        self._abandoned = 0

    @property
    def abandoned(self) -> int:
        """How many calls were given up and have not come back."""
        with self._lock:
            return self._abandoned

    def stop(self, deadline_s: float) -> bool:
        """Take no more calls; whether all workers ended within ``deadline_s`` seconds. Leases stay as they are."""
        until = monotonic_s() + deadline_s
        stopped = [pool.stop(max(0.0, until - monotonic_s())) for pool in (self._memory, self._storage)]
        return all(stopped)

    def register(self) -> Connection:
        """A new connection, on which leases can be taken."""
        numbers: list[int] = []

        def connect(module: ModuleType) -> None:
            numbers.append(module.register())

        def close() -> None:
            for number in numbers:
                os.close(number)

        self._do(self._memory, "registering with sanlock", connect, self._deadlines.memory_s, close)
        (number,) = numbers
        fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)  # a child would keep our leases
        return Connection(self, number, self._deadlines)

    # -- lockspaces

    def add_lockspace(self, name: str, host_id: int, spot: Spot, io_timeout_s: int) -> None:
        """Begin to join. What was begun, or done, already with the same host id and path is fine."""

        def add(module: ModuleType) -> None:
            module.add_lockspace(
                name.encode(), host_id, spot.path, offset=spot.offset, iotimeout=io_timeout_s, wait=False
            )

        try:
            self.slow(f"joining lockspace {name} as host {host_id}", add)
        except SanlockFailed as error:
            if error.number not in {errno.EEXIST, errno.EINPROGRESS}:
                raise

    def in_lockspace(self, name: str, host_id: int, spot: Spot) -> bool | None:
        """Whether the host is in; None on its way in or out."""

        def inquire(module: ModuleType) -> bool | None:
            found: bool | None = module.inq_lockspace(name.encode(), host_id, spot.path, offset=spot.offset, wait=False)
            return found

        return self.quick(f"asking for lockspace {name}", inquire)

    def remove_lockspace(self, name: str, host_id: int, spot: Spot) -> None:
        """Leave; nothing if the host is not in. EBUSY while leases are held."""

        def remove(module: ModuleType) -> None:
            module.rem_lockspace(name.encode(), host_id, spot.path, offset=spot.offset, wait=True, unused=True)

        try:
            self.slow(f"leaving lockspace {name}", remove)
        except SanlockFailed as error:
            if error.number != errno.ENOENT or not self._answers():
                raise

    def hosts(self, name: str, host_id: int = 0) -> list[Host]:
        """The hosts of a lockspace that this host is in: one, or all that are not free."""
        what = f"asking for the hosts of lockspace {name}"
        return self.quick(what, lambda module: _hosts(module, module.get_hosts(name.encode(), host_id)))

    def set_event(self, name: str, host_id: int, event: int, data: int = 0) -> None:
        """Show an event to a host of a lockspace with the next renewal."""

        def show(module: ModuleType) -> None:
            module.set_event(
                name.encode(), host_id, 0, event, data, module.SETEV_CUR_GENERATION | module.SETEV_REPLACE_EVENT
            )

        self.quick(f"telling host {host_id} of lockspace {name}", show)

    # -- formatting and looking

    def write_lockspace(self, name: str, spot: Spot, io_timeout_s: int) -> None:
        """Format a lockspace."""

        def write(module: ModuleType) -> None:
            module.write_lockspace(
                name.encode(),
                spot.path,
                offset=spot.offset,
                iotimeout=io_timeout_s,
                align=spot.align,
                sector=spot.sector,
            )

        self.slow(f"formatting lockspace {name}", write)

    def write_resource(self, lockspace: str, resource: str, spot: Spot) -> None:
        """Format a lease; empty names leave none there."""

        def write(module: ModuleType) -> None:
            module.write_resource(
                lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], align=spot.align, sector=spot.sector
            )

        self.slow(f"formatting lease {resource or 'nothing'} of lockspace {lockspace}", write)

    def read_resource(self, spot: Spot) -> tuple[str, str, int]:
        """The names, and how often it was taken, of the lease at a place."""

        def read(module: ModuleType) -> tuple[str, str, int]:
            found = module.read_resource(spot.path, offset=spot.offset, align=spot.align, sector=spot.sector)
            return _text(found["lockspace"]), _text(found["resource"]), int(found.get("version", 0))

        return self.slow(f"reading the lease at {spot.offset} in {spot.path}", read)

    def read_owners(self, lockspace: str, resource: str, spot: Spot) -> list[Host]:
        """The hosts that the storage says have a lease; some may be dead."""

        def read(module: ModuleType) -> list[Host]:
            disks = [(spot.path, spot.offset)]
            found = module.read_resource_owners(
                lockspace.encode(), resource.encode(), disks, align=spot.align, sector=spot.sector
            )
            return _hosts(module, found)

        return self.slow(f"reading who has the lease {resource}", read)

    def read_value(self, lockspace: str, resource: str, spot: Spot, size: int) -> bytes:
        """The value of a lease that is held with its value."""

        def read(module: ModuleType) -> bytes:
            found: bytes = module.get_lvb(lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], size)
            return found

        return self.slow(f"reading the value of lease {resource}", read)

    def write_value(self, lockspace: str, resource: str, spot: Spot, value: bytes) -> None:
        """Set the value of a lease that is held with its value; on storage when it is released."""
        what = f"writing the value of lease {resource}"
        self.slow(
            what,
            lambda module: module.set_lvb(lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], value),
        )

    # -- calls

    def quick(self, what: str, call: Callable[[ModuleType], R]) -> R:
        """Do what the daemon answers from memory.

        Raises:
            SanlockFailed: it refused, or is not there.
            Unfinished: it did not answer in time.
            Busy: too many calls wait.
        """
        return self._do(self._memory, what, call, self._deadlines.memory_s, None)

    def slow(
        self,
        what: str,
        call: Callable[[ModuleType], R],
        *,
        timeout_s: float | None = None,
        come_late: Callable[[], object] | None = None,
    ) -> R:
        """Do what waits for storage; see ``quick``. ``come_late`` is called when a call given up comes back."""
        seconds = self._deadlines.storage_s if timeout_s is None else timeout_s
        return self._do(self._storage, what, call, seconds, come_late)

    def _do(
        self,
        pool: Pool,
        what: str,
        call: Callable[[ModuleType], R],
        timeout_s: float,
        come_late: Callable[[], object] | None,
    ) -> R:
        future = pool.submit(self._perform, what, call)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.cancel():
                if come_late is not None:
                    come_late()
            else:
                self._abandon(future, come_late)
            raise Unfinished(what, timeout_s) from None

    def _perform(self, what: str, call: Callable[[ModuleType], R]) -> R:
        module = self._loaded()
        try:
            return call(module)
        except module.SanlockException as error:
            number = error.errno
            raise SanlockFailed(what, _reason(error), number) from error

    def _abandon(self, future: Future[R], come_late: Callable[[], object] | None) -> None:
        with self._lock:
            self._abandoned += 1

        def came_back(_: Future[R]) -> None:
            with self._lock:
                self._abandoned -= 1
            if come_late is not None:
                come_late()

        future.add_done_callback(came_back)

    def _loaded(self) -> ModuleType:
        with self._lock:
            if self._module is None:
                try:
                    import sanlock  # noqa: PLC0415 - machines without it work as long as nobody needs it
                except ImportError as error:
                    raise SanlockFailed("using sanlock", f"python3-sanlock cannot be loaded: {error}") from error
                self._module = sanlock
            return self._module

    def _answers(self) -> bool:
        """Whether the daemon is there: ENOENT also says that its socket is not."""
        self.quick("asking sanlock", lambda module: module.get_lockspaces())
        return True


class Connection:
    """See the module. One call at a time: later ones wait for it, up to their own deadline."""

    def __init__(self, daemon: Daemon, number: int, deadlines: Deadlines) -> None:
        self._daemon: Final = daemon
        self._deadlines: Final = deadlines
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._number = number

    @property
    def alive(self) -> bool:
        """Whether the daemon still has its end of it; costs nothing."""
        with self._lock:
            if self._number < 0:
                return False
            watch = select.poll()
            watch.register(self._number, 0)  # only errors and the other end's going
            return not watch.poll(0)

    def close(self) -> None:
        """End it: the daemon releases what was taken on it."""
        with self._lock:
            if self._number >= 0:
                os.close(self._number)
                self._number = -1

    def acquire(self, lockspace: str, resource: str, spot: Spot, *, value: bool) -> None:
        """Take a lease, exclusively. If that fails the connection is closed, also if it is got too late.

        Raises:
            SanlockFailed: ``held``, or another number.
            Unfinished: no answer in time.
        """

        def take(module: ModuleType) -> None:
            module.acquire(
                lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], slkfd=self._number, lvb=value
            )

        try:
            self._in_turn(f"taking lease {resource}", take, self._deadlines.acquire_s)
        except Unfinished:
            raise  # the worker has it and closes it when the call comes back
        except BaseException:
            self.close()
            raise

    def release(self, lockspace: str, resource: str, spot: Spot) -> None:
        """Give a lease back; nothing if it is not held."""

        def give(module: ModuleType) -> None:
            module.release(lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], slkfd=self._number)

        try:
            self._in_turn(f"giving lease {resource} back", give, self._deadlines.storage_s)
        except SanlockFailed as error:
            if error.number not in {errno.ENOENT, errno.EPERM} or not self.alive:
                raise

    def held(self) -> list[Held]:
        """The leases that the daemon says this connection has."""

        def ask(module: ModuleType) -> list[Held]:
            if not self._turn.acquire(timeout=self._deadlines.memory_s):
                raise SanlockFailed("asking sanlock", "the connection is in use", errno.EBUSY)
            try:
                found = module.inquire(slkfd=self._number)
            finally:
                self._turn.release()
            return [
                Held(_text(item["lockspace"]), _text(item["resource"]), _text(path), int(offset))
                for item in found
                for path, offset in item["disks"]
            ]

        if not self.alive:
            raise SanlockFailed("asking sanlock", "it has closed the connection", errno.EPIPE)
        return self._daemon.quick("asking sanlock for the leases held", ask)

    def _in_turn(self, what: str, call: Callable[[ModuleType], None], timeout_s: float) -> None:
        def perform(module: ModuleType) -> None:
            if not self._turn.acquire(timeout=timeout_s):
                raise SanlockFailed(what, "the connection is in use", errno.EBUSY)
            try:
                call(module)
            finally:
                self._turn.release()

        self._daemon.slow(what, perform, timeout_s=timeout_s, come_late=self.close)


def is_away(error: Exception) -> bool:
    """Whether an error says that the daemon is not there (any more)."""
    return isinstance(error, SanlockFailed) and error.number in _AWAY


def _hosts(module: ModuleType, found: list[dict[str, int]]) -> list[Host]:
    states = {
        module.HOST_FREE: HostState.FREE,
        module.HOST_LIVE: HostState.LIVE,
        module.HOST_FAIL: HostState.FAIL,
        module.HOST_DEAD: HostState.DEAD,
    }
    return [
        Host(
            item["host_id"],
            item["generation"],
            item["timestamp"],
            item["io_timeout"],
            states.get(item["flags"] & 0xF, HostState.UNKNOWN),
        )
        for item in found
    ]


def _reason(error: Any) -> str:
    """``(number, what, text)``."""
    return ", ".join(str(part) for part in error.args[1:]) or str(error)


def _text(value: bytes | str) -> str:
    return os.fsdecode(value).rstrip("\0")
