"""Two hosts and one storage domain: real NFS, sanlock and agents; the SPM without power, frozen, without storage.

Each test prints its figures. ``VDSM_OUTAGE_S=60``: how long the NFS server is gone.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from .channel import Running
from .deadlines import eventually
from .engine_storage import EngineStorage, TaskFailed
from .engine_wire import VdsError
from .lab import DiskSpec, Lab
from .storage_pair import AS_VDSM, PYTHON, Clock, Files, StorageHost, StoragePair

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

MIB: Final = 1 << 20
WAIT_S: Final = 240.0
UNFINISHED: Final = 16
FAST: Final = Clock(fast=5, io_timeout_s=5)
LOAD: Final = f"{PYTHON} -P /opt/vdsm/tests/lab/roles/storage_load.py"
EASY: Final = frozenset({
    "Host.ping", "Host.getStats", "Host.getAllVmStats", "Host.getStorageRepoStats", "StorageDomain.getInfo local",
    "StorageDomain.getStats local",
})  # fmt: skip
# Workers are started when they are first needed; helpers that cannot be killed are at most 3.
_THREADS: Final = 60
_PROCESSES: Final = 8
_BEFORE_S: Final = 8.0
_AFTER_S: Final = 25.0
OUTAGE_S: Final = float(os.environ.get("VDSM_OUTAGE_S", "20"))
# The SPM must outlive the outage: its lease is good for 8 of these.
PATIENT: Final = Clock(fast=1, io_timeout_s=10 if OUTAGE_S > 30 else 5)


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Iterator[StoragePair]:
    one, two = lab.nodes(2, disks=[DiskSpec("store")], nics=["lan"])
    yield StoragePair(one, two)
    lab.end_nodes()


class Centre:
    """A data centre of both hosts on one NFS domain; the first one is its SPM."""

    def __init__(self, pair: StoragePair) -> None:
        self.pair = pair
        pair.begin(FAST)
        export = pair.export()
        self.first = EngineStorage(pair.first, pair.first, wait_s=WAIT_S)
        self.first.add_domain("NFS", export.spec)
        self.first.make_data_centre()
        self.files = Files(pair, f"{export.place}/{self.first.domain_id}")
        self.second = EngineStorage(pair.second, pair.second, wait_s=WAIT_S, host_id=2)
        for name in ("pool_id", "domain_id", "type", "place"):
            setattr(self.second, name, getattr(self.first, name))
        self.join(self.second)

    def join(self, engine: EngineStorage) -> None:
        """Connect a host to the pool, and wait until it shows that it is alive."""
        assert engine.connect(engine.pool_id) == 0

        def connected() -> bool:
            try:
                engine.connect_pool({engine.domain_id: "active"})
            except VdsError as error:
                if error.code != UNFINISHED:
                    raise
                return False  # after thawing NFS takes its time to come back
            return True

        def alive() -> bool:
            report = engine.ask("Host.getStorageRepoStats").get(engine.domain_id)
            return bool(report and report["acquired"])

        eventually(connected, "the host is in the pool", WAIT_S, 0.5)
        eventually(alive, "the host is in the domain's lockspace", WAIT_S, 0.3)

    def managed_by_first(self) -> None:
        """Make the first host, whose agent may have ended, the SPM."""
        host = self.pair.first
        if not host.is_running():
            host.restart_agent(FAST)
            self.join(self.first)
        if self.first.spm_status()[0] != "spm":
            assert self.second.ask("StoragePool.spmStop", storagepoolID=self.second.pool_id) is True
            self.first.start_spm()

    def volume(self, engine: EngineStorage, host: StorageHost, mib: int = 8) -> tuple[str, str]:
        """A new raw volume, made by the SPM, that a host filled with random bytes; its path and their hash."""
        ident = str(uuid.uuid4())
        self.first.create_volume(ident, ident, mib * MIB)
        path = engine.ask("Image.prepare", **engine.address(ident, ident), allowIllegal=False)["path"]
        host.node.run(
            f"{AS_VDSM} dd if=/dev/urandom of={path} bs=1M count={mib} conv=notrunc,fsync 2>&1", timeout_s=120
        )
        engine.ask("Image.teardown", **engine.address(ident), leafVolID=ident)
        return ident, self.files.content(ident)


@pytest.fixture(scope="module")
def centre(pair: StoragePair) -> Centre:
    return Centre(pair)


def take_over(engine: EngineStorage) -> None:
    """Ask the host to become the SPM until it does."""

    def taken() -> bool:
        try:
            engine.start_spm()
        except TaskFailed:
            return False
        return True

    eventually(taken, "the other host is the SPM", WAIT_S, 0.5)
    for task, (_, verb, _) in engine.tasks().items():
        if verb == "spmStart":
            engine.ask("Task.clear", taskID=task)


def load(engine: EngineStorage, host: StorageHost, seconds: float, **more: Any) -> Running:
    """Begin to use a host's storage."""
    asked = {"seconds": seconds, "pool": engine.pool_id, "domain": engine.domain_id, "local": "", "pid": 1, **more}
    return host.node.start([*LOAD.split(), json.dumps(asked)], timeout_s=seconds + 400)


