"""Volumes over HTTP, as an Engine keeps its OVF files, and by vdscli: the whole agent, real files."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lab.agent_host import short_directory
from lab.engine_storage import EngineStorage
from lab.engine_wire import IRS_REQUESTS, IRS_RESPONSES, Connection
from lab.light import eventually
from needs import needs
from simulated_agent import SimulatedAgent, simulated_agent

pytestmark = [needs("root", "program:qemu-img")]

MIB = 1 << 20
SIZE = 8 * MIB
STRIDE = 1 if os.environ.get("VDSM_EXHAUSTIVE") else 3
BODY = random.Random(5).randbytes(3 * MIB + 1234)


@pytest.fixture(scope="module")
def agent() -> Iterator[SimulatedAgent]:
    with short_directory() as place, simulated_agent(place) as running:
        with running.local() as client:
            eventually(lambda: client.get("/api/v1/vms").status_code == 200, "the agent is ready")
        yield running


@pytest.fixture(scope="module")
def engine(agent: SimulatedAgent) -> Iterator[EngineStorage]:
    """A data centre on one local domain."""
    directory = agent.directory / "data"
    directory.mkdir()
    directory.chmod(0o777)
    context = agent.manager_context()
    general = Connection(socket.create_connection(("127.0.0.1", agent.port), 20), context)
    irs = Connection(
        socket.create_connection(("127.0.0.1", agent.port), 20),
        context,
        requests=IRS_REQUESTS,
        responses=IRS_RESPONSES,
        events=None,
    )
    with general, irs:
        storage = EngineStorage(general, irs)
        storage.add_domain("LOCALFS", str(directory))
        storage.make_data_centre()
        yield storage
        with agent.local() as client:
            client.post(f"/api/v1/pools/{storage.pool_id}/spm/stop", json={})


class Ovf:
    """One volume for OVF files."""

    def __init__(self, agent: SimulatedAgent, engine: EngineStorage) -> None:
        self.agent = agent
        self.engine = engine
        self.image, self.volume = str(uuid.uuid4()), str(uuid.uuid4())
        engine.create_volume(self.image, self.volume, SIZE, diskType="OVFS", preallocate=1)
        self.path = agent.directory / "data" / engine.domain_id / "images" / self.image / self.volume
        self.ids = {
            "Storage-Pool-Id": engine.pool_id,
            "Storage-Domain-Id": engine.domain_id,
            "Image-Id": self.image,
            "Volume-Id": self.volume,
        }

    def put(self, body: bytes, **headers: str) -> httpx.Response:
        with self.agent.remote() as client:
            sent = {**self.ids, "Content-Type": "application/octet-stream", "Connection": "close", **headers}
            return client.put("/", content=body, headers=sent)

    def get(self, size: int, **headers: str) -> httpx.Response:
        with self.agent.remote() as client:
            return client.get(
                "/", headers={**self.ids, "Range": f"bytes=0-{size - 1}", "Connection": "close", **headers}
            )

    def settle(self, response: httpx.Response, verb: str) -> None:
        """What an Engine does with the task of an answer."""
        task_id = response.headers["Task-Id"]
        with self.agent.local() as client:
            status = client.get(f"/api/v1/tasks/{task_id}").json()
            assert (status["task_state"], status["task_result"]) == ("finished", "success")
            assert client.get(f"/api/v1/tasks/{task_id}/info").json()["verb"] == verb
            assert client.delete(f"/api/v1/tasks/{task_id}").status_code == 204
            assert client.get("/api/v1/tasks").json() == {}


@pytest.fixture
def ovf(agent: SimulatedAgent, engine: EngineStorage) -> Iterator[Ovf]:
    yield Ovf(agent, engine)
    assert list((agent.directory / "state").glob("spool/*")) == []


class TestOvfStore:
    def test_what_was_put_is_got(self, ovf: Ovf):
        ovf.path.write_bytes(b"\xff" * SIZE)
        answer = ovf.put(BODY)
        assert answer.status_code == 200, answer.text
        ovf.settle(answer, "downloadImageFromStream")
        assert ovf.path.read_bytes() == BODY + b"\xff" * (SIZE - len(BODY))

        answer = ovf.get(len(BODY))
        assert answer.status_code == 206
        assert answer.headers["Content-Length"] == str(len(BODY))
        assert answer.headers["Content-Range"].startswith(f"bytes 0-{len(BODY) - 1}/")
        assert answer.content == BODY
        ovf.settle(answer, "uploadImageToStream")

    def test_requests_without_sense(self, ovf: Ovf):
        assert ovf.get(5, Range="bytes=5-9").status_code == 400
        assert ovf.get(5, Range="lines=0-9").status_code == 400
        for name in ovf.ids:
            with ovf.agent.remote() as client:
                headers = {key: value for key, value in ovf.ids.items() if key != name}
                answer = client.put("/", content=b"x", headers=headers)
                assert answer.status_code == 400
                assert name in answer.json()["status"]["message"]
                chunked = client.put("/", content=iter([b"x"]), headers=ovf.ids)
                assert chunked.status_code == 411

    def test_failures_have_the_original_s_form(self, ovf: Ovf):
        def code(answer: httpx.Response) -> int:
            assert answer.status_code == 500
            assert answer.headers["Content-type"] == "application/json"
            assert answer.json()["status"]["message"]
            return answer.json()["status"]["code"]

        other = {"Volume-Id": str(uuid.uuid4())}
        assert code(ovf.put(b"x", **other)) == code(ovf.get(1, **other)) == 201
        assert code(ovf.put(b"x", **{"Storage-Domain-Id": str(uuid.uuid4())})) == 358
        assert code(ovf.put(b"x", **{"Image-Id": "../../etc"})) == 1000
        assert code(ovf.put(bytes(SIZE + 1))) == 1000
        assert code(ovf.get(SIZE + 1)) == 1000
        assert code(ovf.put(b"x", **{"Storage-Pool-Id": str(uuid.uuid4())})) in {309, 654}

    def test_who_is_not_known_gets_nothing(self, ovf: Ovf):
        with ovf.agent.remote(certified=False) as client:
            assert client.put("/", content=b"x", headers=ovf.ids).status_code == 401
            assert client.get("/", headers={**ovf.ids, "Range": "bytes=0-1"}).status_code == 401
            assert client.get("/").status_code == 302
        with ovf.agent.remote(certified=False, token=ovf.agent.token("reader", "viewer")) as client:
            assert client.put("/", content=b"x", headers=ovf.ids).status_code == 403

    def test_a_body_that_is_cut_off_changes_nothing(self, ovf: Ovf):
        before = ovf.path.read_bytes()
        context = ovf.agent.manager_context()
        with context.wrap_socket(socket.create_connection(("127.0.0.1", ovf.agent.port), 20)) as line:
            head = "".join(f"{name}: {value}\r\n" for name, value in ovf.ids.items())
            line.sendall(f"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n{head}\r\n".encode() + b"x" * MIB)
            spool = ovf.agent.directory / "state" / "spool"
            eventually(lambda: any(path.stat().st_size for path in spool.glob("*")), "the body arrives")
        eventually(lambda: not list(spool.glob("*")), "the spool file is gone")
        assert ovf.path.read_bytes() == before


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _free_port(self, agent: SimulatedAgent) -> None:
        self.environment = {**os.environ, "XDG_STATE_HOME": str(agent.directory / "xdg")}

    def vdscli(self, agent: SimulatedAgent, *words: str) -> str:
        argv = [sys.executable, "-c", "import sys; from vdscli.main import main; sys.exit(main())"]
        socket_path = str(agent.directory / "run/vdsm.sock")
        argv += [*words, "--socket", socket_path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=100, env=self.environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @pytest.mark.parametrize("kind", ["raw", "qcow2"])
    def test_up_and_down_again(self, agent: SimulatedAgent, engine: EngineStorage, kind: str, tmp_path: Path):
        disk, back = tmp_path / "disk", tmp_path / "back"
        raw = tmp_path / "raw"
        with raw.open("wb") as file:
            file.write(BODY)
            file.truncate(SIZE)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, raw, disk], check=True)
        image = str(uuid.uuid4())
        said = self.vdscli(agent, "image", "upload", str(disk), engine.domain_id, "--image", image)
        assert image in said
        self.vdscli(agent, "image", "download", engine.domain_id, image, str(back))
        assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(raw.read_bytes()).digest()
        assert engine.tasks() == {}
        with agent.local() as client:
            folder = f"/api/v1/storage-domains/{engine.domain_id}/images/{image}"
            (volume,) = client.get(f"{folder}/volumes").json()
            info = client.get(f"{folder}/volumes/{volume}").json()
        assert (info["legality"], info["format"]) == ("LEGAL", {"raw": "RAW", "qcow2": "COW"}[kind])


# One interpreter for all commands: each runs in a fork, and what it returned, or 77 when it was killed, is printed.
KILLED = """
import json, os, sys, traceback
from vdscli import image_commands, image_download, image_upload, session, waiting
from vdscli.client import Client
from vdscli.transfer import pieces
from vdscli.main import main

