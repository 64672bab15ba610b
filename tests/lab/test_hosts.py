"""Light hosts are hosts of their own, answer one another, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vds_bootstrap.guest import Guest as Image

from . import host_faults
from .api import Api, Problem
from .authority import Authority
from .borrowed import GUEST, PROJECT
from .deadlines import eventually
from .enclosure import Shift, state
from .host_fixtures import lend
from .hosts import Host, Hosts
from .lan import socket_in

pytestmark = pytest.mark.light

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Two hosts for the tests that put everything back."""
    with lend(request) as make:
        yield make(2, shared=("images",), movable_clock=True)


def answers(host: Host, asker: Host, timeout_s: float = 20.0) -> bool:
    """Whether a host's agent answers another host."""
    try:
        return asker.api_of(host).rpc("Host.ping2", timeout_s=timeout_s) is True
    except OSError:
        return False


def machine_sees() -> tuple[str, str]:
    """What nobody outside may see of the lab: links and mounts."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=30).stdout
    names = [line.split()[1] for line in links.splitlines()]
    return " ".join(names), Path("/proc/self/mounts").read_text()


# -- hosts of their own


def test_two_agents_answer_each_other_over_tls(pair: Hosts) -> None:
    one, two = pair
    assert answers(one, two)
    assert answers(two, one)
    assert pair.api_of(one).rpc("Host.ping2") is True
    with one.connect(two) as tls:
        subject = dict(item[0] for item in tls.getpeercert()["subject"])
        assert subject["commonName"] == "host2"


def test_a_certificate_of_another_authority_is_refused(pair: Hosts, tmp_path: Path) -> None:
    one, two = pair
    foreign = Authority(tmp_path / "foreign").issue(one.name, [one.address])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        one.api_of(two, foreign).rpc("Host.ping2")
    nobody = Api(lambda timeout_s: pair.connect(pair.lan.pid, two, None, timeout_s))
    with pytest.raises(Problem) as refused:
        nobody.rpc("Host.getStats")
    assert refused.value.status == 401
    assert answers(two, one)


def test_each_is_a_host_of_its_own(pair: Hosts) -> None:
    one, two = pair
    for host, other in ((one, two), (two, one)):
        assert host.run(["hostname"]).strip() == host.name
        assert host.address in host.run(["ip", "-br", "address"])
        assert other.address not in host.run(["ip", "-br", "address"])
        assert host.api.rpc("Host.getHardwareInfo")["systemUUID"] != other.api.rpc("Host.getHardwareInfo")["systemUUID"]
        assert host.virt.getHostname() == host.name
        assert {process.pid for process in host.processes()}.isdisjoint(p.pid for p in other.processes())
        host.run("echo mine >/etc/vdsm/mark; echo mine >/etc/lab-mark")
        assert "lab-mark" not in other.run(["ls", "/etc"]) + other.run(["ls", "/etc/vdsm"])
        host.run("rm /etc/vdsm/mark /etc/lab-mark")
    agent, helper = (_text(Path(f"/proc/{one.pid_of(name)}/status")) for name in ("vdsmd", "supervdsmd"))
    assert f"\nUid:\t{one.run(['id', '-u', 'vdsm']).strip()}\t" in agent
    assert "\nUid:\t0\t" in helper
    assert one.run(["getent", "hosts", two.name]).split()[0] == two.address


def test_the_machine_sees_nothing_of_them(pair: Hosts) -> None:
    links, mounts = machine_sees()
    assert "host1" not in links
    assert "net0" not in links.split()
    assert str(pair.directory) not in mounts
    assert not Path("/etc/lab-mark").exists()


def test_shared_directories_are_shared_and_others_are_not(pair: Hosts) -> None:
    one, two = pair
    one.run(f"echo from one >{one.shared('images')}/note")
    assert two.run(["cat", f"{two.shared('images')}/note"]) == "from one\n"
    assert (pair.shared("images") / "note").read_text() == "from one\n"
    one.run("touch /var/lib/vdsm/images/own")
    assert two.run(["ls", "/var/lib/vdsm/images"]) == ""
    one.run("rm /var/lib/vdsm/images/own")


def test_clocks_of_a_host_can_be_shifted(hosts) -> None:
    (host,) = hosts(1, agents=False, shift={1: Shift(monotonic=500_000, boottime=1_000_000)})
    outside = float(Path("/proc/uptime").read_text().split()[0])
    assert float(host.run(["cat", "/proc/uptime"]).split()[0]) >= outside + 1_000_000
    code = "import time; print(time.monotonic())"
    assert float(host.run([sys.executable, "-c", code])) >= 500_000


def test_an_agent_runs_a_virtual_machine(pair: Hosts, tiny_guest: Image) -> None:
    one, two = pair
    boot = {"order": [], "kernel": str(tiny_guest.kernel), "initrd": str(tiny_guest.initrd)}
    boot = {key: value.replace(str(GUEST), "/var/lib/vdsm/guest") if value else value for key, value in boot.items()}
    wish = {"name": "web", "memory_mib": 128, "graphics": "none", "boot": {**boot, "cmdline": tiny_guest.cmdline}}
    vm_id = one.api.call("POST", "/vms", wish)["vm_id"]
    try:
        eventually(lambda: _status(one, vm_id) in {"Powering up", "Up"}, "it runs")
        assert one.virt.listAllDomains()[0].name() == "web"
        assert two.virt.listAllDomains() == []
    finally:
        one.api.call("DELETE", f"/vms/{vm_id}")


def _status(host: Host, vm_id: str) -> str:
    return str(host.api.call("GET", f"/vms/{vm_id}/stats")["status"])


# -- faults: links


def test_cut_link_makes_a_host_unreachable_until_it_is_restored(pair: Hosts) -> None:
    one, two = pair
    with host_faults.cut(two):
        assert not answers(two, one, timeout_s=2.0)
        assert "NO-CARRIER" in two.run(["ip", "link", "show", "eth0"])
        assert two.api.rpc("Host.ping2") is True
    assert answers(two, one)


def transfer_s(source: Host, target: Host, size: int) -> float:
    """How long it takes to send some bytes from one host to another."""
    with socket_in(target.pid) as listener:
        listener.bind((target.address, 0))
        listener.listen()
        listener.settimeout(60)
        taken: list[int] = []

        def take() -> None:
            with listener.accept()[0] as connection:
                connection.settimeout(60)
                while more := connection.recv(1 << 16):
                    taken.append(len(more))
                connection.sendall(b"!")

        reader = threading.Thread(target=take)
        reader.start()
        begin = os.times().elapsed
        with socket_in(source.pid) as sender:
            sender.settimeout(60)
            sender.connect(listener.getsockname())
            sender.sendall(bytes(size))
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(1) == b"!"
        reader.join(60)
    assert sum(taken) == size
    return os.times().elapsed - begin


def test_throttled_link_is_slow_both_ways(pair: Hosts) -> None:
    one, two = pair
    rate, size = 1_000_000, 2_000_000
    with host_faults.throttled(one, rate):
        # At the very least what does not pass in the first burst and the queue.
        assert transfer_s(one, two, size) > 1.0
        assert transfer_s(two, one, size) > 1.0
    # Ten times as much takes less than half the time that a tenth took: the bound holds on a busy machine, too.
    assert min(transfer_s(one, two, size * 10) for _ in range(3)) < 1.0


def round_trips(asker: Host, host: Host, count: int, patience_s: float = 2.0) -> list[float]:
    """Send datagrams that come back; the seconds that each took that did."""
    with socket_in(host.pid, kind=socket.SOCK_DGRAM) as echo, socket_in(asker.pid, kind=socket.SOCK_DGRAM) as here:
        echo.bind((host.address, 0))
        echo.settimeout(patience_s + 1)
        here.connect(echo.getsockname())
        here.settimeout(patience_s)

        def answer() -> None:
            with suppress(TimeoutError):
                while (data := echo.recvfrom(64))[0] != b"end":
                    echo.sendto(*data)

        thread = threading.Thread(target=answer)
        thread.start()
        begin = time.monotonic()
        for number in range(count):
            here.send(str(number).encode())
        took = []
        with suppress(TimeoutError):
            for _ in range(count):
                here.recv(64)
                took.append(time.monotonic() - begin)
        here.send(b"end")
        thread.join()
    return took


def test_line_delays_frames(pair: Hosts) -> None:
    one, two = pair
    with host_faults.line(two, delay_s=0.15) as line:
        assert answers(two, one)
        assert min(round_trips(one, two, 5)) >= 0.3
        line.delay_s = 0.01
        assert min(round_trips(one, two, 1)[0] for _ in range(10)) < 0.3
    assert min(round_trips(one, two, 1)[0] for _ in range(10)) < 0.15


def test_line_loses_frames(pair: Hosts) -> None:
    one, two = pair
    with host_faults.line(two, loss=1.0):
        assert round_trips(one, two, 3, patience_s=0.5) == []
        assert "NO-CARRIER" not in two.run(["ip", "link", "show", "eth0"])
    with host_faults.line(two, loss=0.4):
        assert 0 < len(round_trips(one, two, 60, patience_s=0.5)) < 60
    assert answers(two, one)


# -- faults: processes and hosts


@pytest.mark.parametrize("daemon", ["vdsmd", "supervdsmd", "libvirtd"])
def test_stopped_daemon_stands_still_and_goes_on(pair: Hosts, daemon: str) -> None:
    one, two = pair
    pid = one.pid_of(daemon)
    with host_faults.stopped(one, daemon):
        eventually(lambda: state(pid) == "T", f"{daemon} stands still")
        assert answers(one, two, timeout_s=1.0) == (daemon != "vdsmd")
        assert answers(two, one)
    assert one.pid_of(daemon) == pid
    eventually(lambda: state(pid) != "T", f"{daemon} goes on")
    one.wait_ready()


def test_killed_daemon_is_gone_and_comes_back(pair: Hosts) -> None:
    one, two = pair
    pid = one.pid_of("vdsmd")
    with host_faults.without(one, "vdsmd"):
        assert state(pid) == "X"
        assert not answers(one, two, timeout_s=5.0)
    assert one.pid_of("vdsmd") != pid
    assert answers(one, two)


def test_frozen_host_does_nothing_and_goes_on(pair: Hosts) -> None:
    one, two = pair
    with host_faults.frozen(one):
        assert {state(process.pid) for process in one.processes()} <= set("TtZX")
        assert not answers(one, two, timeout_s=1.0)
        assert answers(two, two)
    assert answers(one, two)
    one.wait_ready()


def test_power_loss_leaves_nothing_but_the_disks(hosts) -> None:
    lab = hosts(2)
    # Two hosts are to come up within 8 s on two quiet cores.
    assert sum(cpu_seconds(host) for host in lab) < 16
    one, two = lab
    one.run("echo kept >/var/lib/vdsm/images/kept; echo lost >/run/lost")
    instance = (one.directory / "vdsm").joinpath("vms.sqlite").exists()
    pids = [process.pid for process in one.processes()]
    namespace = (Path("/proc") / str(one.pid) / "ns/net").readlink()
    assert len(pids) > 4
    with host_faults.without_power(one):
        eventually(lambda: {state(pid) for pid in pids} <= {"X", "Z"}, "all its processes are gone")
        assert one.processes() == []
        assert one.cable() not in lab.lan.run("ip", "-o", "link")
        assert namespace not in {
            link for pid in Path("/proc").glob("[0-9]*") if (link := _link(pid / "ns/net")) is not None
        }
        assert not answers(one, two, timeout_s=2.0)
        assert answers(two, two)
    assert answers(one, two)
    assert one.run(["cat", "/var/lib/vdsm/images/kept"]) == "kept\n"
    assert one.run("ls /run").count("lost") == 0
    assert instance
    assert set(pids).isdisjoint(process.pid for process in one.processes())


def cpu_seconds(host: Host) -> float:
    """What all processes of a host have cost so far, those that ended included."""
    stats = [_text(Path(f"/proc/{process.pid}/stat")).rpartition(")")[2].split()[11:15] for process in host.processes()]
    return sum(int(ticks) for stat in stats for ticks in stat) / os.sysconf("SC_CLK_TCK")


def _link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None


# -- faults: storage, certificates, clocks


def test_stalled_share_stops_who_uses_it_on_that_host_only(pair: Hosts) -> None:
    one, two = pair
    place = one.shared("images")
    with host_faults.stalled(one, "images"):
        with pytest.raises(subprocess.TimeoutExpired):
            one.run(f"echo x >{place}/stalled", timeout_s=1.0)
        two.run(f"echo y >{place}/fine")
        assert answers(one, two)
    assert one.run(["cat", f"{place}/fine"]) == "y\n"


def test_full_file_system_takes_nothing_until_there_is_room(pair: Hosts) -> None:
    one, _ = pair
    one.mount_small("/var/lib/vdsm/small", 8)
    with host_faults.full(one, "/var/lib/vdsm/small"):
        assert "No space left" in one.run("head -c 4096 /dev/zero >/var/lib/vdsm/small/more", check=False)
        assert answers(one, one)
    one.run("head -c 1000000 /dev/zero >/var/lib/vdsm/small/more")
    one.run(["umount", "/var/lib/vdsm/small"])


def test_expired_certificate_is_refused_until_it_is_replaced(pair: Hosts) -> None:
    one, two = pair
    with host_faults.certificate_expired(one):
        eventually(lambda: "expired" in _refusal(one, two), "the expired certificate is shown")
        with pytest.raises((ssl.SSLError, ConnectionError)):  # nor is it good for a client
            one.api_of(two).rpc("Host.ping2")
        assert "verify peer's certificate" in _libvirt_from(two, one)
        assert answers(two, two)
    eventually(lambda: answers(one, two), "the good certificate is shown")
    assert _libvirt_from(two, one) == "qemu:///system\n"


def test_revoked_certificate_is_refused_until_it_is_replaced(pair: Hosts) -> None:
    one, two = pair
    with host_faults.certificate_revoked(one):
        assert "revoked" in _refusal(one, two)
        assert "revoked" in _libvirt_from(two, one)
        assert answers(two, two)
    eventually(lambda: answers(one, two), "the new certificate is shown")
    assert _libvirt_from(two, one) == "qemu:///system\n"


def _refusal(host: Host, asker: Host) -> str:
    try:
        asker.api_of(host).rpc("Host.ping2")
    except ssl.SSLError as error:
        return str(error)
    return ""


def _libvirt_from(asker: Host, host: Host) -> str:
    # Not through a running libvirtd: virsh reads the certificates anew each time.
    return asker.run(["timeout", "20", "virsh", "-q", "-c", host.remote_uri, "uri"], check=False).replace(
        host.remote_uri, "qemu:///system"
    )


def test_moved_clock_is_the_agents_alone(pair: Hosts) -> None:
    one, two = pair

    def year(host: Host) -> int:
        return int(host.api.rpc("Host.getStats")["dateTime"][:4])

    now = year(two)
    with host_faults.clock_moved(one, 5 * 366 * 86400):
        eventually(lambda: year(one) >= now + 5, "the agent's new year")
        assert year(two) == now
        # By its clock everybody's certificate has expired.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            two.api_of(one).rpc("Host.ping2")
        assert one.run(["date", "+%Y"]).strip() == str(now)
    eventually(lambda: year(one) == now, "the agent's old year")
    assert answers(one, two)


# -- gone afterwards

_DOOMED = """
import sys, threading
sys.path.insert(0, {tests!r})
from lab.guests import Guest
from lab.hosts import Hosts, Options
with Hosts(2, Options(shared=("images",), agents={agents})) as lab:
    if {guest}:
        lab[0].virt.createXML(Guest(lab[0], "doomed").xml(), 0)
    pids = [process.pid for host in lab for process in host.processes()]
    print(lab.directory, lab.lan.pid, *pids, flush=True)
    if {fails}:
        raise RuntimeError("failed on purpose")
    threading.Event().wait()
