"""The whole agent beside storage that does not answer any more; real daemons, real VMs, a stopped FUSE file system."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain_parts import Bound, bound
from lab.agent_host import AgentHost, Problem, short_directory
from lab.light import LightHost, eventually
from needs import needs

pytestmark = needs("root", "qemu", "program:libvirtd", "program:qemu-img", "program:bindfs")

MIB = 1 << 20
BLANK = "00000000-0000-0000-0000-000000000000"
WANTED = {"size": str(8 * MIB), "volFormat": 4, "preallocate": 2, "diskType": "DATA", "desc": ""}
SETTINGS = "health_check_interval_s = 1.0\nhelper_timeout_s = 3.0\nhelper_longest_delay_s = 2.0"
# Far above what it takes (milliseconds), far below what a call at the frozen domain may take.
PROMPT_S = 20.0
# Every verb that needs the frozen domain has answered by then.
DEADLINE_S = 60.0


@dataclass
class World:
    """An agent with two storages: ``good`` in a directory, ``bad`` behind a file system that can be stopped."""

    agent: AgentHost
    switch: Bound
    mount: Path
    good: dict[str, Any] = field(default_factory=dict)
    bad: dict[str, Any] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    told: list[tuple[str, bool]] = field(default_factory=list)

    def ask(self, method: str, timeout_s: float = DEADLINE_S, **params: Any) -> Any:
        """A verb's answer; how long it took is kept."""
        began = time.monotonic()
        answer = self.agent.rpc(method, params, timeout_s=timeout_s)
        took = time.monotonic() - began
        self.slowest[method] = max(took, self.slowest.get(method, 0))
        assert "result" in answer, (method, answer)
        return answer["result"]

    def refused(self, method: str, **params: Any) -> dict[str, Any]:
        """The error of a verb, which must come within its deadline."""
        answer = self.agent.rpc(method, params, timeout_s=DEADLINE_S)
        assert "error" in answer, (method, answer)
        error: dict[str, Any] = answer["error"]
        return error

    def finish(self, task: str) -> int:
        """Wait for a task's end, clear it; its code."""
        until = time.monotonic() + DEADLINE_S
        while (status := self.ask("Task.getStatus", taskID=task))["taskState"] != "finished":
            assert time.monotonic() < until, status
            time.sleep(0.05)
        self.ask("Task.clear", taskID=task)
        return int(status["code"])

    def create_volume(self, storage: dict[str, Any], image: str, volume: str, **more: Any) -> int:
        """Volume.create; its task's code."""
        return self.finish(self.ask("Volume.create", **address(storage, image, volume), **{**WANTED, **more}))

    def children(self) -> int:
        """How many processes the agent has."""
        pid = self.agent.pid()
        return sum(len(path.read_text().split()) for path in Path(f"/proc/{pid}/task").glob("*/children"))

    def metric(self, name: str, place: str) -> float:
        """One figure of /metrics of a mount; 0 when it is not there."""
        with local(self.agent) as client:
            text = client.get("/metrics").text
        for line in text.splitlines():
            if line.startswith(f"{name}{{") and place in line:
                return float(line.rpartition(" ")[2])
        return 0.0

    def valid(self, storage: dict[str, Any]) -> bool:
        """What the last look at a domain found."""
        report = self.ask("Host.getStorageRepoStats").get(storage["domain_id"])
        return report is not None and report["code"] == 0 and report["valid"]


def local(agent: AgentHost) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(agent.socket))
    return httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE_S)


def listen(world: World) -> None:
    """Note what the agent tells of its domains, until it ends."""
    with (
        contextlib.suppress(httpx.HTTPError, OSError),
        local(world.agent) as client,
        client.stream("GET", "/api/v1/events", timeout=None) as lines,
    ):
        for line in lines.iter_lines():
            if line.startswith("data: ") and "mdathreshold" not in line:
                event = json.loads(line.removeprefix("data: "))
                if isinstance(event, dict) and "valid" in event:
                    world.told.append((event["id"], event["valid"]))


