"""What is mounted and what may be: the kernel's table, option strings, the root helper's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdsm.base.errors import BadParameter
from vdsm.privileged.mount_rules import MountRules
from vdsm.storage.connection.mount_requests import Connection, MountRequest, NfsDefaults, mount_request, nfs_options
from vdsm.storage.connection.mount_table import MountTable, likely_type, normalized
from vdsm.storage.errors import InvalidParameter
from vdsm.storage.kinds import StorageType
from vdsm.system import mounts

ROOT = "/rhev/data-center"
TABLE = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:50 / /rhev/data-center/mnt/server:_a__b rw,nosuid shared:3 master:2 - nfs4 server:/a_b rw,vers=4.2,soft
41 22 7:0 / /rhev/data-center/mnt/_img\040one rw - ext4 /dev/loop7 rw
42 22 0:51 / /rhev/data-center/mnt/glusterSD/h:_v rw - fuse.glusterfs h:/v.rdma rw,user_id=0
43 22 0:52 / /rhev/data-center/mnt/s:_l\012\134\011 rw - tmpfs s:/l\012\134\011 rw
44 40 0:53 / /rhev/data-center/mnt/server:_a__b/below rw - tmpfs x rw
45 22 0:54 / /over rw - tmpfs first rw
46 45 0:55 / /over rw - tmpfs  rw
damaged line
"""


@pytest.fixture
def table(tmp_path: Path) -> MountTable:
    (tmp_path / "loop7" / "loop").mkdir(parents=True)
    (tmp_path / "loop7" / "loop" / "backing_file").write_text("/data/img one\n")
    return MountTable.of(mounts.parse(TABLE), str(tmp_path))


def source(table: MountTable, name: str) -> str:
    found = table.at(f"{ROOT}/{name}")
    assert found is not None
    return normalized(found.source)


def test_table_is_read_with_its_escapes(table: MountTable) -> None:
    assert source(table, "mnt/s:_l\n\\\t") == "s:/l\n\\\t"
    assert source(table, "mnt/server:_a__b") == "server:/a_b"
    assert table.at(f"{ROOT}/mnt") is None
    nfs = table.at(f"{ROOT}/mnt/server:_a__b")
    assert nfs is not None
    assert nfs.options == ("rw", "nosuid", "rw", "vers=4.2", "soft")


def test_last_of_several_mounts_counts_and_a_source_may_be_empty(table: MountTable) -> None:
    over = table.at("/over")
    assert over is not None
    assert over.source == ""


def test_loop_devices_and_gluster_are_known_by_their_request(table: MountTable) -> None:
    assert source(table, "mnt/_img one") == "/data/img one"
    assert source(table, "mnt/glusterSD/h:_v") == "h:/v"


def test_mounts_of_a_directory_and_their_likely_types(table: MountTable) -> None:
    found = table.directly_below(f"{ROOT}/mnt")
    assert [likely_type(item) for item in found] == [StorageType.POSIXFS, StorageType.POSIXFS, StorageType.NFS]
    assert [likely_type(item) for item in table.directly_below(f"{ROOT}/mnt/glusterSD")] == [StorageType.GLUSTERFS]


def test_loop_device_that_is_gone_keeps_its_name(tmp_path: Path) -> None:
    found = MountTable.of(mounts.parse(TABLE), str(tmp_path)).at(f"{ROOT}/mnt/_img one")
    assert found is not None
    assert found.source == "/dev/loop7"


def test_the_kernels_own_table_can_be_read() -> None:
    assert MountTable.read().at("/") is not None


# What is asked of mount


def nfs(**fields: object) -> Connection:
    return Connection(id="c", type=StorageType.NFS, spec="s:/x", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("connection", "options"),
    [
        (nfs(), "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,nolock"),
        (nfs(protocol_version="3"), "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,nolock"),
        (nfs(protocol_version="4"), "soft,nosharecache,timeo=100,retrans=3,nfsvers=4"),
        (nfs(protocol_version="4.1"), "soft,nosharecache,timeo=100,retrans=3,nfsvers=4,minorversion=1"),
        (nfs(protocol_version="4.0"), "soft,nosharecache,timeo=100,retrans=3,nfsvers=4,minorversion=0"),
        (nfs(protocol_version="auto"), "soft,nosharecache,timeo=100,retrans=3,nolock"),
        (nfs(options="rsize=8192, lock"), "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,rsize=8192,lock"),
        (nfs(options="nolock,ro"), "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,nolock,ro"),
        (nfs(options="ro"), "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,ro,nolock"),
        (nfs(timeout=600, retrans=0, protocol_version="4"), "soft,nosharecache,timeo=600,retrans=0,nfsvers=4"),
    ],
)
def test_nfs_options_are_the_formats(connection: Connection, options: str) -> None:
    assert nfs_options(connection, NfsDefaults()) == options


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol_version": "2"},
        {"protocol_version": "3,suid"},
        {"protocol_version": "4.11"},
        {"timeout": 0},
        {"timeout": 36001},
        {"retrans": -1},
        {"retrans": 101},
    ],
)
def test_numbers_of_nfs_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        mount_request(nfs(**fields), NfsDefaults())


