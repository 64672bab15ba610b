"""The tiny guest does what tests ask of it; seen from inside and from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import libvirt
import pytest

from vds_bootstrap.guest import MARKER

from . import host_faults, patterns
from .deadlines import eventually
from .enclosure import state
from .guests import Disk, Guest, GuestFailed, make_disk
from .host_fixtures import lend
from .hosts import Host, Hosts

pytestmark = pytest.mark.light

MIB = 1 << 20
SMALL = "/var/lib/vdsm/small"


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with lend(request) as make:
        lab: Hosts = make(1, shared=("images",), agents=False)
        yield lab[0]


@pytest.fixture(scope="module")
def guest(host: Host) -> Guest:
    """A guest for all tests: vda raw, vdb qcow2, vdc large, all three shared; vdd on a small file system."""
    images, inside = host.lab.shared("images"), host.shared("images")
    make_disk(images / "a.raw", 64 * MIB)
    make_disk(images / "b.qcow2", 64 * MIB, "qcow2")
    make_disk(images / "c.raw", 6 << 30)
    disks = [Disk(f"{inside}/a.raw"), Disk(f"{inside}/b.qcow2", "qcow2"), Disk(f"{inside}/c.raw")]
    host.mount_small(SMALL, 24)
    host.run(["truncate", "-s", str(64 * MIB), f"{SMALL}/d.raw"])
    # tmpfs has O_DIRECT on new kernels only.
    disks.append(Disk(f"{SMALL}/d.raw", cache="writeback"))
    guest = Guest(host, "plain", disks=disks, memory_mib=192)
    guest.boot()
    return guest


def test_guest_is_at_its_console_and_its_agent_answers(guest: Guest) -> None:
    assert f"\n{MARKER} plain\n" in guest.console.log
    assert guest.run("hostname") == "plain\n"
    assert guest.console.run("hostname; ls /sys/block") == "plain\nvda  vdb  vdc  vdd\n"
    assert guest.status[0] == libvirt.VIR_DOMAIN_RUNNING
    assert state(guest.pid) not in "XZ"


def test_failures_in_the_guest_are_told(guest: Guest) -> None:
    with pytest.raises(GuestFailed, match="status 3: why"):
        guest.run("echo why; exit 3")
    with pytest.raises(GuestFailed, match="status 3: why"):
        guest.console.run("echo why; exit 3")
    with pytest.raises(GuestFailed, match="did not end"):
        guest.console.run("sleep 2", timeout_s=0.5)
    eventually(lambda: guest.console.run("echo again") == "again\n", "the shell is free again")


@pytest.mark.parametrize(("disk", "file", "kind"), [("vda", "a.raw", "raw"), ("vdb", "b.qcow2", "qcow2")])
def test_patterns_are_what_both_sides_see(guest: Guest, disk: str, file: str, kind: str) -> None:
    guest.write_pattern(disk, "seed", 4 * MIB, MIB)
    assert guest.check_pattern(disk, "seed", 4 * MIB, MIB) is None
    data = patterns.read_image(guest.host.lab.shared("images") / file, kind, 4 * MIB, MIB)
    assert patterns.first_difference(data, "seed", 4 * MIB) is None
    # Somebody else's, nobody's, and one that belongs elsewhere.
    assert guest.check_pattern(disk, "other", 4 * MIB, MIB) == 4 * MIB + len("lab ")
    assert guest.check_pattern(disk, "seed", 4 * MIB, 2 * MIB) == 5 * MIB
    guest.run(f"dd if=/dev/{disk} of=/dev/{disk} bs=512 count=1 skip=9000 seek=9001 conv=notrunc,fsync status=none")
    wrong = guest.check_pattern(disk, "seed", 4 * MIB, MIB)
    assert wrong is not None
    assert 9001 * 512 <= wrong < 9002 * 512
    data = patterns.read_image(guest.host.lab.shared("images") / file, kind, 4 * MIB, MIB)
    assert patterns.first_difference(data, "seed", 4 * MIB) == wrong


def test_pattern_past_four_gib_is_the_same_on_both_sides(guest: Guest) -> None:
    guest.write_pattern("vdc", "far", 5 << 30, 4096)
    assert guest.check_pattern("vdc", "far", 5 << 30, 4096) is None
    with (guest.host.lab.shared("images") / "c.raw").open("rb") as file:
        file.seek(5 << 30)
        assert patterns.first_difference(file.read(4096), "far", 5 << 30) is None


def dirty_rate(guest: Guest) -> int:
    """What QEMU says of the memory that the guest writes, in MiB a second."""
    domain = guest.domain
    domain.startDirtyRateCalc(1, 0)

    def measured() -> dict[str, int]:
        stats = guest.host.virt.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE)[0][1]
        return stats if stats.get("dirtyrate.calc_status") == libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED else {}

    return int(eventually(measured, "the dirty rate", pause_s=0.1)["dirtyrate.megabytes_per_second"])


def test_memory_is_dirtied_at_the_rate_that_was_asked_for(guest: Guest) -> None:
    idle = dirty_rate(guest)
    rates = []
    for rate in (4, 24):
        pid = guest.dirty_memory(rate)
        try:
            eventually(lambda rate=rate: guest.dirtied().mib >= 2 * rate, "some memory was written")
            rates.append(dirty_rate(guest))
            # Its own book: never faster than asked for. How much slower depends on how busy the machine is.
            assert guest.dirtied().rate <= rate * 1.1 + 1
        finally:
            guest.kill(pid)
        before = guest.dirtied().mib
        assert guest.dirtied().mib == before
        guest.run("rm /run/lab-dirty")
    # Idle guests touch some pages all the time; the measure is a sample of pages.
    assert rates[1] > rates[0]
    assert rates[1] > idle + 4


def test_cpu_is_hogged_until_it_is_killed(guest: Guest) -> None:
    def ticks() -> tuple[int, int]:
        fields = [int(word) for word in guest.run("head -n 1 /proc/stat").split()[1:5]]
        return sum(fields[:3]), fields[3]

    def idle_share() -> float:
        """Of so much time of the guest that what asks for it matters little."""
        busy, idle = ticks()
        eventually(lambda: sum(ticks()) > busy + idle + 100, "a second of guest time", pause_s=0.3)
        now_busy, now_idle = ticks()
        return (now_idle - idle) / (now_busy + now_idle - busy - idle)

    spent = guest.domain.info()[4]
    pid = guest.hog_cpu()
    try:
        assert idle_share() < 0.2
        assert guest.domain.info()[4] - spent > 200_000_000  # nanoseconds of CPU, as libvirt sees it
    finally:
        guest.kill(pid)
    assert idle_share() > 0.2


def test_frozen_agent_does_not_answer_and_the_guest_goes_on(guest: Guest) -> None:
    guest.freeze_agent()
    try:
        assert not guest.agent_answers(timeout_s=1)
        assert guest.console.run("hostname") == "plain\n"
    finally:
        guest.thaw_agent()
    eventually(guest.agent_answers, "the agent")


def test_stopped_qemu_goes_on_with_what_it_did(guest: Guest) -> None:
    pid = guest.count()
    eventually(lambda: guest.counted() > 2, "it counts")
    qemu = guest.pid
    with host_faults.guest_stopped(guest):
        eventually(lambda: state(qemu) == "T", "QEMU stands still")
        with pytest.raises(GuestFailed, match="did not end"):
            guest.console.run("hostname", timeout_s=1)
    counted = guest.counted()
    eventually(lambda: guest.counted() > counted, "it counts on")
    guest.kill(pid)


def test_full_file_system_pauses_a_guest_and_it_goes_on_after_there_is_room(guest: Guest) -> None:
    guest.write_pattern("vdd", "first", 0, MIB)
    with host_faults.full(guest.host, SMALL):
        guest.start(f"sh -c 'lab-pattern write /dev/vdd second {8 * MIB} {4 * MIB}; echo $? >/run/written'")
        eventually(lambda: guest.is_paused, "the guest is paused")
        assert guest.status == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)
        assert guest.domain.diskErrors() == {"vdd": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}
    guest.domain.resume()
    eventually(lambda: guest.run("cat /run/written 2>/dev/null || true") == "0\n", "the write has ended well")
    assert guest.check_pattern("vdd", "second", 8 * MIB, 4 * MIB) is None
    assert guest.check_pattern("vdd", "first", 0, MIB) is None


def test_guest_on_a_stalled_share_waits_and_loses_nothing(guest: Guest) -> None:
    started = threading.Event()
    done: list[int | None] = []

    def write() -> None:
        started.set()
        guest.write_pattern("vda", "stall", 16 * MIB, MIB)
        done.append(guest.check_pattern("vda", "stall", 16 * MIB, MIB))

    writer = threading.Thread(target=write)
    with host_faults.stalled(guest.host, "images"):
        writer.start()
        started.wait(10)
        writer.join(2)
        assert writer.is_alive()
        assert done == []
        assert state(guest.pid) not in "XZ"
    writer.join(60)
    assert done == [None]
