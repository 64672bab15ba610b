"""The store of definitions: what was put in comes out, and damage stays where it is."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from vdsm.base.errors import AlreadyExists, Failed, NotFound
from vdsm.base.ids import VmId
from vdsm.virt.definitions import Definition, Definitions
from vdsm.virt.spec import BootSpec, DiskSpec, NicSpec, VmSpec


def made(number: int, name: str | None = None) -> Definition:
    vm_id = VmId(f"6f6b9a1e-2c52-4d0c-9a71-{number:012x}")
    name = name or f"vm-{number}"
    spec = VmSpec(
        vm_id=vm_id,
        name=name,
        memory_mib=256,
        disks=(DiskSpec("/images/a b", format="qcow2", serial="s"), DiskSpec(None, device="cdrom")),
        nics=(NicSpec(network="br0", mac="52:54:00:00:00:01"),),
        boot=BootSpec(order=("network",), kernel="/k", cmdline="ä 'q' \"d\""),
        launch_paused=True,
    )
    return Definition(name=name, vm_id=vm_id, spec=spec)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "definitions.sqlite"


@pytest.fixture
def store(path):
    return Definitions(path)


def test_what_was_put_in_comes_out_of_another_process(store, path):
    for number in (2, 1):
        store.add(made(number))
    assert Definitions(path).list() == [made(1), made(2)]
    assert Definitions(path).get("vm-1") == Definitions(path).get(made(1).vm_id) == made(1)


def test_a_new_store_is_empty_and_for_its_owner_only(store, path):
    assert store.list() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("other", [made(1, "other"), made(2, "vm-1")])
def test_ids_and_names_are_unique(store, other):
    store.add(made(1))
    with pytest.raises(AlreadyExists) as caught:
        store.add(other)
    assert caught.value.ident == (other.vm_id if other.vm_id == made(1).vm_id else other.name)
    assert store.list() == [made(1)]


def test_a_vm_is_renamed_by_its_id(store):
    store.add(made(1))
    store.add(made(2))
    store.replace(made(1, "new"))
    assert store.get("new").vm_id == made(1).vm_id
    with pytest.raises(NotFound):
        store.get("vm-1")
    with pytest.raises(AlreadyExists, match="vm-2"):
        store.replace(made(1, "vm-2"))
    with pytest.raises(NotFound):
        store.replace(made(3))


def test_autostart(store):
    store.add(made(1))
    assert store.set_autostart("vm-1", enabled=True) == replace(made(1), autostart=True)
    assert store.get("vm-1").autostart
    assert not store.set_autostart(made(1).vm_id, enabled=False).autostart
    with pytest.raises(NotFound):
        store.set_autostart("none", enabled=True)


def test_forgotten(store):
    store.add(made(1))
    store.add(made(2))
    store.delete("vm-1")
    store.delete(made(2).vm_id)
    assert store.list() == []
    with pytest.raises(NotFound):
        store.delete("vm-1")


DAMAGE = {
    "no JSON": "{",
    "another format": '{"format": 2, "machine": {}}',
    "a field's type": '{"format": 1, "vm": {"vm_id": "x", "name": "vm-1", "memory_mib": "many"}}',
    "a missing field": '{"format": 1, "vm": {"name": "vm-1"}}',
    "another VM": '{"format": 1, "vm": {"vm_id": "x", "name": "y", "memory_mib": 1}}',
}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_row_is_reported_and_hides_no_other(store, path, text, caplog):
    for number in (1, 2):
        store.add(made(number))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE definitions SET spec = ? WHERE name = 'vm-1'", (text,))
    database.close()
    assert store.list() == [made(2)]
    assert "vm-1" in caplog.text
    good, (broken,) = store.survey()
    assert good == (made(2),)
    assert (broken.name, broken.vm_id) == ("vm-1", made(1).vm_id)
    assert broken.reason
    with pytest.raises(Failed, match="vm-1"):
        store.get("vm-1")
    store.delete("vm-1")
    assert store.survey() == ((made(2),), ())


def test_a_file_that_is_no_store_is_an_error_and_left_alone(store, path):
    path.write_bytes(b"something else, and long enough to be looked at" * 100)
    before = path.read_bytes()
    with pytest.raises(Failed, match="not a database"):
        store.list()
    assert path.read_bytes() == before


def test_a_newer_store_is_left_alone(store, path):
    store.add(made(1))
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(Failed, match="version is 2"):
        store.list()
    with pytest.raises(Failed, match="version is 2"):
        store.add(made(2))


def test_no_directory(tmp_path):
    with pytest.raises(Failed):
        Definitions(tmp_path / "none" / "x").list()


def test_a_failed_change_leaves_nothing(store, path):
    store.add(made(1))
    store.add(made(2))
    with pytest.raises(AlreadyExists):
        store.replace(made(1, "vm-2"))
    assert Definitions(path).list() == [made(1), made(2)]


def test_readers_do_not_wait_for_a_writer(store, path):
    store.add(made(1))
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM definitions")
    assert store.list() == [made(1)]
    writer.execute("ROLLBACK")
    writer.close()


def test_many_at_once(store):
    def work(number: int) -> bool:
        store.add(made(number))
        return store.set_autostart(f"vm-{number}", enabled=True).autostart

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8), timeout=60)) == [True] * 8
    assert [definition.autostart for definition in store.list()] == [True] * 8
