"""Two hosts and one storage domain: real NFS, sanlock and agents; the SPM loses its power in the middle of a task.

The figures are printed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Final

import pytest

from .deadlines import eventually
from .engine_storage import EngineStorage, TaskFailed
from .engine_wire import VdsError
from .lab import DiskSpec, Lab
from .storage_pair import AS_VDSM, Clock, Files, StorageHost, StoragePair

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

MIB: Final = 1 << 20
WAIT_S: Final = 240.0
UNFINISHED: Final = 16
FAST: Final = Clock(fast=5, io_timeout_s=5)


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