def counted(function):
    def call(*args):
        global left
        found = function(*args)
        left -= 1
        if left == 0:
            os._exit(77)
        return found
    return call

Client._exchange_once = counted(Client._exchange_once)
pieces.write = counted(pieces.write)
for line in sys.stdin:
    left, os.environ["XDG_STATE_HOME"], sys.argv[1:] = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        code = 99
        try:
            code = main()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs commands one after the other; ``step`` is after which request or note to die, 0: never."""

    def __init__(self, agent: SimulatedAgent, log: Path) -> None:
        self.socket = str(agent.directory / "run/vdsm.sock")
        self.log = log
        with log.open("w") as file:
            argv = [sys.executable, "-c", KILLED]
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True)

    def run(self, state: Path, step: int, *words: object) -> int:
        assert self.process.stdin
        assert self.process.stdout
        command = ["image", *map(str, words), "--socket", self.socket]
        print(json.dumps([step, str(state), command]), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        assert code in {0, 4, 77}, self.log.read_text()
        return code


@pytest.fixture
def commands(agent: SimulatedAgent, tmp_path: Path) -> Iterator[Commands]:
    found = Commands(agent, tmp_path / "log")
    with found.process:
        yield found
        found.process.kill()


class TestKilled:
    """A command that is killed after each request and each note of its own; then the same command again."""

    # What differs little from an upload is killed at each third.
    @pytest.mark.parametrize(("way", "stride"), [("upload", 1), ("upload-qcow2", STRIDE), ("download", STRIDE)])
    def test_at_every_step(
        self, agent: SimulatedAgent, engine: EngineStorage, commands: Commands, way: str, stride: int, tmp_path: Path
    ):
        disk = tmp_path / "disk"
        disk.write_bytes(BODY)
        os.truncate(disk, SIZE)
        run = f"{agent.directory}/run"
        step, code = 1 - stride, 77
        image = str(uuid.uuid4())
        if way == "download":
            assert commands.run(tmp_path / "s", 0, "upload", disk, engine.domain_id, "--image", image) == 0
        while code == 77:
            step += stride
            state = tmp_path / f"state{step}"
            if way == "download":
                words = ["download", engine.domain_id, image, tmp_path / f"out{step}"]
            else:
                image = str(uuid.uuid4())
                words = ["upload", disk, engine.domain_id, "--image", image]
                words += ["--volume-format", "qcow2"] if way == "upload-qcow2" else []
            code = commands.run(state, step, *words)
            if code == 77:
                again = commands.run(state, 0, *words)
                # Killed at the very last: it was done, and a file that is there is not replaced.
                assert again == 0 or (way == "download" and again == 4), step
            self.check(agent, engine, image)
            if way == "download":
                assert (tmp_path / f"out{step}").read_bytes() == disk.read_bytes()
            assert [path.name for path in state.rglob("*.json")] == [], step
            assert list(Path(run).glob("nbd/*")) == [], step
            assert not Path(f"{run}/imageio/tickets.json").exists(), step
        assert code == 0
        assert step > 10

    def check(self, agent: SimulatedAgent, engine: EngineStorage, image: str) -> None:
        with agent.local() as client:
            folder = f"/api/v1/storage-domains/{engine.domain_id}/images/{image}/volumes"
            (volume,) = client.get(folder).json()
            assert client.get(f"{folder}/{volume}").json()["legality"] == "LEGAL"
            for task in client.get("/api/v1/tasks").json():
                client.delete(f"/api/v1/tasks/{task}")
        path = agent.directory / "data" / engine.domain_id / "images" / image / volume
        kind = "qcow2" if path.read_bytes()[:4] == b"QFI\xfb" else "raw"
        target = agent.directory / "content"
        subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", path, target], check=True)
        assert target.read_bytes() == BODY + bytes(SIZE - len(BODY))


def test_a_ticket_for_another_place_is_refused(agent: SimulatedAgent):
    secret = {"uuid": str(uuid.uuid4()), "timeout": 60, "size": 100, "ops": ["read"]}
    with agent.local() as client:
        for url in ("file:///etc/shadow", "nbd:unix:/run/other/x.sock", "https://elsewhere/images/x", "file://host/x"):
            answer = client.post("/api/v1/image-tickets", json={**secret, "url": url})
            assert answer.status_code == 422
            assert answer.json()["field"] == "url"
            request = {
                "jsonrpc": "2.0",
                "method": "Host.add_image_ticket",
                "params": {"ticket": {**secret, "url": url}},
            }
            answer = client.post("/api/v1/jsonrpc", json={**request, "id": 1})
            assert answer.json()["error"]["message"].startswith("ticket.url: ")
