"""The storage verbs of the whole agent, as an oVirt Engine calls them over STOMP, and over REST; real files."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from domain_parts import bound
from lab.agent_host import short_directory
from lab.engine_storage import BLANK, EngineStorage, TaskFailed
from lab.engine_wire import IRS_REQUESTS, IRS_RESPONSES, Connection
from lab.light import eventually
from needs import needs
from simulated_agent import SimulatedAgent, simulated_agent

pytestmark = [needs("root", "program:qemu-img")]

MIB = 1 << 20


@pytest.fixture(scope="module")
def agent() -> Iterator[SimulatedAgent]:
    # What is frozen here stays so until the test lets it go on.
    with short_directory() as place, simulated_agent(place, "helper_timeout_s = 60.0") as running:
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


def result(agent: SimulatedAgent, method: str, **params: object) -> Any:
    answer = rpc(agent, method, **params)
    assert "result" in answer, (method, answer)
    return answer["result"]


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
    assert list((directory / engine.domain_id / "images").iterdir()) == []
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


def test_disks_of_a_virtual_machine(agent: SimulatedAgent, engine: EngineStorage, directory: Path):
    engine.add_domain("LOCALFS", str(directory))
    engine.make_data_centre()
    image, base, top = (str(uuid.uuid4()) for _ in range(3))
    engine.create_volume(image, base, 16 * MIB, volFormat=4)
    engine.create_volume(image, top, 16 * MIB, volFormat=4, srcImgUUID=image, srcVolUUID=base, sequence=2)
    assert engine.volume_info(image, top)["parent"] == base
    assert engine.volume_info(image, base)["voltype"] == "INTERNAL"
    where = engine.address(image)
    header = result(agent, "Volume.getQemuImageInfo", **engine.address(image, top))
    assert (header["format"], header["virtualsize"], header["backingfile"]) == ("qcow2", 16 * MIB, base)
    measured = result(
        agent, "Volume.measure", **engine.address(image, top), dstVolFormat=4, backing_chain=True
    )  # fmt: skip
    assert 0 < measured["required"] < 16 * MIB
    assert sorted(result(agent, "Image.getVolumes", **where)) == sorted([base, top])
    assert result(agent, "StorageDomain.getImages", storagedomainID=engine.domain_id) == [image]

    checkpoint = str(uuid.uuid4())
    with_bitmap = str(uuid.uuid4())
    engine.create_volume(with_bitmap, with_bitmap, 16 * MIB, volFormat=4, bitmap=checkpoint)
    header = result(agent, "Volume.getQemuImageInfo", **engine.address(with_bitmap, with_bitmap))
    assert header["bitmaps"] == [{"name": checkpoint, "granularity": 65536, "flags": ["auto"]}]
    engine.run_task("Image.delete", **engine.address(with_bitmap), postZero="false", force="false")

    prepared = result(agent, "Image.prepare", **engine.address(image, top), allowIllegal=False)["path"]
    assert Path(prepared).samefile(directory / engine.domain_id / "images" / image / top)
    assert result(agent, "Image.teardown", **where, leafVolID=top) is True

    assert result(agent, "Volume.setLegality", **engine.address(image, top), legality="ILLEGAL") is True
    assert engine.volume_info(image, top)["status"] == "ILLEGAL"
    engine.expect_error(227, lambda: engine.ask("Image.prepare", **engine.address(image, top), allowIllegal=False))
    result(agent, "Volume.setLegality", **engine.address(image, top), legality="LEGAL")
    result(agent, "Volume.setDescription", **engine.address(image, top), description="\u00fcber")
    assert engine.volume_info(image, top)["description"] == "\u00fcber"
    assert result(agent, "Volume.verify_untrusted", **engine.address(image, top)) is True

    empty = blake2b(digest_size=32)
    for _ in range(4):
        empty.update(blake2b(bytes(4 * MIB), digest_size=32).digest())
    found = result(agent, "Volume.checksum", **engine.address(image, top))
    assert found == {"algorithm": "blake2b", "block_size": 4 * MIB, "checksum": empty.hexdigest()}

    dump = result(agent, "StorageDomain.dump", sd_id=engine.domain_id)
    assert dump["metadata"]["uuid"] == engine.domain_id
    assert {ident: known["status"] for ident, known in dump["volumes"].items()} == {base: "OK", top: "OK"}
    engine.run_task("Image.deleteVolumes", **where, volumeList=[top], postZero="false", force="false")
    assert result(agent, "Image.reconcileVolumeChain", **where, leafVolID=base) == [base]


def test_jobs_of_the_host(agent: SimulatedAgent, engine: EngineStorage, directory: Path):
    engine.add_domain("LOCALFS", str(directory))
    engine.make_data_centre()
    image, source, copy, target = (str(uuid.uuid4()) for _ in range(4))
    engine.create_volume(image, source, MIB)
    engine.create_volume(copy, target, MIB, legal=False)
    data = os.urandom(MIB)
    (directory / engine.domain_id / "images" / image / source).write_bytes(data)
    job = str(uuid.uuid4())
    endpoint = {"endpoint_type": "div", "sd_id": engine.domain_id, "prepared": False}
    assert result(
        agent,
        "SDM.copy_data",
        job_id=job,
        source={**endpoint, "img_id": image, "vol_id": source},
        destination={**endpoint, "img_id": copy, "vol_id": target, "generation": 0},
        copy_bitmaps=False,
    ) is True  # fmt: skip
    eventually(lambda: engine.jobs([job])[job] == ("done", None), "the job is done")
    assert (directory / engine.domain_id / "images" / copy / target).read_bytes() == data
    found = engine.volume_info(copy, target)
    assert (found["legality"], found["generation"]) == ("LEGAL", 1)
    again = str(uuid.uuid4())
    address = {"sd_id": engine.domain_id, "img_id": copy, "vol_id": target, "generation": 0}
    result(agent, "SDM.update_volume", job_id=again, vol_info=address, vol_attr={"description": "x"})
    eventually(lambda: engine.jobs([again])[again] == ("failed", 911), "another generation is refused")


def test_events_tell_what_becomes_of_storage(agent: SimulatedAgent, engine: EngineStorage, directory: Path):
    engine.add_domain("LOCALFS", str(directory))
    engine.make_data_centre()
    event = engine.host.event(f"*|storage|domain_status|{engine.domain_id}")
    assert (event.params["id"], event.params["valid"], event.params["code"]) == (engine.domain_id, True, 0)
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    engine.create_volume(image, volume, MIB)
    ended = ("createVolume", "finished")
    while True:
        event = engine.host.event("*|storage|task_status|*")
        if (event.params["verb"], event.params["taskState"]) == ended:
            break
    assert (event.params["taskResult"], event.params["code"]) == ("success", 0)
    job = str(uuid.uuid4())
    address = {"sd_id": engine.domain_id, "img_id": image, "vol_id": volume, "generation": 0}
    engine.ask("SDM.update_volume", job_id=job, vol_info=address, vol_attr={"description": "x"})
    while (event := engine.host.event(f"*|jobs|status|{job}")).params["status"] != "done":
        pass
    assert event.params["job_type"] == "storage"


def test_the_same_over_rest(agent: SimulatedAgent, directory: Path):
    domain, pool = str(uuid.uuid4()), str(uuid.uuid4())
    connection = {"domain_type": "LOCALFS", "connections": [{"connection": str(directory)}]}
    with agent.local() as client:

        def ask(method: str, path: str, body: object = None, status: int = 200) -> Any:
            answer = client.request(method, f"/api/v1{path}", json=body)
            assert answer.status_code == status, answer.text
            return answer.json() if answer.content else None

        assert ask("POST", "/storage-connections", connection)[0]["status"] == 0
        wanted = {"domain_id": domain, "domain_type": "LOCALFS", "location": str(directory), "name": "x"}
        refused = ask("POST", "/storage-domains", {**wanted, "domain_type": "4"}, 422)
        assert refused["field"] == "domain_type"
        refused = ask("POST", "/storage-domains", {**wanted, "location": "/nowhere"}, 409)
        assert refused["code"] == 360
        ask("POST", "/storage-domains", wanted, 204)
        found = ask("GET", f"/storage-domains/{domain}")
        assert (found["domain_class"], found["version"], found["type"]) == ("Data", 5, "LOCALFS")
        refused = ask("GET", f"/storage-domains/{domain.upper()}", None, 422)
        assert (refused["field"], refused["code"]) == ("domain_id", 1000)
        assert ask("GET", f"/storage-domains/{domain}/stats")["diskfree"] > 0
        assert ask("GET", "/storage-domains?storage_type=LOCALFS&domain_class=Data").count(domain) == 1
        assert domain not in ask("GET", "/storage-domains?storage_type=NFS")
        ask("POST", "/pools", {"pool_id": pool, "name": "p", "master_id": domain}, 204)
        ask("POST", f"/pools/{pool}/connect", {"host_id": 1, "master_id": domain}, 204)
        task = ask("POST", f"/pools/{pool}/spm/start", {}, 202)
        eventually(lambda: ask("GET", f"/tasks/{task}")["task_state"] == "finished", "this host is the SPM")
        explained = ask("GET", f"/tasks/{task}/explanation")
        assert explained["left"] == []
        ask("DELETE", f"/tasks/{task}", None, 204)
        ask("GET", f"/tasks/{task}", None, 404)
        volumes = f"/storage-domains/{domain}/images/{uuid.uuid4()}/volumes"
        volume = {"volume_id": str(uuid.uuid4()), "size": MIB, "vol_format": "COW"}
        task = ask("POST", volumes, volume, 202)
        eventually(lambda: ask("GET", f"/tasks/{task}")["task_result"] == "success", "the volume is made")
        found = ask("GET", f"{volumes}/{volume['volume_id']}")
        assert (found["capacity"], found["format"], found["legality"]) == (MIB, "COW", "LEGAL")
        assert ask("GET", f"{volumes}/{volume['volume_id']}/measure?target_format=RAW")["required"] == MIB
        figures = client.get("/metrics").text
        assert f'vdsm_storage_domain_valid{{domain="{domain}"}} 1.0' in figures
        assert 'vdsm_operations{journal="tasks",phase="done"} 1.0' in figures
        ask("DELETE", f"/tasks/{task}", None, 204)
        ask("DELETE", f"/pools/{pool}", None, 204)
        ask("DELETE", f"/storage-domains/{domain}", None, 204)
        assert ask("POST", "/storage-connections/disconnect", connection)[0]["status"] == 0
        assert list(directory.iterdir()) == []


def test_errors_on_which_an_engine_branches(agent: SimulatedAgent, engine: EngineStorage, directory: Path):
    nobody = str(uuid.uuid4())
    engine.pool_id = nobody
    engine.expect_error(309, engine.spm_status)
    engine.expect_error(358, lambda: engine.ask("StorageDomain.getInfo", storagedomainID=nobody))
    engine.expect_error(1000, lambda: engine.ask("StorageDomain.getInfo", storagedomainID="../x"))
    engine.expect_error(401, lambda: engine.ask("Task.clear", taskID=nobody))
    engine.expect_error(401, lambda: engine.ask("Task.getStatus", taskID=nobody))
    engine.expect_error(309, lambda: engine.create_volume(nobody, nobody, MIB))
    engine.expect_error(304, engine.connect_pool)
    engine.expect_error(2009, lambda: engine.ask("Host.getDeviceList", storageType=3, guids=[], checkStatus=False))
    engine.add_domain("LOCALFS", str(directory))
    engine.make_data_centre()
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    engine.create_volume(image, volume, MIB)
    with pytest.raises(TaskFailed, match="212"):
        engine.create_volume(image, volume, MIB)
    engine.expect_error(391, lambda: engine.ask("StorageDomain.format", storagedomainID=engine.domain_id))
    engine.expect_error(201, lambda: engine.volume_info(image, nobody))
    assert result(agent, "StoragePool.spmStop", storagepoolID=engine.pool_id) is True
    assert engine.spm_status()[0] == "free"
    engine.expect_error(654, lambda: engine.create_volume(image, nobody, MIB))
    engine.expect_error(654, lambda: engine.ask("Host.getAllTasksStatuses"))
    engine.start_spm()
    assert engine.volume_info(image, volume)["status"] == "OK"


def test_frozen_domain_takes_no_other_domain_s_workers(agent: SimulatedAgent, engine: EngineStorage, directory: Path):
    engine.add_domain("LOCALFS", str(directory))
    engine.make_data_centre()
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    engine.create_volume(image, volume, MIB)
    with bound(agent.directory / "real", agent.directory / "frozen") as frozen:
        frozen.mount.chmod(0o777)
        other = EngineStorage(engine.host, engine.host)
        other.add_domain("LOCALFS", str(frozen.mount))
        frozen.freeze()
        with ThreadPoolExecutor(40) as callers:
            try:
                asked = [
                    callers.submit(rpc, agent, "StorageDomain.getStats", storagedomainID=other.domain_id)
                    for _ in range(40)
                ]
                refused = next(done for done in as_completed(asked, 60) if "error" in done.result())
                assert refused.result()["error"]["code"] == 1100
                # Of 16 workers some wait for the frozen domain until it comes back.
                assert engine.check_pool() == {engine.domain_id: "Active"}
                assert engine.volume_info(image, volume)["status"] == "OK"
                engine.create_volume(image, str(uuid.uuid4()), MIB, volFormat=4, srcImgUUID=image, srcVolUUID=volume)
                assert not all(call.done() for call in asked)
            finally:
                frozen.thaw()
            assert any("result" in call.result(60) for call in asked)
        other.domain_stats()
        assert other.disconnect() == 0
