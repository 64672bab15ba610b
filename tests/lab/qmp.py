"""QEMU's monitor (QMP), with deadlines. A frozen QEMU answers late or never: the caller gets MonitorError in time."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

from .deadlines import eventually


class MonitorError(RuntimeError):
    """QEMU refused a command, or did not answer it."""


class Monitor:
    """One connection to a QEMU's monitor; commands from several threads are taken one after the other."""

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        eventually(lambda: self._connected(path), f"QEMU's monitor {path}", timeout_s, 0.01)
        self._lines = self._socket.makefile("rb")
        self._lock = threading.Lock()
        self._lines.readline()
        self("qmp_capabilities")

    def _connected(self, path: Path) -> bool:
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def __call__(self, command: str, /, **arguments: Any) -> Any:
        """Run a command and return its answer; ``_`` in argument names stays, QEMU's own names have ``-``.

        Raises:
            MonitorError: QEMU refused it, went away, or did not answer in time.
        """
        request = json.dumps({"execute": command, "arguments": arguments}).encode()
        with self._lock:
            try:
                self._socket.sendall(request + b"\n")
                while True:
                    answer = json.loads(self._lines.readline() or b'{"error": "QEMU has gone"}')
                    if "error" in answer:
                        raise MonitorError(f"{command}: {answer['error']}")
                    if "return" in answer:
                        return answer["return"]
            except OSError as error:
                raise MonitorError(f"{command}: {error}") from error

    def close(self) -> None:
        """End the connection."""
        self._lines.close()
        self._socket.close()
