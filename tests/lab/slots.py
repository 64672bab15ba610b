"""How many nodes run on this machine at once, counted over all processes that use the lab.

Two cores carry four nodes. Each running node holds a lock on one of four files; who wants several takes all or none, so
that two test runs never wait for each other's half.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from .deadlines import eventually

NODES: Final = 4
NODE_MIB: Final = 1300  # a node's memory with QEMU's own
_DIRECTORY: Final = Path("/tmp/vdsm-lab-slots")
_PATIENCE_S: Final = 600.0


def take(count: int, timeout_s: float = _PATIENCE_S) -> list[IO[bytes]]:
    """Take the right to run ``count`` nodes; closing the files gives it back, as does the end of the process.

    Raises:
        ValueError: more than can ever be.
        MemoryError: the machine has not the memory now.
        TooLate: others hold them and do not let go.
    """
    if count > NODES:
        raise ValueError(f"{count} nodes: this lab runs {NODES} at once")
    if available_mib() < count * NODE_MIB:
        raise MemoryError(f"{count} nodes need {count * NODE_MIB} MiB, there are {available_mib()}")
    if not count:
        return []
    _DIRECTORY.mkdir(exist_ok=True)
    return eventually(lambda: _try(count), f"{count} of {NODES} nodes to be free for us", timeout_s, 0.2)


def available_mib() -> int:
    """Memory that can still be had."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def _try(count: int) -> list[IO[bytes]]:
    held: list[IO[bytes]] = []
    with (_DIRECTORY / "all").open("ab") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for number in range(NODES):
            file = (_DIRECTORY / str(number)).open("ab")
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.set_inheritable(file.fileno(), False)
                held.append(file)
                if len(held) == count:
                    return held
                continue
            file.close()
    for file in held:
        file.close()
    return []
