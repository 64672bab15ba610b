"""An oVirt Engine has the real agent as a host: brings it Up, runs VMs on it, and reads all answers its strict way."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import ssl
import struct
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from guest import tiny_guest
from lab.agent_host import AgentHost, short_directory
from lab.engine import Engine, KnownVm, capabilities, picture
from lab.engine_values import Reader
from lab.engine_wire import IRS_REQUESTS, IRS_RESPONSES, Broken, Connection, EngineEvent, VdsError
from lab.fabric import _enter_network
from lab.light import LightHost, eventually
from lab.vnc import Client as Viewer
from needs import needs
from wire import client_context

__all__ = ["tiny_guest"]

pytestmark = [pytest.mark.light, needs("root", "qemu", "program:libvirtd", "program:qemu-img", "busybox")]

SAMPLE = (Path(__file__).parent.parent / "samples/engine-vm.xml").read_text()
SAMPLE_ID = "5b9c7e0a-3d41-4f0e-9a58-6f2d8e7c1b34"
SAMPLE_ALIASES = set(re.findall(r'"(ua-[^"]+)"', SAMPLE))
SAMPLE_DISK = re.compile(r'file="/rhev/[^"]*"')
OPTIONS = """report_kvm = true
cheap_interval_s = 0.5
monitor_interval_s = 1.0
[limits]
lifecycle_workers = 2
queue = 4
"""
# What two readings of the same counter may differ by.
SLACK_MIB = 2048


@pytest.fixture(scope="module")
def host() -> Iterator[LightHost]:
    """A host with the management network that an Engine wants: a bridge with a card and an address."""
    with short_directory() as place, LightHost(place / "h", network=True) as light:
        for command in (
            "link add ovirtmgmt type bridge",
            "link add eth7 type veth peer name cable",
            "link set eth7 master ovirtmgmt",
            "addr add 192.0.2.10/24 dev ovirtmgmt",
            "link set eth7 up",
            "link set cable up",
            "link set ovirtmgmt up",
        ):
            light.run("ip", *command.split())
        yield light


@pytest.fixture(scope="module")
def agent(host: LightHost, tiny_guest) -> Iterator[AgentHost]:
    with short_directory() as place:
        running = AgentHost(place / "a", host, OPTIONS, inside=True)
        with running:
            for name, source in (("vmlinux", tiny_guest.kernel), ("initrd.img", tiny_guest.initrd)):
                (running.images / name).write_bytes(source.read_bytes())
            yield running


@pytest.fixture
def dial(host: LightHost, agent: AgentHost) -> Iterator[Callable[..., Connection]]:
    """Connections to the agent from its own network."""
    made: list[Connection] = []

    def connect(**options: Any) -> Connection:
        context = client_context(agent.certificates, agent.certificates.manager)
        made.append(Connection(connected(host, agent.port), context, **options))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def connected(host: LightHost, port: int, address: str = "127.0.0.1") -> socket.socket:
    """A connection that is made inside the host's network, by a thread that enters it and ends."""
    outcome: Future[socket.socket] = Future()

    def connect() -> None:
        try:
            _enter_network(host.pid)
            outcome.set_result(socket.create_connection((address, port), timeout=20))
        except OSError as error:
            outcome.set_exception(error)

    threading.Thread(target=connect).start()
    return outcome.result(30)


@pytest.fixture
def engine(dial: Callable[..., Connection], agent: AgentHost) -> Iterator[Engine]:
    made = Engine(dial())
    yield made
    for vm in agent.call("GET", "/vms?only_uuid=true"):
        agent.call("DELETE", f"/vms/{vm}")
    assert made.wire.error is None


