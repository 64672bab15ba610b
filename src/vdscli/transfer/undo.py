"""What a command has opened at the agent, written down: a later command closes it if this one is killed.

One file for each process, ``open-PID-STARTED.json``: {"place": ..., "undo": [[method, path, body], ...]}
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli.failures import CliError
from vdscli.transfer import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdscli.client import Client

_PREFIX: Final = "open-"
_STARTED_FIELD: Final = 19


class Undo:
    """The open things of this process at one agent.

    Args:
        client: speaks to the agent.
        folder: where the files are.
    """

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._path = folder / f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}.json"
        self._open: list[tuple[str, str, Any]] = []

    def sweep(self) -> None:
        """Close what processes that were killed left open at this agent."""
        for path in sorted(self._folder.glob(f"{_PREFIX}*-*.json")):
            pid, _, started = path.stem.removeprefix(_PREFIX).partition("-")
            found = pieces.read(path)
            if found.get("place") != self._client.place or _started(int(pid)) == started:
                continue
            for method, where, body in reversed(found.get("undo", [])):
                try:
                    self._call(method, where, body)
                except CliError:
                    continue  # it is gone already, or will expire
            path.unlink(missing_ok=True)

    @contextmanager
    def noted(self, method: str, path: str, body: Any = None) -> Iterator[None]:
        """Something is about to be opened that this request closes; it is closed after the block."""
        entry = (method, path, body)
        self._open.append(entry)
        self._write()
        try:
            yield
        finally:
            self._call(method, path, body)
            self._open.remove(entry)
            self._write()

    def _call(self, method: str, path: str, body: Any) -> None:
        if method == "DELETE":
            self._client.delete(path)
        else:
            self._client.post(path, body)

    def _write(self) -> None:
        if self._open:
            pieces.write(self._path, {"place": self._client.place, "undo": self._open})
        else:
            self._path.unlink(missing_ok=True)


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The program's name may contain anything, so count from its last parenthesis.
    return text[text.rfind(")") + 1 :].split()[_STARTED_FIELD]
