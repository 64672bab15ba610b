"""REST on the whole agent: real sockets, TLS, services and root helper; the VMs are simulated."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from needs import needs
from simulated_agent import SimulatedAgent, simulated_agent

pytestmark = needs("root", "program:qemu-img", "program:openssl")
API = "/api/v1"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedAgent]:
    with simulated_agent(tmp_path_factory.mktemp("rest")) as running:
        yield running


@pytest.fixture
def client(agent: SimulatedAgent) -> Iterator[httpx.Client]:
    with agent.local() as local:
        yield local


class Stream:
    """Server-sent events, read in a thread."""

    def __init__(self, agent: SimulatedAgent, query: str = "", headers: dict[str, str] | None = None) -> None:
        self.events: list[tuple[str, str, dict]] = []
        self.last_id = ""
        self.ended = threading.Event()
        self._changed = threading.Condition()
        self._client = agent.local()
        self._stop = threading.Event()
        started = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(query, headers or {}, started), daemon=True)
        self._thread.start()
        assert started.wait(20)

    def _read(self, query: str, headers: dict[str, str], started: threading.Event) -> None:
        with self._client, self._client.stream("GET", f"{API}/events{query}", headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in response.iter_lines():
                key, _, value = line.partition(": ")
                with self._changed:
                    if key == "id":
                        self.last_id = value
                    elif key == "event":
                        name = value
                    elif key == "data":
                        self.events.append((self.last_id, name, json.loads(value)))
                    self._changed.notify_all()
                started.set()
                if self._stop.is_set():
                    return
        self.ended.set()

    def until(self, condition) -> tuple[str, str, dict]:
        """The first event that is as wanted."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(condition(*event) for event in self.events), 20), self.events
            return next(event for event in self.events if condition(*event))

    def close(self) -> None:
        self._stop.set()


def ids(client: httpx.Client) -> list[str]:
    return client.get(f"{API}/vms", params={"only_uuid": "true"}).json()


def disk(agent: SimulatedAgent, name: str) -> Path:
    path = agent.images / name
    path.write_bytes(b"\0" * 65536)
    return path


def test_the_life_of_a_vm(agent, client):
    stream = Stream(agent)
    path = disk(agent, "life.raw")
    made = client.post(f"{API}/vms", json={"name": "life", "memory_mib": 64, "disks": [{"path": str(path)}]})
    assert made.status_code == 201, made.text
    vm_id = made.json()["vm_id"]
    assert made.json()["status"] == "WaitForLaunch"
    stream.until(lambda _id, name, data: name == "VM_status" and data["status"] == "Powering up")
    agent.host.connect_agent(vm_id)
    ident, _, _ = stream.until(lambda _id, name, data: name == "VM_status" and data["status"] == "Up")
    assert client.get(f"{API}/vms/{vm_id}/stats").json()["status"] == "Up"
    assert [vm["vm_name"] for vm in client.get(f"{API}/vms").json()] == ["life"]
    assert client.get(f"{API}/vms", params={"only_uuid": "true"}).json() == [vm_id]
    assert client.post(f"{API}/vms/{vm_id}/pause").json()["status"] == "Paused"
    refused = client.post(f"{API}/vms/{vm_id}/reset")
    assert (refused.status_code, refused.json()["type"]) == (409, "/errors/wrong_state")
    again = Stream(agent, headers={"Last-Event-ID": ident})
    again.until(lambda _id, name, data: name == "VM_status" and data["status"] == "Paused")
    assert client.delete(f"{API}/vms/{vm_id}").status_code == 204
    assert client.get(f"{API}/vms/{vm_id}").json()["type"] == "/errors/no_such_vm"
    for each in (stream, again):
        each.close()


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"disks": [{"path": "/nowhere/x.raw"}]}, "disks[0].path"),
        ({"disks": [{"path": "relative"}]}, "disks[0].path"),
        ({"disks": [{"path": "/x", "colour": 1}]}, "disks[0].colour"),
        ({"memory_mib": 1 << 40}, "memory_mib"),
        ({"memory_mib": 1}, "memory_mib"),
        ({"vcpus": 100_000}, "vcpus"),
        ({"vm_id": "x"}, "vm_id"),
        ({"name": "a/b"}, "name"),
        ({"name": None}, "name"),
        ({"nics": [{"mac": "x"}]}, "nics[0].mac"),
        ({"memory_dump_volume": "x"}, "memory_dump_volume"),
        ({"graphics": "spice"}, "graphics"),
    ],
)
def test_bad_vms_are_refused_by_the_field_as_it_was_written(client, changed, field):
    before = ids(client)
    refused = client.post(f"{API}/vms", json={"name": "bad", **changed})
    assert (refused.status_code, refused.json()["field"]) == (422, field)
    assert ids(client) == before


