"""What tests get from the lab. A conftest.py takes these names over:

    from lab.fixtures import lab, nodes, pytest_runtest_makereport  # noqa: F401

    @pytest.mark.node
    def test_x(nodes): one, two = nodes(2, disks=["lun"], nics=["san"])

The nodes end with the test. After a failure their consoles and logs are in a directory that the report names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from needs import require

from .image.build import PROJECT
from .lab import Lab
from .node import Node

KEPT = PROJECT / ".run" / "lab" / "failed"
NEEDS = (
    "root", "qemu", "busybox", "program:qemu-img", "program:mmdebstrap", "program:mke2fs", "program:depmod",
    "program:gcc", "program:setpriv",
)  # fmt: skip
_LAB = pytest.StashKey[Lab]()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The session's lab: image and template are built when something first needs a node."""
    require(*NEEDS)
    with Lab() as made:
        yield made


@pytest.fixture
def nodes(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., list[Node]]]:
    """``nodes(2, disks=["lun"], nics=["san", "lan"])``: see Lab.nodes."""
    request.node.stash[_LAB] = lab
    yield lab.nodes
    lab.end_nodes()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Keep the logs of a failed test's nodes, while they are still there."""
    report = yield
    # Those of a whole module were got without ``nodes``.
    found = item.stash.get(_LAB, None) or getattr(item, "funcargs", {}).get("lab")
    if report.failed and found is not None and found.running:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", item.name)
        kept = KEPT / f"{name}-{call.when}-{time.strftime('%m%d-%H%M%S')}"
        found.keep_logs(kept)
        report.sections.append(("lab", f"consoles and logs: {kept}"))
    return report