class Sample:
    """The Engine's XML of a VM of its own, on an image of this host.

    With the tiny guest as its system, or ``bare``: without any, nor channels for a guest's agents.
    """

    def __init__(self, agent: AgentHost, *, bare: bool) -> None:
        self.vm_id = str(uuid.uuid4())
        self.name = f"web-{self.vm_id[:8]}"
        self.disk = agent.images / f"{self.vm_id}.qcow2"
        agent.host.run("qemu-img", "create", "-q", "-f", "qcow2", str(self.disk), "8M")
        xml = SAMPLE.replace(SAMPLE_ID, self.vm_id).replace("<name>web-01<", f"<name>{self.name}<")
        xml = SAMPLE_DISK.sub(f'file="{self.disk}"', xml).replace("56:6f:1a:2b:00:07", f"56:6f:{_tail(self.vm_id)}")
        boot = (
            f"<kernel>{agent.images}/vmlinux</kernel><initrd>{agent.images}/initrd.img</initrd>"
            "<cmdline>console=ttyS0 quiet loglevel=3 mitigations=off nokaslr panic=-1 tiny.name=web</cmdline></os>"
        )
        if bare:
            xml = re.sub(r"<channel type=.unix.>.*?</channel>", "", xml, flags=re.DOTALL)
        else:
            xml = xml.replace("</os>", boot).replace('<boot order="1"/>', "")
        # A tenth of a second matters to tests: the guest is small, and has as many CPUs as it uses.
        xml = xml.replace('<vcpu current="1">16</vcpu>', "<vcpu>1</vcpu>")
        self.xml = xml.replace('sockets="16"', 'sockets="1"').replace('cpus="0-15"', 'cpus="0"')


def _tail(vm_id: str) -> str:
    return ":".join(vm_id[index : index + 2] for index in (0, 2, 4, 6))


@pytest.fixture
def sample(agent: AgentHost) -> Sample:
    return Sample(agent, bare=False)


@pytest.fixture
def bare(agent: AgentHost) -> Sample:
    return Sample(agent, bare=True)


# -- the host comes Up


@pytest.mark.parametrize("level", ["4.7", "4.8"])
def test_host_comes_up(engine: Engine, level: str) -> None:
    engine.activate(level, "ovirtmgmt")
    assert engine.call("Host.getAllTasksStatuses") == {}
    assert engine.call("Host.getAllTasksInfo") == {}
    assert engine.call("Host.getJobs", job_type="virt", job_ids=[]) == {}
    assert engine.call("Host.ping2") is True


