"""The operating system's name and version, from os-release (format: os-release(5))."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

# The second is where the vendor's file lies; the first may be a link to it or an administrator's own.
FILES: Final = (Path("/etc/os-release"), Path("/usr/lib/os-release"))


def parse(text: str) -> dict[str, str]:
    """Shell-like assignments; lines that are none are passed over, as the format asks."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue  # an unbalanced quote: the format says to ignore what cannot be read
        values[name] = words[0] if words else ""
    return values


def read(files: tuple[Path, ...] = FILES) -> dict[str, str]:
    """The first of ``files`` that can be read; empty when none can."""
    for path in files:
        try:
            return parse(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # the next one is the documented fallback
    return {}
