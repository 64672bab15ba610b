"""The power cut and dm-flakey lose exactly what was not flushed."""

from __future__ import annotations

import random

import pytest

from . import faults, powercut
from .lab import DiskSpec

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]
BLOCK = 4096


def write_blocks(device: str, first: int, last: int, flush: bool) -> None:
    """Write blocks that carry their own number, past the page cache; then flush or not."""
    import mmap
    import os

    file = os.open(device, os.O_RDWR | os.O_DIRECT)
    block = mmap.mmap(-1, 4096)
    for number in range(first, last):
        block[:8] = number.to_bytes(8, "big")
        os.pwrite(file, block, number * 4096)
    if flush:
        os.fsync(file)


def numbers(path, size: int) -> set[int]:
    """The blocks of an image that carry their number."""
    found = set()
    with path.open("rb") as file:
        for number in range(1, size // BLOCK):
            file.seek(number * BLOCK)
            if file.read(8) == number.to_bytes(8, "big"):
                found.add(number)
    return found


def test_power_cut_loses_exactly_what_was_not_flushed(nodes, lab, tmp_path) -> None:
    disk = lab.disk(DiskSpec("data", 16 << 20, journal=True))
    (node,) = nodes(1, disks=[disk])

    def write(first: int, last: int, flush: bool) -> int:
        node.call(write_blocks, node.disk("data"), first, last, flush)
        return powercut.mark(disk)

    flushed = write(1, 50, True)
    after = write(50, 80, False)
    node.power_off()
    journal = powercut.Journal(disk)
    assert flushed < after <= len(journal.entries)
    assert journal.owed(after) <= flushed

    whole = tmp_path / "whole"
    journal.image(whole, len(journal.entries), random.Random(1), survival=1.0)
    assert whole.read_bytes() == disk.path.read_bytes()

    cut = tmp_path / "cut"
    lost = journal.image(cut, after)
    assert numbers(cut, disk.size) == set(range(1, 50))
    assert {entry.start // BLOCK for entry in lost} == set(range(50, 80))

    early = tmp_path / "early"
    journal.image(early, flushed // 2)
    assert numbers(early, disk.size) == set()  # nothing had been flushed by then

    some = tmp_path / "some"
    journal.image(some, after, random.Random(5), survival=0.5)
    assert set(range(1, 50)) < numbers(some, disk.size) < set(range(1, 80))


def test_file_system_after_a_power_cut_has_what_was_synced(nodes, lab) -> None:
    disk = lab.disk(DiskSpec("data", 64 << 20, journal=True))
    (node,) = nodes(1, disks=[disk])
    device = node.disk("data")
    node.run(f"mkfs.ext4 -q {device} && mkdir -p /mnt/fs && mount {device} /mnt/fs")
    node.run("dd if=/dev/urandom of=/mnt/fs/safe bs=64k count=20 conv=fsync; cp /mnt/fs/safe /root/; sync /mnt/fs")
    since = powercut.mark(disk)
    node.run("dd if=/dev/urandom of=/mnt/fs/unsafe bs=64k count=20 oflag=direct")
    checksum = node.run("sha256sum < /mnt/fs/safe").text
    assert powercut.mark(disk) > since
    with powercut.power_cut(node, disk, random.Random(7), since=since) as cut:
        assert not node.is_on
        assert cut.boundary >= since
    device = node.disk("data")
    node.run(f"mkdir -p /mnt/fs && mount {device} /mnt/fs")
    assert node.run("sha256sum < /mnt/fs/safe").text == checksum
    assert node.run("test -s /mnt/fs/unsafe", check=False).code == 1
    node.run(f"umount /mnt/fs && e2fsck -fn {device}")


def test_flakey_disk_loses_exactly_what_was_written_meanwhile(nodes, lab) -> None:
    disk = lab.disk(DiskSpec("data", 16 << 20))
    (node,) = nodes(1, disks=[disk])
    flaky = faults.FaultyDisk(node, node.disk("data"), "flaky")
    node.call(write_blocks, flaky.path, 1, 20, True)
    with flaky.forgetful():
        node.call(write_blocks, flaky.path, 20, 40, True)  # reported as written and flushed
    node.call(write_blocks, flaky.path, 40, 60, True)
    assert numbers(disk.path, disk.size) == set(range(1, 20)) | set(range(40, 60))
