"""The storage verbs of the whole agent, as an oVirt Engine calls them over STOMP, and over REST; real files."""

from __future__ import annotations

import os
import socket
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.agent_host import short_directory
from lab.engine_storage import BLANK, EngineStorage, TaskFailed
from lab.engine_wire import IRS_REQUESTS, IRS_RESPONSES, Connection, VdsError
from lab.light import eventually
from needs import needs
from simulated_agent import SimulatedAgent, simulated_agent

pytestmark = [needs("root", "program:qemu-img")]

MIB = 1 << 20


@pytest.fixture(scope="module")
def agent() -> Iterator[SimulatedAgent]:
    with short_directory() as place, simulated_agent(place) as running:
        eventually(lambda: "result" in rpc(running, "Host.getVMList"), "the agent is ready")
        yield running


@pytest.fixture
def directory(agent: SimulatedAgent) -> Path:
    place = agent.directory / f"data-{uuid.uuid4().hex[:8]}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    return place


def rpc(agent: SimulatedAgent, method: str, **params: object) -> dict:
    with agent.local() as client:
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
        return client.post("/api/v1/jsonrpc", json=request).json()


@pytest.fixture
def engine(agent: SimulatedAgent, directory: Path) -> Iterator[EngineStorage]:
    """An Engine with both of its connections; afterwards the host is in no pool."""
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
        yield storage
        rpc(agent, "StoragePool.spmStop", storagepoolID=storage.pool_id)
        rpc(agent, "StoragePool.disconnect", storagepoolID=storage.pool_id, hostID=1, scsiKey=storage.pool_id)
        if storage.type:
            assert storage.disconnect() == 0


def test_data_centre_on_a_local_directory(agent: SimulatedAgent, engine: EngineStorage, directory: Path):
    engine.add_domain("LOCALFS", str(directory))
    total, free = engine.domain_stats()
    assert total >= free > 0
    assert engine.domain_info() == {
        "uuid": engine.domain_id, "name": "first", "type": "LOCALFS", "class": "Data", "role": "Regular",
        "version": 5, "pool": [],
    }  # fmt: skip
    engine.make_data_centre()
    assert engine.domain_info()["role"] == "Master"
    assert engine.domain_info()["pool"] == [engine.pool_id]
    assert engine.check_pool() == {engine.domain_id: "Active"}

    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    assert engine.create_volume(image, volume, 8 * MIB, desc="a disk") == "createVolume"
    found = engine.volume_info(image, volume)
    assert (directory / engine.domain_id / "images" / image / volume).stat().st_size == 8 * MIB
    assert found["capacity"] == found["apparentsize"] == 8 * MIB
    assert (found["status"], found["parent"], found["description"]) == ("OK", BLANK, "a disk")
    assert (found["format"], found["type"], found["voltype"]) == ("RAW", "SPARSE", "LEAF")
    assert engine.run_task(
        "Image.delete", storagedomainID=engine.domain_id, imageID=image, postZero="false", force="false"
    ) == "deleteImage"  # fmt: skip
    engine.expect_error(201, lambda: engine.volume_info(image, volume))
    assert os.listdir(directory / engine.domain_id / "images") == []
    assert engine.tasks() == {}


def test_how_the_domain_is_in_the_host_s_stats(agent: SimulatedAgent, engine: EngineStorage, directory: Path):
    engine.add_domain("LOCALFS", str(directory))
    assert rpc(agent, "Host.getStats")["result"]["storageDomains"] == {}
    engine.make_data_centre()

    def healthy() -> bool:
        known = rpc(agent, "Host.getStats")["result"]["storageDomains"].get(engine.domain_id)
        if known is None or not known["acquired"]:
            return False
        assert known["code"] == 0
        assert known["valid"] is known["actual"] is True
        assert known["version"] == 5
        # Other kinds than texts break the Engine.
        assert float(known["lastCheck"]) < 60
        assert isinstance(known["lastCheck"], str)
        assert 0 < float(known["delay"]) < 10
        assert isinstance(known["delay"], str)
        return True

    eventually(healthy, "the domain is watched and joined")
    assert set(rpc(agent, "Host.getStorageRepoStats")["result"]) == {engine.domain_id}
    assert rpc(agent, "Host.getConnectedStoragePools")["result"] == [engine.pool_id]
    assert engine.domain_id in rpc(agent, "Host.getStorageDomains")["result"]
    with agent.local() as client:
        assert client.get("/api/v1/storage-health").json()[engine.domain_id]["valid"] is True