def address(storage: dict[str, Any], image: str, volume: str | None = None) -> dict[str, str]:
    found = {"storagepoolID": storage["pool_id"], "storagedomainID": storage["domain_id"], "imageID": image}
    return found if volume is None else {**found, "volumeID": volume}


def disk(storage: dict[str, Any], image: str, volume: str) -> dict[str, Any]:
    names = {key: storage[key] for key in ("pool_id", "domain_id")}
    return {"format": "qcow2", "image": {**names, "image_id": image, "volume_id": volume}}


@contextlib.contextmanager
def storage(place: Path, *, killable: bool) -> Iterator[tuple[Path, Bound]]:
    """A mount, and what freezes it. What waits for it can be killed, or not: then its request has been taken."""
    with bound(place / "real", place / "fuse") as behind:
        behind.mount.chmod(0o777)
        if killable:
            yield behind.mount, behind
        else:
            with bound(behind.mount, place / "outer") as front:
                try:
                    yield front.mount, behind
                finally:
                    behind.thaw()


@contextlib.contextmanager
def world(master: str) -> Iterator[World]:
    """An agent that has both storages; ``master``: which of them is the pool's."""
    with short_directory() as place, storage(place, killable=master == "bad") as (mount, switch):
        (place / "plain").mkdir(mode=0o777)
        (place / "plain").chmod(0o777)
        with (
            LightHost(place / "host", "faults") as host,
            AgentHost(place / "agent", host, storage=SETTINGS) as agent,
        ):
            found = World(agent, switch, mount)
            threading.Thread(target=listen, args=(found,), daemon=True).start()
            paths = {"good": place / "plain", "bad": mount}
            for name in (master, *(paths.keys() - {master})):
                made = agent.call("POST", "/storage", {"name": name, "path": str(paths[name])})
                setattr(found, name, made)
                assert made["master"] is (name == master)
            eventually(lambda: found.valid(found.good) and found.valid(found.bad), "both are watched", DEADLINE_S)
            try:
                yield found
            finally:
                switch.thaw()


@pytest.fixture(scope="module")
def beside() -> Iterator[World]:
    with world("good") as found:
        yield found


@contextlib.contextmanager
def frozen(world: World) -> Iterator[None]:
    """The domain that can be is frozen while the block runs; afterwards all comes back by itself."""
    world.switch.freeze()
    try:
        yield
    finally:
        world.switch.thaw()
    recovers(world)


def recovers(world: World) -> None:
    """Everything comes back by itself."""
    eventually(lambda: world.valid(world.bad) and world.valid(world.good), "the domain is well again", DEADLINE_S)

    def answers() -> bool:
        reply = world.agent.rpc("StorageDomain.getImages", {"storagedomainID": world.bad["domain_id"]})
        return "result" in reply

    eventually(answers, "its verbs answer again", DEADLINE_S)


def manages(world: World) -> None:
    """The host becomes the pool's manager (SPM) by itself."""

    def spm() -> bool:
        answer = world.agent.rpc("StoragePool.getSpmStatus", {"storagepoolID": world.good["pool_id"]})
        return "result" in answer and answer["result"]["spmStatus"] == "SPM"

    eventually(spm, "the host is the SPM", DEADLINE_S)


