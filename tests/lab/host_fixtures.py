"""What tests get of the light hosts. A conftest.py takes these names over:

    from lab.host_fixtures import hosts, pytest_runtest_makereport_of_hosts  # noqa: F401

    @pytest.mark.light
    def test_x(hosts): one, two = hosts(2, shared=("images",))

They end with the test. ``lend`` makes such a fixture for a module. After a failure the logs of all hosts that are there
are kept in a directory that the report names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from needs import require

from .borrowed import PROJECT
from .hosts import Hosts, Options

KEPT = PROJECT / ".run" / "lab" / "failed"
NEEDS = (
    "root", "qemu", "busybox", "fuse", "program:libvirtd", "program:virt-admin", "program:qemu-img", "program:openssl",
    "program:setpriv", "program:unshare", "program:nsenter", "program:ip", "program:tc",
)  # fmt: skip
_LABS = pytest.StashKey[list[Hosts]]()


@contextmanager
def lend(request: pytest.FixtureRequest) -> Iterator[Callable[..., Hosts]]:
    """``hosts(2, shared=("images",))``: see Hosts and Options. All that were made end with the block."""
    require(*NEEDS)
    labs = request.session.stash.setdefault(_LABS, [])
    with ExitStack() as stack:

        def make(count: int, **options: Any) -> Hosts:
            lab = stack.enter_context(Hosts(count, Options(**options), keep=_folder(request.node.name, "setup")))
            labs.append(lab)
            stack.callback(labs.remove, lab)
            return lab

        yield make


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> Iterator[Callable[..., Hosts]]:
    """Hosts for one test."""
    with lend(request) as make:
        yield make


@pytest.hookimpl(wrapper=True, specname="pytest_runtest_makereport")
def pytest_runtest_makereport_of_hosts(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Keep the logs of all hosts when a test fails, while they are still there."""
    report = yield
    if report.failed:
        kept = _folder(item.name, call.when)
        for lab in item.session.stash.get(_LABS, []):
            lab.keep_logs(kept)
        if kept.exists():
            report.sections.append(("light hosts", f"consoles and logs: {kept}"))
    return report


def _folder(test: str, when: str) -> Path:
    return KEPT / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', test)}-{when}-hosts-{time.strftime('%m%d')}"
