"""A local domain that the whole agent wrote for an Engine is, byte for byte, what the format says.

Read here by a reader of its own, which shares nothing with the agent's code: only `struct`, `hashlib` and `os`.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.agent_host import short_directory
from lab.engine_disks import BLANK, COW, OVF_SIZE, PREALLOCATED, RAW, SPARSE, Disk, EngineDisks
from lab.engine_wire import IRS_REQUESTS, IRS_RESPONSES, Connection
from lab.light import eventually
from needs import needs
from simulated_agent import SimulatedAgent, simulated_agent

pytestmark = [needs("root", "program:qemu-img", "program:qemu-io")]

MIB = 1 << 20
ALIAS = '{{"DiskAlias":"{}","DiskDescription":""}}'
VOLUME_KEYS = [
    "CAP",
    "CTIME",
    "DESCRIPTION",
    "DISKTYPE",
    "DOMAIN",
    "FORMAT",
    "GEN",
    "IMAGE",
    "LEGALITY",
    "PUUID",
    "SEQ",
]
VOLUME_KEYS += ["TYPE", "VOLTYPE"]
QCOW2_MAGIC, BACKING_FORMAT = b"QFI\xfb", 0xE2792ACA


@dataclass
class Written:
    """A domain and what was asked for."""

    engine: EngineDisks
    root: Path
    place: Path
    disks: dict[str, Disk] = field(default_factory=dict)
    begun: float = 0.0

    def data(self, name: str, image: str = "") -> Path:
        """A volume's file."""
        disk = self.disks[name]
        return self.root / "images" / (self.disks[image].image if image else disk.image) / disk.volume

    def meta(self, name: str, image: str = "") -> Path:
        """A volume's metadata."""
        return self.data(name, image).with_suffix(".meta")


@pytest.fixture(scope="module")
def written() -> Iterator[Written]:
    before = os.umask(0o022)
    try:
        with short_directory() as place, simulated_agent(place) as agent:
            with agent.local() as client:
                eventually(lambda: client.get("/api/v1/vms").status_code == 200, "the agent is ready")
            directory = place / "data_1"
            directory.mkdir()
            directory.chmod(0o777)
            with connection(agent, None) as general, connection(agent, None, irs=True) as irs:
                engine = EngineDisks(general, irs)
                begun = time.time()
                engine.add_domain("LOCALFS", f"{place}//data_1/")
                engine.make_data_centre()
                made = Written(engine, directory / engine.domain_id, directory, begun=begun)
                fill(made)
                yield made
                general.call("StoragePool.spmStop", {"storagepoolID": engine.pool_id})
    finally:
        os.umask(before)


def connection(agent: SimulatedAgent, events: str | None, *, irs: bool = False) -> Connection:
    """One of an Engine's connections."""
    queues = {"requests": IRS_REQUESTS, "responses": IRS_RESPONSES} if irs else {}
    line = socket.create_connection(("127.0.0.1", agent.port), 20)
    return Connection(line, agent.manager_context(), events=events, **queues)


def fill(made: Written) -> None:
    """The same images as in the original's sample, a cold merge, and a volume for OVF files."""
    engine, disks = made.engine, made.disks
    disks["raw"] = engine.new_disk(1 << 30, RAW, SPARSE, desc=ALIAS.format("raw"), sequence=0)
    disks["base"] = engine.new_disk(64 * MIB, RAW, PREALLOCATED, desc=ALIAS.format("chain"))
    disks["middle"] = engine.snapshot(disks["base"], 64 * MIB)
    disks["leaf"] = engine.snapshot(disks["middle"], 64 * MIB)
    source = engine.new_disk(128 * MIB, COW, SPARSE)
    disks["template"] = engine.make_template(source)
    engine.delete_disk(source)
    disks["clone"] = engine.clone(disks["template"], 128 * MIB)
    disks["qcow2"] = engine.new_disk(10 << 30, COW, SPARSE, desc="\u00fcber", sequence=0)
    disks["ovf"] = engine.new_disk(OVF_SIZE, RAW, PREALLOCATED, diskType="OVFS", desc="{}")
    disks["odd"] = engine.new_disk(MIB + 1, RAW, SPARSE)
    disks["merged"] = engine.new_disk(MIB, RAW, SPARSE)
    engine.cold_merge(disks["merged"], engine.snapshot(disks["merged"], MIB))
    engine.set_legality(disks["odd"], "ILLEGAL")


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.lstat().st_mode))


def pairs(text: str) -> list[tuple[str, str]]:
    return [tuple(line.split("=", 1)) for line in text.splitlines() if "=" in line]  # type: ignore[misc]


@dataclass(frozen=True)
class Header:
    """The header of a qcow2 image."""

    version: int
    cluster_bits: int
    size: int
    backing: str
    backing_format: str


