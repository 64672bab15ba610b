"""``make run`` in a fresh host, driven as a person does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from lab.fresh import FreshHost, eventually

UP = "Press Ctrl-C"
RUN_S = 240.0


class MakeRun:
    """A ``make run`` in a host, in a process group of its own, as a terminal's shell would start it."""

    def __init__(self, host: FreshHost, *words: str) -> None:
        self.host = host
        self._log = host.directory / f"make-run-{time.monotonic_ns()}.log"
        self.process = subprocess.Popen(
            host.enter("make", "run", *words),
            stdin=subprocess.DEVNULL,
            stdout=self._log.open("wb"),
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def text(self) -> str:
        return self._log.read_text()

    def wait_up(self) -> str:
        eventually(lambda: UP in self.text() or self.process.poll() is not None, f"{UP}\n{self.text()}", RUN_S)
        assert UP in self.text(), self.text()
        return self.text()

    def press_ctrl_c(self) -> None:
        """Send SIGINT to the whole process group as a terminal does; not to nsenter, which no terminal has."""
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid = int(path.name)
                if os.getpgid(pid) == self.process.pid != pid:
                    os.kill(pid, signal.SIGINT)

    def wait_end(self) -> int:
        return self.process.wait(RUN_S)

    def runner(self) -> int:
        """The pid of the python that make started, as the machine sees it."""
        (pid,) = (pid for pid, command in self.host.processes().items() if "-m vds_bootstrap run" in command)
        return pid
