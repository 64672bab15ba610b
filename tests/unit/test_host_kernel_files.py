"""Parsers of the files of /proc, /sys and os-release on sample texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.system import osrelease, procfs, sysfs
from vdsm.system.procfs import CpuTicks, Mount, NetCounters

STAT = b"""\
cpu  100 20 30 1000 50 4 6 7 11 3
cpu0 60 10 10 500 20 1 2 3 5 1
cpu3 40 10 20 500 30 3 4 4 6 2
intr 232279 0 0 0 19
ctxt 455024
btime 1700000000
processes 4711
"""


def test_stat_sums_related_times_and_keeps_holes_in_the_numbering() -> None:
    stat = procfs.parse_stat(STAT)
    assert stat.total == CpuTicks(user=120, system=40, idle=1050, total=1217)
    assert sorted(stat.cpus) == [0, 3]
    assert stat.cpus[3] == CpuTicks(user=50, system=27, idle=530, total=611)
    assert stat.boot_time_s == 1_700_000_000


def test_meminfo_takes_kib_and_counts() -> None:
    text = b"MemTotal:       24684084 kB\nHugePages_Total:       5\nAnonHugePages:      2048 kB\n"
    assert procfs.parse_meminfo(text) == {
        b"MemTotal": 24_684_084,
        b"HugePages_Total": 5,
        b"AnonHugePages": 2048,
    }


def test_net_dev_survives_names_with_colons_and_counters_that_touch_the_colon() -> None:
    text = (
        b"Inter-|   Receive                                                |  Transmit\n"
        b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n"
        b"  eth0:126864285 3756 1 2 0 0 0 0 232161 2231 3 4 0 0 0 0\n"
        b"eth0:1:      5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n"
    )
    assert procfs.parse_net_dev(text) == {
        "eth0": NetCounters(126_864_285, 1, 2, 232_161, 3, 4),
        "eth0:1": NetCounters(5, 0, 0, 6, 0, 0),
    }


def test_process_names_may_hold_parentheses_and_blanks() -> None:
    text = b"37 (ev) il) ) S 2 0 0 0 -1 2129984 0 0 0 0 12 34 0 0 39 19 1 0\n"
    assert procfs.parse_process_ticks(text) == (12, 34)


def test_resident_memory_is_given_in_kib() -> None:
    assert procfs.parse_resident_kib(b"5000 256 100 1 0 400 0\n") == 256 * procfs.PAGE_BYTES // 1024


def test_cpuinfo_takes_the_first_processor() -> None:
    info = procfs.parse_cpuinfo(
        b"processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\ncpu MHz\t\t: 2400.125\nflags\t\t: fpu vmx nx\n\n"
        b"processor\t: 1\nmodel name\t: another\n"
    )
    assert info == procfs.Cpuinfo("Intel(R) Xeon(R)", 2400.125, ("fpu", "vmx", "nx"))


def test_cpuinfo_of_an_architecture_without_these_lines_is_empty() -> None:
    assert procfs.parse_cpuinfo(b"processor\t: 0\nBogoMIPS\t: 50.00\n") == procfs.Cpuinfo("", 0.0, ())


def test_mounts_are_unescaped() -> None:
    text = (
        b"27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        b"35 27 0:40 / /mnt/my\\040disk\\134x rw - nfs4 host:/export rw\n"
    )
    assert procfs.parse_mounts(text) == (Mount("/", "ext4"), Mount("/mnt/my disk\\x", "nfs4"))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", ()), ("0", (0,)), ("0-2,5", (0, 1, 2, 5)), (" 3 , 8-9\n", (3, 8, 9))],
)
def test_cpu_lists(text: str, numbers: tuple[int, ...]) -> None:
    assert sysfs.parse_cpu_list(text) == numbers


@given(st.sets(st.integers(0, 200), max_size=30))
def test_cpu_lists_come_back_whatever_is_in_them(numbers: set[int]) -> None:
    assert sysfs.parse_cpu_list(",".join(map(str, sorted(numbers)))) == tuple(sorted(numbers))


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(root)


def test_topology_of_two_sockets_with_threads(tmp_path: Path) -> None:
    files = {"devices/system/cpu/online": "0-3"}
    for cpu, (core, socket, siblings) in enumerate([(0, 0, "0,2"), (0, 1, "1,3"), (0, 0, "0,2"), (0, 1, "1,3")]):
        base = f"devices/system/cpu/cpu{cpu}/topology"
        files |= {
            f"{base}/core_id": str(core),
            f"{base}/physical_package_id": str(socket),
            f"{base}/die_id": "-1",
            f"{base}/thread_siblings_list": siblings,
        }
    positions = sysfs.cpu_positions(write(tmp_path, files))
    assert [item.socket_id for item in positions] == [0, 1, 0, 1]
    assert [item.die_id for item in positions] == [0, 0, 0, 0]
    assert len({item.siblings for item in positions}) == 2


def test_numa_nodes_with_a_gap(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "devices/system/node/online": "0,8",
            "devices/system/node/node0/cpulist": "0-1",
            "devices/system/node/node0/distance": "10 40",
            "devices/system/node/node8/cpulist": "",
            "devices/system/node/node8/distance": "40 10",
            "devices/system/node/node8/meminfo": "Node 8 MemTotal:  2048 kB\nNode 8 MemFree:  1024 kB",
        },
    )
    first, second = sysfs.numa_nodes(root)
    assert (first.index, first.cpus, first.distances) == (0, (0, 1), (10, 40))
    assert (second.index, second.cpus, second.distances) == (8, (), (40, 10))
    memory = procfs.parse_meminfo(sysfs.node_meminfo(8, root))
    assert memory == {b"MemTotal": 2048, b"MemFree": 1024}


def test_huge_pages_are_sorted_by_size(tmp_path: Path) -> None:
    base = sysfs.HUGE_PAGES
    root = write(
        tmp_path,
        {f"{base}/hugepages-1048576kB/nr_hugepages": "1", f"{base}/hugepages-2048kB/nr_hugepages": "64"},
    )
    assert sysfs.huge_page_sizes(root=root) == (2048, 1_048_576)
    assert sysfs.huge_page_count(2048, "nr_hugepages", root=root) == 64
    assert sysfs.huge_page_count(2048, "free_hugepages", root=root) == 0


@pytest.mark.parametrize("state", ["always", "madvise", "never"])
def test_transparent_huge_pages(tmp_path: Path, state: str) -> None:
    words = " ".join(f"[{word}]" if word == state else word for word in ("always", "madvise", "never"))
    root = write(tmp_path, {"kernel/mm/transparent_hugepage/enabled": words})
    assert sysfs.thp_state(root) == state


def test_a_kernel_without_these_files_has_nothing_and_no_errors(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert sysfs.thp_state(root) == "never"
    assert sysfs.numa_nodes(root) == ()
    assert sysfs.cpu_positions(root) == ()
    assert sysfs.fibre_channel_hosts(root) == ()
    assert sysfs.vulnerabilities(root) == {}
    assert sysfs.net_speed_mbit("eth0", root) == 0
    assert not sysfs.net_up("eth0", root)


def test_fibre_channel_ports_lose_their_prefix(tmp_path: Path) -> None:
    base = "class/fc_host/host3"
    root = write(tmp_path, {f"{base}/node_name": "0x20000025b5", f"{base}/port_name": "0x20000025b6"})
    (port,) = sysfs.fibre_channel_hosts(root)
    assert (port.node_name, port.port_name, port.model) == ("20000025b5", "20000025b6", "")


@pytest.mark.parametrize(
    ("operstate", "carrier", "up"),
    [("up", "1", True), ("down", "0", False), ("unknown", "1", True), ("unknown", "0", False), ("dormant", "1", False)],
)
def test_a_device_is_up_when_it_can_carry_packets(tmp_path: Path, operstate: str, carrier: str, *, up: bool) -> None:
    base = "class/net/eth0"
    root = write(tmp_path, {f"{base}/operstate": operstate, f"{base}/carrier": carrier, f"{base}/speed": "-1"})
    assert sysfs.net_up("eth0", root) is up
    assert sysfs.net_speed_mbit("eth0", root) == 0


def test_os_release_is_read_as_a_shell_would(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text(
        '# comment\nNAME="Debian GNU/Linux"\nVERSION_ID=12\nODD="unbalanced\n\nEMPTY=\nPRETTY_NAME=\'a "b"\'\n'
    )
    assert osrelease.read((tmp_path / "absent", file)) == {
        "NAME": "Debian GNU/Linux",
        "VERSION_ID": "12",
        "EMPTY": "",
        "PRETTY_NAME": 'a "b"',
    }
    assert osrelease.read((tmp_path / "absent",)) == {}
