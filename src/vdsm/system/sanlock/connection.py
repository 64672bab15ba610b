"""Leases that are held: a connection to the daemon, by which it knows whose they are."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Final

from vdsm.base.errors import Unfinished
from vdsm.system.sanlock.calls import Calls
from vdsm.system.sanlock.facts import Held, SanlockFailed, Spot, text_of


class Connection:
    """One call at a time: later ones wait for it, up to their own deadline. See the package."""

    def __init__(self, calls: Calls, number: int) -> None:
        self._calls: Final = calls
        self._deadlines: Final = calls.deadlines
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
                Held(text_of(item["lockspace"]), text_of(item["resource"]), text_of(path), int(offset))
                for item in found
                for path, offset in item["disks"]
            ]

        if not self.alive:
            raise SanlockFailed("asking sanlock", "it has closed the connection", errno.EPIPE)
        return self._calls.quick("asking sanlock for the leases held", ask)

    def _in_turn(self, what: str, call: Callable[[ModuleType], None], timeout_s: float) -> None:
        def perform(module: ModuleType) -> None:
            if not self._turn.acquire(timeout=timeout_s):
                raise SanlockFailed(what, "the connection is in use", errno.EBUSY)
            try:
                call(module)
            finally:
                self._turn.release()

        self._calls.slow(what, perform, timeout_s=timeout_s, come_late=self.close)
