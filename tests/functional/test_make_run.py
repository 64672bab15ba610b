"""``make run`` as a newcomer types it, on a host where nothing was ever set up: once, again, killed, in the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fresh import FreshHost, eventually
from lab.make_run import MakeRun
from needs import needs
from vds_bootstrap.guest import Guest

pytestmark = [needs("root", "qemu", "busybox", "program:libvirtd", "program:make"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def host(tiny_guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshHost]:
    """A host that keeps what one test set up for the next; ``tiny_guest`` sees that the packages are downloaded."""
    assert tiny_guest.kernel.exists()
    with FreshHost(tmp_path_factory.mktemp("fresh") / "host") as started:
        yield started


@pytest.fixture(scope="module")
def untouched(host: FreshHost) -> dict[str, bytes | str]:
    """/etc before anything was set up."""
    return host.tree("/etc")


def assert_nothing_left(host: FreshHost, mounts: list[str]) -> None:
    eventually(lambda: host.processes() == {}, f"no process is left: {host.processes()}")
    assert host.mounts() == mounts
    # mount makes itself /run/mount.
    assert set(host.run("ls", "-A", "/run").split()) <= {"libvirt", "lock", "mount"}
    assert host.run("ls", "-A", "/var/lib/vdsm/images") == ""


def test_first_run_shows_a_vm_and_ctrl_c_leaves_nothing(host: FreshHost, untouched: dict[str, bytes | str]) -> None:
    assert untouched
    mounts = host.mounts()
    run = MakeRun(host)
    text = run.wait_up()
    assert "started libvirtd for as long as this runs" in text
    assert 'it says "TINY-UP demo"' in text
    assert re.search(r"^demo +.*\bUp\b", text, re.MULTILINE), text
    commands = list(host.processes().values())
    assert any("qemu-system-x86_64" in command for command in commands)
    (agent,) = (pid for pid, command in host.processes().items() if command.endswith("-m vdsm"))
    assert Path(f"/proc/{agent}").stat().st_uid == 36
    run.press_ctrl_c()
    run.wait_end()
    assert "Everything is down" in run.text()
    assert_nothing_left(host, mounts)


def test_second_run_finds_everything_prepared_and_leaves_etc_as_it_was(host: FreshHost) -> None:
    before, mounts = host.tree("/etc"), host.mounts()
    run = MakeRun(host, "ARGS=--once")
    assert run.wait_end() == 0, run.text()
    assert "Operating system packages: all there" in run.text()
    assert "Virtual environment .venv: all there" in run.text()
    assert "Tiny guest: there" in run.text()
    assert re.search(r"Certificates in /etc/pki/vdsm: all there", run.text())
    assert host.tree("/etc") == before
    assert_nothing_left(host, mounts)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_ended_from_outside_it_leaves_nothing(host: FreshHost, number: signal.Signals) -> None:
    mounts = host.mounts()
    run = MakeRun(host)
    run.wait_up()
    os.kill(run.runner(), number)
    run.wait_end()
    assert_nothing_left(host, mounts)


def test_ctrl_c_while_the_guest_boots_leaves_nothing(host: FreshHost) -> None:
    mounts = host.mounts()
    run = MakeRun(host)
    eventually(lambda: any("qemu-system" in command for command in host.processes().values()), "QEMU runs")
    run.press_ctrl_c()
    run.wait_end()
    assert_nothing_left(host, mounts)


def test_killed_while_libvirt_starts_the_vm_it_leaves_nothing(host: FreshHost) -> None:
    mounts = host.mounts()
    run = MakeRun(host)
    eventually(lambda: "Starting the VM demo" in run.text(), "the VM is asked for")
    os.kill(run.runner(), signal.SIGKILL)
    run.wait_end()
    assert_nothing_left(host, mounts)


def test_second_one_at_the_same_time_is_refused(host: FreshHost) -> None:
    mounts = host.mounts()
    run = MakeRun(host)
    run.wait_up()
    other = MakeRun(host)
    assert other.wait_end() != 0
    assert "another make run is on already" in other.text()
    assert "demo" in host.run(".venv/bin/vdscli", "vm", "list")
    run.press_ctrl_c()
    run.wait_end()
    assert_nothing_left(host, mounts)


def test_taken_port_is_named_with_its_holder(host: FreshHost) -> None:
    script = "import socket; s = socket.create_server(('', 54321)); s.accept()"
    holder = subprocess.Popen(host.enter("/usr/bin/python3", "-c", script))
    try:
        eventually(lambda: ":54321" in host.run("ss", "-ltn"), "the port is taken")
        run = MakeRun(host)
        assert run.wait_end() != 0
        assert re.search(r"TCP port 54321 is taken by python3 \(pid \d+\)", run.text()), run.text()
    finally:
        for pid, command in host.processes().items():
            if "create_server" in command:
                os.kill(pid, signal.SIGTERM)
        holder.wait(30)


FOREIGN = """<domain type='qemu'><name>foreign</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>"""


ADMITS_GROUP = 'auth_unix_rw = "none"\nunix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\n'
ADMITS_ROOT = "# Debian's configuration asks polkit, which without a system bus admits nobody but root.\n"


@pytest.fixture
def machines_libvirtd(host: FreshHost, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A libvirtd that is not ours, as the machine's own would be; yields its configuration file."""
    config = host.directory / "libvirtd.conf"
    config.write_text(request.param)
    argvs = (["virtlogd"], ["libvirtd", "--config", str(config)])
    daemons = [subprocess.Popen(host.enter(*argv), stderr=subprocess.DEVNULL) for argv in argvs]
    eventually(lambda: "qemu" in host.run("virsh", "uri", check=False), "libvirtd answers")
    yield config
    for path in ("/run/libvirtd.pid", "/run/virtlogd.pid"):
        host.run("sh", "-c", f"kill $(cat {path})")
    for daemon in daemons:
        daemon.wait(30)


