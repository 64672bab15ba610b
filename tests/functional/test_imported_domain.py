"""Domains that were written by others are read through the verbs, as an Engine imports them: nothing of them changes.

The original's sample, on a read-only file system, against its listing; older formats; a domain of installation media.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.agent_host import short_directory
from lab.engine_disks import BLANK, COW, RAW, Disk, EngineDisks
from lab.engine_values import Reader
from lab.engine_wire import Connection
from lab.light import eventually
from needs import needs
from simulated_agent import SimulatedAgent, simulated_agent
from storage_domains import unpack_sample

pytestmark = [needs("root", "program:qemu-img", "program:mount")]

MIB = 1 << 20
END = "1001-4000-8000-0000000010ca"
SAMPLE, POOL = f"5da00001-{END}", f"5bb00001-{END}"


def ident(letter: str, number: int = 0) -> str:
    return f"{letter}000000{number}-{END}"


# The original's listing: image, volume, length, capacity, format, allocation, kind, parent, sequence, generation, name.
LISTED = [
    ("a", 1, 1073741824, 1073741824, "RAW", "SPARSE", "LEAF", "", 0, 0, "raw-sparse"),
    ("b", 1, 67108864, 67108864, "RAW", "PREALLOCATED", "INTERNAL", "", 1, 0, "chain"),
    ("b", 2, 196616, 67108864, "COW", "SPARSE", "INTERNAL", ident("b", 1), 2, 0, ""),
    ("b", 3, 1376256, 67108864, "COW", "SPARSE", "LEAF", ident("b", 2), 3, 1, ""),
    ("c", 1, 196616, 134217728, "COW", "SPARSE", "SHARED", "", 0, 0, "template"),
    ("d", 1, 196616, 134217728, "COW", "SPARSE", "LEAF", ident("c", 1), 0, 0, "vm-on-template"),
    ("e", 1, 196768, 10737418240, "COW", "SPARSE", "LEAF", "", 0, 0, "qcow2"),
]


@pytest.fixture(scope="module")
def agent() -> Iterator[SimulatedAgent]:
    with short_directory() as place, simulated_agent(place) as running:
        with running.local() as client:
            eventually(lambda: client.get("/api/v1/vms").status_code == 200, "the agent is ready")
        yield running


@pytest.fixture(scope="module")
def wire(agent: SimulatedAgent) -> Iterator[Connection]:
    line = socket.create_connection(("127.0.0.1", agent.port), 20)
    with Connection(line, agent.manager_context(), events=None) as connected:
        yield connected


@pytest.fixture
def engine(wire: Connection) -> EngineDisks:
    made = EngineDisks(wire, wire)
    made.type = "LOCALFS"
    return made


@pytest.fixture
def place(agent: SimulatedAgent, engine: EngineDisks) -> Iterator[Path]:
    """A directory for a domain, disconnected afterwards."""
    path = agent.directory / f"d{uuid.uuid4().hex[:6]}"
    path.mkdir()
    path.chmod(0o777)
    engine.place = str(path)
    yield path
    assert engine.disconnect() == 0


@pytest.fixture
def sample(place: Path, engine: EngineDisks) -> Iterator[Path]:
    """The original's sample, connected, on a file system that cannot be written."""
    unpack_sample(place)
    place.chmod(0o777)
    subprocess.run(["mount", "--bind", place, place], check=True, timeout=30)
    try:
        # What cannot be written is not connected, as with the original; it becomes so afterwards.
        assert engine.connect() == 0
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True, timeout=30)
        engine.domain_id, engine.pool_id = SAMPLE, POOL
        yield place / SAMPLE
        assert engine.disconnect() == 0
    finally:
        subprocess.run(["umount", "--lazy", place], check=True, timeout=30)


def test_the_sample_is_found(engine: EngineDisks, sample: Path) -> None:
    asked = {"storagepoolID": BLANK, "domainClass": 1, "storageType": "4", "remotePath": engine.place}
    assert engine.host.call("Host.getStorageDomains", asked) == [SAMPLE]
    assert engine.host.call("Host.getStorageDomains", {**asked, "domainClass": 2}) == []
    assert engine.host.call("Host.getStorageDomains", {**asked, "storageType": "1"}) == []
    found = engine.domain_info()
    assert found == {
        "uuid": SAMPLE, "name": "sample-localfs", "type": "LOCALFS", "class": "Data", "role": "Master", "version": 5,
        "pool": [POOL],
    }  # fmt: skip
    # It was made elsewhere.
    assert engine.host.call("StorageDomain.getInfo", {"storagedomainID": SAMPLE})["remotePath"] == engine.place
    total, free = engine.domain_stats()
    assert total >= free > 0


