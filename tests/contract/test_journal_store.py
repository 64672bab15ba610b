"""What operations.journal promises, in memory, in files of this host, and through a storage domain's file access."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vdsm.operations.host_journal import HostJournal
from vdsm.operations.journal import FileJournal, JournalStore, MemoryJournal
from vdsm.operations.records import Fault, Phase, Record
from vdsm.storage.files.localfiles import LocalFiles
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
        "host": HostJournal(tmp_path),
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


def test_torn_writes_are_removed_and_damage_is_named(tmp_path: Path) -> None:
    store = FileJournal(LocalFiles(), str(tmp_path))
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
    store = HostJournal(tmp_path / "state" / "operations")
    assert store.load() == ([], [])
    store.write(record("a"))
    assert (tmp_path / "state" / "operations" / "a.op").stat().st_mode & 0o777 == 0o600


def loaded(directory: Path) -> list[int]:
    """How far the records have got that a new process finds."""
    found, damaged = HostJournal(directory).load()
    assert damaged == []
    return [item.reached for item in found]


def test_record_that_is_torn_anywhere_leaves_the_one_before(tmp_path: Path) -> None:
    store = HostJournal(tmp_path)
    path = tmp_path / "a.op"
    for reached in (0, 1):
        store.write(record("a", reached=reached))
    before = path.read_bytes()
    store.write(record("a", reached=2))
    after = path.read_bytes()
    changed = [index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    for cut in range(changed[0], changed[-1] + 1):
        path.write_bytes(after[:cut] + before[cut:])
        assert loaded(tmp_path) == [1]
    path.write_bytes(after)
    assert loaded(tmp_path) == [2]


def test_records_go_on_in_turns_after_a_restart(tmp_path: Path) -> None:
    HostJournal(tmp_path).write(record("a"))
    for reached in (1, 2, 1, 2):
        store = HostJournal(tmp_path)
        store.load()
        size = (tmp_path / "a.op").stat().st_size
        store.write(record("a", reached=reached))
        assert loaded(tmp_path) == [reached]
        assert (tmp_path / "a.op").stat().st_size == size


def test_record_that_grows_gets_larger_slots(tmp_path: Path) -> None:
    store = HostJournal(tmp_path)
    store.write(record("a"))
    store.write(msgspec.structs.replace(record("a", reached=2), notes={"long": "x" * 100_000}))
    assert loaded(tmp_path) == [2]


def test_after_a_failed_write_the_good_record_is_not_touched(tmp_path: Path) -> None:
    class Failing(HostJournal):
        fails = False

        def overwrite(self, path: Path, content: bytes, offset: int) -> None:
            if self.fails:
                super().overwrite(path, content[:50], offset)
                raise OSError(5, "Input/output error")
            super().overwrite(path, content, offset)

    store = Failing(tmp_path)
    store.write(record("a"))
    store.write(record("a", reached=1))
    store.fails = True
    with pytest.raises(OSError, match="Input/output error"):
        store.write(record("a", reached=2))
    assert loaded(tmp_path) == [1]
    store.write(record("a", reached=2))  # goes to a new file
    assert loaded(tmp_path) == [2]


def test_damaged_host_records_are_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty.op").touch()
    (tmp_path / "noise.op").write_bytes(bytes(8192))
    (tmp_path / "x.op.new").write_bytes(b"half")
    found, damaged = HostJournal(tmp_path).load()
    assert (found, [item.id for item in damaged]) == ([], ["empty", "noise"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.op", "noise.op"]