class Found:
    """What the load has seen: see ``roles/storage_load.py``."""

    def __init__(self, found: dict[str, Any], gone_s: float, back_s: float) -> None:
        self.calls: dict[str, list[tuple[float, float, int]]] = found["calls"]
        self.made: dict[str, str] = found["made"]
        self.sizes: list[tuple[float, int, int]] = found["sizes"]
        self.valid: list[tuple[float, bool]] = found["valid"]
        self.gone_s, self.back_s = gone_s, back_s

    def tell(self) -> None:
        """Print the figures."""
        print(f"the server was gone from {self.gone_s:.1f} to {self.back_s:.1f} s")
        for verb, calls in sorted(self.calls.items()):
            meanwhile = [call for call in calls if self.gone_s < call[0] + call[1] and call[0] < self.back_s]
            print(
                f"{verb}: {len(calls)}, at most {max(call[1] for call in calls):.2f} s; meanwhile {len(meanwhile)},",
                f"at most {max((call[1] for call in meanwhile), default=0):.2f} s,",
                f"errors {sorted({call[2] for call in meanwhile})}",
            )
        for name, wanted in (
            ("before", (0, self.gone_s)),
            ("meanwhile", (self.gone_s, self.back_s)),
            ("after", (self.back_s, 1e9)),
        ):
            sizes = [size for size in self.sizes if wanted[0] <= size[0] < wanted[1]] or [(0, 0, 0)]
            print(
                f"{name}: threads at most {max(size[1] for size in sizes)}, processes {max(size[2] for size in sizes)}"
            )
        print(f"in the end: threads {self.sizes[-1][1]}, processes {self.sizes[-1][2]}")
        changes = [
            each for before, each in zip([(0, True), *self.valid], self.valid, strict=False) if before[1] != each[1]
        ]
        print(
            f"valid: {changes}; volumes: {Counter(end if ' ' in end else end[:5] for end in self.made.values())}",
        )

    def check(self) -> None:
        """See that nobody else was hindered, and that all came back."""
        for verb, calls in self.calls.items():
            # On a loaded machine: without load it is much less than a second.
            assert max(call[1] for call in calls) < (20 if verb in EASY else 90), verb
            assert not [call for call in calls if call[2] < 0], verb
            assert verb not in EASY or not [call for call in calls if call[2]], verb
        assert [call for call in self.calls["Volume.getInfo"] if call[2] > 0]
        assert not all(valid for _, valid in self.valid)
        assert self.valid[-1][1]
        assert self.calls["Volume.getInfo"][-1][2] == 0
        before = [size for size in self.sizes if size[0] < self.gone_s]
        assert max(size[1] for size in self.sizes) <= max(size[1] for size in before) + _THREADS
        assert max(size[2] for size in self.sizes) <= max(size[2] for size in before) + _PROCESSES
        assert "made" in self.made.values()

    def ends(self, tasks: dict[str, int]) -> dict[str, bool]:
        """Which volumes should be there; of those whose end was not awaited the tasks tell."""
        return {ident: tasks[end] == 0 if end in tasks else end == "made" for ident, end in self.made.items()}


def test_server_that_is_gone_for_a_while(pair: StoragePair) -> None:
    host, export = pair.first, pair.export()
    host.node.power_on()
    host.begin(PATIENT)
    engine = EngineStorage(host, host, wait_s=WAIT_S)
    engine.add_domain("NFS", export.spec)
    engine.make_data_centre()
    local = EngineStorage(host, host, wait_s=WAIT_S)
    host.node.run("install -d -o 36 -g 36 /data")
    local.add_domain("LOCALFS", "/data")
    image = str(uuid.uuid4())
    engine.create_volume(image, image, MIB)
    pid = host.pid()
    # Before, without, and after it until all is well again.
    seconds = _BEFORE_S + OUTAGE_S + _AFTER_S
    running = load(engine, host, seconds, local=local.domain_id, image=image, volume=image, pid=pid)
    time.sleep(_BEFORE_S)
    start = time.monotonic()
    with pair.server.away():
        time.sleep(OUTAGE_S)
    back_s = _BEFORE_S + time.monotonic() - start
    found = Found(json.loads(running.wait().text), _BEFORE_S, back_s)
    found.tell()
    found.check()

    assert host.pid() == pid
    assert host.is_running()
    assert engine.spm_status()[0] == "spm"
    eventually(lambda: all(state == "finished" for state, _, _ in engine.tasks().values()), "all is settled", WAIT_S)
    ends = found.ends({task: code for task, (_, _, code) in engine.tasks().items()})
    there = set(engine.ask("StorageDomain.getImages", storagedomainID=engine.domain_id)) - {image}
    assert {ident for ident, made in ends.items() if made} == there
    for task in engine.tasks():
        engine.ask("Task.clear", taskID=task)
    files = Files(pair, f"{export.place}/{engine.domain_id}")
    assert files.journal() == ""
    files.check()


