"""The BMC's process: pyghmi's IPMI server. Run by bmc.py with the lab's unpacked packages, never imported.

    bmc_server.py ADDRESS PORT FD        user and password: first line on FD

On FD, lines: it asks ``status``, ``on``, ``off``, ``cycle``, ``reset`` or ``soft`` and gets a line back:
``on`` or ``off`` for a status, anything for the others. It says ``ready`` first.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from pyghmi.ipmi.bmc import Bmc

CHASSIS = 0
CHASSIS_CONTROL = 2
POWER_CYCLE = 2


class Board(Bmc):
    """Passes every power command on."""

    def __init__(self, lines: Any, users: dict[str, str], address: str, port: int) -> None:
        super().__init__(users, address=address, port=port)
        self._lines = lines

    def _ask(self, word: str) -> str:
        self._lines.write(word + "\n")
        self._lines.flush()
        return self._lines.readline().strip()

    def get_power_state(self) -> str:
        return self._ask("status")

    def power_on(self) -> None:
        self._ask("on")

    def power_off(self) -> None:
        self._ask("off")

    def power_cycle(self) -> None:
        self._ask("cycle")

    def power_reset(self) -> None:
        self._ask("reset")

    def power_shutdown(self) -> None:
        self._ask("soft")

    def get_boot_device(self) -> str:
        return "hd"

    def is_active(self) -> bool:
        return True


def main() -> None:
    address, port, fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    lines = socket.socket(fileno=fd).makefile("rw")
    user, password = lines.readline().split()
    board = Board(lines, {user: password}, address, port)
    lines.write("ready\n")
    lines.flush()
    board.listen()


if __name__ == "__main__":
    main()