def test_its_images_agree_with_the_listing(engine: EngineDisks, sample: Path) -> None:
    images = engine.host.call("StorageDomain.getImages", {"storagedomainID": SAMPLE})
    assert sorted(images) == [ident(letter) for letter in "abcde"]
    found = {}
    for image in images:
        asked = {"storagedomainID": SAMPLE, "storagepoolID": BLANK, "imageID": image}
        found[image[0]] = sorted(engine.host.call("StorageDomain.getVolumes", asked))
    assert found == {
        "a": [ident("a", 1)],
        "b": [ident("b", 1), ident("b", 2), ident("b", 3)],
        "c": [ident("c", 1)],
        "d": [ident("c", 1), ident("d", 1)],
        "e": [ident("e", 1)],
    }


@pytest.mark.parametrize("listed", LISTED, ids=lambda item: f"{item[0]}{item[1]}")
def test_its_volumes_agree_with_the_listing(engine: EngineDisks, sample: Path, listed: tuple) -> None:
    letter, number, length, capacity, form, allocation, kind, parent, sequence, generation, name = listed
    disk = Disk(ident(letter), ident(letter, number))
    found = engine.info(disk)
    assert found.pop("truesize") == (sample / "images" / disk.image / disk.volume).stat().st_blocks * 512
    assert found == {
        "uuid": disk.volume,
        "parent": parent or BLANK,
        "status": "OK",
        "description": f'{{"DiskAlias":"{name}","DiskDescription":""}}' if name else "",
        "capacity": capacity,
        "apparentsize": length,
        "format": form,
        "type": allocation,
        "voltype": kind,
        "legality": "LEGAL",
        "generation": generation,
        "sequence": sequence,
    }
    asked = engine.host.call("Volume.getInfo", engine.at(disk))
    assert (asked["ctime"], asked["disktype"], asked["domain"], asked["image"]) == (
        "1795341752", "DATA", SAMPLE, disk.image,
    )  # fmt: skip
    assert engine.header(disk) == {
        "format": "qcow2" if form == "COW" else "raw",
        "size": capacity,
        "backing": parent or None,
    }


def test_nothing_of_it_can_be_changed(engine: EngineDisks, sample: Path) -> None:
    before = fingerprint(sample)
    disk = Disk(ident("b"), ident("b", 3))
    assert engine.measure(disk, COW, chain=True) > 0
    checked = engine.host.call("Volume.checksum", engine.at(disk))
    assert len(checked["checksum"]) == 64
    engine.expect_error(391, lambda: engine.format(SAMPLE))
    for change in (
        lambda: engine.irs.call("StorageDomain.setDescription", {"storagedomainID": SAMPLE, "description": "x"}),
        lambda: engine.set_legality(disk, "ILLEGAL"),
        lambda: engine.detach_by_force(SAMPLE, POOL),
        lambda: engine.snapshot(disk, 64 * MIB),
    ):
        with pytest.raises(Exception, match=r"^\d+: "):
            change()
    assert engine.info(disk)["legality"] == "LEGAL"
    assert fingerprint(sample) == before


def fingerprint(root: Path) -> dict[str, tuple[int, int, str]]:
    """All that can change of a tree."""
    found = {}
    for path in sorted(root.rglob("*")):
        known = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and known.st_size < MIB else ""
        found[str(path)] = (known.st_size, known.st_mtime_ns, digest)
    return found


@pytest.mark.parametrize("version", [3, 4])
def test_older_formats_are_read(engine: EngineDisks, place: Path, version: int) -> None:
    """The sample, with its texts rewritten as that version has them."""
    unpack_sample(place)
    place.chmod(0o777)
    root = place / SAMPLE
    older(root, version)
    assert engine.connect() == 0
    engine.domain_id, engine.pool_id = SAMPLE, POOL
    info = engine.domain_info()
    assert (info["version"], info["name"], info["role"], info["pool"]) == (version, "sample-localfs", "Master", [POOL])
    raw = engine.host.call("StorageDomain.getInfo", {"storagedomainID": SAMPLE})
    assert (raw["version"], raw["block_size"], raw["alignment"]) == (str(version), 512, MIB)
    assert sorted(engine.host.call("StorageDomain.getImages", {"storagedomainID": SAMPLE})) == [
        ident(letter) for letter in "abcde"
    ]
    for letter, number, length, capacity, form, allocation, kind, parent, _, generation, _ in LISTED:
        found = engine.info(Disk(ident(letter), ident(letter, number)))
        assert (found["status"], found["capacity"], found["apparentsize"]) == ("OK", capacity, length)
        assert (found["format"], found["type"], found["voltype"]) == (form, allocation, kind)
        assert (found["parent"], found["generation"], found["sequence"]) == (parent or BLANK, generation, 0)