@pytest.mark.parametrize("machines_libvirtd", [ADMITS_GROUP], indirect=True)
def test_foreign_machine_and_libvirtd_stay_as_they_are(host: FreshHost, machines_libvirtd: Path) -> None:
    assert machines_libvirtd.exists()
    (host.directory / "foreign.xml").write_text(FOREIGN)
    host.run("virsh", "create", str(host.directory / "foreign.xml"))
    try:
        before = host.processes(), host.run("virsh", "list", "--all"), host.run("virsh", "net-list", "--all")
        run = MakeRun(host, "ARGS=--once")
        assert run.wait_end() == 0, run.text()
        assert "the machine's own libvirtd is used" in run.text()
        assert "foreign" not in run.text()
        after = host.processes(), host.run("virsh", "list", "--all"), host.run("virsh", "net-list", "--all")
        assert after == before
    finally:
        host.run("virsh", "destroy", "foreign")


@pytest.mark.parametrize("machines_libvirtd", [ADMITS_ROOT], indirect=True)
def test_libvirtd_that_admits_only_root_is_used_through_a_relay(host: FreshHost, machines_libvirtd: Path) -> None:
    assert machines_libvirtd.exists()
    before = host.processes()
    run = MakeRun(host, "ARGS=--once")
    assert run.wait_end() == 0, run.text()
    assert "through a relay because it admits only root" in run.text()
    assert host.processes() == before


def test_clean_host_refuses_while_the_agent_runs(host: FreshHost) -> None:
    run = MakeRun(host)
    run.wait_up()
    assert "the agent runs: stop it first" in host.run("make", "clean-host", check=False)
    run.press_ctrl_c()
    run.wait_end()


def test_clean_host_keeps_images_of_people(host: FreshHost) -> None:
    host.run("touch", "/var/lib/vdsm/images/mine.raw")
    assert "mine.raw" in host.run("make", "clean-host", check=False)
    assert host.run("ls", "/var/lib/vdsm/images") == "mine.raw\n"
    host.run("rm", "/var/lib/vdsm/images/mine.raw")


def test_clean_host_takes_everything_back(host: FreshHost, untouched: dict[str, bytes | str]) -> None:
    host.run("make", "clean-host")
    own = host.tree("/etc")
    # libvirt gives its own files ids when it starts for the first time, user tools keep a copy of the file before.
    changed = {name for name in own.keys() | untouched.keys() if own.get(name) != untouched.get(name)}
    assert {
        name for name in changed if not re.match(r"libvirt/|(passwd|group|shadow|gshadow|subuid|subgid)-$", name)
    } == set()
    assert host.tree("/var/lib/vdsm") == {}
    assert host.tree("/var/log/vdsm") == {}
    assert "nothing was set up" in host.run("make", "clean-host")
