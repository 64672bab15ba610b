"""QEMU processes in /proc: which one runs a VM, what CPU time it used, whether it is stopped. Never blocks.

libvirt starts every QEMU with ``-uuid ID``; /proc/PID/cmdline and /proc/PID/stat (proc(5)) are readable by all.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STOPPED: Final = frozenset("Tt")


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process. CPU times are those of all its threads since its start, ``started_s`` is since the host's boot."""

    pid: int
    state: str
    user_s: float
    system_s: float
    started_s: float
    rss: int

    @property
    def stopped(self) -> bool:
        """Whether it is stopped by a signal (or a debugger): it answers nothing."""
        return self.state in _STOPPED


def find(vm_ids: Collection[str], proc: Path = Path("/proc")) -> dict[str, int]:
    """The pids of the QEMUs that run these VMs; a VM without one is left out."""
    wanted = set(vm_ids)
    found: dict[str, int] = {}
    for entry in os.scandir(proc):
        if not wanted:
            break
        if entry.name.isdigit() and (vm_id := _vm_id(proc / entry.name)) in wanted:
            found[vm_id] = int(entry.name)
            wanted.discard(vm_id)
    return found


def _vm_id(process: Path) -> str:
    try:
        if not _is_qemu((process / "comm").read_bytes()):
            return ""
        words = (process / "cmdline").read_bytes().split(b"\0")
        return words[words.index(b"-uuid") + 1].decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return ""  # it ended, or is no VM


def _is_qemu(comm: bytes) -> bool:
    return comm.startswith((b"qemu-", b"kvm"))


def facts(pid: int, proc: Path = Path("/proc")) -> ProcessFacts | None:
    """What the kernel says of a process; None: it is gone."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return parse(pid, text)


def parse(pid: int, text: str) -> ProcessFacts | None:
    """Read /proc/PID/stat. The program's name, second, may contain anything, so count from its last parenthesis."""
    words = text[text.rfind(")") + 1 :].split()
    if len(words) < 22 or words[0] == "Z":
        return None
    return ProcessFacts(
        pid=pid,
        state=words[0],
        user_s=int(words[11]) / _TICKS,
        system_s=int(words[12]) / _TICKS,
        started_s=int(words[19]) / _TICKS,
        rss=int(words[21]) * _PAGE,
    )


class Processes:
    """Remembers which process runs which VM, so that /proc is searched only for new ones."""

    # A VM whose process cannot be found (a hidden /proc, a libvirtd elsewhere) is not searched for for ever.
    MAX_SEARCHES: Final = 10

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[str, tuple[int, float]] = {}
        self._searches: dict[str, int] = {}

    def look(self, vm_ids: Collection[str]) -> dict[str, ProcessFacts]:
        """The processes of these VMs, as far as there are; forgets all others. For one thread."""
        for forgotten in self._known.keys() - set(vm_ids):
            del self._known[forgotten]
        for forgotten in self._searches.keys() - set(vm_ids):
            del self._searches[forgotten]
        seen = {vm_id: seen for vm_id in vm_ids if (seen := self._see(vm_id)) is not None}
        missing = [vm_id for vm_id in vm_ids if vm_id not in seen and self._searches.get(vm_id, 0) < self.MAX_SEARCHES]
        if missing:
            seen |= self._search(missing)
        return seen

    def stopped(self, vm_id: str) -> bool:
        """Whether a VM's process is known and stopped now. For any thread."""
        pid, started_s = self._known.get(vm_id, (0, 0.0))
        seen = facts(pid, self._proc) if pid else None
        return seen is not None and seen.started_s == started_s and seen.stopped

    def _see(self, vm_id: str) -> ProcessFacts | None:
        pid, started_s = self._known.get(vm_id, (0, 0.0))
        seen = facts(pid, self._proc) if pid else None
        if seen is None or seen.started_s != started_s:  # gone, or its number belongs to another now
            self._known.pop(vm_id, None)
            return None
        return seen

    def _search(self, missing: Collection[str]) -> dict[str, ProcessFacts]:
        pids = find(missing, self._proc)
        found = {}
        for vm_id in missing:
            seen = facts(pids[vm_id], self._proc) if vm_id in pids else None
            if seen is None:
                self._searches[vm_id] = self._searches.get(vm_id, 0) + 1
                continue
            self._searches.pop(vm_id, None)
            self._known[vm_id] = (seen.pid, seen.started_s)
            found[vm_id] = seen
        return found
