"""The tiny guest's parts: the cpio writer, module order, the kernel's unpacking."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vds_bootstrap import initramfs, vmlinux


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive back: name -> (mode, content)."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        size, label_size = numbers[6], numbers[11]
        name = data[at + 110 : at + 110 + label_size - 1].decode()
        at = (at + 110 + label_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (numbers[1], data[at : at + size])
        at = (at + size + 3) // 4 * 4


@given(st.binary(max_size=70), st.binary(max_size=9))
def test_archive_reads_back_at_every_alignment(first: bytes, second: bytes) -> None:
    archive = initramfs.Archive()
    archive.file("a/b", first, 0o644)
    archive.file("a/longer-name", second)
    archive.link("l", "a/b")
    found = entries(archive.finished())
    assert found["a"] == (stat.S_IFDIR | 0o755, b"")
    assert found["a/b"] == (stat.S_IFREG | 0o644, first)
    assert found["a/longer-name"] == (stat.S_IFREG | 0o755, second)
    assert found["l"] == (stat.S_IFLNK | 0o777, b"a/b")


def test_archive_is_the_same_every_time() -> None:
    def make() -> bytes:
        archive = initramfs.Archive()
        archive.file("etc/x", b"1")
        archive.character_device("dev/console", 5, 1)
        return archive.finished()

    assert make() == make()


def test_archive_refuses_a_second_entry_of_a_name() -> None:
    archive = initramfs.Archive()
    archive.file("x", b"")
    with pytest.raises(ValueError, match="x is in the archive"):
        archive.file("/x", b"")


def module(folder: Path, name: str, *depends: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ko").write_bytes(
        b"\x7fELF..\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"
    )


def test_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    module(tmp_path / "kernel/net", "virtio_net", "net_failover", "virtio", "virtio-ring")
    module(tmp_path / "kernel/net", "net_failover", "failover")
    module(tmp_path / "kernel/net", "failover")
    module(tmp_path / "kernel/virtio", "virtio", "virtio-ring")
    module(tmp_path / "kernel/virtio", "virtio-ring")
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    order = [initramfs.module_name(path) for path in initramfs.module_order(tmp_path, ["virtio_net", "ext4", "virtio"])]
    assert order == ["failover", "net_failover", "virtio_ring", "virtio", "virtio_net"]


def test_module_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no module nothing"):
        initramfs.module_order(tmp_path, ["nothing"])


def lz4_literals(data: bytes) -> bytes:
    """An LZ4 block that holds the data as literals only (shorter than 15 bytes)."""
    assert len(data) < 15
    return bytes([len(data) << 4]) + data


def bzimage(payload: bytes) -> bytes:
    image = bytearray(2 * 512)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + os.urandom(16) + payload + b"tail"


def test_kernel_is_taken_out_of_an_lz4_image() -> None:
    blocks = [lz4_literals(b"\x7fELF1234"), lz4_literals(b"abcd")]
    payload = vmlinux.LZ4_LEGACY + b"".join(struct.pack("<I", len(block)) + block for block in blocks)
    assert vmlinux.extract(bzimage(payload + struct.pack("<I", 1 << 30))) == b"\x7fELF1234abcd"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (bytes(2048), "not a bzImage"),
        (bzimage(b"\x28\xb5\x2f\xfd...."), "28b52ffd"),
        (bzimage(vmlinux.LZ4_LEGACY + struct.pack("<I", 5) + lz4_literals(b"text")), "not an ELF"),
        (bzimage(vmlinux.LZ4_LEGACY + struct.pack("<I", 3) + b"\xf0\xff\xff"), "damaged"),
    ],
)
def test_what_is_no_kernel_is_refused(image: bytes, words: str) -> None:
    with pytest.raises(vmlinux.NotAKernel, match=words):
        vmlinux.extract(image)
