"""What qemu-img does to the data of volumes, with real images: content, structure, sparseness, errors."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from domain_parts import eventually
from image_domains import COW, MIB, RAW, Storage, open_domain, refs, run
from needs import needs
from storage_domains import metadata
from vdsm.base.errors import VdsmError
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged, UnsupportedOperation
from vdsm.storage.ids import ImageId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.content import BLOCK, checksum
from vdsm.storage.images.image_errors import CopyFailed, ImageRefused
from vdsm.storage.images.mover import Target
from vdsm.storage.images.volume_tools import QemuTools
from vdsm.storage.kinds import Allocation, StorageType, VolumeFormat
from vdsm.storage.steps import Backing

pytestmark = needs("program:qemu-img", "program:qemu-io")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(open_domain(tmp_path / "one"), open_domain(tmp_path / "two", metadata(StorageType.NFS)))


@pytest.fixture
def one(storage: Storage) -> Domain:
    return next(iter(storage.domains.values()))


@pytest.fixture
def two(storage: Storage) -> Domain:
    return list(storage.domains.values())[1]


def alone(domain: Domain) -> VolumeRef:
    return VolumeRef(domain.id, ImageId(new_id()), VolumeId(new_id()))


class Told:
    """``Watch`` that remembers what it was told, and stops the work when it is said to."""

    def __init__(self, stop: bool = False) -> None:
        self.fractions: list[float] = []
        self.stop = stop

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def check(self) -> None:
        if self.stop and self.fractions:
            raise InterruptedError("cancelled")

    @contextlib.contextmanager
    def on_stop(self, function: Callable[[], object]) -> Iterator[None]:
        if self.stop:
            threading.Timer(0.01, function).start()
        yield


@pytest.mark.parametrize("formats", [(RAW, COW), (COW, COW)])
def test_merged_volume_has_what_the_top_had(storage: Storage, one: Domain, formats: tuple[VolumeFormat, ...]) -> None:
    base, top = storage.chain(one, *formats)
    before = storage.digest(top)
    told = Told()
    storage.images.watched(told).commit(top, base)
    assert (storage.digest(base), storage.digest(top)) == (before, before)
    assert told.fractions[-1] == 1.0
    storage.images.commit(top, base)  # nobody knows whether it was done before a crash
    assert storage.digest(base) == before
    assert storage.is_sound(base)


def test_leaks_of_an_interrupted_merge_are_mended(storage: Storage, one: Domain) -> None:
    base, top = storage.chain(one, COW, COW)
    before = storage.digest(top)
    leak(storage.path(base))
    assert not storage.is_sound(base)
    assert storage.images.check(base).leaks == 1
    assert storage.images.check(base).sound
    storage.images.commit(top, base)
    assert storage.digest(base) == before
    assert storage.is_sound(base)


def leak(path: str) -> None:
    """Count a cluster as used that nothing uses: what a writer that was killed leaves."""
    with Path(path).open("r+b") as file:
        table = int.from_bytes(os.pread(file.fileno(), 8, 48))
        block = int.from_bytes(os.pread(file.fileno(), 8, table))
        clusters = -(-os.fstat(file.fileno()).st_size // 65536)
        os.pwrite(file.fileno(), bytes(65536), clusters * 65536)
        os.pwrite(file.fileno(), b"\0\1", block + 2 * clusters)


def test_volume_is_merged_into_its_parent_only(storage: Storage, one: Domain) -> None:
    base, _, top = storage.chain(one, RAW, COW, COW)
    with pytest.raises(CopyFailed, match="does not stand on"):
        storage.images.commit(top, base)


def test_header_is_rebased_and_says_the_format(storage: Storage, one: Domain) -> None:
    base, middle, top = storage.chain(one, RAW, COW, COW)
    before = storage.digest(top)
    storage.images.commit(middle, base)
    for _ in range(2):
        storage.images.rebase(top, Backing(base.volume_id, RAW))
    assert storage.digest(top) == before
    info = run("qemu-img", "info", storage.path(top))
    assert f"backing file: {base.volume_id}\n" in info.replace(f" (actual path: {storage.path(base)})", "")
    assert "backing file format: raw" in info


@pytest.mark.parametrize("layout", [RAW, COW])
@pytest.mark.parametrize("allocation", [Allocation.SPARSE, Allocation.PREALLOCATED])
@pytest.mark.parametrize("state", list(Target))
def test_copy_is_what_the_guest_sees(
    storage: Storage, one: Domain, two: Domain, layout: VolumeFormat, allocation: Allocation, state: Target
) -> None:
    leaf = storage.chain(one, RAW, COW, COW)[-1]
    copy = storage.add(alone(two), format=layout, allocation=allocation)
    if state is Target.USED:
        storage.write(copy, "write -P 99 5M 2M")
    storage.images.copy(leaf, copy, state)
    assert storage.digest(copy) == storage.digest(leaf)
    assert storage.is_sound(copy)
    taken = two.backend.data(copy).allocated
    if allocation is Allocation.SPARSE:
        assert taken < 5 * MIB
    elif layout is RAW:
        assert taken >= 8 * MIB


def test_layers_are_copied_one_by_one(storage: Storage, one: Domain, two: Domain) -> None:
    chain = storage.chain(one, RAW, COW, COW)
    copies = refs(two, new_id(), chain)
    for source, target, parent in zip(chain, copies, [None, *copies], strict=False):
        storage.add(target, parent=parent, format=one.backend.volume(source).format)
        storage.images.copy(source, target, Target.FRESH)
    assert [storage.digest(copy) for copy in copies] == [storage.digest(source) for source in chain]
    assert all(storage.is_sound(copy) for copy in copies)
    sizes = [
        (two.backend.data(copy).allocated, one.backend.data(source).allocated)
        for copy, source in zip(copies, chain, strict=True)
    ]
    assert all(copied <= original + MIB // 4 for copied, original in sizes), sizes


def test_stopped_copy_says_so_and_its_process_is_gone(storage: Storage, one: Domain, two: Domain) -> None:
    source = storage.add(alone(one), format=RAW, capacity=256 * MIB)
    storage.write(source, "write -P 7 0 256M")
    copy = storage.add(alone(two), format=RAW, capacity=256 * MIB)
    with pytest.raises((InterruptedError, CopyFailed)):
        storage.images.watched(Told(stop=True)).copy(source, copy, Target.FRESH)
    assert two.backend.data(copy).allocated < 256 * MIB
    with Path(storage.path(copy)).open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # QEMU holds locks on what it has open


def test_what_qemu_refuses_is_told(storage: Storage, one: Domain, two: Domain) -> None:
    source = storage.add(alone(one), format=RAW, capacity=16 * MIB)
    storage.write(source, "write -P 7 0 16M")
    copy = storage.add(alone(two), format=COW, capacity=8 * MIB)
    with pytest.raises(CopyFailed, match=r"smaller|exceeds|Output file"):
        storage.images.copy(source, copy, Target.FRESH)


def test_questions_are_answered(storage: Storage, one: Domain) -> None:
    base, leaf = storage.chain(one, RAW, COW)
    info = storage.images.info(leaf)
    assert (info.format, info.virtual_size, info.compat, info.cluster_size) == ("qcow2", 8 * MIB, "1.1", 65536)
    assert (info.backing, info.backing_format, info.bitmaps, info.corrupt) == (base.volume_id, "raw", (), False)
    assert storage.images.info(base).format == "raw"
    whole, own = storage.images.measure(leaf, COW), storage.images.measure(leaf, COW, chain=False)
    assert whole.required > own.required > MIB
    assert whole.fully_allocated > 8 * MIB
    assert storage.images.measure(base, RAW).required == 8 * MIB
    checked = storage.images.check(leaf)
    assert checked.clean
    assert checked.end_offset <= Path(storage.path(leaf)).stat().st_size
    with pytest.raises(Damaged):
        storage.images.check(base)


def test_bitmaps_come_and_go_and_are_merged(storage: Storage, one: Domain, two: Domain) -> None:
    base, top = storage.chain(one, COW, COW)
    images, tools = storage.images, QemuTools(storage.images)
    tools.add_bitmap(top, "checkpoint")
    storage.write(top, "write -P 9 3M 64k")
    tools.merge_bitmaps(top, base)
    tools.merge_bitmaps(top, base)
    assert [(bitmap.name, bitmap.granularity, bitmap.enabled) for bitmap in images.info(base).bitmaps] == [
        ("checkpoint", 65536, True)
    ]
    with pytest.raises(UnsupportedOperation):
        tools.add_bitmap(top, "checkpoint")
    copy = storage.add(alone(two), format=COW)
    images.copy(top, copy, Target.FRESH, bitmaps=True)
    assert [bitmap.name for bitmap in images.info(copy).bitmaps] == ["checkpoint"]
    for _ in range(2):
        tools.remove_bitmap(top, "checkpoint")
    with pytest.raises(UnsupportedOperation):
        tools.add_bitmap(top, "checkpoint")  # the base has it
    tools.clear_bitmaps(base)
    assert images.info(base).bitmaps == images.info(top).bitmaps == ()
    assert storage.digest(copy) == storage.digest(top)


def test_header_changes_version_and_size(storage: Storage, one: Domain) -> None:
    (volume,) = storage.chain(one, COW)
    tools = QemuTools(storage.images)
    tools.amend(volume, "0.10")
    assert storage.images.info(volume).compat == "0.10"
    tools.amend(volume, "1.1")
    for _ in range(2):
        storage.images.resize(volume, 16 * MIB)
    assert (storage.images.info(volume).compat, storage.images.info(volume).virtual_size) == ("1.1", 16 * MIB)
    storage.images.resize(volume, 8 * MIB)
    assert storage.images.info(volume).virtual_size == 16 * MIB


@needs("program:qemu-nbd")
@pytest.mark.parametrize("layout", [RAW, COW])
def test_checksum_is_that_of_what_the_guest_sees(
    storage: Storage, one: Domain, two: Domain, layout: VolumeFormat
) -> None:
    leaf = storage.chain(one, RAW, COW, COW)[-1]
    copy = storage.add(alone(two), format=layout, capacity=9 * MIB)  # the last block is a short one
    storage.images.copy(leaf, copy, Target.FRESH)
    told = Told()
    found = checksum(storage.images, copy, told)
    content = subprocess.run(
        ["qemu-img", "dd", "-f", layout.qemu, "-O", "raw", f"if={storage.path(copy)}", f"of={one.mount}/flat", "bs=1M"],
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert content.returncode == 0, content.stderr
    data = Path(f"{one.mount}/flat").read_bytes()
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    parts = b"".join(hashlib.blake2b(block, digest_size=32).digest() for block in blocks)
    assert (found.algorithm, found.block_size) == ("blake2b", 4 * MIB)
    assert found.checksum == hashlib.blake2b(parts, digest_size=32).hexdigest()
    assert told.fractions[-1] == 1.0
    assert len(told.fractions) == 4
    storage.write(copy, "write -P 1 8M 512")
    assert checksum(storage.images, copy).checksum != found.checksum


@needs("program:qemu-nbd")
@pytest.mark.parametrize("formats", [(RAW,), (COW,), (RAW, COW)])
def test_zeros_are_given_back_in_place(storage: Storage, one: Domain, formats: tuple[VolumeFormat, ...]) -> None:
    leaf = storage.chain(one, *formats)[-1]
    storage.write(leaf, "write -P 0 4M 2M", "write -P 8 6M 64k")
    before, taken = storage.digest(leaf), one.backend.data(leaf).allocated
    for _ in range(2):
        QemuTools(storage.images).sparsify(leaf)
    assert storage.digest(leaf) == before
    assert storage.is_sound(leaf)
    assert one.backend.data(leaf).allocated <= taken - 2 * MIB + MIB // 8  # a table may have been added


HOSTILE = {
    "a path as backing file": ["-b", "/etc/passwd", "-F", "raw"],
    "a protocol as backing file": ["-b", "nbd:localhost:10809", "-F", "raw"],
    "json as backing file": ["-b", 'json:{"driver":"file","filename":"/etc/passwd"}', "-F", "raw"],
    "a path to the parent": ["-b", "../x/PARENT", "-F", "raw"],
    "another format of the parent": ["-b", "PARENT", "-F", "qcow2"],
    "no backing file": [],
}


@pytest.mark.parametrize("how", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_backing_is_never_opened(storage: Storage, one: Domain, two: Domain, how: list[str]) -> None:
    base, leaf = storage.chain(one, RAW, COW)
    words = [word.replace("PARENT", base.volume_id) for word in how]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", *words, storage.path(leaf), "8M")
    copy = storage.add(alone(two), format=RAW)
    images = storage.images
    for refused in (
        lambda: images.verify_untrusted(leaf),
        lambda: images.copy(leaf, copy, Target.FRESH),
        lambda: images.commit(leaf, base),
        lambda: images.info(leaf),
        lambda: images.measure(leaf, RAW),
    ):
        with pytest.raises(ImageRefused) as caught:
            refused()
        assert caught.value.code == 484
    assert storage.digest(copy) == storage.digest(storage.add(alone(two), format=RAW))


def test_uploads_are_verified(storage: Storage, one: Domain) -> None:
    images = storage.images
    sound, raw = storage.chain(one, COW)[0], storage.chain(one, RAW)[0]
    images.verify_untrusted(sound)
    images.verify_untrusted(raw)
    (one_more,) = storage.chain(one, COW)
    for spoil in (
        ["create", "-q", "-f", "qcow2", storage.path(one_more), "1T"],
        ["create", "-q", "-f", "raw", storage.path(one_more), "8M"],
        ["create", "-q", "-f", "qcow2", "-o", f"data_file={one.mount}/elsewhere", storage.path(one_more), "8M"],
        ["create", "-q", "-f", "qcow2", "-b", storage.path(raw), "-F", "raw", storage.path(one_more), "8M"],
    ):
        run("qemu-img", *spoil)
        with pytest.raises(ImageRefused):
            images.verify_untrusted(one_more)
    run("qemu-img", "create", "-q", "-f", "qcow2", storage.path(one_more), "8M")
    run("qemu-img", "snapshot", "-c", "inner", storage.path(one_more))
    with pytest.raises(ImageRefused, match="internal snapshots"):
        images.verify_untrusted(one_more)
    run("qemu-img", "create", "-q", "-f", "qcow2", storage.path(raw), "8M")
    with pytest.raises(ImageRefused, match="was to be raw"):
        images.verify_untrusted(raw)


def test_no_error_of_another_kind_comes_from_a_torn_image(storage: Storage, one: Domain) -> None:
    (volume,) = storage.chain(one, COW)
    content = Path(storage.path(volume)).read_bytes()
    for length in (0, 3, 71, 80, 104, 4096, 65536, 131072, 196608, 262144):
        Path(storage.path(volume)).write_bytes(content[:length])
        with contextlib.suppress(ImageRefused):
            storage.images.verify_untrusted(volume)
        with contextlib.suppress(VdsmError):
            storage.images.check(volume)


def test_mutated_images_are_opened_harmlessly_or_refused(storage: Storage, one: Domain) -> None:
    """Numbers of the header and the tables are made large, small and wrong; QEMU looks at those that are accepted."""
    (volume,) = storage.chain(one, COW)
    content = Path(storage.path(volume)).read_bytes()
    numbers = (0, 1, 0x10000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)
    outcomes = set()
    for at in (8, 16, 20, 24, 32, 36, 40, 48, 56, 60, 64, 72, 96, 100, 104, 0x10000, 0x20000, 0x30000, 0x40000):
        for number in numbers:
            wide = 4 if at in {16, 20, 32, 36, 56, 60, 96, 100} else 8
            changed = bytearray(content)
            changed[at : at + wide] = (number & ((1 << 8 * wide) - 1)).to_bytes(wide)
            Path(storage.path(volume)).write_bytes(changed)
            try:
                storage.images.verify_untrusted(volume)
                outcomes.add("accepted")
            except ImageRefused as error:
                outcomes.add(error.code)
    assert outcomes == {"accepted", 484}


def test_image_that_is_let_go_of_a_moment_later_is_waited_for(storage: Storage, one: Domain) -> None:
    """After the agent was killed its qemu-img may take a moment to be gone."""
    base, top = storage.chain(one, COW, COW)
    before = storage.digest(top)
    holder = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", storage.path(base)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: is_held(storage.path(base)))
        threading.Timer(0.5, holder.kill).start()
        storage.images.commit(top, base)
    finally:
        holder.kill()
        holder.communicate(timeout=20)
    assert storage.digest(base) == before


def is_held(path: str) -> bool:
    argv = ["qemu-img", "check", "-q", "-r", "leaks", "-f", "qcow2", path]
    return "another process" in subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stderr
