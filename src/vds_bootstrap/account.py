"""The agent's user and group: uid and gid 36, as hosts that share storage agree on."""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING

from vds_bootstrap.programs import run

if TYPE_CHECKING:
    from pathlib import Path

    from vds_bootstrap.layout import Layout
    from vds_bootstrap.manifest import Manifest

UID = GID = 36
COMPANY = ("libvirt", "kvm")  # groups whose members may use libvirt's socket and /dev/kvm
SANLOCK = "sanlock"  # user and group of its daemon, on hosts that share storage


def ensure(layout: Layout, manifest: Manifest) -> str:
    """Make the user, its group and its memberships where they are absent; returns what was found or done."""
    remarks = []
    if not _group(layout.group):
        number = ["--gid", str(GID)] if _name_of_gid(GID) is None else []
        if not number:
            remarks.append(f"gid {GID} belongs to {_name_of_gid(GID)}")
        with manifest.making("group", layout.group):
            run(["groupadd", "--system", *number, layout.group])
    if not _user(layout.user):
        number = ["--uid", str(UID)] if _name_of_uid(UID) is None else []
        if not number:
            remarks.append(f"uid {UID} belongs to {_name_of_uid(UID)}")
        with manifest.making("user", layout.user):
            _add_user(layout, number)
    for company in (*COMPANY, SANLOCK):
        _add_member(layout.user, company, manifest)
    # Its daemon is not root, and leases on shared storage are files of the agent's group.
    _add_member(SANLOCK, layout.group, manifest)
    facts = pwd.getpwnam(layout.user)
    words = f"{layout.user} is uid {facts.pw_uid}, gid {facts.pw_gid}"
    if remarks:
        words += f" ({' and '.join(remarks)}: shared storage of other hosts will not be usable)"
    return words


def ids(layout: Layout) -> tuple[int, int]:
    """The uid and gid of the agent."""
    return pwd.getpwnam(layout.user).pw_uid, grp.getgrnam(layout.group).gr_gid


def supplementary(layout: Layout) -> list[int]:
    """All gids that the agent's process gets."""
    facts = pwd.getpwnam(layout.user)
    return [facts.pw_gid, *(item.gr_gid for item in grp.getgrall() if layout.user in item.gr_mem)]


def remove_user(name: str) -> None:
    """Remove a user; one that is gone already is fine."""
    if _user(name):
        run(["userdel", name])


def remove_group(name: str) -> None:
    """Remove a group; one that is gone already is fine (userdel may have taken it along)."""
    if _group(name):
        run(["groupdel", name])


def remove_member(user: str, group: str) -> None:
    """Take a user out of a group; one that is not in it is fine."""
    facts = _group(group)
    if facts and user in facts.gr_mem:
        run(["gpasswd", "--delete", user, group])


def directory(path: Path, mode: int, owner: tuple[int, int], manifest: Manifest) -> None:
    """Make a directory with this mode and owner; one that is there already keeps both."""
    if path.is_dir():
        return
    missing = [path, *(parent for parent in path.parents if not parent.exists())]
    for folder in reversed(missing):
        if folder in manifest.path.parents:  # the list itself lies there
            folder.mkdir(mode=0o755)
            manifest.add("directory", folder)
        else:
            with manifest.making("directory", folder):
                folder.mkdir(mode=0o755)
    path.chmod(mode)
    os.chown(path, *owner)


def _add_member(user: str, company: str, manifest: Manifest) -> None:
    """Put a user into a group, if there are both."""
    group = _group(company)
    if group and _user(user) and user not in group.gr_mem:
        with manifest.making("member", f"{user} {company}"):
            run(["usermod", "--append", "--groups", company, user])


def _add_user(layout: Layout, number: list[str]) -> None:
    run(
        [
            "useradd", "--system", *number, "--gid", layout.group, "--home-dir", str(layout.state_dir),
            "--no-create-home", "--shell", "/usr/sbin/nologin", "--comment", "virtualization host agent", layout.user,
        ]
    )  # fmt: skip


def _user(name: str) -> pwd.struct_passwd | None:
    return next((item for item in pwd.getpwall() if item.pw_name == name), None)


def _group(name: str) -> grp.struct_group | None:
    return next((item for item in grp.getgrall() if item.gr_name == name), None)


def _name_of_uid(uid: int) -> str | None:
    return next((item.pw_name for item in pwd.getpwall() if item.pw_uid == uid), None)


def _name_of_gid(gid: int) -> str | None:
    return next((item.gr_name for item in grp.getgrall() if item.gr_gid == gid), None)