def header(path: Path) -> Header:
    """Read one by the letter of QEMU's specification."""
    with path.open("rb") as file:
        head = file.read(4096)
    magic, version, offset, length, bits, size = struct.unpack(">4sIQIIQ", head[:32])
    assert magic == QCOW2_MAGIC
    at = struct.unpack(">I", head[100:104])[0]
    backing_format = ""
    while True:
        kind, count = struct.unpack(">II", head[at : at + 8])
        if not kind:
            break
        if kind == BACKING_FORMAT:
            backing_format = head[at + 8 : at + 8 + count].decode()
        at += 8 + (count + 7) // 8 * 8
    return Header(version, bits, size, head[offset : offset + length].decode() if offset else "", backing_format)


def test_names_and_modes_of_the_tree(written: Written) -> None:
    assert [path.name for path in written.place.iterdir()] == [written.engine.domain_id]
    assert sorted(path.name for path in written.root.iterdir()) == ["dom_md", "images", "master"]
    assert sorted(path.name for path in (written.root / "dom_md").iterdir()) == [
        "ids", "inbox", "leases", "metadata", "outbox",
    ]  # fmt: skip
    for path in written.root.rglob("*"):
        if "master" in path.relative_to(written.root).parts:
            continue
        if path.is_dir():
            assert mode(path) == "0o755", path
        elif path.name == "metadata" or path.suffix == ".meta":
            assert mode(path) == "0o644", path
        else:
            assert mode(path) == "0o660", path
            assert path.suffix == "", path
    assert mode(written.root) == "0o755"


def test_special_files(written: Written) -> None:
    special = {path.name: path.stat() for path in (written.root / "dom_md").iterdir()}
    assert special["inbox"].st_size == special["outbox"].st_size == 16 * MIB
    assert special["inbox"].st_blocks * 512 <= 2 * MIB, "sparse"
    # Local domains are locked by a file lock: nothing is ever in these.
    assert special["ids"].st_size == special["leases"].st_size == 0


def test_domain_metadata(written: Written) -> None:
    text = (written.root / "dom_md" / "metadata").read_bytes().decode()
    assert text.endswith("\n")
    *found, (last, seal) = pairs(text)
    assert "\n".join(f"{key}={value}" for key, value in [*found, (last, seal)]) + "\n" == text
    engine = written.engine
    assert found == [
        ("ALIGNMENT", "1048576"),
        ("BLOCK_SIZE", "512"),
        ("CLASS", "Data"),
        ("DESCRIPTION", "first"),
        ("IOOPTIMEOUTSEC", "10"),
        ("LEASERETRIES", "3"),
        ("LEASETIMESEC", "60"),
        ("LOCKPOLICY", ""),
        ("LOCKRENEWALINTERVALSEC", "5"),
        ("MASTER_VERSION", "1"),
        ("POOL_DESCRIPTION", "pool"),
        ("POOL_DOMAINS", f"{engine.domain_id}:Active"),
        ("POOL_SPM_ID", "-1"),
        ("POOL_SPM_LVER", "-1"),
        ("POOL_UUID", engine.pool_id),
        ("REMOTE_PATH", str(written.place)),
        ("ROLE", "Master"),
        ("SDUUID", engine.domain_id),
        ("TYPE", "LOCALFS"),
        ("VERSION", "5"),
    ]
    assert last == "_SHA_CKSUM"
    joined = "".join(f"{key}={value}" for key, value in sorted(found)).encode("ascii", "xmlcharrefreplace")
    assert seal == hashlib.sha1(joined, usedforsecurity=False).hexdigest()


# Name, capacity, format, allocation, kind, parent, sequence, generation, description, disk type, legality.
VOLUMES = [
    ("raw", 1 << 30, "RAW", "SPARSE", "LEAF", "", 0, 0, ALIAS.format("raw"), "DATA", "LEGAL"),
    ("base", 64 * MIB, "RAW", "PREALLOCATED", "INTERNAL", "", 1, 0, ALIAS.format("chain"), "DATA", "LEGAL"),
    ("middle", 64 * MIB, "COW", "SPARSE", "INTERNAL", "base", 2, 0, "", "DATA", "LEGAL"),
    ("leaf", 64 * MIB, "COW", "SPARSE", "LEAF", "middle", 3, 0, "", "DATA", "LEGAL"),
    ("template", 128 * MIB, "COW", "SPARSE", "SHARED", "", None, 0, "template", "DATA", "LEGAL"),
    ("clone", 128 * MIB, "COW", "SPARSE", "LEAF", "template", 1, 0, "", "DATA", "LEGAL"),
    ("qcow2", 10 << 30, "COW", "SPARSE", "LEAF", "", 0, 0, "\u00fcber", "DATA", "LEGAL"),
    ("ovf", OVF_SIZE, "RAW", "PREALLOCATED", "LEAF", "", 1, 0, "{}", "OVFS", "LEGAL"),
    ("odd", MIB + 4096, "RAW", "SPARSE", "LEAF", "", 1, 0, "", "DATA", "ILLEGAL"),
    ("merged", MIB, "RAW", "SPARSE", "LEAF", "", 1, 1, "", "DATA", "LEGAL"),
]


