"""Every storage verb of the catalogue with ids that are none: one clear error each, and nothing changes; real files."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.agent_host import short_directory
from lab.light import eventually
from needs import needs
from simulated_agent import simulated_agent
from vdsm.api.catalogue import all_verbs
from vdsm.api.contract import Verb

pytestmark = needs("root", "program:qemu-img")

MIB = 1 << 20
BLANK = "00000000-0000-0000-0000-000000000000"
JUNK = ("../../etc", "", "6F1A2B3C-0000-4000-8000-000000000001", "6f1a2b3c-0000-4000-8000-00000000000", "x" * 5000)
KINDS = (7, {"a": 1}, ["x"], None)
INVALID, NO_TASK, BAD_KIND = 1000, 401, -32602
NAMESPACES = ("StoragePool", "StorageDomain", "Image", "Volume", "SDM", "Lease", "Task")
NO_IDS = frozenset({"hostID", "hostId", "prevID", "maxHostID"})
# What the original's callers send and nothing here needs; the pool's where the domain's id says it all.
UNUSED = frozenset({("Image.teardown", "leafVolID"), ("StorageDomain.detach", "masterSdUUID")})
VERBS = [verb for verb in all_verbs().values() if verb.namespace in NAMESPACES]


@dataclass
class Agent:
    client: Any
    directory: Path
    storage: dict[str, Any]

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The whole answer; it comes before the client's deadline."""
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
        answer: dict[str, Any] = self.client.post("/api/v1/jsonrpc", json=request).json()
        return answer

    def there(self) -> dict[str, bytes]:
        """All that is in the domain; its lock file and monitors' looks change nothing."""
        return {str(path): path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with short_directory() as place, simulated_agent(place) as running, running.local() as client:
        directory = place / "data"
        directory.mkdir()
        directory.chmod(0o777)
        found = Agent(client, directory, {})
        eventually(lambda: "result" in found.call("Host.getVMList", {}), "the agent is ready")
        found.storage = client.post("/api/v1/storage", json={"name": "data", "path": str(directory)}).json()
        yield found


def sample(verb: Verb, storage: dict[str, Any]) -> dict[str, Any]:
    """Well-formed parameters, of things that are not there."""

    def fresh() -> str:
        return str(uuid.uuid4())

    domain = storage["domain_id"]
    chain = {"sd_id": domain, "img_id": fresh(), "base_id": fresh(), "top_id": fresh(), "base_generation": 0}
    volume = {"sd_id": domain, "img_id": fresh(), "vol_id": fresh(), "generation": 0}
    known = {
        "storagepoolID": storage["pool_id"], "storagedomainID": domain, "masterSdUUID": domain, "sd_id": domain,
        "name": "x", "hostID": 1, "hostId": 1, "masterVersion": 1, "domainDict": {}, "domainType": 4,
        "typeArgs": "/nowhere", "description": "x", "targetDomVersion": "5", "connectionParams": [], "size": str(MIB),
        "newSize": str(MIB), "legality": "LEGAL", "operation": 1, "volumeList": [fresh()], "subchainInfo": chain,
        "subchain_info": chain, "source": volume, "destination": volume, "vol_info": volume,
        "vol_attr": {"description": "x"}, "qcow2_attr": {"compat": "1.1"}, "bitmap": "b",
        "lease": {"sd_id": domain, "lease_id": fresh()},
        "metadata": {"type": "JOB", "generation": 0, "job_id": fresh(), "job_status": "PENDING"},
    }  # fmt: skip
    return {param.wire_name: known.get(param.wire_name, fresh()) for param in verb.params if param.required}


def is_id(name: str) -> bool:
    return name.endswith(("ID", "UUID", "_id")) and name not in NO_IDS


def wrong(verb: Verb, storage: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """The name of an id, parameters in which it is wrong, and its value."""
    good = sample(verb, storage)
    for param in verb.params:
        name, value = param.wire_name, good.get(param.wire_name)
        unused = (verb.name, name) in UNUSED or (name == "storagepoolID" and not param.required)
        if is_id(name):
            # None and the blank id stand for nothing where an id may be left out.
            blank: tuple[Any, ...] = (BLANK,) if param.required and name != "storagepoolID" else ()
            kinds = KINDS if param.required else KINDS[:-1]
            for bad in (*(() if unused else JUNK), *blank, *kinds):
                yield name, {**good, name: bad}, bad
        elif isinstance(value, dict):
            for inner in filter(is_id, value):
                for bad in (*JUNK, BLANK, *KINDS):
                    yield inner, {**good, name: {**value, inner: bad}}, bad


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_wrong_id_is_named_and_changes_nothing(agent: Agent, verb: Verb) -> None:
    before, tasks = agent.there(), agent.call("Host.getAllTasksStatuses", {})
    for name, params, bad in wrong(verb, agent.storage):
        answer = agent.call(verb.name, params)
        assert "error" in answer, (name, bad, answer)
        error = answer["error"]
        assert len(error["message"]) < 500, (name, bad, error)
        if not isinstance(bad, str):
            assert error["code"] == BAD_KIND, (name, bad, error)
        elif verb.namespace == "Task":
            assert error["code"] == NO_TASK, (name, bad, error)
            continue
        else:
            assert error["code"] == INVALID, (name, bad, error)
        assert name in error["message"], (name, bad, error)
    assert agent.there() == before
    assert agent.call("Host.getAllTasksStatuses", {}) == tasks
    assert agent.call("Host.getJobs", {})["result"] == {}