def test_requests_of_each_type() -> None:
    posix = Connection("c", StorageType.POSIXFS, "//server/share", vfs_type="cifs", options="uid=36")
    assert mount_request(posix, NfsDefaults()) == MountRequest("//server/share", "cifs", "uid=36")
    gluster = Connection("c", StorageType.GLUSTERFS, "h:/v/")
    assert mount_request(gluster, NfsDefaults()) == MountRequest("h:/v", "glusterfs", "")
    v6 = Connection("c", StorageType.NFS, "[fe80::1]://x/")
    assert mount_request(v6, NfsDefaults()).source == "[fe80::1]:/x"
    for bad in (
        Connection("c", StorageType.POSIXFS, "/x"),
        Connection("c", StorageType.POSIXFS, "", vfs_type="ext4"),
        Connection("c", StorageType.NFS, "/no/server"),
        Connection("c", StorageType.NFS, "server:relative"),
        Connection("c", StorageType.ISCSI, "s:/x"),
        Connection("c", StorageType.LOCALFS, "/x"),
    ):
        with pytest.raises(InvalidParameter):
            mount_request(bad, NfsDefaults())


# What the root helper allows

RULES = MountRules(ROOT, ("sshfs",))


@pytest.mark.parametrize("name", ["mnt/s:_x", "mnt/glusterSD/h:_v", "mnt/a b\n", "mnt/" + "x" * 255])
def test_targets_one_level_below_are_allowed(name: str) -> None:
    assert RULES.check_target(f"{ROOT}/{name}") == f"{ROOT}/{name}"


@pytest.mark.parametrize(
    "target",
    [
        "/etc",
        "/",
        "",
        "mnt/x",
        ROOT,
        f"{ROOT}/x",
        f"{ROOT}/mnt",
        f"{ROOT}/mnt/",
        f"{ROOT}/mnt/.",
        f"{ROOT}/mnt/..",
        f"{ROOT}/mnt/../x",
        f"{ROOT}/mnt//x",
        f"{ROOT}/mnt/x/",
        f"{ROOT}/mnt/x/y",
        f"{ROOT}/mnt/glusterSD",
        f"{ROOT}/mnt/blockSD",
        f"{ROOT}/mnt/blockSD/x",
        f"{ROOT}/mnt/glusterSD/x/y",
        f"{ROOT}/mnt/glusterSD/../x",
        f"{ROOT}2/mnt/x",
        f"{ROOT}/mnt/x\0",
        f"{ROOT}/mnt/\udcff",
        f"{ROOT}/mnt/" + "x" * 256,
    ],
)
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(BadParameter, match="target"):
        RULES.check_target(target)


@pytest.mark.parametrize(
    "name", ["nfs", "nfs4", "ext4", "xfs", "ceph", "glusterfs", "9p", "tmpfs", "fuse.sshfs", "cifs"]
)
def test_types_of_storage_are_allowed(name: str) -> None:
    assert RULES.check_type(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "proc", "sysfs", "Overlay", "fuse", "fuse3", "fuse.bash", "fuse.", "fuse.sshfs/../bash", "-x", "a b", "a,b",
     "vfat", "/bin/sh", "x" * 65, "ext4\n", "none"],
)  # fmt: skip
def test_other_types_are_refused(name: str) -> None:
    with pytest.raises(BadParameter, match="vfs_type"):
        RULES.check_type(name)


def test_no_set_user_id_programs_and_devices_whatever_is_asked() -> None:
    assert RULES.options("", "nfs") == ("nosuid", "nodev")
    assert RULES.options("defaults,ro, rsize=8192,", "xfs") == ("defaults", "ro", "rsize=8192", "nosuid", "nodev")
    assert RULES.options("nfsvers=4,context=a:b:c,x=[::1]/y", "fuse.sshfs")[-2:] == ("nosuid", "nodev")
    assert RULES.options("_netdev,password=p$'\\ä", "cifs") == ("_netdev", "password=p$'\\ä", "nosuid", "nodev")


@pytest.mark.parametrize(
    "options",
    ["suid", "ro,dev", "bind", "remount", "X-mount.owner=36", "x-mount.mkdir", "ssh_command=sh", "a=$(id)", "a;b",
     "a=`b`", "a='b'", 'a="b', "a=b\\c", "a\nb", "=a", "log-file=/etc/x", "SUID", "a" * 5000, "a=\udcff", "move",
     "rbind=x"],
)  # fmt: skip
def test_other_options_are_refused(options: str) -> None:
    with pytest.raises(BadParameter, match="options"):
        RULES.options(options, "fuse.sshfs")


@pytest.mark.parametrize("options", ["suid", "a\nb", "a=b\nc", "a=\0", "bind", "=a", "a b", "$(x)"])
def test_options_that_no_type_takes(options: str) -> None:
    with pytest.raises(BadParameter, match="options"):
        RULES.options(options, "cifs")


def test_sources_that_cannot_be_are_refused() -> None:
    assert RULES.check_source("s:/x y\n", "nfs") == "s:/x y\n"
    assert RULES.check_source("[::1]:/vol", "glusterfs") == "[::1]:/vol"
    for source, name in (
        ("", "nfs"),
        ("a\0b", "nfs"),
        ("\udcff", "nfs"),
        ("x" * 4096, "nfs"),
        ("/volfile", "glusterfs"),
    ):
        with pytest.raises(BadParameter, match="source"):
            RULES.check_source(source, name)
