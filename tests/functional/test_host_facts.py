"""The host's facts against what this machine's own tools say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from lab.light import LightHost
from needs import needs, require
from vdsm.host import cpu, kernel, networks, numa
from vdsm.host.capabilities import Capabilities, CapabilitiesSource, Collector, Settings
from vdsm.host.hypervisor import GuestSupport
from vdsm.host.networks import KernelLinks, NetworkFacts
from vdsm.host.packages import PROTOCOL_VERSION
from vdsm.host.sampler import StatisticsSampler

pytestmark = needs("program:ip", "program:lscpu")

NO_GUESTS = GuestSupport((), (), (), None, tsc_scaling=False, libvirt_version="", qemu_version="")


def output(*argv: str, timeout_s: float = 60.0) -> str:
    return subprocess.run(argv, capture_output=True, check=True, text=True, timeout=timeout_s).stdout


def ip(*arguments: str) -> Any:
    return json.loads(output("ip", "-json", *arguments) or "[]")


@dataclass
class Virsh:
    """HypervisorFacts through a host's virsh."""

    host: LightHost

    def capabilities_xml(self) -> str:
        return self.host.virsh("capabilities")

    def domain_capabilities_xml(self) -> str:
        return self.host.virsh("domcapabilities", "--virttype", "qemu")

    def cpu_models(self) -> tuple[str, ...]:
        return tuple(self.host.virsh("cpu-models", "x86_64").split())

    def versions(self) -> tuple[str, str]:
        lines = self.host.virsh("version").splitlines()
        words = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines if line}
        return words["Using library: libvirt"], words["Running hypervisor: QEMU"]


@pytest.fixture(scope="module")
def libvirt_host() -> Iterator[LightHost]:
    require("root", "program:libvirtd", "program:virsh", "program:unshare")
    with LightHost(Path(f"/tmp/vdsm-facts-{os.getpid()}")) as host:
        yield host


def test_processors_are_those_of_lscpu() -> None:
    said = {item["field"]: item["data"] for item in json.loads(output("lscpu", "--json"))["lscpu"]}
    facts = cpu.gather(NO_GUESTS, numa.gather())
    assert facts.model == said["Model name:"]
    assert facts.threads == int(said["CPU(s):"])
    assert facts.sockets == int(said["Socket(s):"])
    assert facts.cores == int(said["Core(s) per socket:"]) * int(said["Socket(s):"])
    assert set(facts.flags) == set(said["Flags:"].split())
    assert facts.speed_mhz > 0


def test_places_are_those_of_lscpu() -> None:
    rows = [line.split(",") for line in output("lscpu", "--parse=CPU,SOCKET,NODE").splitlines() if line[0] != "#"]
    places = cpu.gather(NO_GUESTS, numa.gather()).places
    found = [[str(item.cpu_id), str(item.socket_id), str(item.numa_cell_id)] for item in places]
    assert found == [[cell or "0" for cell in row] for row in rows]


def test_a_bound_process_tells_its_cpus() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    code = (
        "import os; os.sched_setaffinity(0, {1})\n"
        "from vdsm.host import cpu, numa; from vdsm.host.hypervisor import GuestSupport\n"
        "none = GuestSupport((), (), (), None, tsc_scaling=False, libvirt_version='', qemu_version='')\n"
        "print(cpu.gather(none, numa.gather()).affinity)"
    )
    assert output(sys.executable, "-c", code).strip() == "(1,)"


def test_the_system_is_this_one() -> None:
    facts = kernel.gather()
    assert facts.kernel_release == output("uname", "-r").strip()
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert facts.memory_mib == int(output("free", "--mebi").splitlines()[1].split()[1])
    assert facts.kernel_args == Path("/proc/cmdline").read_text().strip()
    pretty = output("sh", "-c", '. /etc/os-release; echo "$NAME|$VERSION_ID|$PRETTY_NAME"').strip()
    system = facts.operating_system
    assert f"{system.name}|{system.version}|{system.pretty_name}" == pretty
    if not Path("/dev/hwrng").exists():
        assert facts.rng_sources == ("random",)


def test_numa_nodes_cover_all_cpus_and_memory() -> None:
    nodes = numa.gather()
    assert sorted(index for node in nodes for index in node.cpus) == sorted(os.sched_getaffinity(0))
    assert sum(node.memory_mib for node in nodes) == pytest.approx(kernel.gather().memory_mib, rel=0.05)
    assert all(len(node.distances) == len(nodes) for node in nodes)


