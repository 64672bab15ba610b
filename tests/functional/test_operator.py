"""What an operator meets: a second agent, damaged and full disks, a helper that is away, roles, certificates, logs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from lab.agent_host import AgentHost, Problem, short_directory
from lab.light import LightHost, eventually
from needs import needs
from wire import client_context

pytestmark = [pytest.mark.light, needs("root", "qemu", "program:libvirtd")]

PROJECT = Path(__file__).resolve().parents[2]
VDSMD = PROJECT / ".venv/bin/vdsmd"
VERBS = json.loads((PROJECT / "docs/verbs.json").read_text())["verbs"]
ROLES = ["viewer", "operator", "admin"]
NOBODY = str(uuid.uuid4())


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory in which the agent's state and its logs are on small file systems of their own."""
    with short_directory() as directory:
        parts = [directory / "a/state", directory / "a/log"]
        for part in parts:
            part.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", part], check=True)
        try:
            yield directory
        finally:
            for part in parts:
                subprocess.run(["umount", "--lazy", part], check=True)


@pytest.fixture(scope="module")
def agent(place: Path) -> Iterator[AgentHost]:
    with LightHost(place / "h", network=True) as host, AgentHost(place / "a", host) as running:
        yield running


def refused(agent: AgentHost, method: str, path: str, body: object = None) -> Problem:
    with pytest.raises(Problem) as error:
        agent.call(method, path, body)
    return error.value


# -- a second agent


@pytest.mark.parametrize("changed", ["nothing", "run_dir", "state_dir"])
def test_second_agent_is_refused_and_the_first_goes_on(agent: AgentHost, tmp_path: Path, changed: str) -> None:
    config = tmp_path / "vdsm.toml"
    config.write_text(re.sub(f"{changed} = .*", f'{changed} = "{tmp_path}"', agent.config.read_text()))
    done = subprocess.run([VDSMD, "--config", config], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"vdsmd: using \S+ failed: another process of the agent uses it\n", done.stderr), done.stderr
    assert agent.call("GET", "/vms") == []


# -- disks


@contextlib.contextmanager
def full(directory: Path) -> Iterator[None]:
    """No space is left in a directory's file system."""
    filler = directory / "filler"
    descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(4096))
        yield
    finally:
        os.close(descriptor)
        filler.unlink()


def works(agent: AgentHost) -> None:
    """What needs no disk of the agent's own goes on."""
    vm = agent.create(f"on-{uuid.uuid4().hex[:6]}")
    agent.call("POST", f"/vms/{vm}/pause")
    agent.call("DELETE", f"/vms/{vm}")
    assert agent.call("GET", "/vms") == []


@pytest.mark.parametrize("restarted", [False, True])
def test_full_disk_of_the_state(agent: AgentHost, *, restarted: bool) -> None:
    with full(agent.state_dir):
        if restarted:
            agent.restart()
        works(agent)
        for path, body in (("/definitions", {"name": "d"}), ("/tokens", {"name": "t", "role": "viewer"})):
            error = refused(agent, "POST", path, body)
            assert error.status == 500
            assert str(agent.state_dir) in error.body["detail"]
    assert agent.call("GET", "/definitions") == []
    assert agent.call("GET", "/tokens") == []
    agent.call("POST", "/definitions", {"name": "d"})
    agent.call("DELETE", "/definitions/d")


def test_full_disk_of_the_logs(agent: AgentHost) -> None:
    with full(agent.log_dir):
        works(agent)
    said = len(agent.log())
    works(agent)
    assert "VM.destroy" in agent.log()[said:]


def test_read_only_disk_of_the_state(agent: AgentHost) -> None:
    agent.kill()
    subprocess.run(["mount", "-o", "remount,ro", agent.state_dir], check=True)
    try:
        agent.start("vdsmd")
        agent.wait_ready()
        works(agent)
        assert "Read-only" in refused(agent, "POST", "/definitions", {"name": "d"}).body["detail"]
    finally:
        agent.kill()
        subprocess.run(["mount", "-o", "remount,rw", agent.state_dir], check=True)
        agent.start("vdsmd")
        agent.wait_ready()