@pytest.mark.parametrize("expected", VOLUMES, ids=lambda item: item[0])
def test_volume_metadata(written: Written, expected: tuple) -> None:
    name, capacity, form, allocation, kind, parent, sequence, generation, description, disk_type, legality = expected
    raw = written.meta(name).read_bytes()
    assert len(raw) <= 512
    assert raw.endswith(b"\nEOF\n")
    found = pairs(raw.decode())
    assert [key for key, _ in found] == VOLUME_KEYS
    assert raw.decode() == "".join(f"{key}={value}\n" for key, value in found) + "EOF\n"
    values = dict(found)
    assert written.begun - 1 <= int(values.pop("CTIME")) <= time.time()
    if sequence is None:
        sequence = int(values["SEQ"])
        assert 0 <= sequence < 1 << 32
    assert values == {
        "CAP": str(capacity),
        "DESCRIPTION": description,
        "DISKTYPE": disk_type,
        "DOMAIN": written.engine.domain_id,
        "FORMAT": form,
        "GEN": str(generation),
        "IMAGE": written.disks[name].image,
        "LEGALITY": legality,
        "PUUID": written.disks[parent].volume if parent else BLANK,
        "SEQ": str(sequence),
        "TYPE": allocation,
        "VOLTYPE": kind,
    }


@pytest.mark.parametrize("expected", VOLUMES, ids=lambda item: item[0])
def test_volume_data(written: Written, expected: tuple) -> None:
    name, capacity, form, allocation, _, parent, *_ = expected
    path = written.data(name)
    if form == "COW":
        below = next((item[2] for item in VOLUMES if item[0] == parent), "")
        backing = written.disks[parent].volume if parent else ""
        words = {"COW": "qcow2", "RAW": "raw", "": ""}
        assert header(path) == Header(3, 16, capacity, backing, words[below])
        # All of its metadata and nothing else.
        assert path.stat().st_size < MIB
    else:
        assert path.stat().st_size == capacity
        used = path.stat().st_blocks * 512
        # The original leaves the first block to qemu-img, which writes it.
        assert used >= capacity - 4096 if allocation == "PREALLOCATED" else used <= 65536


def test_images_hold_their_volumes_and_no_more(written: Written) -> None:
    found = {path.name: sorted(item.name for item in path.iterdir()) for path in (written.root / "images").iterdir()}
    expected: dict[str, list[str]] = {}
    for disk in written.disks.values():
        expected.setdefault(disk.image, []).extend([disk.volume, f"{disk.volume}.meta"])
    template = written.disks["template"].volume
    expected[written.disks["clone"].image].extend([template, f"{template}.meta"])
    assert found == {image: sorted(names) for image, names in expected.items()}


def test_a_template_is_shared_by_hard_links(written: Written) -> None:
    for home, linked in (
        (written.data("template"), written.data("template", "clone")),
        (written.meta("template"), written.meta("template", "clone")),
    ):
        assert home.samefile(linked)
        assert home.stat().st_nlink == 2
    assert written.data("clone").stat().st_nlink == 1


def test_the_master_s_tree(written: Written) -> None:
    master = written.root / "master"
    assert {"tasks", "vms"} <= {path.name for path in master.iterdir()}
    for path in (master, master / "tasks", master / "vms"):
        assert mode(path) == "0o755"
    assert list((master / "tasks").iterdir()) == []
    # Beside the original's: cleared tasks leave nothing.
    names = {path.name for path in master.iterdir()} - {"tasks", "vms"}
    assert names <= {"operations"}
    assert [path.name for path in (master / "operations").glob("*") if re.search(r"[0-9a-f]{8}-", path.name)] == []


def test_qemu_finds_the_chains_whole(written: Written) -> None:
    for name in ("leaf", "clone", "qcow2", "template"):
        done = subprocess.run(
            ["qemu-img", "check", "-q", "-f", "qcow2", written.data(name)], check=False, capture_output=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, b"")
    shown = subprocess.run(
        ["qemu-img", "info", "--backing-chain", written.data("leaf")], check=True, capture_output=True, timeout=60
    )
    assert shown.stdout.count(b"image: ") == 3
