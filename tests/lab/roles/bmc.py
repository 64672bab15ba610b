"""A BMC whose power switch is real: IPMI over LAN in front of a lab node, or of anything with a switch.

with Bmc(node, spawner) as bmc:
    fence(bmc, "reboot")          fence_ipmilan as a fence agent's user runs it
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, Protocol, Self

from lab.image import build
from lab.spawning import Spawner

USER: Final = "admin"
PASSWORD: Final = "password"
_PATIENCE_S: Final = 60.0


class Power(Protocol):
    """What a BMC switches. ``Node`` is one."""

    name: str

    @property
    def is_on(self) -> bool:
        """Whether it has power."""

    def power_on(self) -> None:
        """Switch it on."""

    def power_off(self) -> None:
        """Switch it off at once."""


class Bmc:
    """One BMC on a UDP port. Commands are carried out one after the other and answered at once, as by a real one."""

    def __init__(self, power: Power, spawner: Spawner, address: str = "127.0.0.1", enter: Sequence[str] = ()) -> None:
        """``enter``: a command line in front, to run it in a namespace (``nsenter ...``)."""
        self._power = power
        self._spawner = spawner
        self._enter = tuple(enter)
        self.address = address
        self.port = 0
        self.commands: list[str] = []  # all that changed the power, in order
        self._switch = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-bmc")

    def __enter__(self) -> Self:
        tools = build.tools()
        ours, theirs = socket.socketpair()
        self.port = _free_port(self.address)
        argv = [*self._enter, "/usr/bin/python3", str(Path(__file__).with_name("bmc_server.py"))]
        argv += [self.address, str(self.port), str(theirs.fileno())]
        self._log = Path(os.devnull)
        self._socket = ours
        with theirs:
            self._process = self._spawner.start(
                argv, self._log, env=build.tools_environment(tools), pass_fds=[theirs.fileno()]
            )
        ours.settimeout(_PATIENCE_S)
        lines = ours.makefile("rw")
        lines.write(f"{USER} {PASSWORD}\n")
        lines.flush()
        if lines.readline() != "ready\n":
            self.__exit__()
            raise RuntimeError("the BMC did not start")
        ours.settimeout(None)
        self._thread = threading.Thread(target=self._serve, args=[lines], name="lab-bmc-lines", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait(timeout=_PATIENCE_S)
        self._socket.close()
        self._switch.shutdown(wait=True)

    def _serve(self, lines: IO[str]) -> None:
        for line in lines:
            word = line.strip()
            if word == "status":
                answer = "on" if self._power.is_on else "off"
            else:
                self.commands.append(word)
                self._switch.submit(self._actions[word])
                answer = "ok"
            try:
                lines.write(answer + "\n")
                lines.flush()
            except OSError:
                return  # the BMC's process has gone

    @property
    def _actions(self) -> dict[str, Callable[[], None]]:
        power = self._power
        return {
            "on": power.power_on,
            "off": power.power_off,
            "soft": power.power_off,
            "cycle": self._cycle,
            "reset": self._cycle,
        }

    def _cycle(self) -> None:
        self._power.power_off()
        self._power.power_on()


def fence(bmc: Bmc, action: str, *more: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    """Run fence_ipmilan on this machine; its status and output. ``more``: further options."""
    tools = build.tools()
    argv = ["/usr/bin/python3", f"{tools}/usr/sbin/fence_ipmilan", f"--ipmitool-path={tools}/usr/bin/ipmitool"]
    return subprocess.run(
        [*argv, *options(bmc.address, bmc.port, password), f"--action={action}", *more],
        env=build.tools_environment(tools), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def options(address: str, port: int, password: str = PASSWORD) -> list[str]:
    """fence_ipmilan's options for a BMC of the lab."""
    return [f"--ip={address}", f"--ipport={port}", f"--username={USER}", f"--password={password}", "--lanplus"]


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
