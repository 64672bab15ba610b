"""Storage between nodes: iSCSI with multipath and LVM, NFS that hangs, sanlock leases of a dead host."""

from __future__ import annotations

import time

import pytest

from . import faults
from .deadlines import eventually
from .lab import DiskSpec
from .roles import iscsi, nfs, sanlock

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]


def write_until(device: str, stop: str) -> dict:
    """Write a block every 20 ms, past the page cache, until a file appears; how many, how many failed, the longest."""
    import mmap
    import os
    import time
    from pathlib import Path

    file = os.open(device, os.O_RDWR | os.O_DIRECT)
    block = mmap.mmap(-1, 4096)
    count = failed = 0
    longest = 0.0
    while not Path(stop).exists():
        start = time.monotonic()
        try:
            os.pwrite(file, block, 4096 * (count % 1000))
        except OSError:
            failed += 1
        count += 1
        longest = max(longest, time.monotonic() - start)
        time.sleep(0.02)
    return {"count": count, "failed": failed, "longest": longest}


def test_lvm_on_multipath_survives_the_loss_of_a_path(nodes) -> None:
    server, client = nodes(2, nics=["sana", "sanb"])
    server.run("truncate -s 512M /var/tmp/lun && losetup /dev/loop7 /var/tmp/lun")
    portals = [server.nic("sana0").ip, server.nic("sanb0").ip]
    target = iscsi.Target(server, portals)
    target.add_lun("/dev/loop7", "lun0000001")
    initiator = iscsi.Initiator(client)
    initiator.login(target)
    device = initiator.map(paths=2)
    client.run(f"pvcreate -y {device} && vgcreate mp {device} && lvcreate -y -L 100m -n lv mp", timeout_s=120)
    assert client.run("pvs --noheadings -o pv_name").text.strip() == device
    for number, fault in enumerate((faults.cut(client, "sana0"), target.portal_away(portals[1]))):
        stop = f"/run/stop{number}"
        writing = client.start_call(write_until, "/dev/mp/lv", stop)
        with fault:
            eventually(lambda: initiator.working_paths() == 1, "the loss of a path", 60)
            client.run(["dd", "if=/dev/zero", "of=/dev/mp/lv", "bs=4k", "count=10", "oflag=direct"])
        eventually(lambda: initiator.working_paths() == 2, "the path's return", 120)
        client.push(stop, "")
        written = client.result(writing)
        assert written["failed"] == 0
        assert written["longest"] > 1  # the loss was felt: otherwise nothing was shown


def test_reader_in_d_state_blocks_nobody_and_recovers(nodes) -> None:
    server, client = nodes(2, nics=["lan"])
    share = nfs.NfsServer(server, server.nic("lan0").ip)
    source = share.export("domain")
    server.run("dd if=/dev/zero of=/export/domain/big bs=1M count=8")
    nfs.mount(client, source, "/mnt/domain")
    server.freeze()
    reader = client.start("dd if=/mnt/domain/big of=/dev/null bs=4k iflag=direct", timeout_s=300)

    def state() -> str:
        return client.run("ps -C dd -o stat=", check=False).text.strip()

    eventually(lambda: state().startswith("D"), "a reader in state D")
    assert client.run("echo others go on; ls / >/dev/null", timeout_s=30).text == "others go on\n"
    assert client.call(free_blocks, "/", timeout_s=30) > 0
    assert state().startswith("D")
    assert not reader.done
    server.thaw()
    assert reader.wait(120).code == 0


def free_blocks(path: str) -> int:
    import os

    return os.statvfs(path).f_bfree


def test_nfs_server_goes_away_and_comes_back(nodes) -> None:
    server, client = nodes(2, nics=["lan"])
    share = nfs.NfsServer(server, server.nic("lan0").ip)
    source = share.export("domain")
    nfs.mount(client, source, "/mnt/hard")
    nfs.mount(client, source, "/mnt/soft", "vers=4.2,soft,timeo=20,retrans=1,nosharecache")
    client.run("echo content > /mnt/hard/file; sync")
    with share.away():
        waiting = client.start("echo more >> /mnt/hard/file; sync /mnt/hard/file", timeout_s=300)
        refused = client.run("echo 3 > /proc/sys/vm/drop_caches; cat /mnt/soft/file", timeout_s=120, check=False)
        assert refused.code
        assert not refused.timed_out
        assert not waiting.done
        server.run(["ping", "-c1", "-W5", client.nic("lan0").ip])  # only NFS is away
    waiting.wait(120)
    assert server.run("cat /export/domain/file").text == "content\nmore\n"


def test_lease_of_a_host_without_power_goes_to_the_other(nodes) -> None:
    one, two = nodes(2, disks=[DiskSpec("lease", 64 << 20)])
    holder, other = (sanlock.Sanlock(node, node.disk("lease"), fast=10, io_timeout_s=5) for node in (one, two))
    holder.initialize()
    holder.join(1)
    other.join(2)
    holding = holder.hold()
    eventually(holder.holds, "the lease")
    refused = other.hold().wait(60, check=False)
    assert refused.code  # the holder is alive
    assert holder.holds()
    start = time.monotonic()
    one.power_off()

    def taken() -> bool:
        if attempt[-1].done:
            attempt.append(other.hold())
        return other.holds()

    attempt = [other.hold()]
    eventually(taken, "the dead holder's lease", 20 * other.dead_after_s, 0.3)
    assert time.monotonic() - start > other.dead_after_s / 2  # not before the holder must have noticed itself
    assert holding.done
