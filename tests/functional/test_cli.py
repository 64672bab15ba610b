"""The installed vdscli against the real agent, real libvirt and a real guest: as a person and as a script use it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.agent_host import AgentHost
from lab.light import LightHost, eventually
from needs import needs
from vds_bootstrap.guest import Guest

pytestmark = [
    needs("root", "qemu", "busybox", "program:libvirtd"),
    pytest.mark.light,
    pytest.mark.timeout(300),
]

VDSCLI = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "vdscli"
PATIENCE_S = 90.0


class Cli:
    """Runs vdscli for one agent."""

    def __init__(self, agent: AgentHost, guest: Guest) -> None:
        self.agent = agent
        self._guest = guest
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
            "VDSM_SOCKET": str(agent.socket),
        }

    def run(self, *words: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [VDSCLI, *map(str, words)],
            check=False,
            capture_output=True,
            input=stdin,
            env=self.environment | environment,
            timeout=PATIENCE_S,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()
        )

    def ok(self, *words: object, **more: Any) -> str:
        done = self.run(*words, **more)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def refused(self, code: int, *words: object, **more: Any) -> str:
        done = self.run(*words, **more)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert done.stderr.count("\n") == 1
        return done.stderr.removeprefix("vdscli: ").rstrip("\n")

    def create(self, name: str, *words: object) -> str:
        boot = ("--kernel", self._guest.kernel, "--initrd", self._guest.initrd)
        named = ("--cmdline", self._guest.cmdline_for(name))
        return self.ok("vm", "create", name, "--memory", "256M", *boot, *named, *words)


class Terminal:
    """A command with a terminal, and a person who reads and types."""

    def __init__(self, cli: Cli, *words: str) -> None:
        self.near, self.far = pty.openpty()
        self.before = termios.tcgetattr(self.far)
        self.process = subprocess.Popen(
            [VDSCLI, *words],
            stdin=self.far,
            stdout=self.far,
            stderr=self.far,
            env=cli.environment,
            start_new_session=True,
        )
        self.shown = b""

    def reads(self, words: bytes) -> None:
        """Read until the words are shown."""
        end = time.monotonic() + PATIENCE_S
        while words not in self.shown:
            readable, _, _ = select.select([self.near], [], [], max(0.0, end - time.monotonic()))
            assert readable, (words, self.shown)
            self.shown += os.read(self.near, 65536)

    def types(self, keys: bytes) -> None:
        os.write(self.near, keys)

    def ends(self) -> int:
        """Read on until it has ended, as a terminal does; its exit code."""
        os.set_blocking(self.near, False)

        def has_ended() -> bool:
            with contextlib.suppress(BlockingIOError):
                self.shown += os.read(self.near, 65536)
            return self.process.poll() is not None

        eventually(has_ended, "vdscli ends", PATIENCE_S)
        return int(self.process.returncode)

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.far) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self.near)
        os.close(self.far)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, tiny_guest: Guest) -> Iterator[Cli]:
    directory = tmp_path_factory.mktemp("c")
    options = "cheap_interval_s = 0.5\nmonitor_interval_s = 1.0\nnot_responding_after_s = 1.0"
    with LightHost(directory / "h", network=True) as host, AgentHost(directory / "a", host, options) as agent:
        for part in (tiny_guest.kernel, tiny_guest.initrd):
            shutil.copy(part, agent.images)
        inside = Guest(agent.images / tiny_guest.kernel.name, agent.images / tiny_guest.initrd.name)
        yield Cli(agent, inside)


@pytest.fixture(scope="module")
def web(cli: Cli) -> str:
    """A VM that is up, its guest's agent connected; its id."""
    disk = cli.agent.images / "web.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    said = cli.create("web", "--disk", disk, "--nic", "user", "--cdrom", "", "--wait-agent")
    assert said.startswith("web: started, ")
    return said.split("(")[1].rstrip(")\n")


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        opened.append(Terminal(cli, *words))
        return opened[-1]

    yield start
    for item in opened:
        item.close()


def test_a_vm_is_shown_in_every_way(cli: Cli, web: str) -> None:
    assert cli.ok("vm", "list", "-q", "--running") == "web\n"
    listed = next(vm for vm in json.loads(cli.ok("vm", "list", "--json")) if vm["name"] == "web")
    assert (listed["vm_id"], listed["status"], listed["defined"], listed["guest_agent"]) == (web, "Up", True, True)
    card = cli.ok("vm", "show", web[:8])
    assert "web.qcow2  (disk, virtio, qcow2)" in card
    assert "(empty)" in card
    assert re.search("Guest agent +connected", card)
    assert "256 MiB" in cli.ok("vm", "stats", "web")
    assert " web " in f" {cli.ok('top', '-n', '1').splitlines()[3]} "
    assert "vda" in cli.ok("vm", "stats", "web")