def test_cards_and_addresses_are_those_of_ip() -> None:
    facts = networks.gather(KernelLinks())
    said = {item["ifname"]: item for item in ip("address", "show")}
    default = {item["dev"]: item.get("gateway", "") for item in ip("-4", "route", "show", "default")}
    assert {"lo", "ifb0"}.isdisjoint(facts.nics)
    for name, nic in facts.nics.items():
        assert nic.mac == said[name]["address"]
        assert nic.mtu == said[name]["mtu"]
        local = [f"{item['local']}/{item['prefixlen']}" for item in said[name]["addr_info"] if item["family"] == "inet"]
        assert nic.ip.ipv4_addresses == tuple(local)
        assert nic.ip.gateway == default.get(name, "")
        assert nic.ip.ipv4_default_route == (name in default)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace with its own /sys, gone afterwards."""
    name = f"vdsm-facts-{os.getpid()}"
    output("ip", "netns", "add", name)
    yield name
    output("ip", "netns", "delete", name)


FACTS = (
    "import dataclasses, json; from vdsm.host import networks;"
    "print(json.dumps(dataclasses.asdict(networks.gather(networks.KernelLinks()))))"
)
STATISTICS = (
    "import dataclasses, json; from vdsm.host.sampler import StatisticsSampler;"
    "print(json.dumps(dataclasses.asdict(StatisticsSampler(directories=()).sample())))"
)


@needs("root")
def test_a_bridge_with_a_card_is_a_network(namespace: str) -> None:
    for command in (
        "link add ovirtmgmt type bridge stp_state 1",
        "link add eth7 mtu 1400 type veth peer name peer7",
        "link set eth7 master ovirtmgmt",
        "link set eth7 up",
        "link set peer7 up",
        "link set ovirtmgmt mtu 1400 up",
        "address add 198.51.100.9/28 dev ovirtmgmt",
        "address add 2001:db8::9/64 dev ovirtmgmt nodad",
        "address add 203.0.113.5/32 dev peer7 valid_lft 600 preferred_lft 600",
        "route add default via 198.51.100.1",
        "-6 route add default via 2001:db8::1",
    ):
        output("ip", "-netns", namespace, *command.split())
    run = ("ip", "netns", "exec", namespace, sys.executable, "-c")
    facts = json.loads(output(*run, FACTS))
    network = facts["networks"]["ovirtmgmt"]
    assert set(facts["nics"]) == {"eth7"}
    assert facts["nics"]["eth7"]["up"]
    # two veth ends in one namespace: the speed is what the driver says
    assert facts["nics"]["eth7"]["speed_mbit"] == 10_000
    assert set(facts["networks"]) == set(facts["bridges"]) == {"ovirtmgmt"}
    assert (network["ports"], network["southbound"], network["stp"]) == (["eth7"], "eth7", True)
    assert (network["mtu"], network["vlan_tag"]) == (1400, None)
    assert network["ip"] == facts["bridges"]["ovirtmgmt"]["ip"]
    assert network["ip"] | {"ipv6_autoconf": None} == {
        "address": "198.51.100.9",
        "netmask": "255.255.255.240",
        "gateway": "198.51.100.1",
        "ipv4_addresses": ["198.51.100.9/28"],
        "ipv4_default_route": True,
        "ipv6_addresses": ["2001:db8::9/64"],
        "ipv6_gateway": "2001:db8::1",
        "dhcpv4": False,
        "dhcpv6": False,
        "ipv6_autoconf": None,
    }
    devices = json.loads(output(*run, STATISTICS))["network"]
    assert set(devices) == {"ovirtmgmt", "eth7", "peer7"}
    assert devices["eth7"]["up"]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(machine_aliases={"pc-q35-rhel9.6.0": "pc-q35-7.2", "pc-nowhere": "pc-none"}, interval_s=0.2)


@pytest.fixture
def changes() -> SimpleQueue[NetworkFacts]:
    return SimpleQueue()


@pytest.fixture
def source(
    libvirt_host: LightHost, settings: Settings, changes: SimpleQueue[NetworkFacts]
) -> Iterator[CapabilitiesSource]:
    collector = Collector(
        guests=Virsh(libvirt_host),
        links=KernelLinks(),
        initiator_name=lambda: "iqn.test",
        kvm=lambda: False,
        settings=settings,
    )
    made = CapabilitiesSource(collector, settings, changes.put)
    made.start()
    yield made
    made.stop()


@needs("qemu", "program:dpkg-query")
def test_capabilities_are_complete_and_true(source: CapabilitiesSource) -> None:
    facts: Capabilities = source.current(timeout_s=60.0)
    machines = output("qemu-system-x86_64", "-machine", "help")
    assert "pc-q35-7.2" in machines
    assert {"pc-q35-7.2", "pc-i440fx-7.2", "pc", "q35", "pc-q35-rhel9.6.0"} <= set(facts.emulated_machines)
    assert "pc-nowhere" not in facts.emulated_machines
    assert facts.cluster_levels[-1] == "4.8"
    assert "model_qemu64" in facts.cpu.flags
    kernel_flags = set(Path("/proc/cpuinfo").read_text().split())
    assert {"vmx", "svm"} & set(facts.cpu.flags) == {"vmx", "svm"} & kernel_flags
    packages = {item.name: item for item in facts.packages}
    assert packages["vdsm"].version == PROTOCOL_VERSION
    for name, debian in (("libvirt", "libvirt-daemon"), ("qemu-kvm", "qemu-system-x86")):
        version = output("dpkg-query", "--show", "--showformat=${Version}", debian)
        assert version.endswith(f"{packages[name].version}-{packages[name].release}")
    assert facts.hba.initiator_name == "iqn.test"
    assert not facts.kvm


def test_a_new_address_is_noticed(source: CapabilitiesSource, changes: SimpleQueue[NetworkFacts]) -> None:
    name = f"eth-t{os.getpid() % 100_000}"
    source.current(timeout_s=60.0)
    output("ip", "link", "add", name, "type", "veth")
    try:
        output("ip", "address", "add", "203.0.113.77/32", "dev", name)
        assert source.refresh(timeout_s=60.0).network.nics[name].ip.address == "203.0.113.77"
        seen = []
        while not any(item.address == "203.0.113.77" for item in seen):
            told = changes.get(timeout=60.0)
            seen = [nic.ip for nic in told.nics.values()]
    except Empty:
        pytest.fail("nobody was told of the new address")
    finally:
        output("ip", "link", "delete", name)


@needs("root")
def test_counters_grow_by_what_is_sent() -> None:
    one, other = f"eth-a{os.getpid() % 100_000}", f"eth-b{os.getpid() % 100_000}"
    output("ip", "link", "add", one, "type", "veth", "peer", "name", other)
    try:
        for name in (one, other):
            output("ip", "link", "set", name, "up")
        sampler = StatisticsSampler(directories=())
        before = sampler.sample().network
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((one, 0))
            for _ in range(50):
                sender.send(bytes(1000))
        statistics = sampler.sample()
        after = statistics.network
    finally:
        output("ip", "link", "delete", one)
    assert after[one].tx_bytes - before[one].tx_bytes >= 50 * 1000
    assert after[other].rx_bytes - before[other].rx_bytes >= 50 * 1000
    assert after[one].tx_rate > 0
    assert statistics.tx_rate >= after[one].tx_rate
    assert after[one].sample_time_s > before[one].sample_time_s
    assert (after[one].up, after[one].speed_mbit) == (True, 10_000)
    assert set(sampler.sample().network).isdisjoint({one, other})


def test_work_is_seen_on_the_cpu_that_does_it() -> None:
    cpu_id = min(os.sched_getaffinity(0))
    sampler = StatisticsSampler(directories=())
    sampler.sample()
    code = "import time\nuntil = time.process_time() + 1.0\nwhile time.process_time() < until: pass"
    subprocess.run(["taskset", "--cpu-list", str(cpu_id), sys.executable, "-c", code], check=True, timeout=60)
    use = sampler.sample().cpus[cpu_id].use
    # one second of work, in a window that may be longer on a busy machine but has this work in it
    assert use.user > 0
    assert use.idle < 100
    assert sum((use.user, use.system, use.idle)) == pytest.approx(100.0)


def test_own_work_is_the_agents() -> None:
    sampler = StatisticsSampler(directories=())
    sampler.sample()
    until = os.times().user + 0.3
    while os.times().user < until:
        pass
    use = sampler.sample().agent
    assert use.cpu_user_percent > 0
    assert use.resident_kib == pytest.approx(int(output("ps", "-o", "rss=", "-p", str(os.getpid()))), rel=0.1)


@needs("root", "program:unshare")
def test_free_space_is_that_of_local_directories_only(tmp_path: Path) -> None:
    found = StatisticsSampler(directories=(str(tmp_path), "/proc", "/no/such")).sample().disk_free_mib
    facts = os.statvfs(tmp_path)
    assert set(found) == {str(tmp_path)}
    assert found[str(tmp_path)] == pytest.approx(facts.f_bavail * facts.f_frsize / 2**20, rel=0.05)


def test_memory_is_that_of_free() -> None:
    sample = StatisticsSampler(directories=()).sample()
    row = output("free", "--mebi").splitlines()[1].split()
    assert sample.memory.total == int(row[1])
    assert sample.memory.free == pytest.approx(int(row[-1]), rel=0.2)
    assert sample.numa_nodes
    assert sample.boot_time_s == int(
        next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")).split()[1]
    )
    assert sample.thp_state in {"always", "madvise", "never"}
