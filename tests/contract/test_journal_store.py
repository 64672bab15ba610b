"""What operations.journal promises, in memory, in files of this host, and through a storage domain's file access."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vdsm.operations.journal import FileJournal, HostFiles, JournalStore, MemoryJournal
from vdsm.operations.records import Fault, Phase, Record
from vdsm.storage.localfiles import LocalFiles
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits


@pytest.fixture(scope="module")
def helpers() -> Iterator[HelperPool]:
    pool = HelperPool(HelperLimits(timeout_s=60))
    yield pool
    assert pool.stop(20)


@pytest.fixture(params=["memory", "host", "local", "helper"])
def store(request: pytest.FixtureRequest, tmp_path: Path, helpers: HelperPool) -> JournalStore:
    stores: dict[str, JournalStore] = {
        "memory": MemoryJournal(),
        "host": FileJournal(HostFiles(), str(tmp_path)),
        "local": FileJournal(LocalFiles(), str(tmp_path)),
        "helper": FileJournal(helpers.of("journal"), str(tmp_path)),
    }
    return stores[request.param]


def record(ident: str, begun: str = "2026-01-01", reached: int = 0) -> Record:
    return Record(
        id=ident,
        kind="make",
        version=1,
        arguments=msgspec.Raw(b'{"name":"\xc3\xbc"}'),
        steps=("one", "two"),
        wants=(("image", "x", "shared"),),
        begun=begun,
        phase=Phase.UNDOING,
        reached=reached,
        notes={"old": "a\nb", "count": 3, "flag": True, "none": None},
        fault=Fault("no_space", 397, "no space"),
    )


def test_what_was_written_last_is_there(store: JournalStore) -> None:
    store.write(record("a"))
    store.write(record("a", reached=2))
    found, damaged = store.load()
    assert damaged == []
    assert msgspec.json.encode(found) == msgspec.json.encode([record("a", reached=2)])


def test_the_oldest_comes_first(store: JournalStore) -> None:
    for ident, begun in (("a", "2026-03"), ("b", "2026-01"), ("c", "2026-01")):
        store.write(record(ident, begun))
    assert [item.id for item in store.load()[0]] == ["b", "c", "a"]


def test_removing_again_does_no_harm(store: JournalStore) -> None:
    store.write(record("a"))
    store.remove("a")
    store.remove("a")
    assert store.load() == ([], [])


@pytest.mark.parametrize("files", [HostFiles(), LocalFiles()])
def test_torn_writes_are_removed_and_damage_is_named(tmp_path: Path, files: HostFiles | LocalFiles) -> None:
    store = FileJournal(files, str(tmp_path))
    store.write(record("good"))
    (tmp_path / "good.json.new").write_bytes(b'{"for')
    (tmp_path / "torn.json").write_bytes(b'{"format":1')
    (tmp_path / "binary.json").write_bytes(b"\xff\x00")
    (tmp_path / "renamed.json").write_bytes((tmp_path / "good.json").read_bytes())
    (tmp_path / "later.json").write_bytes(
        (tmp_path / "good.json").read_bytes().replace(b'"format":1', b'"format":2').replace(b'"good"', b'"later"')
    )
    (tmp_path / "too_far.json").write_bytes(msgspec.json.encode(record("too_far", reached=3)))
    (tmp_path / "foreign").write_bytes(b"left alone")
    found, damaged = store.load()
    assert [item.id for item in found] == ["good"]
    assert sorted(item.id for item in damaged) == ["binary", "later", "renamed", "too_far", "torn"]
    assert not (tmp_path / "good.json.new").exists()
    assert (tmp_path / "foreign").read_bytes() == b"left alone"


def test_host_directory_is_made(tmp_path: Path) -> None:
    store = FileJournal(HostFiles(), str(tmp_path / "state" / "operations"))
    assert store.load() == ([], [])
    store.write(record("a"))
    assert (tmp_path / "state" / "operations" / "a.json").stat().st_mode & 0o777 == 0o600