def test_frozen_spm_writes_nothing_after_thawing(centre: Centre) -> None:
    first, second = centre.first, centre.second
    centre.managed_by_first()
    image, before = centre.volume(second, centre.pair.second, 2)
    count = len(centre.files.images())
    using = load(first, centre.pair.first, 0, image=image, volume=image)
    eventually(lambda: len(centre.files.images()) > count + 2, "volumes are being made", WAIT_S)

    centre.pair.first.node.freeze()
    start = time.monotonic()
    take_over(second)
    print(f"SPM {time.monotonic() - start:.1f} s after it stood still; dead after {FAST.dead_after_s:.0f} s")
    eventually(lambda: all(state == "finished" for state, _, _ in second.tasks().values()), "all is settled", WAIT_S)
    for task in second.tasks():
        second.ask("Task.clear", taskID=task)
    own = str(uuid.uuid4())
    second.create_volume(own, own, MIB)
    assert centre.files.journal() == ""
    centre.files.check()
    settled = centre.files.snapshot()

    centre.pair.first.node.thaw()
    thawed = time.monotonic()
    eventually(lambda: not centre.pair.first.is_running(), "the end of the frozen agent", WAIT_S)
    print(f"it ended {time.monotonic() - thawed:.1f} s after thawing: {centre.pair.first.reason()}")
    using.kill()
    time.sleep(2)  # whatever it may have left on its way
    changed = centre.files.snapshot().items() ^ settled.items()
    assert not changed, sorted(changed)

    centre.pair.first.restart_agent(FAST)
    centre.join(first)
    assert first.spm_status()[::2] == ("free", 2)
    first.expect_error(654, lambda: first.create_volume(image, str(uuid.uuid4()), MIB))
    assert centre.files.content(image) == before
    assert second.volume_info(own, own)["status"] == "OK"


def test_spm_without_power_is_followed_and_nothing_is_lost(centre: Centre) -> None:
    first, second = centre.first, centre.second
    centre.managed_by_first()
    written = dict((centre.volume(first, centre.pair.first, 16), centre.volume(second, centre.pair.second, 2)))
    source, target = next(iter(written)), str(uuid.uuid4())
    images = centre.files.images()
    task = first.ask(
        "Volume.copy",
        **first.address(source, source),
        dstSdUUID=first.domain_id,
        dstImgUUID=target,
        dstVolUUID=target,
        desc="",
        volType="LEAF",
        volFormat=5,
        preallocate=2,
        postZero="false",
        force="false",
    )
    size = f"find {centre.files.root}/images -path '*/*{target}' -type f -size +1M"
    eventually(lambda: centre.pair.on_server(size), "the copy has begun", WAIT_S, 0.2)

    centre.pair.first.node.power_off()
    start = time.monotonic()
    assert second.spm_status()[::2] == ("free", 1)
    take_over(second)
    print(f"SPM {time.monotonic() - start:.1f} s after the power went; dead after {FAST.dead_after_s:.0f} s")
    assert task in second.tasks()
    eventually(lambda: second.tasks()[task][0] == "finished", "the unfinished copy is settled", WAIT_S, 0.3)
    status = second.ask("Task.getStatus", taskID=task)
    print(f"{time.monotonic() - start:.1f} s: the copy is settled: {status}")
    second.ask("Task.clear", taskID=task)

    assert {ident: centre.files.content(ident) for ident in written} == written
    expected = [*images, target] if status["code"] == 0 else images
    assert centre.files.images() == sorted(expected)
    assert sorted(second.ask("StorageDomain.getImages", storagedomainID=second.domain_id)) == sorted(expected)
    if status["code"] == 0:
        assert centre.files.content(target) == written[source]
    assert (second.tasks(), centre.files.journal()) == ({}, "")
    centre.files.check()
    second.create_volume(
        source, str(uuid.uuid4()), 16 * MIB, volFormat=4, srcImgUUID=source, srcVolUUID=source, sequence=2
    )
    centre.files.check()