def indifferent(world: World, image: str, volume: str) -> None:
    """All that has nothing to do with the frozen domain answers."""
    good = {"storagedomainID": world.good["domain_id"]}
    of_volume = address(world.good, image, volume)
    of_pool = {"storagepoolID": world.good["pool_id"]}
    for method, params in (
        ("Host.ping2", {}),
        ("Host.getCapabilities", {}),
        ("Host.getStats", {}),
        ("Host.getStorageRepoStats", {}),
        ("Host.getAllTasksStatuses", {}),
        ("Host.getAllTasksInfo", {}),
        ("Host.getConnectedStoragePools", {}),
        ("Host.getStorageDomains", {}),
        ("Host.getVMList", {}),
        ("Host.getAllVmStats", {}),
        ("Host.getJobs", {}),
        ("Storage.list", {}),
        ("StoragePool.getInfo", of_pool),
        ("StoragePool.getSpmStatus", of_pool),
        ("StorageDomain.getInfo", good),
        ("StorageDomain.getStats", good),
        ("StorageDomain.getImages", good),
        ("StorageDomain.getVolumes", good),
        ("Image.getVolumes", address(world.good, image)),
        ("Volume.getInfo", of_volume),
        ("Volume.getSize", of_volume),
        ("Volume.getQemuImageInfo", of_volume),
        ("Volume.measure", {**of_volume, "dstVolFormat": 4}),
        ("Image.prepare", {**of_volume, "allowIllegal": False}),
        ("Image.teardown", {**address(world.good, image), "leafVolID": volume}),
        ("Volume.setDescription", {**of_volume, "description": "x"}),
    ):
        world.ask(method, PROMPT_S, **params)
    with local(world.agent) as client:
        for path in ("/metrics", "/api/v1/storage-health"):
            began = time.monotonic()
            assert client.get(path).status_code == 200
            world.slowest[path] = max(time.monotonic() - began, world.slowest.get(path, 0))


def names(world: World, text: str) -> bool:
    """Whether an error says which storage it is about: by the domain's id, or by its mount."""
    return world.bad["domain_id"] in text or world.mount.name in text


def make_image(world: World, storage: dict[str, Any]) -> tuple[str, str]:
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    assert world.create_volume(storage, image, volume) == 0
    return image, volume


def test_only_what_needs_the_frozen_domain_fails(beside: World) -> None:
    world = beside
    image, volume = make_image(world, world.good)
    bad = {"storagedomainID": world.bad["domain_id"]}
    nobody = address(world.bad, str(uuid.uuid4()), str(uuid.uuid4()))
    needing = (
        ("StorageDomain.getStats", bad),
        ("StorageDomain.getImages", bad),
        ("StorageDomain.getVolumes", bad),
        ("Volume.getInfo", nobody),
        ("Image.prepare", {**nobody, "allowIllegal": False}),
    )
    with frozen(world), ThreadPoolExecutor(40) as callers:
        threads, children = [world.agent.threads()], [world.children()]
        world.slowest.clear()
        world.told.clear()
        asked = [callers.submit(world.refused, method, **params) for _ in range(40) for method, params in needing]
        while not all(done.done() for done in asked):
            indifferent(world, image, volume)
            make_image(world, world.good)
            threads.append(world.agent.threads())
            children.append(world.children())
        errors = [error.result() for error in asked]
        assert {error["code"] for error in errors} <= {16, 1100}
        assert [error["message"] for error in errors if not names(world, error["message"])] == []
        assert max(threads) < threads[0] + 60  # the pools' workers, not one for each of 200 requests
        assert max(children) < children[0] + 10
        eventually(lambda: not world.valid(world.bad), "the monitor says so", DEADLINE_S)
        place = world.mount.name
        eventually(
            lambda: world.metric("vdsm_storage_helper_abandoned", place) > 0, "helpers that do not die are counted"
        )
        assert world.metric("vdsm_storage_helper_abandoned", place) <= 3
        assert world.metric("vdsm_storage_helper_late_total", place) > 0
        assert world.valid(world.good)
    assert {ident for ident, _ in world.told} == {world.bad["domain_id"]}
    assert [valid for _, valid in world.told] == [False, True]
    eventually(lambda: world.metric("vdsm_storage_helper_abandoned", place) == 0, "they are gone", DEADLINE_S)


