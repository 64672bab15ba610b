"""docs/original-names.md: every name of 2011 has its row, and every file that a row points to is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = """
    execCmd persistFile retry AsyncProc tmap itmap PersistentDict logskip SimpleLogAdapter OOPLogger
    RWLock DeferableContext DynamicBarrier SamplingMethod OperationMutex Safelease ResourceManager Securable
    supervdsm vdsm vds vds_bootstrap vds_hooks vdscli vdsreg
"""


def rows() -> dict[str, str]:
    text = (ROOT / "docs" / "original-names.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {name.strip(): row[3] for row in cells for name in row[1].split(",")}


def test_every_name_has_its_row() -> None:
    assert {*NAMES.split(), "lvm cache", "out of process", "async tasks"} <= rows().keys()


def test_rows_point_to_what_exists() -> None:
    places = {place for cell in rows().values() for place in re.findall(r"`(src/[^`]+)`", cell)}
    assert places
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_what_is_not_yet_says_with_what_it_comes() -> None:
    for name, cell in rows().items():
        if "not yet" in cell.lower():
            assert re.search(r"not yet:? comes? with|not yet, comes with|not yet: come with", cell), name