def test_the_host_is_shown(cli: Cli, web: str) -> None:
    facts = json.loads(cli.ok("host", "info", "--json"))
    assert facts["capabilities"]["uuid"] in cli.ok("host", "info")
    assert "idle" in cli.ok("host", "stats")
    assert "cpu_model" in cli.ok("host", "capabilities")


@contextlib.contextmanager
def following(cli: Cli, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """``vdscli events``, once it gets them."""
    follower = subprocess.Popen(
        [VDSCLI, "events", "--for", "60", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment,
    )
    try:
        assert follower.stderr is not None
        assert follower.stderr.readline().startswith(b"following")
        yield follower
    finally:
        follower.kill()
        follower.communicate(timeout=PATIENCE_S)


def test_states_go_round_and_events_tell(cli: Cli, web: str) -> None:
    with following(cli, "web", "--json", "-n", "2") as follower:
        cli.ok("vm", "pause", "web")
        assert "Paused" in cli.ok("vm", "list")
        cli.ok("vm", "resume", "web")
        out, _ = follower.communicate(timeout=PATIENCE_S)
    events = [json.loads(line)["data"] for line in out.splitlines()]
    assert [(event["vm_id"], event["status"]) for event in events] == [(web, "Paused"), (web, "Up")]


def test_refusals_have_their_exit_codes(cli: Cli, web: str) -> None:
    assert cli.refused(3, "vm", "pause", "nope") == "there is no VM 'nope'"
    assert cli.refused(4, "vm", "start", "web") == "web runs already (Up)"
    assert cli.refused(4, "vm", "create", "web").endswith("already exists")
    outside = cli.refused(1, "vm", "create", "x", "--disk", "/etc/passwd")
    assert outside.startswith("disks[0].path: /etc/passwd is outside")
    assert cli.refused(1, "vm", "create", "x", "--memory", "9999999G").startswith("memory_mib: ")
    assert cli.refused(3, "token", "revoke", "none") == "token none does not exist"
    assert cli.ok("vm", "list", "-q") == "web\n"


def test_raw_verbs(cli: Cli, web: str) -> None:
    assert json.loads(cli.ok("call", "Host.echo", '{"message": "hé"}')) == "hé"
    assert json.loads(cli.ok("call", "Host.echo", "-", stdin=b'{"message": "x"}')) == "x"
    answer = json.loads(cli.ok("call", "VM.getStats", f"vmID={web}"))
    assert answer[0]["vmName"] == "web"
    error = json.loads(cli.refused(1, "call", "VM.getStats", '{"vmID": "11111111-1111-4111-8111-111111111111"}'))
    assert error["code"] == 1
    assert json.loads(cli.refused(1, "call", "Host.echo"))["message"] == "message: is missing"
    assert json.loads(cli.refused(1, "call", "No.verb"))["code"] == -32601


def test_the_console_for_a_script(cli: Cli, web: str) -> None:
    assert "TINY-UP" in cli.ok("vm", "console", "web", "--log")
    said = cli.ok("vm", "console", "web", "--until", "42-is-it", "--for", "60", stdin=b"\necho $((6 * 7))-is-it\n")
    assert "42-is-it" in said
    late = cli.run("vm", "console", "web", "--until", "never said", "--for", "0.5")
    assert late.returncode == 1


def test_the_console_for_a_person(cli: Cli, web: str, terminal: Any) -> None:
    person = terminal("vm", "console", "web")
    person.reads(b"Ctrl-]")
    eventually(lambda: not person.is_restored(), "the terminal is raw")
    person.types(b"\recho $((6 * 7))-is-the-answer\r")
    person.reads(b"42-is-the-answer")
    person.types(b"\x1d")
    assert person.ends() == 0
    assert person.is_restored()
    killed = terminal("vm", "console", "web")
    killed.reads(b"Ctrl-]")
    eventually(lambda: not killed.is_restored(), "the terminal is raw")
    killed.process.send_signal(signal.SIGTERM)
    assert killed.ends() == 128 + signal.SIGTERM
    assert killed.is_restored()


def test_top_for_a_person(cli: Cli, web: str, terminal: Any) -> None:
    person = terminal("top", "-d", "0.2")
    person.reads(b"web")
    person.types(b"n")
    person.types(b"q")
    assert person.ends() == 0
    assert person.is_restored()


def test_ticket_screenshot_and_cd(cli: Cli, web: str, tmp_path: Path) -> None:
    facts = json.loads(cli.ok("vm", "ticket", "web", "--json", "--ttl", "30"))
    assert facts["display"][0]["type"] == "vnc"
    assert len(facts["password"]) == 8
    assert facts["password"] not in cli.agent.log()
    cli.ok("vm", "screenshot", "web", "-o", tmp_path / "picture")
    assert (tmp_path / "picture").read_bytes()[:4] == b"\x89PNG"
    (cli.agent.images / "c.iso").write_bytes(bytes(1 << 20))
    cli.ok("vm", "cd", "web", cli.agent.images / "c.iso")
    eventually(lambda: "c.iso" in cli.ok("vm", "show", "web"), "the CD is in")
    cli.ok("vm", "cd", "web", "--eject")
    assert "/etc/passwd is outside" in cli.refused(1, "vm", "cd", "web", "/etc/passwd")


def test_over_the_network(cli: Cli, web: str, tmp_path: Path) -> None:
    pair, authority = cli.agent.certificates.manager, cli.agent.certificates.authority
    there = ("--host", f"localhost:{cli.agent.port}", "--ca", authority.certificate)
    proof = ("--cert", pair.certificate, "--key", pair.key)
    assert "web" in cli.ok(*there, *proof, "vm", "list", "-q")
    secret = cli.run("token", "create", "watcher").stdout.strip()
    (tmp_path / "token").write_text(secret)
    assert "web" in cli.ok(*there, "--token-file", tmp_path / "token", "vm", "list", "-q")
    assert "operator" in cli.refused(7, *there, "vm", "pause", "web", VDSM_TOKEN=secret)
    assert cli.refused(7, *there, "vm", "list", VDSM_TOKEN="vdsm_wrong")
    assert "run 'vdscli vm console' on" in cli.refused(2, *there, "vm", "console", "web", VDSM_TOKEN=secret)
    foreign = cli.agent.certificates.foreign
    assert cli.refused(6, *there, "--cert", foreign.certificate, "--key", foreign.key, "vm", "list")
    cli.ok("token", "revoke", "watcher")
    assert cli.refused(7, *there, "vm", "list", VDSM_TOKEN=secret)


def test_a_frozen_vm_is_said_to_be(cli: Cli, web: str) -> None:
    cli.agent.host.freeze(web)
    try:
        eventually(lambda: "not responding" in cli.ok("vm", "list"), "the VM is marked")
        assert "not responding" in cli.ok("vm", "show", "web")
        assert "does not respond" in cli.refused(5, "vm", "pause", "web")
    finally:
        cli.agent.host.thaw(web)
    eventually(lambda: "not responding" not in cli.ok("vm", "list"), "the mark is gone")


def test_life_of_a_vm(cli: Cli) -> None:
    assert cli.create("short", "--wait-agent", "--autostart").startswith("short: started")
    assert cli.ok("vm", "stop", "short", "--timeout", "60").startswith("short: Down (")
    assert cli.refused(4, "vm", "pause", "short").endswith("while Down")
    assert cli.ok("vm", "start", "short").startswith("short: started")
    assert cli.ok("vm", "destroy", "short") == "short: powered off; its definition stays\n"
    assert "short" in cli.ok("vm", "list", "-q")
    cli.ok("vm", "autostart", "short", "off")
    assert cli.ok("vm", "forget", "short") == "short: forgotten\n"
    assert "short" not in cli.ok("vm", "list", "-q")


def test_a_guest_that_does_not_obey_is_powered_off_when_told(cli: Cli) -> None:
    cli.ok("vm", "create", "deaf", "--memory", "32M", "--transient", "--no-agent")
    assert "--force" in cli.refused(1, "vm", "stop", "deaf", "--timeout", "1")
    assert cli.ok("vm", "stop", "deaf", "--timeout", "1", "--force").startswith("deaf: Down")
    assert cli.ok("vm", "forget", "deaf") == "deaf: forgotten\n"


def test_events_go_on_over_a_restart_of_the_agent(cli: Cli, web: str) -> None:
    with following(cli) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        cli.agent.restart()
        notes = [follower.stderr.readline() for _ in range(3)]
        assert [note.split()[0] for note in notes] == [b"connection", b"connected", b"the"]
        cli.ok("vm", "pause", "web")
        cli.ok("vm", "resume", "web")
        for line in follower.stdout:
            if b"web  Paused" in line:
                break
        else:
            pytest.fail("no event of the pause")


def test_completion_in_bash(cli: Cli, web: str) -> None:
    script = f"""
        PATH={VDSCLI.parent}:$PATH
        source <(vdscli completion bash)
        try() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vdscli vdscli 2>/dev/null; echo "${{COMPREPLY[@]}}"; }}
        try vdscli vm pause w
        try vdscli call VM.setTicket existingConnAction = k
        try vdscli vm create x --kernel /etc/host
    """
    done = subprocess.run(
        ["bash", "-c", script], check=True, capture_output=True, text=True, env=cli.environment, timeout=PATIENCE_S
    )
    names, choice, files = done.stdout.splitlines()
    assert (names, choice) == ("web", "keep")
    assert "/etc/hosts" in files.split()
