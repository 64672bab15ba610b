"""Pages that the daemon serves as they are; `python -m vdsm.bindings.documents` generates all but the style sheet."""

from __future__ import annotations

from pathlib import Path


def read_page(name: str) -> bytes:
    """The content of one page."""
    return (Path(__file__).parent / name).read_bytes()