"""


@pytest.mark.parametrize("fails", [False, True], ids=["killed", "failed"])
def test_nothing_is_left_of_a_process_that(fails: bool, hosts) -> None:  # hosts: for its needs
    before = machine_sees()
    script = _DOOMED.format(tests=str(TESTS), fails=fails, guest=not fails, agents=not fails)
    doomed = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert doomed.stdout
        words = doomed.stdout.readline().split()
        assert words, doomed.stderr.read() if doomed.stderr else ""
        directory, pids = Path(words[0]), [int(word) for word in words[1:]]
        assert len(pids) > 4
        if not fails:
            assert directory.is_dir()
            assert all(state(pid) not in "XZ" for pid in pids)
            doomed.send_signal(signal.SIGKILL)
        assert doomed.wait(60) == (1 if fails else -signal.SIGKILL)
    finally:
        doomed.kill()
        doomed.communicate()
    eventually(lambda: {state(pid) for pid in pids} <= {"X", "Z"}, "all processes are gone")
    eventually(lambda: not directory.exists(), "all files are gone")
    assert machine_sees() == before
    assert not [entry for entry in Path("/proc").glob("[0-9]*") if str(directory) in (_text(entry / "cmdline"))]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


_FAILING = """
import sys
sys.path.insert(0, {tests!r})
import pytest
from lab.host_fixtures import hosts, pytest_runtest_makereport_of_hosts
"""
_FAILING_TEST = """
def test_that_fails(hosts):
    (host,) = hosts(1, agents=False)
    host.run("echo from inside >/var/log/mine.log")
    assert host is None
