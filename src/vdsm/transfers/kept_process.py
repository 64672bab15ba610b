"""Processes that outlive the agent, and are found again by its next start.

A transfer of hours must not end because the agent was killed or restarted, so what serves it leads a session of its
own and is written down beside its socket: pid, and when it started, which together are nobody else's. ``stop`` ends it,
child of this process or not.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from vdsm.base.errors import Unfinished
from vdsm.base.process import Child
from vdsm.system import qemu_process

log = logging.getLogger(__name__)

_KILL_GRACE_S: Final = 2.0


class Identity(msgspec.Struct, frozen=True):
    """Which process it is: ``started_s`` is since the host's boot."""

    pid: int
    started_s: float


class KeptProcess:
    """One process, started by this agent or by an earlier one.

    Args:
        identity: which one.
        child: its handle, where this agent started it.
    """

    def __init__(self, identity: Identity, child: Child | None = None) -> None:
        self.identity: Final = identity
        self._child = child

    @classmethod
    def of_child(cls, child: Child) -> KeptProcess:
        """A process that was just started.

        Raises:
            ProcessLookupError: it has ended already.
        """
        facts = qemu_process.facts(child.pid)
        if facts is None:
            raise ProcessLookupError(child.pid)
        return cls(Identity(child.pid, facts.started_s), child)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        facts = qemu_process.facts(self.identity.pid)
        return facts is not None and facts.started_s == self.identity.started_s

    def ended_within(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for its end; whether it has come."""
        if not self.is_alive():
            return True
        try:
            descriptor = os.pidfd_open(self.identity.pid)
        except ProcessLookupError:
            return True
        try:
            # Between the look and the opening the number could have become another's.
            if not self.is_alive():
                return True
            watch = select.poll()
            watch.register(descriptor, select.POLLIN)
            return bool(watch.poll(max(0.0, seconds) * 1000))
        finally:
            os.close(descriptor)

    def stop(self, grace_s: float) -> None:
        """End it and its process group: SIGTERM, ``grace_s`` seconds, SIGKILL.

        Raises:
            Unfinished: it cannot be killed: what it waits for is stuck in the kernel.
        """
        if self._child is not None:
            self._child.stop(grace_s)
        else:
            self._signal(signal.SIGTERM)
            if not self.ended_within(grace_s):
                self._signal(signal.SIGKILL)
                self.ended_within(_KILL_GRACE_S)
        if self.is_alive():
            raise Unfinished(f"ending process {self.identity.pid}", grace_s + _KILL_GRACE_S)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive():
            try:
                os.killpg(self.identity.pid, number)
            except ProcessLookupError:
                log.debug("process %d ended by itself", self.identity.pid)


def answers_within(answers: Callable[[], bool], process: KeptProcess, seconds: float) -> bool:
    """Whether a process that was just started begins to serve within ``seconds``; False at once when it ends."""
    waited_s = 0.0
    pause_s = 0.01
    while not answers():
        if waited_s >= seconds or process.ended_within(pause_s):
            return False
        waited_s += pause_s
        pause_s = min(0.1, pause_s * 1.5)
    return True


def remove(*paths: Path) -> None:
    """Remove files that may be there."""
    for path in paths:
        path.unlink(missing_ok=True)
