"""The storage life of an oVirt Engine with the real agent, over STOMP and as strict as the Engine: local directories.

A data centre with its OVF stores, domains and masters that come and go, disks and templates and a VM on them, cold
merges, moves, uploads and downloads through the image daemon, and the errors on which an Engine branches.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
import ssl
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.agent_host import AgentHost, short_directory
from lab.engine import Engine
from lab.engine_disks import BLANK, COW, OVF_SIZE, PREALLOCATED, RAW, SPARSE, Disk, Door, EngineDisks, JobFailed
from lab.engine_storage import TaskFailed
from lab.engine_wire import IRS_REQUESTS, IRS_RESPONSES, Connection, VdsError
from lab.light import LightHost, eventually
from needs import needs
from wire import client_context

pytestmark = [pytest.mark.light, needs("root", "qemu", "program:libvirtd", "program:qemu-img", "program:qemu-io")]

MIB = 1 << 20
SIZE = 16 * MIB
OVF = random.Random(7).randbytes(300_001)
SAMPLE = (Path(__file__).parent.parent / "samples/engine-vm.xml").read_text()
SAMPLE_ID = "5b9c7e0a-3d41-4f0e-9a58-6f2d8e7c1b34"


@pytest.fixture(scope="module")
def transfer_port() -> int:
    """A port that nothing listens on, for the image daemon."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def agent(transfer_port: int) -> Iterator[AgentHost]:
    options = f"report_kvm = true\ncheap_interval_s = 0.5\n[transfers]\nport = {transfer_port}\n"
    with (
        short_directory() as place,
        LightHost(place / "host", "es") as host,
        AgentHost(place / "agent", host, options) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def dial(agent: AgentHost) -> Iterator[Callable[..., Connection]]:
    """Connections to the agent, all of them closed afterwards."""
    made: list[Connection] = []

    def connect(**options: Any) -> Connection:
        context = client_context(agent.certificates, agent.certificates.manager)
        made.append(Connection(socket.create_connection(("127.0.0.1", agent.port), 20), context, **options))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


@pytest.fixture(scope="module")
def host_wire(dial: Callable[..., Connection]) -> Connection:
    # Without events: the Engine's client takes a second for each that comes together with an answer.
    return dial(events=None)


@pytest.fixture(scope="module")
def irs_wire(dial: Callable[..., Connection]) -> Connection:
    return dial(requests=IRS_REQUESTS, responses=IRS_RESPONSES, events=None)


def directories(agent: AgentHost) -> Callable[[str], Path]:
    """Makes directories for domains."""
    root = agent.directory / f"data_{uuid.uuid4().hex[:6]}"

    def make(name: str) -> Path:
        path = root / name
        path.mkdir(mode=0o777, parents=True)
        path.chmod(0o777)
        return path

    return make


@pytest.fixture
def place(agent: AgentHost) -> Callable[[str], Path]:
    return directories(agent)


@contextmanager
def an_engine(agent: AgentHost, host_wire: Connection, irs_wire: Connection) -> Iterator[EngineDisks]:
    """An Engine without a data centre; afterwards the host is in no pool, and connected to no storage."""
    made = EngineDisks(host_wire, irs_wire)
    yield made
    for vm in agent.call("GET", "/vms?only_uuid=true"):
        agent.call("DELETE", f"/vms/{vm}")
    for pool in host_wire.call("Host.getConnectedStoragePools"):
        if agent.rpc("StoragePool.getSpmStatus", {"storagepoolID": pool})["result"]["spmStatus"] == "SPM":
            for task in agent.rpc("Host.getAllTasksStatuses")["result"]:
                agent.rpc("Task.clear", {"taskID": task})
            assert agent.rpc("StoragePool.spmStop", {"storagepoolID": pool}).get("result") is True
        left = {"storagepoolID": pool, "hostID": 1, "scsiKey": pool}
        assert agent.rpc("StoragePool.disconnect", left).get("result") is True
    for link in (agent.repository / "mnt").iterdir():
        if link.is_symlink():
            made.type = "LOCALFS"
            assert made.disconnect(connection=str(link.readlink())) == 0
    assert host_wire.error is None
    assert irs_wire.error is None


@pytest.fixture
def engine(agent: AgentHost, host_wire: Connection, irs_wire: Connection) -> Iterator[EngineDisks]:
    with an_engine(agent, host_wire, irs_wire) as made:
        yield made


@pytest.fixture
def centre(engine: EngineDisks, place: Callable[[str], Path]) -> EngineDisks:
    """One with a data centre on one domain."""
    engine.add_domain("LOCALFS", str(place("first")))
    engine.make_data_centre()
    return engine


@pytest.fixture(scope="class")
def shared(agent: AgentHost, host_wire: Connection, irs_wire: Connection) -> Iterator[EngineDisks]:
    """The same, for all tests of a class."""
    with an_engine(agent, host_wire, irs_wire) as made:
        made.add_domain("LOCALFS", str(directories(agent)("first")))
        made.make_data_centre()
        yield made


def first(engine: EngineDisks) -> dict[str, str]:
    """The first domain, as verbs name it."""
    return {"storagedomainID": engine.domain_id}


def path_of(engine: EngineDisks, disk: Disk) -> Path:
    """A volume's file."""
    return Path(engine.place) / engine.domain_id / "images" / disk.image / disk.volume


def write(path: Path, kind: str, *writes: tuple[int, int, int]) -> None:
    """Write through QEMU's eyes: pattern, offset and length in MiB."""
    commands = [word for pattern, at, size in writes for word in ("-c", f"write -P {pattern} {at}M {size}M")]
    subprocess.run(["qemu-io", "-f", kind, *commands, path], check=True, capture_output=True, timeout=60)


def content(path: Path, kind: str, where: Path) -> str:
    """The hash of what a guest reads."""
    raw = where / "content.raw"
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", path, raw], check=True, timeout=60)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    raw.unlink()
    return digest


def pattern(*writes: tuple[int, int, int], size: int = SIZE) -> str:
    """The hash of a disk with these writes."""
    data = bytearray(size)
    for value, at, length in writes:
        data[at * MIB : (at + length) * MIB] = bytes([value]) * (length * MIB)
    return hashlib.sha256(data).hexdigest()


class TestDataCentre:
    def test_it_comes_up_with_its_ovf_stores(self, agent: AgentHost, centre: EngineDisks, engine: EngineDisks) -> None:
        door = Door(agent.port, client_context(agent.certificates, agent.certificates.manager))
        stores = engine.make_ovf_stores(door, OVF)
        for disk in stores:
            assert path_of(engine, disk).stat().st_blocks * 512 >= OVF_SIZE - 4096
            assert engine.get_ovf(door, disk, len(OVF)) == OVF
            found = engine.info(disk)
            assert (found["format"], found["type"], found["capacity"]) == ("RAW", "PREALLOCATED", OVF_SIZE)
            described = json.loads(str(found["description"]))
            assert described["Disk Description"] == "OVF_STORE"
            assert described["Storage Domains"] == [{"uuid": engine.domain_id}]
        engine.put_ovf(door, stores[0], OVF[:1000])
        assert engine.get_ovf(door, stores[0], len(OVF)) == OVF
        assert engine.tasks() == {}
        eventually(lambda: engine.health() == {engine.domain_id: (True, True, 0)}, "the domain is valid and joined")
        assert engine.spm_status() == ("spm", engine.spm_status()[1], 1)
        assert engine.check_pool() == {engine.domain_id: "Active"}

    def test_other_domains_come_and_go(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        directory = place("second")
        second = centre.add_second(str(directory))
        assert centre.check_pool() == {centre.domain_id: "Active", second: "Active"}
        assert centre.domain_info(second)["pool"] == [centre.pool_id]
        eventually(lambda: set(centre.health()) == {centre.domain_id, second}, "both are watched")
        centre.expect_error(380, lambda: centre.irs.call("StorageDomain.attach", centre._attached(second)))
        centre.expect_error(391, lambda: centre.format(second))
        centre.expect_error(382, lambda: centre.detach(second))
        centre.deactivate(second)
        assert centre.check_pool() == {centre.domain_id: "Active", second: "Attached"}
        assert set(centre.health()) == {centre.domain_id}
        centre.activate(second)
        centre.deactivate(second)
        centre.detach(second)
        centre.connect_pool({centre.domain_id: "active"})
        assert centre.check_pool() == {centre.domain_id: "Active"}
        assert centre.domain_info(second)["pool"] == []
        centre.attach(second)
        centre.deactivate(second)
        centre.detach(second)
        centre.format(second)
        centre.expect_error(358, lambda: centre.domain_info(second))
        assert list(directory.iterdir()) == []

    def test_installation_media_are_attached(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        directory, media = place("media"), str(uuid.uuid4())
        assert centre.connect(connection=str(directory)) == 0
        centre.create_domain(media, str(directory), "media", domainClass=2, version="0")
        file = directory / media / "images/11111111-1111-1111-1111-111111111111/a.iso"
        file.write_bytes(bytes(MIB))
        file.chmod(0o644)
        centre.attach(media)
        assert centre.check_pool() == {centre.domain_id: "Active", media: "Active"}
        asked = {"storagedomainID": media, "pattern": "*.iso", "caseSensitive": False}
        found = centre.irs.call("StorageDomain.getFileStats", asked)
        assert {name: (item["status"], item["size"]) for name, item in found.items()} == {"a.iso": (0, str(MIB))}
        prefix = centre.irs.call("StoragePool.getInfo", {"storagepoolID": centre.pool_id})["info"]["isoprefix"]
        assert (Path(prefix) / "a.iso").samefile(file)
        centre.expect_error(330, lambda: centre.irs.call("StorageDomain.getFileStats", {**asked, **first(centre)}))
        centre.deactivate(media)
        centre.detach(media)
        assert centre.domain_info(media)["pool"] == []

    def test_it_is_taken_down(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        centre.new_disk(MIB)
        first = centre.domain_id
        centre.destroy_pool()
        centre.expect_error(309, centre.spm_status)
        assert centre.domain_info(first)["pool"] == []
        assert centre.domain_info(first)["role"] == "Regular"
        assert centre.host.call("Host.getConnectedStoragePools") == []
        centre.format(first)
        assert list(Path(centre.place).iterdir()) == []

    def test_a_domain_of_a_lost_pool_is_cleaned_by_force(
        self, centre: EngineDisks, place: Callable[[str], Path]
    ) -> None:
        second = centre.add_second(str(place("second")))
        lost = centre.pool_id
        centre.deactivate(second)
        centre.detach_by_force(second)
        assert centre.check_pool() == {centre.domain_id: "Active"}
        assert centre.domain_info(second)["pool"] == [lost], "of a pool that is there only the pool forgets it"
        centre.detach_by_force(second)
        assert centre.domain_info(second)["pool"] == []
        centre.leave_pool()
        centre.detach_by_force(centre.domain_id, lost)
        found = centre.domain_info()
        assert (found["pool"], found["role"]) == ([], "Regular")

    def test_the_master_moves(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        first, second = centre.domain_id, centre.add_second(str(place("second")))
        disk = centre.new_disk(MIB)
        centre.switch_master(second)
        assert centre.domain_info(first)["role"] == "Regular"
        assert centre.domain_info(second)["role"] == "Master"
        centre.connect_pool({first: "active", second: "active"})
        assert centre.check_pool() == {first: "Active", second: "Active"}
        centre.deactivate(first)
        centre.detach(first)
        centre.connect_pool({second: "active"})
        assert centre.check_pool() == {second: "Active"}
        assert centre.new_disk(MIB) != disk
        centre.leave_pool()
        centre.connect_pool({second: "active"})
        centre.start_spm()
        assert centre.check_pool() == {second: "Active"}

    def test_a_lost_master_is_replaced(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        first, second = centre.domain_id, centre.add_second(str(place("second")))
        lost = Path(centre.place) / first
        disk = centre.new_disk(MIB)
        assert disk
        centre.leave_pool()
        away = lost.with_name("away")
        lost.rename(away)
        centre.expect_error(304, centre.connect_pool)
        centre.domain_id = second
        centre.expect_error(324, centre.connect_pool)
        centre.reconstruct_master(second, {first: "attached", second: "active"})
        centre.start_spm()
        centre.activate(second)
        assert centre.check_pool() == {first: "Attached", second: "Active"}
        assert centre.domain_info(second)["role"] == "Master"
        away.rename(lost)
        centre.activate(first)
        assert centre.check_pool() == {first: "Active", second: "Active"}
        assert centre.domain_info(first)["role"] == "Regular"
        assert centre.info(disk, first)["status"] == "OK"


class TestDisks:
    @pytest.fixture
    def centre(self, shared: EngineDisks) -> EngineDisks:
        return shared

    @pytest.mark.parametrize(
        ("volume_format", "allocation", "words"),
        [
            (RAW, SPARSE, ("RAW", "SPARSE")),
            (RAW, PREALLOCATED, ("RAW", "PREALLOCATED")),
            (COW, SPARSE, ("COW", "SPARSE")),
        ],
    )
    def test_kinds_of_disks(
        self, centre: EngineDisks, volume_format: int, allocation: int, words: tuple[str, str]
    ) -> None:
        disk = centre.new_disk(SIZE, volume_format, allocation, desc='{"DiskAlias":"a","DiskDescription":""}')
        found = centre.info(disk)
        assert (found["format"], found["type"]) == words
        assert (found["capacity"], found["legality"], found["voltype"]) == (SIZE, "LEGAL", "LEAF")
        kind = "qcow2" if volume_format == COW else "raw"
        assert centre.header(disk) == {"format": kind, "size": SIZE, "backing": None}
        assert centre.measure(disk, RAW, chain=True) == SIZE
        assert 0 < centre.measure(disk, COW, chain=True) <= SIZE + MIB
        write(path_of(centre, disk), kind, (1, 0, 2))
        assert centre.run_task("Volume.extendSize", **centre.at(disk), newSize=str(2 * SIZE)) == "extendImageSize"
        # A thin qcow2 volume is none of that verb's business: the original answers with success and does nothing.
        size = SIZE if volume_format == COW else 2 * SIZE
        assert centre.info(disk)["capacity"] == centre.header(disk)["size"] == size
        assert content(path_of(centre, disk), kind, Path(centre.place)) == pattern((1, 0, 2), size=size)
        assert centre.ask("Volume.refresh", **centre.at(disk)) is True
        centre.delete_disk(disk)
        centre.expect_error(201, lambda: centre.info(disk))
        assert centre.irs.call("StorageDomain.getImages", {"storagedomainID": centre.domain_id}) == []

    def test_templates_are_shared(self, centre: EngineDisks) -> None:
        source = centre.new_disk(SIZE)
        write(path_of(centre, source), "raw", (5, 1, 3))
        template = centre.make_template(source)
        assert (centre.info(template)["voltype"], centre.info(template)["format"]) == ("SHARED", "COW")
        centre.delete_disk(source)
        clone = centre.clone(template, 2 * SIZE)
        linked = path_of(centre, Disk(clone.image, template.volume))
        assert linked.samefile(path_of(centre, template))
        write(path_of(centre, clone), "qcow2", (6, 2, 1))
        expected = pattern((5, 1, 3), (6, 2, 1), size=2 * SIZE)
        assert content(path_of(centre, clone), "qcow2", Path(centre.place)) == expected
        names = centre.irs.call(
            "StorageDomain.getVolumes",
            {"storagedomainID": centre.domain_id, "storagepoolID": centre.pool_id, "imageID": clone.image},
        )
        assert sorted(names) == sorted([clone.volume, template.volume])
        with pytest.raises((TaskFailed, VdsError)):
            centre.delete_disk(template)
        centre.delete_disk(clone)
        assert centre.info(template)["status"] == "OK"
        centre.delete_disk(template)
        assert list((Path(centre.place) / centre.domain_id / "images").iterdir()) == []

    def test_a_vm_runs_on_its_disk(
        self, agent: AgentHost, centre: EngineDisks, dial: Callable[..., Connection]
    ) -> None:
        base = centre.new_disk(SIZE, COW)
        top = centre.snapshot(base, SIZE)
        vms = Engine(dial())
        vm_id, xml = vm_on(centre, top)
        vms.run_vm(vm_id, xml)
        vms.until(vm_id, "Up", "Powering up")
        link = agent.run_dir / "storage" / centre.domain_id / top.image
        assert link.is_symlink()
        shown = agent.host.virsh("dumpxml", vm_id)
        (file,) = re.findall(r"<source file='([^']*)' index='1'", shown)
        assert Path(file).samefile(path_of(centre, top))
        assert top.image in vms.vms[vm_id].xml

        def polled() -> bool:
            vms.poll()
            (found,) = vms.call("VM.getStats", vmID=vm_id)
            return found["disks"].get("vda", {}).get("imageID") == top.image

        eventually(polled, "the disk is in the VM's statistics")
        with pytest.raises((TaskFailed, VdsError)):
            centre.delete_disk(top)
        assert centre.info(top)["status"] == "OK"
        vms.destroy(vm_id)
        eventually(lambda: not link.is_symlink(), "the disk is given back")
        assert vms.call("Host.getAllVmStats") == []
        centre.delete_disk(top)

    def test_a_missing_disk_stops_a_vm_at_once(self, agent: AgentHost, centre: EngineDisks) -> None:
        vms = Engine(centre.host)
        vm_id, xml = vm_on(centre, Disk.new())
        with pytest.raises(VdsError, match="does not exist in domain"):
            vms.run_vm(vm_id, xml)
        assert not (agent.run_dir / "storage" / centre.domain_id).exists()


class TestOtherDomains:
    def test_a_disk_moves_to_another_domain(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        directory = place("second")
        second = centre.add_second(str(directory))
        base = centre.new_disk(SIZE)
        write(path_of(centre, base), "raw", (1, 0, 8))
        top = centre.snapshot(base, SIZE)
        write(path_of(centre, top), "qcow2", (2, 4, 8))
        move = {**centre.whole(top), "dstSdUUID": second, "operation": 2, "postZero": "false", "force": "false"}
        assert centre.run_task("Image.move", **move) == "moveImage"
        assert not path_of(centre, top).exists()
        moved = directory / second / "images" / top.image / top.volume
        assert content(moved, "qcow2", directory) == pattern((1, 0, 4), (2, 4, 8))
        assert centre.info(top, second)["parent"] == base.volume
        assert centre.info(base, second)["voltype"] == "INTERNAL"

    def test_templates_and_their_clones_go_to_another_domain(
        self, centre: EngineDisks, place: Callable[[str], Path]
    ) -> None:
        directory = place("second")
        second = centre.add_second(str(directory))
        source = centre.new_disk(SIZE)
        write(path_of(centre, source), "raw", (1, 0, 4))
        template = centre.make_template(source)
        clone = centre.clone(template, SIZE)
        write(path_of(centre, clone), "qcow2", (2, 2, 4))
        target = {"dstSdUUID": second, "postZero": "false", "force": "false"}
        with pytest.raises((TaskFailed, VdsError), match="263"):
            centre.run_task("Image.move", **centre.whole(clone), **target, operation=2)
        # Copying so has the same name as moving.
        assert centre.run_task("Image.move", **centre.whole(template), **target, operation=1) == "moveImage"
        assert centre.info(template)["status"] == centre.info(template, second)["status"] == "OK"
        assert centre.info(template, second)["voltype"] == "SHARED"
        assert centre.run_task("Image.move", **centre.whole(clone), **target, operation=2) == "moveImage"
        moved = directory / second / "images" / clone.image
        assert content(moved / clone.volume, "qcow2", directory) == pattern((1, 0, 2), (2, 2, 4))
        assert (moved / template.volume).samefile(directory / second / "images" / template.image / template.volume)
        centre.delete_disk(template)
        assert centre.info(clone, second)["parent"] == template.volume

    def test_a_structure_is_cloned_and_filled(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        directory = place("second")
        second = centre.add_second(str(directory))
        base = centre.new_disk(SIZE)
        write(path_of(centre, base), "raw", (1, 0, 4))
        top = centre.snapshot(base, SIZE)
        write(path_of(centre, top), "qcow2", (2, 2, 4))
        target = {**centre.whole(top), "dstSdUUID": second}
        assert centre.run_task("Image.cloneStructure", **target) == "cloneImageStructure"
        assert centre.info(top, second)["parent"] == base.volume
        assert centre.run_task("Image.syncData", **target, syncType="INTERNAL") == "syncImageData"
        there = directory / second / "images" / top.image
        assert content(there / base.volume, "raw", directory) == pattern((1, 0, 4))
        assert content(there / top.volume, "qcow2", directory) == pattern((1, 0, 4))
        assert content(path_of(centre, top), "qcow2", directory) == pattern((1, 0, 2), (2, 2, 4))

    def test_a_long_copy_is_stopped(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        directory = place("second")
        second = centre.add_second(str(directory))
        disk = centre.new_disk(512 * MIB)
        write(path_of(centre, disk), "raw", (3, 0, 512))
        move = {**centre.whole(disk), "dstSdUUID": second, "operation": 2, "postZero": "false", "force": "false"}
        task = centre.begin_task("Image.move", **move)
        eventually(lambda: list(directory.glob(f"*/images/{disk.image}/*")), "the copy has begun")
        assert centre.tasks()[task][:2] == ("running", "moveImage")
        centre.expect_error(402, lambda: centre.irs.call("Task.clear", {"taskID": task}))
        centre.expect_error(653, lambda: centre.host.call("StoragePool.spmStop", {"storagepoolID": centre.pool_id}))
        assert centre.irs.call("Task.stop", {"taskID": task}) is True
        with pytest.raises(TaskFailed):
            centre.end_task(task, "Image.move")
        assert centre.tasks() == {}
        assert list((directory / second / "images").iterdir()) == []
        assert path_of(centre, disk).stat().st_size == 512 * MIB
        assert centre.info(disk)["legality"] == "LEGAL"


class TestColdMerge:
    @pytest.fixture
    def centre(self, shared: EngineDisks) -> EngineDisks:
        return shared

    @pytest.fixture
    def chain(self, centre: EngineDisks) -> list[Disk]:
        """A raw base and two snapshots, each with data of its own."""
        base = centre.new_disk(SIZE)
        write(path_of(centre, base), "raw", (1, 0, 4))
        middle = centre.snapshot(base, SIZE)
        write(path_of(centre, middle), "qcow2", (2, 2, 4))
        top = centre.snapshot(middle, SIZE)
        write(path_of(centre, top), "qcow2", (3, 5, 2))
        return [base, middle, top]

    def test_a_volume_inside_the_chain_goes(self, centre: EngineDisks, chain: list[Disk]) -> None:
        base, middle, top = chain
        before = content(path_of(centre, top), "qcow2", Path(centre.place))
        assert before == pattern((1, 0, 2), (2, 2, 3), (3, 5, 2))
        centre.cold_merge(base, middle)
        assert centre.reconcile(top) == [base.volume, top.volume]
        assert content(path_of(centre, top), "qcow2", Path(centre.place)) == before
        assert content(path_of(centre, base), "raw", Path(centre.place)) == pattern((1, 0, 2), (2, 2, 4))
        assert centre.header(top)["backing"] == base.volume
        assert (centre.info(top)["parent"], centre.info(base)["voltype"]) == (base.volume, "INTERNAL")
        assert centre.info(base)["generation"] == 1
        assert not path_of(centre, middle).exists()
        assert centre.tasks() == {}

    def test_the_leaf_goes(self, centre: EngineDisks, chain: list[Disk]) -> None:
        base, middle, top = chain
        before = content(path_of(centre, top), "qcow2", Path(centre.place))
        centre.cold_merge(middle, top)
        assert centre.reconcile(middle) == [base.volume, middle.volume]
        assert content(path_of(centre, middle), "qcow2", Path(centre.place)) == before
        assert centre.info(middle)["voltype"] == "LEAF"
        centre.cold_merge(base, middle)
        assert content(path_of(centre, base), "raw", Path(centre.place)) == before
        assert (centre.info(base)["voltype"], centre.info(base)["parent"]) == ("LEAF", BLANK)

    def test_a_merge_of_an_old_generation_is_refused(self, centre: EngineDisks, chain: list[Disk]) -> None:
        base, middle, top = chain
        wrong = {
            "sd_id": centre.domain_id,
            "img_id": base.image,
            "base_id": base.volume,
            "top_id": middle.volume,
            "base_generation": 77,
        }
        with pytest.raises((JobFailed, VdsError), match="911"):
            centre.run_job("SDM.merge", subchain_info=wrong, merge_bitmaps=False)
        assert content(path_of(centre, base), "raw", Path(centre.place)) == pattern((1, 0, 4))
        assert centre.reconcile(top) == [base.volume, middle.volume, top.volume]


class TestTransfers:
    @pytest.fixture
    def centre(self, shared: EngineDisks) -> EngineDisks:
        return shared

    @pytest.fixture
    def daemon(self, agent: AgentHost, transfer_port: int) -> Door:
        """The image daemon, as a client that knows nothing but a ticket sees it."""
        context = ssl.create_default_context(cafile=str(agent.certificates.authority.certificate))
        context.check_hostname = False
        return Door(transfer_port, context)

    @pytest.mark.parametrize("through", ["file", "nbd"])
    def test_a_raw_image_goes_in_and_out(self, centre: EngineDisks, daemon: Door, through: str) -> None:
        data = random.Random(3).randbytes(3 * MIB) + bytes(2 * MIB) + random.Random(4).randbytes(MIB)
        disk = centre.new_disk(8 * MIB)
        centre.set_legality(disk, "ILLEGAL")
        assert centre.info(disk)["status"] == "ILLEGAL"
        if through == "file":
            server, url = "", f"file://{centre.prepare(disk, illegal=True)}"
        else:
            server, url = centre.serve(disk, readonly=False)
        ticket = centre.add_ticket(url, 8 * MIB, "write")
        length = {"Content-Length": str(len(data)), "Content-Range": f"bytes 0-{len(data) - 1}/*"}
        status, _, answer = daemon.ask("PUT", f"/images/{ticket}?flush=y", length, data)
        assert status == 200, answer
        found = centre.ticket(ticket)
        assert (found["uuid"], found["size"], found["url"], found["ops"]) == (ticket, 8 * MIB, url, ["write"])
        assert found["transferred"] == len(data)
        centre.end_ticket(ticket)
        assert daemon.ask("GET", f"/images/{ticket}", {})[0] == 403
        if server:
            centre.expect_true("NBD.stop_server", server_id=server)
        centre.expect_true("Volume.verify_untrusted", **centre.at(disk))
        centre.set_legality(disk, "LEGAL")
        if not server:
            centre.teardown(disk)
        assert path_of(centre, disk).read_bytes() == data + bytes(2 * MIB)
        assert self.downloaded(centre, daemon, disk, 8 * MIB, through) == data + bytes(2 * MIB)

    def test_a_qcow2_image_goes_in_and_out(self, centre: EngineDisks, daemon: Door, tmp_path: Path) -> None:
        image = tmp_path / "image.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE)], check=True)
        write(image, "qcow2", (9, 3, 5))
        disk = centre.new_disk(SIZE, COW)
        centre.set_legality(disk, "ILLEGAL")
        self.upload(centre, daemon, disk, image.read_bytes())
        centre.expect_true("Volume.verify_untrusted", **centre.at(disk))
        centre.set_legality(disk, "LEGAL")
        assert centre.info(disk)["status"] == "OK"
        assert content(path_of(centre, disk), "qcow2", tmp_path) == pattern((9, 3, 5))
        # An NBD server shows what the guest sees.
        whole = self.downloaded(centre, daemon, disk, SIZE, "nbd")
        assert hashlib.sha256(whole).hexdigest() == pattern((9, 3, 5))
        size = path_of(centre, disk).stat().st_size
        assert self.downloaded(centre, daemon, disk, size, "file") == path_of(centre, disk).read_bytes()

    @pytest.mark.parametrize("trick", ["backing", "data-file", "larger"])
    def test_a_hostile_image_is_refused(self, centre: EngineDisks, daemon: Door, tmp_path: Path, trick: str) -> None:
        image = tmp_path / "image.qcow2"
        options = {
            "backing": ["-b", "/etc/hostname", "-F", "raw", "-u"],
            "data-file": ["-o", f"data_file={tmp_path}/other,data_file_raw=on"],
            "larger": [],
        }
        size = str(SIZE * 2 if trick == "larger" else SIZE)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options[trick], image, size], check=True)
        disk = centre.new_disk(SIZE, COW)
        centre.set_legality(disk, "ILLEGAL")
        self.upload(centre, daemon, disk, image.read_bytes())
        centre.expect_error(484, lambda: centre.host.call("Volume.verify_untrusted", centre.at(disk)))
        assert centre.info(disk)["status"] == "ILLEGAL"
        centre.delete_disk(disk)

    @staticmethod
    def upload(centre: EngineDisks, daemon: Door, disk: Disk, data: bytes) -> None:
        url = f"file://{centre.prepare(disk, illegal=True)}"
        ticket = centre.add_ticket(url, len(data), "write")
        status, _, answer = daemon.ask("PUT", f"/images/{ticket}", {"Content-Length": str(len(data))}, data)
        assert status == 200, answer
        centre.end_ticket(ticket)
        centre.teardown(disk)

    @staticmethod
    def downloaded(centre: EngineDisks, daemon: Door, disk: Disk, size: int, through: str) -> bytes:
        if through == "file":
            server, url = "", f"file://{centre.prepare(disk, illegal=False)}"
        else:
            server, url = centre.serve(disk, readonly=True)
        ticket = centre.add_ticket(url, size, "read")
        status, _, data = daemon.ask("GET", f"/images/{ticket}", {})
        assert status == 200
        assert centre.ticket(ticket)["transferred"] == size
        centre.end_ticket(ticket)
        if server:
            centre.expect_true("NBD.stop_server", server_id=server)
        else:
            centre.teardown(disk)
        return data


class TestRefusals:
    def test_errors_of_a_data_centre(self, centre: EngineDisks, place: Callable[[str], Path]) -> None:
        nobody = str(uuid.uuid4())
        pool = centre.pool_id
        centre.expect_error(358, lambda: centre.domain_info(nobody))
        centre.expect_error(358, lambda: centre.domain_stats(nobody))
        centre.expect_error(401, lambda: centre.irs.call("Task.getStatus", {"taskID": nobody}))
        centre.expect_error(401, lambda: centre.irs.call("Task.clear", {"taskID": nobody}))
        centre.expect_error(401, lambda: centre.irs.call("Task.stop", {"taskID": nobody}))
        centre.expect_error(656, centre.ask_spm_start)
        centre.expect_error(365, lambda: centre.create_domain(centre.domain_id, centre.place, "again"))
        with pytest.raises(VdsError):
            centre.create_domain(nobody, centre.place, "beside it")
        centre.expect_error(360, lambda: centre.create_domain(nobody, "/not/connected", "nowhere"))
        centre.pool_id = nobody
        centre.expect_error(309, centre.spm_status)
        with pytest.raises(VdsError):
            centre.connect_pool()
        centre.pool_id = pool
        assert centre.check_pool() == {centre.domain_id: "Active"}

    def test_local_domains_have_no_leases(self, centre: EngineDisks) -> None:
        lease = {"lease": {"sd_id": centre.domain_id, "lease_id": str(uuid.uuid4())}}
        for method in ("Lease.create", "Lease.delete"):
            try:
                task = centre.irs.call(method, {**lease, **({"metadata": None} if method == "Lease.create" else {})})
            except VdsError as error:
                assert error.code == 2009  # noqa: PT017 - refused at once, or as a task
                continue
            with pytest.raises(TaskFailed, match="2009"):
                centre.end_task(task, method)
        for method in ("Lease.info", "Lease.status"):
            centre.expect_error(2009, lambda method=method: centre.irs.call(method, lease))
        assert centre.tasks() == {}

    def test_connections_that_cannot_be(self, engine: EngineDisks, place: Callable[[str], Path]) -> None:
        engine.type = "LOCALFS"
        assert engine.connect(connection="/no/such/directory") not in {0, 100}
        closed = place("closed")
        closed.chmod(0o700)
        assert engine.connect(connection=str(closed)) == 469
        engine.type = "NFS"
        assert engine.connect(connection="127.0.0.1:/nothing", protocol_version="4.2") in {451, 477}
        assert engine.disconnect(connection="127.0.0.1:/nothing") == 0


def vm_on(engine: EngineDisks, disk: Disk) -> tuple[str, str]:
    """The Engine's XML of a small VM on a disk of the data centre, without what needs networks and guests."""
    vm_id = str(uuid.uuid4())
    xml = SAMPLE.replace(SAMPLE_ID, vm_id).replace("<name>web-01<", f"<name>vm-{vm_id[:8]}<")
    for old, new in (
        ("4a1f0c02-6d2b-11ef-9a3e-525400aabbcc", engine.pool_id),
        ("9c1e2f5a-7d33-4d46-b1ce-0f9a5d1c2b77", engine.domain_id),
        ("2f60b9a4-58c1-4f61-8b37-cf1f4f7f0b88", disk.image),
        ("e1d2c3b4-a596-4877-8690-a1b2c3d4e599", disk.volume),
        ('<vcpu current="1">16</vcpu>', "<vcpu>1</vcpu>"),
        ('sockets="16"', 'sockets="1"'),
        ('cpus="0-15"', 'cpus="0"'),
    ):
        assert old in xml
        xml = xml.replace(old, new)
    for part in ('<channel type="unix">.*?</channel>', "<graphics .*?</graphics>", "<interface .*?</interface>"):
        xml = re.sub(part, "", xml, flags=re.DOTALL)
    return vm_id, re.sub(r"<ovirt-vm:device mac_address.*?</ovirt-vm:device>", "", xml, count=1, flags=re.DOTALL)