# -- definitions


def running(agent: AgentHost) -> list[str]:
    return [vm["vm_name"] for vm in agent.call("GET", "/vms") if vm["status"] in {"Powering up", "Up"}]


def test_marked_vms_start_with_the_agent_and_only_once(agent: AgentHost) -> None:
    for name, autostart in (("first", True), ("second", False)):
        agent.call("POST", "/definitions", {"name": name, "memory_mib": 32, "graphics": "none", "autostart": autostart})
    try:
        for _ in range(2):
            agent.restart()
            # The agent may have been killed in the middle of a start; then it starts the VM anew.
            eventually(lambda: running(agent) == ["first"], "the VM starts with the agent, and runs once")
        assert agent.host.virsh("list", "--name").split() == ["first"]
        agent.call("POST", "/definitions/second/start")
        assert refused(agent, "POST", "/definitions/first/start").status == 409
    finally:
        for vm_id in agent.call("GET", "/vms?only_uuid=true"):
            agent.call("DELETE", f"/vms/{vm_id}")
        for name in ("first", "second"):
            agent.call("DELETE", f"/definitions/{name}")


# -- damaged files


@pytest.mark.parametrize("name", ["vms.sqlite", "definitions.sqlite", "tokens.json", "kvm.json"])
def test_damaged_file_stops_only_what_needs_it(agent: AgentHost, name: str) -> None:
    vm = agent.create("kept")
    agent.kill()
    for suffix in ("-wal", "-shm"):
        (agent.state_dir / f"{name}{suffix}").unlink(missing_ok=True)
    (agent.state_dir / name).write_bytes(b"\xff{ garbage" * 500)
    said = len(agent.log())
    agent.start("vdsmd")
    agent.wait_ready()
    try:
        assert agent.call("GET", "/vms?only_uuid=true") == [vm]
        for path, file in (("/definitions", "definitions.sqlite"), ("/tokens", "tokens.json")):
            if file == name:
                assert name in refused(agent, "GET", path).body["detail"]
            else:
                assert agent.call("GET", path) == []
        assert "Traceback" not in agent.log()[said:]
    finally:
        agent.kill()
        (agent.state_dir / name).unlink()
        agent.start("vdsmd")
        agent.wait_ready()
        agent.call("DELETE", f"/vms/{vm}")