def test_tasks_at_the_frozen_domain_hold_up_no_others(beside: World) -> None:
    """More tasks than run at a time are asked for there; they fail, and those elsewhere are done meanwhile."""
    world = beside
    with frozen(world):
        asked = []
        for _ in range(12):
            params = {**address(world.bad, str(uuid.uuid4()), str(uuid.uuid4())), **WANTED}
            answer = world.agent.rpc("Volume.create", params, timeout_s=DEADLINE_S)
            if "result" in answer:
                asked.append(answer["result"])
            else:
                assert names(world, answer["error"]["message"]), answer
        domain = {"storagedomainID": world.bad["domain_id"]}
        for method, params in (
            ("StorageDomain.validate", domain),
            ("StorageDomain.setDescription", {**domain, "description": "x"}),
        ):
            error = world.refused(method, **params)
            assert names(world, error["message"]), error
        place = {"id": str(uuid.uuid4()), "connection": str(world.mount)}
        (found,) = world.ask("StoragePool.connectStorageServer", domainType=4, connectionParams=[place])
        assert found["status"] == 477
        make_image(world, world.good)
        statuses = world.ask("Host.getAllTasksStatuses")
        assert set(asked) <= set(statuses)
    codes = [world.finish(task) for task in asked]
    recovered = make_image(world, world.bad)
    left = set(world.ask("StorageDomain.getImages", storagedomainID=world.bad["domain_id"]))
    assert len(left) == 1 + codes.count(0)
    assert recovered[0] in left


def test_vms_elsewhere_start_run_and_stop(beside: World) -> None:
    world, agent = beside, beside.agent
    here, there, later = (make_image(world, storage) for storage in (world.good, world.bad, world.bad))
    stuck = agent.create("stuck", disks=[disk(world.bad, *there)])
    with frozen(world), ThreadPoolExecutor(4) as callers:
        refused = [
            callers.submit(agent.create, f"late{number}", disks=[disk(world.bad, *later)]) for number in range(3)
        ]
        for number in range(3):
            vm_id = agent.create(f"fine{number}", disks=[disk(world.good, *here)])
            assert agent.stats(vm_id)["status"] in {"Up", "Powering up"}
            agent.call("DELETE", f"/vms/{vm_id}")
        assert agent.stats(stuck)["status"] in {"Up", "Powering up", "Not Responding"}
        for late in refused:
            with pytest.raises(Problem) as caught:
                late.result(DEADLINE_S)
            assert names(world, str(caught.value)), caught.value
    agent.reaches(stuck, "Up", "Powering up")
    agent.call("DELETE", f"/vms/{stuck}")
    last = agent.create("last", disks=[disk(world.bad, *later)])
    agent.call("DELETE", f"/vms/{last}")


def test_agent_ends_and_begins_beside_a_frozen_domain(beside: World) -> None:
    world, agent = beside, beside.agent
    image, volume = make_image(world, world.good)
    with frozen(world):
        assert agent.stop() == 0
        agent.start("vdsmd")
        agent.wait_ready()
        eventually(lambda: world.valid(world.good), "the other domain is watched", DEADLINE_S)
        manages(world)
        make_image(world, world.good)
        indifferent(world, image, volume)


def test_master_is_frozen() -> None:
    """The pool's manager cannot write, and says so; whatever needs the other domain only goes on."""
    with world("bad") as found:
        agent, pool = found.agent, {"storagepoolID": found.good["pool_id"]}
        image, volume = make_image(found, found.good)
        with frozen(found):
            error = found.refused(
                "Volume.create", **address(found.good, str(uuid.uuid4()), str(uuid.uuid4())), **WANTED
            )
            assert names(found, error["message"]), error
            indifferent(found, image, volume)
            vm_id = agent.create("fine", disks=[disk(found.good, image, volume)])
            agent.call("DELETE", f"/vms/{vm_id}")
            assert found.ask("StoragePool.spmStop", **pool) is True
            error = found.refused("StoragePool.getSpmStatus", **pool)
            assert error["code"] == 659
            assert names(found, error["message"]), error
            assert agent.stop() == 0
            agent.start("vdsmd")
            agent.wait_ready()

            def told() -> bool:
                return all(names(found, item["reason"]) for item in agent.call("GET", "/storage"))

            eventually(told, "why the storage is not there is told", DEADLINE_S)
            assert found.ask("StorageDomain.getImages", storagedomainID=found.good["domain_id"]) == [image]
        manages(found)
        make_image(found, found.good)
