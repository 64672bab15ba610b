"""Runs programs for the bootstrap, which has to work before the agent (and its base.process) is installed.

No shell, always a deadline, one error that carries what the program said.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class ProgramFailed(RuntimeError):
    """A program ended with an error, is not there, or did not end in time."""

    def __init__(self, argv: Sequence[str], reason: str) -> None:
        super().__init__(f"{' '.join(argv)}: {reason}")
        self.argv = tuple(argv)
        self.reason = reason


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float = 60.0,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program and return what it wrote to its standard output.

    Args:
        argv: the program and its arguments; nothing of it passes through a shell.
        timeout_s: seconds after which the program is killed.
        stdin: what it reads; secrets go this way.
        env: variables on top of the present environment, which is used with LC_ALL=C.UTF-8.
        cwd: the directory that it runs in.

    Raises:
        ProgramFailed: it ended with another status than 0, is not there, or did not end in time.
    """
    words = [os.fspath(word) for word in argv]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, timeout=timeout_s, env=environment, cwd=cwd, check=False
        )
    except FileNotFoundError as error:
        raise ProgramFailed(words, "the program is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(words, f"did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise ProgramFailed(words, f"ended with status {done.returncode}: {said[-2000:]}")
    return done.stdout.decode(errors="replace")