def test_what_exists_is_not_made_twice(agent, client):
    vm_id = str(uuid.uuid4())
    body = {"name": "twice", "vm_id": vm_id, "memory_mib": 64}
    assert client.post(f"{API}/vms", json=body).status_code == 201
    refused = client.post(f"{API}/vms", json={**body, "name": "other"})
    assert (refused.status_code, refused.json()["type"]) == (409, "/errors/vm_exists")
    assert client.delete(f"{API}/vms/{vm_id}").status_code == 204


def test_definitions(client):
    body = {"name": "kept", "memory_mib": 64, "autostart": True}
    made = client.post(f"{API}/definitions", json=body)
    assert made.status_code == 201, made.text
    assert client.get(f"{API}/definitions/kept").json()["autostart"] is True
    assert client.post(f"{API}/definitions", json=body).status_code == 409
    changed = client.put(f"{API}/definitions/kept/autostart", json={"enabled": False})
    assert changed.json()["autostart"] is False
    assert client.delete(f"{API}/definitions/kept").status_code == 204
    assert client.get(f"{API}/definitions/kept").status_code == 404


class TestCallers:
    def test_a_certificate(self, agent):
        with agent.remote() as remote:
            assert remote.get(f"{API}/tokens").status_code == 200

    def test_nobody(self, agent):
        with agent.remote(certified=False) as remote:
            assert remote.get(f"{API}/vms").status_code == 401
            assert remote.post("/jsonrpc", json={}).status_code == 401
            assert remote.get(f"{API}/openapi.json").status_code == 200

    def test_a_token_from_its_creation_to_its_end(self, agent):
        secret = agent.token("life-of-a-token", "viewer")
        with agent.remote(certified=False, token=secret) as remote, agent.local() as local:
            assert remote.get(f"{API}/vms").status_code == 200
            assert remote.post(f"{API}/vms", json={"name": "x"}).json()["type"] == "/errors/denied"
            assert remote.get(f"{API}/tokens").status_code == 403
            assert local.delete(f"{API}/tokens/life-of-a-token").status_code == 204
            assert remote.get(f"{API}/vms").status_code == 401
        for file in (agent.directory / "log").iterdir():
            assert secret not in file.read_text()


class TestLimits:
    def test_a_huge_body_is_refused_before_it_is_sent(self, agent):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(20)
            raw.connect(str(agent.directory / "run/vdsm.sock"))
            head = f"POST {API}/vms HTTP/1.1\r\nHost: h\r\nContent-Length: {1 << 30}\r\n\r\n"
            raw.sendall(head.encode())
            answer = raw.recv(1024)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in answer
            while raw.recv(1024):
                pass

    def test_an_endless_body_is_cut_off(self, agent):
        sent = 0
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(20)
            raw.connect(str(agent.directory / "run/vdsm.sock"))
            head = f"POST {API}/vms HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            raw.sendall(head.encode())
            chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            try:
                while sent < 64 << 20:
                    raw.sendall(chunk)
                    sent += len(chunk)
            except OSError:
                pass
        assert sent < 16 << 20

    def test_a_large_answer_comes_whole(self, client):
        text = "x" * (4 << 20)
        assert client.post(f"{API}/host/echo", json={"message": text}).json() == text


def test_metrics_of_the_whole_agent(agent, client):
    client.post(f"{API}/host/ping")
    made = client.post(f"{API}/vms", json={"name": "measured", "memory_mib": 64}).json()
    stream = Stream(agent, f"?vm_id={made['vm_id']}", {"Last-Event-ID": "other-1"})
    stream.until(lambda _id, name, _data: name == "reset")
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.labels in ({}, {"verb": "Host.ping", "outcome": "ok"}) or sample.labels.get("name") == "measured"
    }
    assert found["vdsm_requests_total"] >= 1
    assert found["vdsm_libvirt_up"] == 1
    assert found["vdsm_vm_responding"] == 1
    assert found["vdsm_vm_sample_age_seconds"] < 60
    assert found["process_open_fds"] > 5
    assert found["vdsm_events_published_total"] >= 1
    stream.close()
    assert client.delete(f"{API}/vms/{made['vm_id']}").status_code == 204


def test_json_rpc_over_http(client):
    answer = client.post("/jsonrpc", json={"jsonrpc": "2.0", "id": 1, "method": "Definition.list"})
    assert answer.json() == {"jsonrpc": "2.0", "id": 1, "result": []}


def test_events_end_with_the_agent(tmp_path: Path):
    with simulated_agent(tmp_path) as short:
        stream = Stream(short)
    assert stream.ended.wait(20)
