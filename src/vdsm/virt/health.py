"""Which VMs' QEMUs do not answer, and why we think so.

    STOPPED   the kernel says that the process is stopped            until it says otherwise
    STUCK     a call about the VM passed its deadline                until that call comes back
    HELD      two samples running could not ask its QEMU             until one could

A VM that is STOPPED or STUCK is in quarantine: asking its QEMU again would only cost another thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from enum import Flag, auto

from vdsm.base.clock import monotonic_s


class Cause(Flag):
    """Why a VM is held to be not responding."""

    STOPPED = auto()
    STUCK = auto()
    HELD = auto()


QUARANTINE = Cause.STOPPED | Cause.STUCK
_NONE = Cause(0)


class Responsiveness:
    """For any thread. ``tell`` hears of every VM that falls silent (and since when) or answers again (None)."""

    def __init__(self, tell: Callable[[str, float | None], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._causes: dict[str, Cause] = {}

    def blame(self, vm_id: str, cause: Cause) -> None:
        """A VM was found not answering."""
        with self._lock:
            before = self._causes.get(vm_id, _NONE)
            self._causes[vm_id] = before | cause
        if not before:
            self._tell(vm_id, monotonic_s())

    def clear(self, vm_id: str, cause: Cause) -> None:
        """This reason is no more."""
        with self._lock:
            before = self._causes.get(vm_id, _NONE)
            if not before & cause:
                return
            after = before & ~cause
            if after:
                self._causes[vm_id] = after
            else:
                del self._causes[vm_id]
        if not after:
            self._tell(vm_id, None)

    def stopped(self, vm_ids: Collection[str]) -> None:
        """These are the VMs whose processes are stopped now; all others' are not."""
        with self._lock:
            known = [vm_id for vm_id, cause in self._causes.items() if cause & Cause.STOPPED]
        for vm_id in vm_ids:
            self.blame(vm_id, Cause.STOPPED)
        for vm_id in known:
            if vm_id not in vm_ids:
                self.clear(vm_id, Cause.STOPPED)

    def quarantined(self) -> frozenset[str]:
        """The VMs whose QEMUs must not be asked."""
        with self._lock:
            return frozenset(vm_id for vm_id, cause in self._causes.items() if cause & QUARANTINE)

    def keep(self, vm_ids: Collection[str]) -> None:
        """Forget all other VMs."""
        with self._lock:
            for vm_id in self._causes.keys() - set(vm_ids):
                del self._causes[vm_id]