"""


def test_logs_of_a_failed_test_are_kept_and_named(hosts, tmp_path: Path) -> None:  # hosts: for its needs
    (tmp_path / "conftest.py").write_text(_FAILING.format(tests=str(TESTS)))
    (tmp_path / "test_failing.py").write_text(_FAILING_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    named = done.stdout.partition("consoles and logs: ")[2].split()[0]
    kept = Path(named) / "host1"
    assert (kept / "mine.log").read_text() == "from inside\n"
    assert "libvirtd" in (kept / "inquest.txt").read_text()
    assert "198.51.100.1" in (kept / "inquest.txt").read_text()
    assert (kept / "init.log").exists()
    for process in Path("/proc").glob("[0-9]*"):
        assert "/tmp/vh-" not in _text(process / "cmdline") or "libvirtd" not in _text(process / "cmdline")


# -- for people


def test_people_get_hosts_to_play_with(hosts, tmp_path: Path) -> None:  # hosts: for its needs
    def lab(*argv: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "VDSM_LAB_PLACE": str(tmp_path / "up")}
        words = [sys.executable, "-m", "tests.lab", *argv]
        return subprocess.run(
            words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    up = lab("up", "--hosts", "2")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        assert "https://198.51.100.2:54321" in up.stdout
        assert lab("run", "host2", "--", "hostname").stdout == "host2\n"
        done = lab("run", "host1", "--", "bash", "-lc", "vdscli host info")
        assert done.returncode == 0, done.stderr
        directory = Path(up.stdout.partition("unix:")[2].partition("/run/vdsm")[0]).parent
        assert directory.is_dir()
    finally:
        down = lab("down")
    assert down.returncode == 0
    assert not directory.exists()
