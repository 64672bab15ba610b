"""What storage.access promises, on the calls in this process and in a helper process."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdsm.storage.access import MAX_BYTES, FileAccess, FileKind
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits


@pytest.fixture(scope="module")
def helpers() -> Iterator[HelperPool]:
    pool = HelperPool(HelperLimits(timeout_s=60))
    yield pool
    assert pool.stop(20)


@pytest.fixture(params=["local", "helper"])
def files(request: pytest.FixtureRequest, helpers: HelperPool) -> FileAccess:
    return LocalFiles() if request.param == "local" else helpers.of("contract")


def at(base: Path, *parts: str) -> str:
    return str(base.joinpath(*parts))


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_create_is_exclusive_and_has_its_mode_whatever_the_umask(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "new")
    files.create(path, b"content", mode=0o666)
    assert (files.read(path), mode_of(path)) == (b"content", 0o666)
    with pytest.raises(FileExistsError) as caught:
        files.create(path, b"other")
    assert caught.value.filename == path
    assert files.read(path) == b"content"


def test_create_does_not_follow_a_link(files: FileAccess, tmp_path: Path) -> None:
    Path(tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        files.create(at(tmp_path, "link"))
    assert files.listdir(str(tmp_path)) == ["link"]


def test_replace_puts_new_content_in_place_and_leaves_links_alone(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "metadata")
    files.replace(path, b"one", mode=0o600)
    files.link(path, at(tmp_path, "linked"))
    (tmp_path / "metadata.new").write_bytes(b"what a crash left, longer than what comes")
    files.replace(path, b"two", mode=0o640)
    assert (files.read(path), mode_of(path)) == (b"two", 0o640)
    assert files.read(at(tmp_path, "linked")) == b"one"
    assert files.listdir(str(tmp_path)) == ["linked", "metadata"]


def test_replace_that_fails_leaves_nothing(files: FileAccess, tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(at(tmp_path, "metadata"), b"x")
    assert files.listdir(str(tmp_path)) == ["metadata"]


@pytest.mark.parametrize("direct", [False, True])
def test_reads_parts(files: FileAccess, tmp_path: Path, direct: bool) -> None:
    content = os.urandom(10_000)
    path = at(tmp_path, "file")
    files.create(path, content)
    assert files.read(path, direct=direct) == content
    assert files.read(path, size=100, direct=direct) == content[:100]
    assert files.read(path, offset=4096, size=4096, direct=direct) == content[4096:8192]
    assert files.read(path, offset=8192, size=9000, direct=direct) == content[8192:]
    assert files.read(path, offset=20_480, size=10, direct=direct) == b""
    files.create(at(tmp_path, "empty"))
    assert files.read(at(tmp_path, "empty"), direct=direct) == b""


@pytest.mark.parametrize("direct", [False, True])
def test_writes_in_place(files: FileAccess, tmp_path: Path, direct: bool) -> None:
    path = at(tmp_path, "file")
    files.truncate(path, 16_384, create=True, mode=0o660)
    files.write_at(path, 8192, b"x" * 512, direct=direct)
    assert files.read(path) == bytes(8192) + b"x" * 512 + bytes(16_384 - 8192 - 512)
    with pytest.raises(FileNotFoundError):
        files.write_at(at(tmp_path, "absent"), 0, b"x")
    assert files.stat(path).mode == 0o660


def test_direct_writes_must_be_aligned(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "file")
    files.create(path, bytes(4096))
    with pytest.raises(OSError) as caught:
        files.write_at(path, 1, b"x" * 100, direct=True)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, path)
    assert files.read(path) == bytes(4096)


def test_too_much_at_once_is_refused(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "large")
    files.truncate(path, MAX_BYTES + 1, create=True)
    for ask in (
        lambda: files.read(path),
        lambda: files.create(at(tmp_path, "new"), bytes(MAX_BYTES + 1)),
        lambda: files.replace(at(tmp_path, "new"), bytes(MAX_BYTES + 1)),
        lambda: files.write_at(path, 0, bytes(MAX_BYTES + 1)),
    ):
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno == errno.EFBIG
    assert len(files.read(path, size=MAX_BYTES)) == MAX_BYTES
    assert files.listdir(str(tmp_path)) == ["large"]


def test_reads_many_with_each_ones_error(files: FileAccess, tmp_path: Path) -> None:
    paths = [at(tmp_path, str(number)) for number in range(5)]
    for path in paths[:3]:
        files.create(path, path.encode() * 100)
    found = files.read_many([*paths, str(tmp_path)], size=50)
    assert found[:3] == [path.encode()[:50] for path in [p * 100 for p in paths[:3]]]
    assert [type(error) for error in found[3:]] == [FileNotFoundError, FileNotFoundError, IsADirectoryError]
    assert getattr(found[3], "filename", None) == paths[3]


def test_reads_many_up_to_the_limit(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "large")
    files.truncate(path, MAX_BYTES, create=True)
    files.create(at(tmp_path, "small"), b"x")
    whole, cut, after = files.read_many([path, path, at(tmp_path, "small")], size=MAX_BYTES)
    assert isinstance(whole, bytes)
    assert len(whole) == MAX_BYTES
    assert [getattr(error, "errno", None) for error in (cut, after)] == [errno.EFBIG] * 2


def test_lists_and_scans(files: FileAccess, tmp_path: Path) -> None:
    files.mkdir(at(tmp_path, "b"), mode=0o777)
    files.create(at(tmp_path, "a"), b"12345", mode=0o640)
    Path(tmp_path / "c").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d")
    assert files.listdir(str(tmp_path)) == ["a", "b", "c", "d"]
    entries = files.scan(str(tmp_path))
    assert [(entry.name, entry.stat.kind) for entry in entries] == [
        ("a", FileKind.FILE),
        ("b", FileKind.DIRECTORY),
        ("c", FileKind.LINK),
        ("d", FileKind.FIFO),
    ]
    assert entries[0].stat == files.stat(at(tmp_path, "a"))
    assert mode_of(at(tmp_path, "b")) == 0o777
    with pytest.raises(NotADirectoryError):
        files.listdir(at(tmp_path, "a"))


def test_stat_tells_what_the_kernel_says(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "file")
    files.truncate(path, 1 << 30, create=True, mode=0o600)
    files.link(path, at(tmp_path, "other"))
    found, real = files.stat(path), Path(path).stat()
    assert (found.size, found.allocated, found.links, found.mode) == (1 << 30, 0, 2, 0o600)
    assert (found.inode, found.device, found.uid, found.gid) == (real.st_ino, real.st_dev, real.st_uid, real.st_gid)
    assert found.modified_ns == real.st_mtime_ns
    Path(tmp_path / "link").symlink_to(path)
    assert files.stat(at(tmp_path, "link")).kind is FileKind.LINK
    assert files.stat(at(tmp_path, "link"), follow=True) == found
    assert files.stat_many([path, at(tmp_path, "nothing"), at(tmp_path, "link")]) == [
        found,
        None,
        files.stat(at(tmp_path, "link")),
    ]
    with pytest.raises(NotADirectoryError):
        files.stat_many([f"{path}/below"])
    assert files.stat("/dev/null").kind is FileKind.CHAR


def test_space(files: FileAccess, tmp_path: Path) -> None:
    space, real = files.statvfs(str(tmp_path)), os.statvfs(tmp_path)
    assert (space.block_size, space.total) == (real.f_bsize, real.f_blocks * real.f_frsize)
    assert space.available <= space.free <= space.total
    assert space.read_only is False


def test_takes_space_on_the_disk(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "file")
    files.create(path, b"kept")
    files.allocate(path, 0, 1 << 20)
    found = files.stat(path)
    assert (found.size, found.allocated >= 1 << 20) == (1 << 20, True)
    assert files.read(path) == b"kept" + bytes((1 << 20) - 4)


def test_truncate_cuts_and_grows(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "file")
    with pytest.raises(FileNotFoundError):
        files.truncate(path, 5)
    files.create(path, b"1234567890")
    files.truncate(path, 3, create=True, mode=0o600)
    files.truncate(path, 5)
    assert (files.read(path), mode_of(path)) == (b"123\0\0", 0o644)


def test_names_come_and_go(files: FileAccess, tmp_path: Path) -> None:
    one, two = at(tmp_path, "one"), at(tmp_path, "two")
    files.touch(one, mode=0o600)
    os.utime(one, (1, 1))
    files.touch(one)
    assert files.stat(one).modified_ns > 10**9
    assert mode_of(one) == 0o600
    files.chmod(one, 0o644)
    assert mode_of(one) == 0o644
    files.rename(one, two)
    files.fsync(two)
    files.fsync(str(tmp_path))
    assert files.listdir(str(tmp_path)) == ["two"]
    files.mkdir(at(tmp_path, "dir"))
    files.rename(two, at(tmp_path, "dir", "two"))
    with pytest.raises(OSError) as caught:
        files.rmdir(at(tmp_path, "dir"))
    assert caught.value.errno == errno.ENOTEMPTY
    files.unlink(at(tmp_path, "dir", "two"))
    files.rmdir(at(tmp_path, "dir"))
    assert files.listdir(str(tmp_path)) == []


def test_link_and_rename_name_both_paths_in_errors(files: FileAccess, tmp_path: Path) -> None:
    one, two = at(tmp_path, "one"), at(tmp_path, "two")
    for call in (files.rename, files.link):
        with pytest.raises(FileNotFoundError) as caught:
            call(one, two)
        assert (caught.value.filename, caught.value.filename2) == (one, two)


def test_glob(files: FileAccess, tmp_path: Path) -> None:
    for name in ("a-1", "a-2", "b-1", ".a-3"):
        (tmp_path / name / "dom_md").mkdir(parents=True)
    (tmp_path / "a-4").touch()
    assert files.glob(f"{tmp_path}/a-*/dom_md") == [at(tmp_path, "a-1", "dom_md"), at(tmp_path, "a-2", "dom_md")]
    assert files.glob(f"{tmp_path}/[!a]-?") == [at(tmp_path, "b-1")]
    assert files.glob(f"{tmp_path}/.a*") == [at(tmp_path, ".a-3")]
    assert files.glob(f"{tmp_path}/none/*") == []
    assert files.glob(str(tmp_path)) == [str(tmp_path)]
    with pytest.raises(OSError):
        files.glob("relative/*")


def test_access(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "file")
    assert not files.access(path)
    files.create(path, mode=0o600)
    assert files.access(path)
    assert files.access(path, read=True, write=True)
    assert not files.access(path, execute=True)
    assert files.access(str(tmp_path), read=True, write=True, execute=True)


@pytest.mark.parametrize(
    "name", ["a b", "ü—中", "nl\n", "-rf", "$(x)`'\"", b"\xff\xfe raw".decode("utf-8", "surrogateescape")]
)
def test_ugly_names(files: FileAccess, tmp_path: Path, name: str) -> None:
    path = at(tmp_path, name)
    files.create(path, b"x")
    assert files.listdir(str(tmp_path)) == [name]
    assert files.glob(f"{tmp_path}/*") == [path]
    assert [entry.name for entry in files.scan(str(tmp_path))] == [name]
    assert files.stat_many([path]) == [files.stat(path)]
    assert files.read(path) == b"x"
    with pytest.raises(FileExistsError) as caught:
        files.create(path)
    assert caught.value.filename == path


def test_nothing_waits_for_a_pipe(files: FileAccess, tmp_path: Path) -> None:
    path = at(tmp_path, "pipe")
    os.mkfifo(path)
    for ask in (lambda: files.read(path), lambda: files.write_at(path, 0, b"x")):
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno in {errno.EINVAL, errno.ENXIO}


def test_a_null_byte_in_a_path_is_an_error_of_the_caller(files: FileAccess) -> None:
    with pytest.raises(ValueError):
        files.stat("/tmp/\0")


def test_probe_finds_the_smallest_direct_write_and_leaves_nothing(files: FileAccess, tmp_path: Path) -> None:
    assert files.probe_block_size(str(tmp_path)) in {1, 512, 4096}
    assert files.listdir(str(tmp_path)) == []


def test_a_deadline_changes_nothing_for_calls_that_are_quick(files: FileAccess, tmp_path: Path) -> None:
    files.within(30).create(at(tmp_path, "file"), b"x")
    assert files.within(20).read(at(tmp_path, "file")) == b"x"


def test_many_at_once(files: FileAccess, tmp_path: Path) -> None:
    failures: list[Exception] = []

    def work(number: int) -> None:
        path = at(tmp_path, str(number))
        try:
            for turn in range(10):
                files.replace(path, b"%d" % turn * 1000)
                assert files.read(path) == b"%d" % turn * 1000
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert files.listdir(str(tmp_path)) == [str(number) for number in range(6)]
