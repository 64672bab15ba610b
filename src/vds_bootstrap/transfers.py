"""What a vdsmd that was killed leaves running, so that transfers go on: the image daemon and NBD servers.

Each has a record beside its sockets that says which process it is; an agent that ends in peace ends them itself.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from vds_bootstrap.processes import Process

if TYPE_CHECKING:
    from pathlib import Path


def stop(run_dir: Path, patience_s: float) -> list[str]:
    """End them and remove their files; returns the names of what could not be ended."""
    left = []
    for record in [run_dir / "imageio" / "daemon.json", *sorted((run_dir / "nbd").glob("*.json"))]:
        process = _read(record)
        if process is not None and not process.stop(patience_s):
            left.append(process.name)
    for folder in (run_dir / "imageio" / "conf.d", run_dir / "imageio", run_dir / "nbd"):
        _remove(folder)
    return left


def _read(record: Path) -> Process | None:
    try:
        found: dict[str, Any] = json.loads(record.read_bytes())
        identity = found.get("identity", found)
        ticks = round(identity["started_s"] * os.sysconf("SC_CLK_TCK"))
        return Process(f"{record.parent.name} {record.stem}", int(identity["pid"]), ticks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remove(folder: Path) -> None:
    try:
        for path in folder.iterdir():
            if not path.is_dir():
                path.unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return  # it is not there, or something else is in it
