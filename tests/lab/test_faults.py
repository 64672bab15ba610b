"""Each fault does what it says, and its undo undoes it."""

from __future__ import annotations

import re
import time

import pytest

from . import faults
from .channel import CommandFailed
from .deadlines import eventually
from .lab import DiskSpec

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]


def pings(node, ip: str, count: int = 1) -> int:
    said = node.run(["ping", "-c", str(count), "-i", "0.2", "-W", "2", ip], check=False).text
    return int(re.search(r"(\d+) received", said).group(1))


def test_links_are_cut_lossy_late_and_slow(nodes) -> None:
    one, two = nodes(2, nics=["lan"])
    ip = two.nic("lan0").ip
    assert pings(one, ip)
    with faults.cut(one, "lan0"):
        eventually(lambda: "NO-CARRIER" in one.run(["ip", "link", "show", "lan0"]).text, "the loss of the carrier")
        assert not pings(one, ip)
    eventually(lambda: pings(one, ip), "traffic over the mended cable")
    with faults.line(one, "lan0", loss=1.0):
        assert "NO-CARRIER" not in one.run(["ip", "link", "show", "lan0"]).text
        assert not pings(one, ip)
    with faults.line(two, "lan0", delay_s=0.3):
        said = one.run(["ping", "-c1", "-W5", ip]).text
        assert float(re.search(r"time=([\d.]+)", said).group(1)) > 600  # there and back
    one.run("socat -u TCP-LISTEN:7000,reuseaddr OPEN:/dev/null >/dev/null 2>&1 &")
    send = f"sleep 0.5; dd if=/dev/zero bs=64k count=16 | socat -u - TCP:{one.nic('lan0').ip}:7000"
    with faults.line(two, "lan0", bytes_per_s=500_000):
        start = time.monotonic()
        two.run(send)
        one.run("while pgrep -x socat; do sleep 0.1; done")
        assert time.monotonic() - start > 1.5  # 1 MiB at half a MB/s


def test_frozen_node_is_silent_and_goes_on(nodes) -> None:
    one, two = nodes(2, nics=["lan"])
    ip = two.nic("lan0").ip
    for fault in (faults.frozen, faults.paused):
        with fault(two):
            assert not pings(one, ip)
            with pytest.raises(CommandFailed, match="no answer"):
                two.start("true").wait(1)
        eventually(lambda: pings(one, ip), "the node's return")


def test_process_is_stopped_and_goes_on(nodes) -> None:
    (node,) = nodes(1)
    node.run("busybox sh -c 'while :; do echo x >> /run/ticks; busybox usleep 50000; done' >/dev/null 2>&1 &")
    ticks = lambda: int(node.run("wc -l < /run/ticks").text)  # noqa: E731
    eventually(lambda: node.run("test -s /run/ticks", check=False).code == 0, "ticks")
    with faults.stopped_inside(node, "busybox"):
        before = ticks()
        node.run("sleep 0.5")
        assert ticks() == before
    eventually(lambda: ticks() > before, "ticks again")


def test_node_loses_power_and_comes_back(nodes) -> None:
    (node,) = nodes(1)
    node.push("/run/here", "x")
    with faults.without_power(node):
        assert not node.is_on
    assert node.run("test -e /run/here", check=False).code == 1


def test_clock_is_moved_and_right_again(nodes) -> None:
    (node,) = nodes(1)
    with faults.clock_moved(node, 86400.0):
        assert float(node.run("date +%s").text) - time.time() > 80000
    assert abs(float(node.run("date +%s").text) - time.time()) < 60


def test_file_system_is_full_for_a_while(nodes) -> None:
    (node,) = nodes(1)
    node.run("mkdir -p /mnt/small; mount -t tmpfs -o size=8m small /mnt/small")
    with faults.full(node, "/mnt/small"):
        assert "No space left" in node.run("dd if=/dev/zero of=/mnt/small/x bs=1k count=1", check=False).output
    node.run("dd if=/dev/zero of=/mnt/small/x bs=1k count=1")


def test_disk_fails_stalls_and_slows(nodes, lab) -> None:
    (node,) = nodes(1, disks=[DiskSpec("data", 16 << 20)])
    disk = faults.FaultyDisk(node, node.disk("data"), "faulty")

    def read(block: int) -> int | None:
        argv = ["dd", f"if={disk.path}", "of=/dev/null", "bs=4k", "count=1", f"skip={block}", "iflag=direct"]
        return node.run(argv, check=False).code

    assert read(0) == 0
    with disk.errors():
        assert read(0) == 1
    with disk.errors(first=800, count=8):
        assert (read(0), read(100), read(101)) == (0, 1, 0)
    with disk.slow(700):
        start = time.monotonic()
        assert read(0) == 0
        assert time.monotonic() - start > 0.6
    with disk.stalled():
        waiting = node.start(["dd", f"if={disk.path}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"])
        eventually(lambda: "D" in node.run("ps -C dd -o stat=", check=False).text, "a reader in state D")
        node.run("pkill -9 -x dd; sleep 0.3")
        assert not waiting.done
    waiting.wait(60, check=False)
    assert read(0) == 0
