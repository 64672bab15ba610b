"""Connections with real mounts: links, FUSE, tmpfs and loop devices below a repository of the test's own.

NFS is proved with nodes (tests/lab/test_nfs_connections.py); what a dead server does is shown here by a mount program
that hangs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from needs import needs
from vdsm.base import threads
from vdsm.base.errors import BadParameter, CommandFailed, Unfinished
from vdsm.privileged.calls import MountOutcome
from vdsm.privileged.local import LocalPrivileged
from vdsm.privileged.mount_rules import MountRules
from vdsm.privileged.mounting import Mounting, Person
from vdsm.storage.connection.connections import Connection, Connections, Mounted, Status
from vdsm.storage.connection.mount_table import MountTable
from vdsm.storage.connection.repository import Repository
from vdsm.storage.kinds import StorageType

pytestmark = needs("root")

PATIENCE_S = 60.0
AGENT = Person(36, 36)
QEMU = Person(107, 107, (36,))


@dataclass
class Host:
    """A repository with a root helper in this process."""

    folder: Path
    repository: Repository
    privileged: LocalPrivileged
    connections: Connections

    def connect(self, *connections: Connection) -> list[int]:
        return [status.code for status in self.connections.connect(connections)]

    def disconnect(self, *connections: Connection) -> list[int]:
        return [status.code for status in self.connections.disconnect(connections)]

    def place(self, connection: Connection) -> Path:
        return Path(self.repository.mount_of(connection.spec, connection.type))

    def directory(self, name: str, mode: int = 0o755, owner: int = 36) -> Path:
        path = self.folder / name
        path.mkdir()
        path.chmod(mode)
        os.chown(path, owner, owner)
        return path

    def restarted(self) -> Connections:
        return Connections(self.repository, self.privileged)


def make_host(folder: Path, *, mount_deadline_s: float = PATIENCE_S, look_deadline_s: float = PATIENCE_S) -> Host:
    repository = Repository(str(folder / "dc"), str(folder / "run"))
    mounting = Mounting(
        MountRules(str(Path(repository.root).resolve()), ("bindfs",)),
        AGENT,
        QEMU,
        mount_deadline_s=mount_deadline_s,
        look_deadline_s=look_deadline_s,
    )
    privileged = LocalPrivileged(call_deadline_s=PATIENCE_S, kvm_probe_s=1, mounting=mounting)
    privileged.prepare_repository()
    connections = Connections(repository, privileged, mount_deadline_s=mount_deadline_s)
    return Host(folder, repository, privileged, connections)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    # 36 has to get there, so not pytest's own directory.
    path = Path(
        subprocess.run(["mktemp", "-d", "/tmp/cXXXXXX"], check=True, capture_output=True, text=True).stdout[:-1]
    )
    path.chmod(0o755)
    yield path
    for target in reversed(list(MountTable.read().by_target)):
        if target.startswith(f"{path}/"):
            subprocess.run(["umount", "-l", target], check=False, timeout=60)
    shutil.rmtree(path)


@pytest.fixture
def host(folder: Path) -> Host:
    return make_host(folder)


def local(path: Path | str, ident: str = "c") -> Connection:
    return Connection(ident, StorageType.LOCALFS, str(path))


def posix(spec: Path | str, vfs_type: str, options: str = "", ident: str = "c") -> Connection:
    return Connection(ident, StorageType.POSIXFS, str(spec), vfs_type=vfs_type, options=options)


def tmpfs(name: str, options: str = "mode=755,uid=36,gid=36", ident: str = "c") -> Connection:
    return posix(name, "tmpfs", options, ident)


def mounts_on(path: Path) -> int:
    table = subprocess.run(["findmnt", "-rn", "--mountpoint", path], check=False, capture_output=True, text=True)
    return len(table.stdout.splitlines())


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


# The tree


def test_the_tree_belongs_to_the_agent_and_links_are_not_followed(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        host = make_host(folder / "rhev")
    finally:
        os.umask(before)
    host.privileged.prepare_repository()
    for name in ("", "mnt", "hsm-tasks"):
        found = Path(host.repository.root, name).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (36, 36, 0o755)
    assert host.folder.stat().st_mode & 0o7777 == 0o755
    victim = host.directory("victim", owner=0)
    shutil.rmtree(host.repository.mounts)
    Path(host.repository.mounts).symlink_to(victim)
    with pytest.raises(Exception, match="mnt"):
        host.privileged.prepare_repository()
    assert victim.stat().st_uid == 0


# LOCALFS


def test_local_directory_is_linked_and_twice_is_fine(host: Host) -> None:
    directory = host.directory("data_1")
    connection = local(f"{directory}//")
    assert host.connections.connect([connection]) == [Status("c", 0)]
    assert host.connect(connection) == [0]
    link = host.place(connection)
    assert link.readlink() == directory
    assert "data__1" in link.name
    expected = [Mounted(str(link), StorageType.LOCALFS, str(directory))]
    assert host.connections.mounts() == host.restarted().mounts() == expected
    assert host.disconnect(connection, connection) == [0, 0]
    assert host.connections.mounts() == []
    assert directory.is_dir()


def test_stale_link_is_replaced(host: Host) -> None:
    connection = local(host.directory("data"))
    host.place(connection).symlink_to("/elsewhere")
    assert host.connections.mounts() == []
    assert host.connect(connection) == [0]
    assert str(host.place(connection).readlink()) == connection.spec


@pytest.mark.parametrize(
    ("mode", "owner", "code"),
    [(0o755, 36, 0), (0o777, 0, 0), (0o770, 36, 0), (0o755, 0, 469), (0o700, 36, 469), (0o555, 36, 469)],
)
def test_access_of_the_agent_and_of_qemu_is_checked(host: Host, mode: int, owner: int, code: int) -> None:
    connection = local(host.directory("data", mode, owner))
    assert host.connect(connection) == [code]
    assert len(host.connections.mounts()) == (not code)


def test_what_is_no_directory_is_a_bad_parameter(host: Host) -> None:
    (host.folder / "file").touch()
    bad = [local(host.folder / "file"), local(host.folder / "absent"), local("relative"), local("")]
    assert host.connect(*bad) == [1000] * 4
    assert [status.code for status in host.connections.validate(bad)] == [1000] * 4
    assert host.connections.mounts() == []


UGLY = ["a b", "li\nne", "tab\t", "back\\slash", "comma,", "quo'te\"", "$(touch x)", "ümlaut ☃", "-o suid", "#", "a:b"]


@pytest.mark.parametrize("name", UGLY)
def test_ugly_characters(host: Host, name: str) -> None:
    directory = host.directory(name)
    linked, mounted = local(directory, "1"), tmpfs(f"tmp/{name}", ident="2")
    assert host.connect(linked, mounted) == [0, 0]
    assert {(found.type, found.spec) for found in host.restarted().mounts()} == {
        (StorageType.LOCALFS, str(directory)),
        (StorageType.POSIXFS, f"tmp/{name}"),
    }
    assert host.disconnect(linked, mounted) == [0, 0]
    assert list(Path(host.repository.mounts).iterdir()) == []


# Mounts


def test_mounted_once_without_set_user_id_and_found_after_a_restart(host: Host) -> None:
    connection = tmpfs("store")
    place = host.place(connection)
    assert host.connect(connection) == [0]
    assert host.connect(connection) == [0]
    assert host.restarted().connect([connection]) == [Status("c", 0)]
    assert mounts_on(place) == 1
    found = MountTable.read().at(str(place))
    assert found is not None
    assert {"nosuid", "nodev"} <= set(found.options)
    assert host.restarted().mounts() == [Mounted(str(place), StorageType.POSIXFS, "store")]
    assert host.restarted().disconnect([connection]) == [Status("c", 0)]
    assert not place.exists()
    assert host.disconnect(connection) == [0]


@needs("root", "fuse", "program:bindfs")
def test_fuse_file_system(host: Host) -> None:
    connection = posix(host.directory("data"), "fuse.bindfs", "allow_other")
    place = host.place(connection)
    assert host.connect(connection, connection) == [0, 0]
    (place / "file").write_text("x")
    assert Path(connection.spec, "file").exists()
    assert mounts_on(place) == 1
    assert host.disconnect(connection) == [0]
    assert not place.exists()


@needs("root", "program:mkfs.ext4")
def test_file_with_a_file_system_is_known_behind_its_loop_device(host: Host) -> None:
    image = host.folder / "image one"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=36:36", image], check=True, timeout=60)
    connection = posix(image, "ext4", "loop")
    assert host.connect(connection) == [0]
    assert host.restarted().connect([connection]) == [Status("c", 0)]
    assert [found.spec for found in host.restarted().mounts()] == [str(image)]
    assert mounts_on(host.place(connection)) == 1
    assert host.disconnect(connection) == [0]


def test_what_may_not_be_used_is_unmounted_again(host: Host) -> None:
    connection = tmpfs("store", "mode=700,uid=36,gid=36")
    assert host.connect(connection) == [469]
    assert host.connections.mounts() == []
    assert not host.place(connection).exists()


def test_failed_mount_leaves_no_mount_point(host: Host) -> None:
    connection = posix(host.folder / "absent", "ext4", "loop")
    assert host.connect(connection) == [477]
    assert list(Path(host.repository.mounts).iterdir()) == []


def test_mount_that_is_in_use_is_disconnected(host: Host) -> None:
    connection = tmpfs("store")
    assert host.connect(connection) == [0]
    with (host.place(connection) / "file").open("w"):
        assert host.disconnect(connection) == [0]
        assert not host.place(connection).exists()
    assert host.connect(connection) == [0]
    assert list(host.place(connection).iterdir()) == []


def test_something_else_on_the_place_is_not_taken_for_ours(host: Host) -> None:
    connection = tmpfs("store")
    host.place(connection).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "other", host.place(connection)], check=True, timeout=60)
    assert host.connect(connection) == [477]
    assert [found.spec for found in host.connections.mounts()] == ["other"]


def test_stacked_mounts_go_together(host: Host) -> None:
    connection = tmpfs("store")
    assert host.connect(connection) == [0]
    subprocess.run(["mount", "-t", "tmpfs", "store", host.place(connection)], check=True, timeout=60)
    assert mounts_on(host.place(connection)) == 2
    assert host.disconnect(connection) == [0]
    assert not host.place(connection).exists()


def test_bad_ones_keep_nobody_from_the_others(host: Host) -> None:
    connections = [
        tmpfs("good", ident="1"),
        posix("x", "", ident="2"),
        posix("x", "proc", ident="3"),
        posix("x", "fuse.bash", ident="4"),
        tmpfs("y", "suid", ident="5"),
        Connection("6", StorageType.NFS, "no server"),
        Connection("7", StorageType.ISCSI, "s:/x"),
        Connection("8", StorageType.NFS, "s:/x", protocol_version="9"),
        local(host.directory("data"), "9"),
        tmpfs("x" * 300, ident="10"),
        tmpfs("\udcff", ident="11"),
    ]
    found = host.connections.connect(connections)
    codes = {status.id: status.code for status in found}
    assert all(bool(status.reason) == bool(status.code) for status in found)
    assert codes == {"1": 0, "9": 0} | {str(number): 1000 for number in (2, 3, 4, 5, 6, 7, 8, 10, 11)}
    assert list(codes) == [connection.id for connection in connections]
    assert len(host.connections.mounts()) == 2


def test_same_connection_from_many_sides_is_mounted_once(host: Host) -> None:
    calls: list[str] = []
    real = host.privileged.mount

    def counted(source: str, target: str, vfs_type: str, options: str) -> MountOutcome:
        calls.append(target)
        time.sleep(0.2)
        return real(source, target, vfs_type, options)

    host.privileged.mount = counted  # type: ignore[method-assign]
    pairs = threads.tmap(
        lambda number: host.connect(tmpfs("one", ident=str(number)), tmpfs(f"many-{number}")),
        range(8),
        workers=8,
        timeout_s=PATIENCE_S,
    )
    assert pairs == [[0, 0]] * 8
    assert len(calls) == 9
    assert mounts_on(host.place(tmpfs("one"))) == 1


def test_connect_and_disconnect_at_once_end_in_one_of_both(host: Host) -> None:
    connection = tmpfs("store")

    def turn(number: int) -> list[int]:
        return host.connect(connection) if number % 2 else host.disconnect(connection)

    codes = threads.tmap(turn, range(20), workers=6, timeout_s=PATIENCE_S)
    assert codes == [[0]] * 20
    assert mounts_on(host.place(connection)) == host.place(connection).exists()


def test_mount_that_came_up_late_is_listed_and_looked_at_before_it_is_used(host: Host) -> None:
    real = host.privileged.mount

    def late(source: str, target: str, vfs_type: str, options: str) -> MountOutcome:
        real(source, target, vfs_type, options)
        raise Unfinished("mount", 1.0)

    host.privileged.mount = late  # type: ignore[method-assign]
    closed, opened = tmpfs("closed", "mode=700", ident="closed"), tmpfs("open", ident="open")
    assert host.connect(closed, opened) == [477, 477]
    assert [found.spec for found in host.connections.mounts()] == ["closed", "open"]
    host.privileged.mount = real  # type: ignore[method-assign]
    assert host.connect(closed, opened) == [469, 0]
    assert [found.spec for found in host.connections.mounts()] == ["open"]


def test_repository_behind_a_link(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "rhev").symlink_to(folder / "real")
    host = make_host(folder / "rhev")
    mounted, linked = tmpfs("store"), local(host.directory("data"), "2")
    for _ in range(2):
        assert host.connect(mounted, linked) == [0, 0]
    assert {found.path for found in host.restarted().mounts()} == {str(host.place(mounted)), str(host.place(linked))}
    assert mounts_on(host.place(mounted)) == 1
    assert host.disconnect(mounted, linked) == [0, 0]
    assert host.connections.mounts() == []


@needs("root", "fuse", "program:bindfs")
def test_frozen_file_system_hinders_nobody_and_can_be_disconnected(host: Host) -> None:
    frozen, fresh = posix(host.directory("data"), "fuse.bindfs", "allow_other"), tmpfs("fresh", ident="2")
    assert host.connect(frozen) == [0]
    server = int(subprocess.run(["pgrep", "-f", f"bindfs {frozen.spec} "], check=True, capture_output=True).stdout)
    os.kill(server, signal.SIGSTOP)
    try:
        assert host.connect(frozen, fresh) == [0, 0]
        assert [found.spec for found in host.restarted().mounts()] == [frozen.spec, "fresh"]
        host.repository.clean(frozenset(MountTable.read().by_target))
        # A new look has to wait for it, and does so for its own deadline only.
        hasty = make_host(host.folder, look_deadline_s=1)
        assert hasty.connect(local(host.place(frozen) / "inner", "3"), fresh) == [477, 0]
        assert host.disconnect(frozen, fresh) == [0, 0]
        assert host.connections.mounts() == []
    finally:
        os.kill(server, signal.SIGCONT)
    assert host.connect(frozen) == [0]


# The root helper


def test_link_on_the_way_to_a_target_is_refused(host: Host) -> None:
    outside = host.directory("outside")
    target = Path(host.repository.mounts, "link")
    target.symlink_to(outside)
    with pytest.raises(BadParameter, match="link"):
        host.privileged.mount("x", str(target), "tmpfs", "")
    moved = Path(host.repository.root, "moved")
    Path(host.repository.mounts).rename(moved)
    (outside / "x").mkdir()
    Path(host.repository.mounts).symlink_to(outside)
    with pytest.raises(BadParameter, match="mnt"):
        host.privileged.mount("x", f"{host.repository.mounts}/x", "tmpfs", "")
    assert mounts_on(outside / "x") == 0


def test_unmounting_elsewhere_is_refused_and_nothing_there_is_fine(host: Host) -> None:
    elsewhere = host.directory("elsewhere")
    subprocess.run(["mount", "-t", "tmpfs", "x", elsewhere], check=True, timeout=60)
    with pytest.raises(BadParameter, match="target"):
        host.privileged.unmount(str(elsewhere), force=True, lazy=True)
    assert mounts_on(elsewhere) == 1
    assert host.privileged.unmount(f"{host.repository.mounts}/x", force=True, lazy=True) == "absent"


def test_unmounting_what_is_in_use_without_force_fails_and_leaves_it(host: Host) -> None:
    connection = tmpfs("store")
    assert host.connect(connection) == [0]
    place = host.place(connection)
    with (place / "file").open("w"), pytest.raises(CommandFailed, match="busy"):
        host.privileged.unmount(str(place), force=False, lazy=False)
    assert host.privileged.mount("x", str(place), "tmpfs", "") == "already"
    assert host.privileged.unmount(str(place), force=False, lazy=False) == "unmounted"


# A server that does not answer

HANGS = """#!/bin/sh
echo $$ > '{pid}'
[ "$1" = late ] && mount -i -t tmpfs -o mode=755,uid=36 late "$2"
exec sleep 1000
"""


@pytest.fixture
def hanging(folder: Path) -> Iterator[tuple[str, Path]]:
    """The name of a file system whose mount program never ends, and a file with that program's pid."""
    name = f"hang{os.getpid()}"
    program, pid = Path("/sbin", f"mount.{name}"), folder / "pid"
    program.write_text(HANGS.format(pid=pid))
    program.chmod(0o755)
    yield name, pid
    program.unlink()
    if pid.exists() and Path(f"/proc/{pid.read_text().strip()}").exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_dead_server_costs_its_own_call_a_deadline_and_nobody_else_anything(
    folder: Path, hanging: tuple[str, Path]
) -> None:
    host = make_host(folder, mount_deadline_s=6)
    dead = posix("dead", hanging[0], ident="dead")
    answers: list[list[Status]] = []
    one = threads.start("dead", lambda: answers.append(host.connections.connect([dead, tmpfs("beside", ident="2")])))
    eventually(hanging[1].exists)
    assert host.connect(tmpfs("other")) == [0]
    assert host.place(tmpfs("beside")).exists()
    assert [found.spec for found in host.connections.mounts()] == ["beside", "other"]
    assert not answers, "the dead one had answered already: nothing was shown"
    one.join(PATIENCE_S)
    assert answers == [[Status("dead", 477), Status("2", 0)]]
    assert not host.place(dead).exists()
    eventually(lambda: not Path(f"/proc/{hanging[1].read_text().strip()}").exists())


def test_mount_that_comes_too_late_is_taken_back(folder: Path, hanging: tuple[str, Path]) -> None:
    host = make_host(folder, mount_deadline_s=3)
    target = Path(host.repository.mounts, "late")
    target.mkdir()
    came_up = threading.Event()

    def watch() -> None:
        eventually(lambda: mounts_on(target))
        came_up.set()

    watching = threads.start("watch", watch)
    with pytest.raises(Unfinished):
        host.privileged.mount("late", str(target), hanging[0], "")
    watching.join(PATIENCE_S)
    assert came_up.is_set()
    assert mounts_on(target) == 0
