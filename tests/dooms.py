"""Processes that are killed at a point of their work; harnesses do it at each one."""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar


class Doom:
    """Passes points; at the one whose turn it is the process is killed. Turn 0 never comes."""

    def __init__(self, turn: int = 0) -> None:
        self.turn = turn
        self.passed = 0

    def point(self, _: str) -> None:
        self.passed += 1
        if self.passed == self.turn:
            os.kill(os.getpid(), signal.SIGKILL)


D = TypeVar("D", bound=Doom)


def in_child(function: Callable[[D], None], doom: D) -> tuple[bool, int]:
    """Run it in a child; whether it was killed, and otherwise how many points it passed. For one thread only."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            function(doom)
            os.write(writer, str(doom.passed).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    os.close(writer)
    said = os.read(reader, 100)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True, 0
    assert status == 0, f"the child ended with {status}"
    return False, int(said)


@contextmanager
def memory_directory() -> Iterator[Path]:
    """In memory, if that can be: a killed process takes nothing of the page cache with it, and fsyncs take minutes."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="vdsm-crash-") as path:
        yield Path(path)
