"""Cleans up when "make run" was killed by force.

The command tells its janitor on a pipe what is up, line by line, and in the end that nothing is. When the pipe closes
without that, the command is dead, and the janitor takes down the last state that it heard of.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from vds_bootstrap.layout import PROJECT
from vds_bootstrap.progress import Progress
from vds_bootstrap.teardown import State, take_down

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

NOTHING = "nothing"
FAREWELL_S = 10.0


class Janitor:
    """The command's end of the pipe."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "vds_bootstrap", "janitor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={"PYTHONPATH": str(PROJECT / "src"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say farewell: what was to be taken down is down."""
        self._tell(NOTHING)
        if self._child.stdin:
            self._child.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # it has nothing to do any more; nothing waits for it
            self._child.wait(FAREWELL_S)

    def remember(self, state: State) -> None:
        """Tell it what is up now."""
        self._tell(state.dumps())

    def _tell(self, line: str) -> None:
        if self._child.stdin is None:
            return
        try:
            self._child.stdin.write(f"{line}\n".encode())
            self._child.stdin.flush()
        except BrokenPipeError:
            return  # it was killed: the command still cleans up itself


def serve() -> int:
    """Be the janitor."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    last = NOTHING
    for line in sys.stdin:
        last = line.strip()
    if last != NOTHING:
        take_down(State.loads(last), Progress(quiet=True))
    return 0