def test_capabilities_are_true(engine: Engine, host: LightHost) -> None:
    engine.activate("4.7", "ovirtmgmt")
    known = engine.capabilities
    memory = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    assert memory is not None
    assert known["memory"] == int(memory[1]) // 1024
    online = os.sched_getaffinity(0) if (os.cpu_count() or 1) == len(os.sched_getaffinity(0)) else None
    assert known["threads"] == os.cpu_count()
    assert online is None or known["online"] == ",".join(map(str, sorted(online)))
    flags = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert flags is not None
    assert set(flags[1].split()) <= set(str(known["flags"]).split(","))
    assert known["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert known["arguments"] == Path("/proc/cmdline").read_text().strip()
    assert known["boot"] == int(re.search(r"btime (\d+)", Path("/proc/stat").read_text())[1])  # type: ignore[index]
    assert f"{os.uname().release}".startswith(known["packages"]["kernel"])  # type: ignore[index]
    assert known["packages"]["libvirt"] in host.virsh("version")  # type: ignore[index]
    assert "pc-q35-rhel9.6.0" in known["machines"]  # type: ignore[operator]
    assert known["networks"] == {"ovirtmgmt": True}
    found = engine.call("Host.getCapabilities")
    assert found["domain_versions"] == [3, 4, 5]
    assert found["networks"]["ovirtmgmt"]["ports"] == ["eth7"]
    assert found["bridges"]["ovirtmgmt"]["addr"] == "192.0.2.10"
    assert found["bridges"]["ovirtmgmt"]["netmask"] == "255.255.255.0"
    mac = host.run("cat", "/sys/class/net/eth7/address").strip()
    assert found["nics"]["eth7"]["hwaddr"] == mac


def test_statistics_are_true(engine: Engine, agent: AgentHost) -> None:
    engine.refresh_stats()
    stats = engine.stats
    memory = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    assert abs(int(stats["free"]) - int(memory["MemAvailable"]) // 1024) < SLACK_MIB  # type: ignore[call-overload]
    assert stats["swap"] == (int(memory["SwapTotal"]) // 1024, int(memory["SwapFree"]) // 1024)
    assert stats["cpus"] == os.cpu_count()
    system, user, idle, load = stats["cpu"]  # type: ignore[misc]
    assert abs(system + user + idle - 100) < 1
    assert load >= 0
    wall = datetime.strptime(str(stats["time"]), "%Y-%m-%dT%H:%M:%S GMT").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - wall).total_seconds()) < 300  # the Engine's alert
    space = os.statvfs(agent.log_dir)
    assert abs(stats["disks"][str(agent.log_dir)] - space.f_bavail * space.f_frsize // 2**20) < SLACK_MIB  # type: ignore[index]
    assert {"ovirtmgmt", "eth7"} <= set(stats["devices"])  # type: ignore[call-overload]


def test_network_change_is_told(engine: Engine, host: LightHost) -> None:
    engine.refresh_capabilities()
    host.run("ip", "link", "add", "more", "type", "bridge")
    try:
        while "more" not in engine.capabilities["networks"]:  # type: ignore[operator]
            engine.listen()
    finally:
        host.run("ip", "link", "del", "more")


# -- a VM's life


def test_life_of_a_vm(engine: Engine, sample: Sample, agent: AgentHost, host: LightHost) -> None:
    engine.activate("4.8", "ovirtmgmt")
    engine.run_vm(sample.vm_id, sample.xml)
    engine.poll()
    assert sample.vm_id in engine.vms, "listed from create on"
    known = engine.until(sample.vm_id, "Up")
    assert known.history in (["WaitForLaunch", "Powering up", "Up"], ["WaitForLaunch", "Up"])
    _devices_are_known(known, sample, host)
    assert engine.stats["count"] == 1
    _statistics_are_live(engine, sample, host)
    for verb, status in (("VM.pause", "Paused"), ("VM.cont", "Up")):
        answer = engine.call(verb, vmID=sample.vm_id)
        assert isinstance(answer, dict)
        engine.until(sample.vm_id, status)
    assert known.pause_code in {"NONE", "NOERR"}
    assert engine.call("VM.shutdown", vmID=sample.vm_id, delay="0", message="bye", reboot=False)
    engine.until(sample.vm_id, "Down")
    assert known.exit is not None
    assert (known.exit[0], known.exit[2]) in {(0, 6), (0, 7)}
    for _ in range(2):
        engine.poll()
    assert sample.vm_id in engine.vms, "Down is kept until destroy"
    assert engine.stats["active"] == 0
    engine.destroy(sample.vm_id)
    assert agent.call("GET", "/vms") == []
    assert engine.gone == []


def _devices_are_known(known: KnownVm, sample: Sample, host: LightHost) -> None:
    assert known.hash
    assert known.aliases == SAMPLE_ALIASES
    root = ET.fromstring(known.xml)
    entries = {entry.get("name"): entry.text for entry in root.iterfind("sysinfo/system/entry")}
    assert entries["product"] == "Debian GNU/Linux"
    assert entries["version"]
    assert ":" not in (entries["serial"] or ":")
    assert root.findtext("devices/disk[@device='disk']/serial")
    for place in root.iterfind("devices/*/address"):
        assert place.get("type")
    image = root.find("metadata/o:vm/o:device[@devtype='disk']/o:imageID", {"o": "http://ovirt.org/vm/1.0"})
    assert image is not None
    assert image.text == "2f60b9a4-58c1-4f61-8b37-cf1f4f7f0b88"
    assert "passwd=" not in known.xml
    assert host.virsh("domuuid", sample.name).strip() == sample.vm_id


def _statistics_are_live(engine: Engine, sample: Sample, host: LightHost) -> None:
    def sampled() -> dict[str, Any]:
        engine.poll()
        found: dict[str, Any] = engine.call("VM.getStats", vmID=sample.vm_id)[0]
        return found

    eventually(lambda: sampled()["disks"].get("vda", {}).get("apparentsize", "0") != "0", "a first sample")
    found = sampled()
    tap = next(iter(found["network"]))
    assert tap in host.run("ls", "/sys/class/net/ovirtmgmt/brif").split()
    assert found["network"][tap]["macAddr"] == f"56:6f:{_tail(sample.vm_id)}"
    assert found["disks"]["vda"]["imageID"] == "2f60b9a4-58c1-4f61-8b37-cf1f4f7f0b88"
    file = sample.disk.stat()
    assert int(found["disks"]["vda"]["truesize"]) == file.st_blocks * 512
    assert abs(int(found["disks"]["vda"]["apparentsize"]) - file.st_size) < 65536
    assert found["balloonInfo"] == {
        "balloon_max": "262144", "balloon_cur": "262144", "balloon_target": "262144", "balloon_min": str(192 * 1024),
    }  # fmt: skip
    assert float(found["elapsedTime"]) >= 0
    assert int(found["cpuUsage"]) > 0
    (kind, port, address), *more = engine.vms[sample.vm_id].displays
    assert (kind, address, more) == ("vnc", "192.0.2.10", [])
    shown = ET.fromstring(host.virsh("dumpxml", sample.name)).find("devices/graphics")
    assert shown is not None
    assert shown.get("port") == port


def test_console_ticket(engine: Engine, sample: Sample, host: LightHost, agent: AgentHost) -> None:
    engine.run_vm(sample.vm_id, sample.xml)
    engine.until(sample.vm_id, "Up")
    engine.poll()
    display = engine.vms[sample.vm_id].displays[0]
    secret = "s3cretT1"
    assert not enters(host, display, secret)
    engine.call(
        "VM.setTicket", vmID=sample.vm_id, password=secret, ttl="120", existingConnAction="disconnect",
        params={"userName": "admin@internal", "userId": str(uuid.uuid4())},
    )  # fmt: skip
    assert enters(host, display, secret)
    assert not enters(host, display, "another")
    engine.call("VM.setTicket", vmID=sample.vm_id, password=secret, ttl="0", existingConnAction="keep", params={})
    assert not enters(host, display, secret)
    assert secret not in agent.log()
    engine.call("Host.setLogLevel", level="DEBUG", name="")
    engine.call("VM.setTicket", vmID=sample.vm_id, password=secret, ttl="1", existingConnAction="keep", params={})
    engine.call("Host.setLogLevel", level="INFO", name="")
    for place in agent.log_dir.rglob("*"):
        if place.is_file():
            assert secret not in place.read_text(errors="replace"), place
    assert secret not in host.virsh("dumpxml", sample.name)
    assert picture(engine.call("VM.screenshot", vmID=sample.vm_id))[:2] in {b"P6", b"\x89P"}


def enters(host: LightHost, display: tuple[str, str, str], password: str) -> bool:
    """Whether a password opens the display."""
    _, port, address = display
    viewer = Viewer(connected(host, int(port), address))
    try:
        return viewer.enter(password)
    finally:
        viewer.close()


def test_medium_and_reset(engine: Engine, bare: Sample, agent: AgentHost) -> None:
    engine.run_vm(bare.vm_id, bare.xml)
    known = engine.until(bare.vm_id, "Up")
    before = known.hash
    disc = agent.images / "disc.iso"
    disc.write_bytes(bytes(1 << 20))
    assert isinstance(engine.call("VM.changeCD", vmID=bare.vm_id, driveSpec=str(disc)), dict)
    while known.hash == before:
        engine.listen()
    assert str(disc) in known.xml
    engine.poll()
    drive = {"iface": "sata", "index": "2", "path": ""}
    assert isinstance(engine.call("VM.changeCD", vmID=bare.vm_id, driveSpec=drive), dict)
    while str(disc) in known.xml:
        engine.listen()
    assert isinstance(engine.call("VM.reset", vmID=bare.vm_id), dict | bool)
    engine.until(bare.vm_id, "Up")


def test_vm_whose_qemu_dies_is_down_until_destroyed(engine: Engine, bare: Sample, host: LightHost) -> None:
    engine.run_vm(bare.vm_id, bare.xml)
    known = engine.until(bare.vm_id, "Up")
    os.kill(host.qemu_pid(bare.vm_id), signal.SIGKILL)
    engine.until(bare.vm_id, "Down")
    assert known.exit is not None
    assert (known.exit[0], known.exit[2]) == (1, 2)
    engine.destroy(bare.vm_id)
    with pytest.raises(VdsError) as refused:
        engine.call("VM.destroy", vmID=bare.vm_id)
    assert refused.value.code == 1


def test_frozen_vm_is_not_responding(engine: Engine, bare: Sample, host: LightHost) -> None:
    engine.run_vm(bare.vm_id, bare.xml)
    known = engine.until(bare.vm_id, "Up")
    host.freeze(bare.vm_id)
    while known.responding:
        engine.listen()
    host.thaw(bare.vm_id)
    while not known.responding:
        engine.listen()


def test_start_that_fails_is_down_with_its_reason(engine: Engine, bare: Sample) -> None:
    # libvirt takes the XML and QEMU does not: the machine has too few slots for these devices.
    cards = "".join(
        f'<interface type="user"><mac address="56:6f:00:00:01:{number:02x}"/><model type="virtio"/>'
        f'<address type="pci" domain="0x0000" bus="0x00" slot="0x{slot:02x}" function="0x0"/></interface>'
        for number, slot in enumerate((0x1F, 0x1F))
    )
    engine.run_vm(bare.vm_id, bare.xml.replace("</devices>", f"{cards}</devices>"))
    known = engine.until(bare.vm_id, "Down")
    assert known.exit is not None
    assert known.exit[0] == 1
    assert "1f" in known.exit[1].lower(), known.exit
    engine.poll()
    engine.destroy(bare.vm_id)


# -- ordering


def test_polls_know_all_that_earlier_events_told(
    engine: Engine, bare: Sample, agent: AgentHost, dial: Callable[..., Connection]
) -> None:
    """Of two reports the Engine believes the one with the later time, so that one must not know less."""
    engine.run_vm(bare.vm_id, bare.xml)
    engine.until(bare.vm_id, "Up")
    discs = [agent.images / f"{number}-{bare.vm_id}.iso" for number in range(12)]
    for disc in discs:
        disc.write_bytes(bytes(4096))
    other = dial(events=None)
    changes = threading.Thread(
        target=lambda: [other.call("VM.changeCD", {"vmID": bare.vm_id, "driveSpec": str(disc)}) for disc in discs]
    )
    changes.start()
    polled: list[tuple[int, str]] = []
    while changes.is_alive():
        (found,) = engine.call("Host.getAllVmStats")
        polled.append((int(found["statusTime"]), found["hash"]))
    changes.join()
    told = [(event.notify_time, str(event.params[bare.vm_id]["hash"])) for event in _changes_of(engine, bare.vm_id)]
    hashes = [found for _, found in told]
    assert len(set(hashes)) == len(hashes) >= len(discs)
    for at, found in polled:
        known = [number for number, (time_ms, _) in enumerate(told) if time_ms <= at]
        assert not known or hashes.index(found) >= known[-1]


def _changes_of(engine: Engine, vm_id: str) -> Iterator[EngineEvent]:
    """The events of changed devices that have come."""
    with contextlib.suppress(queue.Empty):
        while True:
            event = engine.wire.event(wait_s=1)
            if "hash" in event.params.get(vm_id, {}):
                yield event


def test_restarted_agent_is_recovering_and_never_forgets(
    engine: Engine, bare: Sample, agent: AgentHost, dial: Callable[..., Connection]
) -> None:
    engine.run_vm(bare.vm_id, bare.xml)
    engine.until(bare.vm_id, "Up")
    answers: list[str] = []
    agent.kill()
    with pytest.raises((Broken, OSError)):
        engine.call("Host.getAllVmStats")
    agent.start("vdsmd")
    deadline_s = time.monotonic() + 60
    again: Engine | None = None
    while "listed" not in answers:
        assert time.monotonic() < deadline_s, answers
        try:
            again = again or Engine(dial())
            assert again.call("Host.ping") is True
            listed = [item["vmId"] for item in again.call("Host.getAllVmStats")]
        except (OSError, Broken):
            time.sleep(0.02)
        except VdsError as error:
            answers.append(str(error.code))
        else:
            assert listed == [bare.vm_id]
            answers.append("listed")
    assert set(answers) <= {"99", "listed"}
    agent.wait_ready()
    assert again is not None
    again.vms[bare.vm_id] = KnownVm()
    again.poll()
    assert again.vms[bare.vm_id].status in {"Up", "Powering up"}
    assert again.vms[bare.vm_id].aliases == SAMPLE_ALIASES
    engine.wire = again.wire


# -- errors


def refusal(engine: Engine, method: str, **params: Any) -> VdsError:
    with pytest.raises(VdsError) as refused:
        engine.call(method, **params)
    return refused.value


def test_codes_of_errors(engine: Engine, bare: Sample) -> None:
    nobody = str(uuid.uuid4())
    for verb in ("VM.getStats", "VM.destroy", "VM.pause", "VM.cont", "VM.shutdown", "VM.getInfo", "VM.screenshot"):
        assert refusal(engine, verb, vmID=nobody).code == 1, verb
    assert refusal(engine, "VM.hop", vmID=nobody).code == -32601
    assert refusal(engine, "VM.getStats").code == -32602
    assert "vmID" in refusal(engine, "VM.getStats").message
    assert "colour" in refusal(engine, "VM.getStats", vmID=nobody, colour="red").message
    assert refusal(engine, "VM.getStats", vmID=7).code == -32602
    assert refusal(engine, "VM.create", vmID=nobody, vmParams={"vmId": nobody, "xml": "<domain"}).code == -32602
    engine.run_vm(bare.vm_id, bare.xml)
    again = {"vmID": bare.vm_id, "vmParams": {"vmId": bare.vm_id, "xml": bare.xml}}
    assert refusal(engine, "VM.create", **again).code == 4
    engine.until(bare.vm_id, "Up")
    assert refusal(engine, "VM.create", **again).code == 4


def test_full_pool_is_busy_and_others_are_served(
    engine: Engine, bare: Sample, host: LightHost, dial: Callable[..., Connection]
) -> None:
    engine.run_vm(bare.vm_id, bare.xml)
    engine.until(bare.vm_id, "Up")
    host.freeze_libvirtd()
    try:
        calls = [engine.wire.begin("VM.pause", {"vmID": bare.vm_id}) for _ in range(12)]
        other = dial(events=None)
        assert other.call("Host.ping", wait_s=10) is True
        assert [item["vmId"] for item in other.call("Host.getAllVmStats", wait_s=10)] == [bare.vm_id]
        codes = set()
        for call in calls:
            error = call.exception(60)
            assert isinstance(error, VdsError)
            codes.add(error.code)
        assert 1100 in codes
    finally:
        host.thaw_libvirtd()
    engine.until(bare.vm_id, "Paused", "Up")


# -- connections


def test_second_clients_have_queues_of_their_own(engine: Engine, dial: Callable[..., Connection]) -> None:
    spm = dial(requests=IRS_REQUESTS, responses=IRS_RESPONSES, events=None)
    private = dial(responses=str(uuid.uuid4()), events=None)
    twin = dial()
    for connection in (spm, private, twin, engine.wire):
        assert connection.call("Host.ping") is True
    assert twin.call("Host.echo", {"message": "ä€𝄞 " * 9000}) == "ä€𝄞 " * 9000


def test_silence_is_filled_with_heart_beats(dial: Callable[..., Connection]) -> None:
    connection = dial(heart_beat_ms=1000)
    silent_until_s = time.monotonic() + 4
    while time.monotonic() < silent_until_s:
        assert connection.error is None
        time.sleep(0.1)
    assert connection.beats >= 2
    assert connection.call("Host.ping") is True


def test_burst_of_calls_is_answered_whole(engine: Engine) -> None:
    calls = [engine.wire.begin(verb) for verb in ("Host.getCapabilities", "Host.getStats", "Host.ping") * 10]
    answers = [call.result(60) for call in calls]
    capabilities(Reader(answers[0], "again"))
    assert answers[2::3] == [True] * 10


def test_connection_that_breaks_is_made_anew(engine: Engine, host: LightHost, agent: AgentHost) -> None:
    context = client_context(agent.certificates, agent.certificates.manager)
    before = agent.threads()
    for _ in range(5):
        tcp = connected(host, agent.port)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        broken = Connection(tcp, context)
        broken.begin("Host.getCapabilities")
        tcp.close()
    assert engine.call("Host.ping") is True
    assert agent.threads() <= before + 8


def test_certificate_of_another_authority_is_refused(host: LightHost, agent: AgentHost) -> None:
    context = client_context(agent.certificates, agent.certificates.foreign)
    with pytest.raises((ssl.SSLError, Broken, OSError)):
        Connection(connected(host, agent.port), context)
