"""Waiting for a VM's state, with something to look at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from vdscli import units
from vdscli.failures import FAILED, NOT_FOUND, CliError, RequestFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from vdscli.inventory import Vm
    from vdscli.session import Session

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5

Stats = dict[str, Any]


def until(session: Session, vm: Vm, reached: Callable[[Stats], bool], *, words: str, wait_s: float) -> Stats | None:
    """Wait until ``reached`` says so of the VM's stats.

    Args:
        session: has the agent.
        vm: the VM.
        reached: looks at the stats; may raise to give up. One that is gone counts as Down, with ``gone`` set.
        words: what is being done, for the progress line.
        wait_s: the longest wait.

    Returns:
        The stats that were right, or None when the time was over.
    """
    start_s = time.monotonic()
    pause_s = _FIRST_PAUSE_S
    while True:
        stats = _now(session, vm)
        if reached(stats):
            session.out.clear_progress()
            return stats
        waited_s = time.monotonic() - start_s
        if waited_s >= wait_s:
            session.out.clear_progress()
            return None
        session.out.progress(f"{words} {vm.name}: {stats['status']}, {units.duration(waited_s)} ...")
        time.sleep(min(pause_s, max(0.0, wait_s - waited_s)))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _now(session: Session, vm: Vm) -> Stats:
    try:
        stats: Stats = session.client.get(f"{vm.path}/stats")
    except RequestFailed as error:
        if error.exit_code != NOT_FOUND:
            raise
        return {"vm_id": vm.vm_id, "vm_name": vm.name, "status": "Down", "gone": True}
    return stats


def launched(stats: Stats) -> bool:
    """Whether the VM's QEMU runs.

    Raises:
        CliError: it ended.
    """
    if stats["status"] == "Down":
        raise CliError(f"{stats['vm_name']} did not start: {why_down(stats)}", FAILED)
    return bool(stats["status"] != "WaitForLaunch")


def up(stats: Stats) -> bool:
    """Whether the VM is Up.

    Raises:
        CliError: it ended.
    """
    return launched(stats) and stats["status"] == "Up"


def agent_answers(stats: Stats) -> bool:
    """Whether the guest's agent is connected.

    Raises:
        CliError: the VM ended.
    """
    return launched(stats) and bool(stats.get("guest_agent"))


def paused(stats: Stats) -> bool:
    """Whether the VM is paused.

    Raises:
        CliError: it ended.
    """
    return launched(stats) and stats["status"] == "Paused"


def down(stats: Stats) -> bool:
    """Whether the VM is Down or gone."""
    return bool(stats["status"] == "Down")


def why_down(stats: Stats) -> str:
    """Why a VM is Down, as far as that is known."""
    return str(stats.get("exit_message") or "it is gone")