@pytest.mark.parametrize("content", ["", "garbage\n", "\n\n"])
def test_damaged_identity_is_said_and_not_replaced(agent: AgentHost, content: str) -> None:
    place = agent.state_dir / "instance"
    kept = place.read_text()
    agent.kill()
    place.write_text(content)
    try:
        done = subprocess.run(
            [VDSMD, "--config", agent.config], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert re.match(rf"vdsmd: reading {place} failed: ", done.stderr)
        assert len(done.stderr.splitlines()) == 1
        assert place.read_text() == content
    finally:
        place.write_text(kept)
        agent.start("vdsmd")
        agent.wait_ready()


# -- the helper


def test_helper_that_is_away_is_named_and_missed_only_where_needed(agent: AgentHost) -> None:
    image = agent.images / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    with_disk = {"name": "disk", "memory_mib": 32, "graphics": "none", "disks": [{"path": str(image)}]}
    agent.kill("supervdsmd")
    try:
        error = refused(agent, "POST", "/vms", with_disk)
        assert error.status == 503
        assert "supervdsm" in error.body["detail"]
        works(agent)
        assert agent.call("GET", "/host/capabilities")["cpu_flags"]
    finally:
        agent.start("supervdsmd")
    eventually((agent.run_dir / "svdsm.sock").exists, "the helper is back")

    def starts() -> bool:
        try:
            agent.create(**with_disk)
        except Problem:
            return False
        return True

    eventually(starts, "the helper is used again")
    agent.call("DELETE", f"/vms/{agent.call('GET', '/vms?only_uuid=true')[0]}")


# -- roles


class Remote:
    """A client of the network port with a bearer token and no certificate."""

    def __init__(self, agent: AgentHost, secret: str | None) -> None:
        self._context = client_context(agent.certificates, None)
        self._port = agent.port
        self._headers = {"Content-Type": "application/json"}
        if secret is not None:
            self._headers["Authorization"] = f"Bearer {secret}"

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = HTTPSConnection("127.0.0.1", self._port, timeout=60, context=self._context)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, self._headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(said) if said.startswith((b"{", b"[")) else said


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_call_its_verbs_and_no_others(agent: AgentHost, role: str) -> None:
    made = agent.call("POST", "/tokens", {"name": role, "role": role})
    remote = Remote(agent, made["secret"])
    try:
        for verb in VERBS:
            allowed = ROLES.index(verb["role"]) <= ROLES.index(role)
            path = re.sub(r"\{\w+\}", NOBODY, verb["rest"]["path"])
            status, said = remote.call(verb["rest"]["method"], f"/api/v1{path}", {})
            assert (status not in {401, 403}) is allowed, (verb["name"], status, said)
            request = {"jsonrpc": "2.0", "id": 1, "method": verb["name"], "params": {"nonsense": 1}}
            status, said = remote.call("POST", "/api/v1/jsonrpc", request)
            assert status == 200
            message = said.get("error", {}).get("message", "")
            assert ("needs the role" not in message) is allowed, (verb["name"], said)
        for path in ("/metrics", "/api/v1/openapi.json", "/docs"):
            assert remote.call("GET", path)[0] == 200
    finally:
        agent.call("DELETE", f"/tokens/{role}")
    assert remote.call("GET", "/api/v1/vms")[0] == 401


def test_nobody_in_particular_sees_the_manual_and_nothing_else(agent: AgentHost) -> None:
    remote = Remote(agent, None)
    for verb in VERBS:
        path = re.sub(r"\{\w+\}", NOBODY, verb["rest"]["path"])
        assert remote.call(verb["rest"]["method"], f"/api/v1{path}", {})[0] == 401, verb["name"]
    for method, path in (("GET", "/metrics"), ("GET", "/api/v1/events"), ("POST", "/api/v1/jsonrpc")):
        assert remote.call(method, path)[0] == 401, path
    assert remote.call("GET", "/docs")[0] == 200


# -- certificates and logs


def test_certificates_are_read_anew_on_sighup(agent: AgentHost) -> None:
    place = agent.directory / "pki"
    fresh = agent.certificates.authority.issue("fresh.example.com")

    def subject() -> str:
        context = client_context(agent.certificates, None)
        with (
            socket.create_connection(("127.0.0.1", agent.port), timeout=20) as plain,
            context.wrap_socket(plain) as connection,
        ):
            found = connection.getpeercert() or {}
        return str(dict(pair for rdn in found["subject"] for pair in rdn)["commonName"])

    assert subject() == "localhost"
    shutil.copy(fresh.certificate, place / "certs/vdsmcert.pem")
    os.kill(agent.pid(), signal.SIGHUP)
    eventually(lambda: "the old certificates stay in use" in agent.log(), "what does not fit is said")
    assert subject() == "localhost"
    shutil.copy(fresh.key, place / "keys/vdsmkey.pem")
    os.kill(agent.pid(), signal.SIGHUP)
    eventually(lambda: subject() == "fresh.example.com", "the new certificate is used")


def test_log_tells_who_did_what_for_which_flow(agent: AgentHost) -> None:
    vm = agent.call(
        "POST", "/vms", {"name": "logged", "memory_mib": 32, "graphics": "none"}, **{"X-Correlation-Id": "flow-77"}
    )["vm_id"]
    agent.reaches(vm, "Up", "Powering up")
    agent.call("DELETE", f"/vms/{vm}")
    lines = [line for line in agent.log().splitlines() if "[flow-77]" in line]
    assert any("VM.create begins for root" in line for line in lines), lines
    secret = agent.call("POST", "/tokens", {"name": "hidden", "role": "viewer"})["secret"]
    Remote(agent, secret).call("GET", "/api/v1/vms")
    agent.call("DELETE", "/tokens/hidden")
    for file in agent.log_dir.rglob("*"):
        if file.is_file():
            assert secret not in file.read_text(errors="replace")
    assert secret not in (agent.state_dir / "tokens.json").read_text()