def older(root: Path, version: int) -> None:
    """Edit a domain of version 5 into an older one: fewer keys, sizes in sectors."""
    path = root / "dom_md" / "metadata"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("ALIGN", "BLOCK", "_SHA"))]
    lines[lines.index("VERSION=5")] = f"VERSION={version}"
    seal = hashlib.sha1("".join(lines).encode("ascii", "xmlcharrefreplace"), usedforsecurity=False).hexdigest()
    path.write_text("".join(f"{line}\n" for line in [*lines, f"_SHA_CKSUM={seal}"]))
    for meta in root.glob("images/*/*.meta"):
        keys = dict(line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line)
        if "CAP" not in keys:
            continue  # rewritten through its hard link
        keys["SIZE"] = str(int(keys.pop("CAP")) // 512)
        keys["MTIME"] = "0"
        del keys["SEQ"]
        meta.write_text("".join(f"{key}={keys[key]}\n" for key in sorted(keys)) + "EOF\n")


def test_pool_of_an_older_format_is_raised(engine: EngineDisks, place: Path) -> None:
    """An import that is attached gets the version of the Engine's pool."""
    unpack_sample(place)
    place.chmod(0o777)
    root = place / SAMPLE
    older(root, 4)
    assert engine.connect() == 0
    engine.domain_id = SAMPLE
    engine.detach_by_force(SAMPLE, POOL)
    assert engine.domain_info()["pool"] == []
    assert engine.domain_info()["version"] == 4
    engine.make_data_centre()
    eventually(lambda: engine.domain_info()["version"] == 5, "the domain has the version that spmStart asked for")
    disk = engine.new_disk(MIB, RAW)
    for letter, number, _, capacity, *_ in LISTED:
        meta = root / "images" / ident(letter) / f"{ident(letter, number)}.meta"
        assert f"CAP={capacity}\n" in meta.read_text()
    engine.delete_disk(disk)
    engine.leave_pool()


@pytest.fixture
def media(engine: EngineDisks, place: Path) -> Callable[[str, int], None]:
    """An ISO domain; puts a file into it."""
    assert engine.connect() == 0
    engine.create_domain(engine.domain_id, str(place), "media", domainClass=2, version="0")
    directory = place / engine.domain_id / "images" / "11111111-1111-1111-1111-111111111111"

    def put(name: str, size: int) -> None:
        (directory / name).write_bytes(bytes(size))
        (directory / name).chmod(0o644)
        os.utime(directory / name, (1_700_000_000, 1_700_000_000))

    return put


def test_installation_media(engine: EngineDisks, media: Callable[[str, int], None]) -> None:
    for name, size in (("Debian 12.iso", 5000), ("drivers.vfd", 100), ("other.ISO", 0)):
        media(name, size)
    asked = {"storagedomainID": engine.domain_id, "pattern": "*.iso", "caseSensitive": False}
    found = engine.irs.call("StorageDomain.getFileStats", asked)
    assert sorted(found) == ["Debian 12.iso", "other.ISO"]
    file = Reader(found["Debian 12.iso"], "getFileStats")
    assert (file.int("status"), file.text("size"), file.text("ctime")) == (0, "5000", "1700000000")
    assert list(engine.irs.call("StorageDomain.getFileStats", {**asked, "caseSensitive": True})) == ["Debian 12.iso"]
    assert len(engine.irs.call("StorageDomain.getFileStats", {**asked, "pattern": "*"})) == 3
    assert engine.domain_info()["class"] == "Iso"
    host = {"storagepoolID": BLANK, "domainClass": 2, "storageType": "4", "remotePath": engine.place}
    assert engine.host.call("Host.getStorageDomains", host) == [engine.domain_id]
