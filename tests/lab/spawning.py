"""Starts programs that die with this process, even when it is killed.

The kernel's parent-death signal is sent when the *thread* ends that started the child. So all children are started by
one thread that lives as long as the process needs it, whichever thread asks.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


class Spawner:
    """Owner of the starting thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-spawner")

    def start(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        die_with_us: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own; what it says goes to the end of ``log``."""
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if die_with_us else []
        with log.open("ab") as said:
            return self._thread.submit(
                subprocess.Popen,
                [*guard, *argv],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env,
                pass_fds=pass_fds,
            ).result(timeout=60)

    def close(self) -> None:
        """End the thread: children that still run die now."""
        self._thread.shutdown(wait=True)
