"""The tiny guest for tests that boot a real machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from needs import require
from vds_bootstrap import guest

CACHE = Path(__file__).resolve().parents[1] / ".run" / "cache" / "guest"


@pytest.fixture(scope="session")
def tiny_guest() -> guest.Guest:
    """Kernel, initrd, command line and marker of the tiny guest; built once, then found in .run/cache/guest.

    The whole path is made searchable, so that a QEMU that runs as another user can read it.
    """
    require("busybox")
    built = guest.build(CACHE / "out", CACHE)
    for folder in built.kernel.parents[:4]:
        folder.chmod(folder.stat().st_mode | 0o111)
    return built
