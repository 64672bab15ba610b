"""The daemon of this host: lockspaces, and leases formatted and looked at. See the package."""

from __future__ import annotations

import errno
import fcntl
import os
from types import ModuleType
from typing import Final

from vdsm.system.sanlock.calls import Calls
from vdsm.system.sanlock.connection import Connection
from vdsm.system.sanlock.facts import Deadlines, Host, SanlockFailed, Spot, hosts_of, text_of


class Daemon:
    """The daemon of this host; may be used by many threads at once.

    Args:
        deadlines: of the calls.
        workers: how many calls may wait for storage at the same time; as many more may wait for a worker.
    """

    def __init__(self, deadlines: Deadlines | None = None, *, workers: int = 16) -> None:
        self._calls: Final = Calls(deadlines or Deadlines(), workers)

    @property
    def abandoned(self) -> int:
        """How many calls were given up and have not come back."""
        return self._calls.abandoned

    def stop(self, deadline_s: float) -> bool:
        """Take no more calls; whether all workers ended within ``deadline_s`` seconds. Leases stay as they are."""
        return self._calls.stop(deadline_s)

    def register(self) -> Connection:
        """A new connection, on which leases can be taken."""
        numbers: list[int] = []

        def connect(module: ModuleType) -> None:
            numbers.append(module.register())

        def close() -> None:
            for number in numbers:
                os.close(number)

        self._calls.quick("registering with sanlock", connect, come_late=close)
        (number,) = numbers
        fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)  # a child would keep our leases
        return Connection(self._calls, number)

    # -- lockspaces

    def add_lockspace(self, name: str, host_id: int, spot: Spot, io_timeout_s: int) -> None:
        """Begin to join. What was begun, or done, already with the same host id and path is fine."""

        def add(module: ModuleType) -> None:
            module.add_lockspace(
                name.encode(), host_id, spot.path, offset=spot.offset, iotimeout=io_timeout_s, wait=False
            )

        try:
            self._calls.slow(f"joining lockspace {name} as host {host_id}", add)
        except SanlockFailed as error:
            if error.number not in {errno.EEXIST, errno.EINPROGRESS}:
                raise

    def in_lockspace(self, name: str, host_id: int, spot: Spot) -> bool | None:
        """Whether the host is in; None on its way in or out."""

        def inquire(module: ModuleType) -> bool | None:
            found: bool | None = module.inq_lockspace(name.encode(), host_id, spot.path, offset=spot.offset, wait=False)
            return found

        return self._calls.quick(f"asking for lockspace {name}", inquire)

    def remove_lockspace(self, name: str, host_id: int, spot: Spot) -> None:
        """Leave; nothing if the host is not in. EBUSY while leases are held."""

        def remove(module: ModuleType) -> None:
            module.rem_lockspace(name.encode(), host_id, spot.path, offset=spot.offset, wait=True, unused=True)

        try:
            self._calls.slow(f"leaving lockspace {name}", remove)
        except SanlockFailed as error:
            if error.number != errno.ENOENT or not self._answers():
                raise

    def hosts(self, name: str, host_id: int = 0) -> list[Host]:
        """The hosts of a lockspace that this host is in: one, or all that are not free."""
        what = f"asking for the hosts of lockspace {name}"
        return self._calls.quick(what, lambda module: hosts_of(module, module.get_hosts(name.encode(), host_id)))

    def set_event(self, name: str, host_id: int, event: int, data: int = 0) -> None:
        """Show an event to a host of a lockspace with the next renewal."""

        def show(module: ModuleType) -> None:
            module.set_event(
                name.encode(), host_id, 0, event, data, module.SETEV_CUR_GENERATION | module.SETEV_REPLACE_EVENT
            )

        self._calls.quick(f"telling host {host_id} of lockspace {name}", show)

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

        self._calls.slow(f"formatting lockspace {name}", write)

    def write_resource(self, lockspace: str, resource: str, spot: Spot) -> None:
        """Format a lease; empty names leave none there."""

        def write(module: ModuleType) -> None:
            module.write_resource(
                lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], align=spot.align, sector=spot.sector
            )

        self._calls.slow(f"formatting lease {resource or 'nothing'} of lockspace {lockspace}", write)

    def read_resource(self, spot: Spot) -> tuple[str, str, int]:
        """The names, and how often it was taken, of the lease at a place."""

        def read(module: ModuleType) -> tuple[str, str, int]:
            found = module.read_resource(spot.path, offset=spot.offset, align=spot.align, sector=spot.sector)
            return text_of(found["lockspace"]), text_of(found["resource"]), int(found.get("version", 0))

        return self._calls.slow(f"reading the lease at {spot.offset} in {spot.path}", read)

    def read_owners(self, lockspace: str, resource: str, spot: Spot) -> list[Host]:
        """The hosts that the storage says have a lease; some may be dead."""

        def read(module: ModuleType) -> list[Host]:
            disks = [(spot.path, spot.offset)]
            found = module.read_resource_owners(
                lockspace.encode(), resource.encode(), disks, align=spot.align, sector=spot.sector
            )
            return hosts_of(module, found)

        return self._calls.slow(f"reading who has the lease {resource}", read)

    def read_value(self, lockspace: str, resource: str, spot: Spot, size: int) -> bytes:
        """The value of a lease that is held with its value."""

        def read(module: ModuleType) -> bytes:
            found: bytes = module.get_lvb(lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], size)
            return found

        return self._calls.slow(f"reading the value of lease {resource}", read)

    def write_value(self, lockspace: str, resource: str, spot: Spot, value: bytes) -> None:
        """Set the value of a lease that is held with its value; on storage when it is released."""
        what = f"writing the value of lease {resource}"
        self._calls.slow(
            what,
            lambda module: module.set_lvb(lockspace.encode(), resource.encode(), [(spot.path, spot.offset)], value),
        )

    def _answers(self) -> bool:
        """Whether the daemon is there: ENOENT also says that its socket is not."""
        self._calls.quick("asking sanlock", lambda module: module.get_lockspaces())
        return True
