"""Locks of domains on real sanlock: the contract, two hosts, and what becomes of an SPM that stands still."""

from __future__ import annotations

import time
import uuid

import pytest

from .channel import Running
from .deadlines import eventually
from .lab import DiskSpec
from .node import Node
from .roles import sanlock

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

# Faster, and a loaded machine is too slow to renew in time.
FAST = 5
IO_TIMEOUT_S = 5
PYTHON = "/opt/vdsm/.venv/bin/python"
# Tests of an index in a file: what sanlock does is the same in all of them, and each joins a lockspace anew.
WITHOUT_LOCKS = "wherever or unreadable or readable or header or full or another_manager or without_external"
DISKS = [DiskSpec(name, 16 << 20) for name in ("ids", "leases", "count")]


class Host:
    """A node with sanlock and the program that counts."""

    def __init__(self, node: Node, host_id: int, domain: str) -> None:
        self.node = node
        self.host_id = host_id
        self.domain = domain
        self.paths = [node.disk(disk.name) for disk in DISKS]
        self.daemon = sanlock.Sanlock(node, self.paths[0], fast=FAST, io_timeout_s=IO_TIMEOUT_S)
        self._log = "/run/holder.log"

    def begin(self) -> Running:
        """Start the program; it joins, and waits for the lease."""
        self.node.push(self._log, "")
        words = [self.domain, str(self.host_id), *self.paths, str(FAST)]
        script = f"exec {PYTHON} -P /opt/vdsm/tests/lab/roles/lease_holder.py {' '.join(words)} >{self._log} 2>&1"
        return self.node.start(script, timeout_s=500)

    def said(self, word: str) -> str:
        """The last line with a word in it, or nothing."""
        lines = [line for line in self.node.run(["cat", self._log]).text.splitlines() if word in line.split()[1:2]]
        return lines[-1] if lines else ""

    def log(self) -> str:
        """The end of what the program said."""
        return self.node.run(["tail", "-20", self._log]).text

    def wait_for(self, word: str, timeout_s: float = 120.0) -> str:
        try:
            return eventually(lambda: self.said(word), f"{word} of host {self.host_id}", timeout_s, 0.2)
        except AssertionError as error:
            raise AssertionError(self.log()) from error

    def count(self, host_id: int) -> int:
        """How far a host has counted, by the disk."""
        command = f"dd if={self.paths[2]} bs=512 skip={host_id} count=1 iflag=direct 2>/dev/null"
        return int.from_bytes(self.node.run(command).stdout[:8], "big")


def format_leases(domain: str, ids: str, leases: str) -> list[str]:
    """In a node: format, and return the sectors' beginnings as hexadecimal digits."""
    import sys

    sys.path[:0] = ["/opt/vdsm/src", "/opt/vdsm/.venv/lib/python3.11/site-packages"]
    from vdsm.storage.files.localfiles import LocalFiles
    from vdsm.storage.formats.leases import MIB, Geometry
    from vdsm.storage.locks.sanlock_lock import SanlockLeases, SanlockSettings
    from vdsm.system.sanlock.daemon import Daemon

    lock = SanlockLeases(Daemon(), SanlockSettings(io_timeout_s=5)).of(domain, ids, leases, Geometry())
    lock.format()
    files = LocalFiles()
    return [files.read(path, offset=at, size=512, direct=True).hex() for path, at in ((ids, 0), (leases, MIB))]


def pair(nodes) -> tuple[Host, Host]:
    domain = str(uuid.uuid4())
    one, two = (Host(node, number, domain) for number, node in enumerate(nodes(2, disks=DISKS), 1))
    space, lease = (bytes.fromhex(text) for text in one.node.call(format_leases, domain, *one.paths[:2]))
    assert (space[:8].hex(), lease[:8].hex()) == ("1020211204000300", "1020150604000600")  # the facts' magic, version
    for sector, name in ((space, b"\0"), (lease, b"SDM\0")):
        assert sector[0x38:0x68].rstrip(b"\0").decode() == domain
        assert sector[0x68:0x98].startswith(name)
    return one, two


def test_contract_on_sanlock(nodes) -> None:
    (node,) = nodes(1, disks=[DiskSpec("files", 256 << 20)])
    disk = node.disk("files")
    node.run(f"mkfs.ext4 -q {disk} && mkdir -p /mnt/locks && mount {disk} /mnt/locks")
    sanlock.Sanlock(node, disk, fast=FAST, io_timeout_s=IO_TIMEOUT_S)
    environment = {"VDSM_SANLOCK_DIR": "/mnt/locks", "VDSM_SANLOCK_RATE": str(FAST)}
    pytest_ = f"{PYTHON} -m pytest -q -p no:cacheprovider -k 'sanlock and not ({WITHOUT_LOCKS})'"
    script = f"cd /opt/vdsm && {pytest_} tests/contract/test_clusterlock.py tests/contract/test_external_leases.py"
    done = node.run(script, env=environment, timeout_s=400, check=False)
    assert not done.code, done.text[-8000:]
    assert " passed" in done.text


def test_lease_goes_on_from_an_spm_that_stands_still_or_is_not_renewed(nodes) -> None:
    one, two = pair(nodes)
    holding = one.begin()
    assert one.wait_for("holds").endswith(" 1")
    one.wait_for("counts")
    renewing = two.begin()
    two.wait_for("joined")
    dump = two.node.run(["sanlock", "direct", "dump", f"{two.paths[1]}:1048576:1048576"]).text.splitlines()
    (line,) = [line.split() for line in dump if one.domain in line]
    assert (line[0], line[2]) == ("01048576", "SDM")
    assert [int(word) for word in line[4:7]] == [1, 1, 1], one.log()  # owner, generation, version
    time.sleep(two.daemon.dead_after_s / 4)
    assert not two.said("holds"), one.log()  # however long it waits

    one.node.freeze()
    start, before = time.monotonic(), two.count(1)
    assert before > 0
    assert two.wait_for("holds").endswith(" 2")
    print(f"had {time.monotonic() - start:.1f} s after it stood still, dead after {two.daemon.dead_after_s:.1f} s")
    two.wait_for("counts")
    one.node.thaw()
    eventually(lambda: holding.done, "the end of the first host's program", 60)
    print(one.log()[-600:])
    assert two.count(1) <= before + 1  # what was on its way to the disk when it stood still
    assert not two.said("refused")

    one.begin()
    one.wait_for("joined")
    two.node.run("kill -STOP $(pidof sanlock | tr ' ' '\\n' | sort -n | head -1)")  # nobody renews, nobody kills
    eventually(lambda: renewing.done, "the end of the writer", 60)
    print(two.log())
    at_end = one.count(2)
    assert not one.said("holds")
    assert two.said("lost")
    assert one.wait_for("holds").endswith(" 3")
    one.wait_for("counts")
    assert one.count(2) == at_end > 0
