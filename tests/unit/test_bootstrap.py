"""The bootstrap's pure parts: package database, manifest, os-release, ports, state, signals."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from vds_bootstrap import machine, packages, pki, ports, processes, teardown
from vds_bootstrap.devices import DeviceNode, open_kvm
from vds_bootstrap.manifest import Made, Manifest, UnknownManifest
from vds_bootstrap.processes import Process
from vds_bootstrap.progress import Progress
from vds_bootstrap.signals import Signals, Stopped

STATUS = """\
Package: busybox-static
Status: install ok installed
Priority: optional

Package: openssl
Status: deinstall ok config-files

Package: qemu-utils
Status: hold ok installed
"""


def test_missing_packages_are_those_not_installed_now(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(STATUS)
    wanted = ["qemu-utils", "openssl", "busybox-static", "python3-venv"]
    assert packages.missing(wanted, status) == ["openssl", "python3-venv"]
    assert packages.missing(["a"], tmp_path / "absent") == ["a"]


def test_manifest_keeps_order_and_names_each_thing_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "manifest.json"
    manifest = Manifest(path)
    manifest.add("directory", tmp_path / "x")
    manifest.add("user", "vdsm")
    manifest.add("directory", tmp_path / "x")
    assert Manifest(path).made() == [Made("directory", str(tmp_path / "x")), Made("user", "vdsm")]
    Manifest(path).remove(Made("user", "vdsm"))
    assert Manifest(path).made() == [Made("directory", str(tmp_path / "x"))]


def test_what_is_broken_off_is_listed_and_what_fails_is_not(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.json")
    with pytest.raises(KeyboardInterrupt), manifest.making("user", "vdsm"):
        raise KeyboardInterrupt
    assert Manifest(manifest.path).made() == [Made("user", "vdsm")]
    with pytest.raises(OSError, match="refused"), manifest.making("group", "vdsm"):
        raise OSError("refused")
    with pytest.raises(OSError, match="refused"), manifest.making("user", "vdsm"):
        raise OSError("refused")
    assert Manifest(manifest.path).made() == [Made("user", "vdsm")]


@pytest.mark.parametrize("text", ["{", '{"version": 99, "made": []}', '{"made": []}', "[]"])
def test_manifest_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(UnknownManifest, match=r"manifest\.json"):
        Manifest(path)


def test_os_release_is_read_with_and_without_quotes() -> None:
    facts = machine.os_release('# x\nID=debian\nVERSION_ID="12"\nNAME=\'A "b"\'\n\n')
    assert facts == {"ID": "debian", "VERSION_ID": "12", "NAME": 'A "b'}


def test_holder_of_a_port_is_found() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert ports.holder(port) is None
        listening.listen()
        assert f"(pid {os.getpid()})" in (ports.holder(port) or "")


def test_state_survives_the_way_to_the_janitor() -> None:
    state = teardown.State(
        "/s", ["id"], [Process("vdsmd", 1, 2)], [Process("libvirtd", 3, 4)], ["u"], ["/f"], [DeviceNode("/n", 5, 6)]
    )
    assert teardown.State.loads(state.dumps()) == state


def test_a_pid_with_another_start_time_is_another_process() -> None:
    me = Process.of("me", os.getpid())
    assert me.is_alive()
    other = Process("me", os.getpid(), me.start_time + 1)
    assert not other.is_alive()
    assert other.stop(patience_s=0.0)  # and nothing was sent: we are still here


def test_signal_waits_for_the_end_of_a_deferred_part() -> None:
    signals = Signals()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signals.install()
    reached = []

    def work() -> None:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("the end")

    try:
        with pytest.raises(Stopped):
            work()
        assert reached == ["the end"]
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        signals.finish()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_step_says_how_it_ended() -> None:
    out = io.StringIO()
    progress = Progress(out)
    with progress.step("First") as outcome:
        outcome.say("all there")
    with pytest.raises(ValueError, match="x"), progress.step("Second"):
        raise ValueError("x")
    lines = out.getvalue().splitlines()
    # A step that took long, on a machine that has much to do, says how long.
    assert re.search(r"First: all there( \(.*\))?$", lines[0])
    assert re.search(r"Second: failed( \(.*\))?$", lines[1])


def test_reachable_means_every_directory_above(tmp_path: Path) -> None:
    from vds_bootstrap.host import is_reachable

    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert is_reachable(Path("/usr/bin"))
    (tmp_path / "a").chmod(0o700)
    assert not is_reachable(inner)


@pytest.mark.parametrize(
    ("name", "printed"),
    [("::1", "0:0:0:0:0:0:0:1"), ("2001:db8::a", "2001:db8:0:0:0:0:0:a"), ("10.0.0.1", "10.0.0.1"), ("Host", "host")],
)
def test_names_are_compared_as_openssl_prints_them(name: str, printed: str) -> None:
    assert pki.as_openssl_prints(name) == printed


def test_tail_of_a_log_is_indented(tmp_path: Path) -> None:
    log = tmp_path / "x.out"
    log.write_text("".join(f"{number}\n" for number in range(30)))
    assert processes.tail(log, lines=2) == "    28\n    29"
    assert processes.tail(tmp_path / "absent") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group")
def test_kvm_is_opened_to_its_group_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "kvm"
    node.touch()
    node.chmod(0o600)
    before = node.stat().st_gid
    monkeypatch.setattr("vds_bootstrap.devices.GROUP", "daemon")
    was = open_kvm(node)
    assert was is not None
    assert (node.group(), node.stat().st_mode & 0o777) == ("daemon", 0o660)
    assert open_kvm(node) is None
    was.restore()
    assert (node.stat().st_gid, node.stat().st_mode & 0o777) == (before, 0o600)
    assert open_kvm(tmp_path / "absent") is None
