"""The calls that change something, done by root: mounts below the repository, and the repository's own directories.

A mount that fails or comes too late leaves nothing: what did get mounted is unmounted again. Only what waits in the
kernel for a dead server and cannot be killed may come up afterwards; it is counted (``process.abandoned``), and the
agent finds it in the table of mounts.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vdsm.base import process
from vdsm.base.errors import CommandFailed, Failed, Unfinished, VdsmError
from vdsm.privileged.calls import MountOutcome, RepositoryAccess, UnmountOutcome
from vdsm.privileged.mount_rules import MountRules
from vdsm.system import mounts, paths

log = logging.getLogger(__name__)

_MODE: Final = 0o755
# A target that was mounted more often than this is nobody's doing.
_MOST_LAYERS: Final = 8
# test(1) says no; other statuses say that it could not look.
_NO: Final = 1


@dataclass(frozen=True, slots=True)
class Person:
    """A user as whom a program looks at storage: ids, and the groups beside its own."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Mounting:
    """Mounts, and looks with the eyes of those who use them.

    Args:
        rules: what may be mounted and where.
        agent: vdsmd's user, who also owns the repository.
        qemu: the user of virtual machines.
        mount_deadline_s: seconds that a mount or unmount may take.
        look_deadline_s: seconds that a look at access may take.
    """

    def __init__(
        self, rules: MountRules, agent: Person, qemu: Person, *, mount_deadline_s: float, look_deadline_s: float
    ) -> None:
        self._rules: Final = rules
        self._agent: Final = agent
        self._qemu: Final = qemu
        self._mount_deadline_s: Final = mount_deadline_s
        self._look_deadline_s: Final = look_deadline_s

    def mount(self, source: str, target: str, vfs_type: str, options: str) -> MountOutcome:
        """See ``Privileged.mount``."""
        rules = self._rules
        rules.check_target(target)
        checked = rules.check_source(source, rules.check_type(vfs_type)), rules.options(options, vfs_type)
        if _is_mounted(target):
            return "already"
        try:
            mounts.mount(checked[0], target, vfs_type, checked[1], timeout_s=self._mount_deadline_s)
        except (CommandFailed, Unfinished):
            self._take_back(target)
            raise
        if not _is_mounted(target):
            raise Failed(f"mounting {source!r:.200}", "it is not in the table of mounts")
        return "mounted"

    def unmount(self, target: str, *, force: bool, lazy: bool) -> UnmountOutcome:
        """See ``Privileged.unmount``."""
        self._rules.check_target(target)
        outcome: UnmountOutcome = "absent"
        for _ in range(_MOST_LAYERS):
            if not _is_mounted(target):
                return outcome
            mounts.unmount(target, force=force, lazy=lazy, timeout_s=self._mount_deadline_s)
            outcome = "unmounted"
        raise Failed(f"unmounting {target}", "something mounts it again and again")

    def prepare_repository(self) -> None:
        """See ``Privileged.prepare_repository``."""
        root = self._rules.repository
        try:
            for parent in reversed(Path(root).parents):
                if not parent.exists():
                    parent.mkdir()
                    # Everybody walks through it, whatever the helper's umask.
                    parent.chmod(_MODE)
            for path in (root, f"{root}/mnt", f"{root}/hsm-tasks"):
                self._own(path)
        except OSError as error:
            raise Failed(f"preparing {root}", str(error)) from error

    def inspect_access(self, path: str) -> RepositoryAccess:
        """See ``Privileged.inspect_access``."""
        paths.check(path)
        agent = self._may(self._agent, path, "-d", "-r", "-w", "-x")
        return RepositoryAccess(
            is_directory=agent or self._may(self._agent, path, "-d"),
            agent=agent,
            qemu=self._may(self._qemu, path, "-d", "-r", "-x"),
        )

    def _own(self, path: str) -> None:
        """Make a directory the agent's; what is there is not followed if it is a link."""
        place = Path(path)
        if not place.is_symlink():
            place.mkdir(mode=_MODE, exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, self._agent.uid, self._agent.gid)
            os.fchmod(descriptor, _MODE)
        finally:
            os.close(descriptor)

    def _may(self, person: Person, path: str, *tests: str) -> bool:
        """Whether all of test(1)'s questions are answered with yes to this person.

        The kernel, and through it an NFS server, is asked by a process of that user, without capabilities: what a
        server makes of root (root_squash) plays no part.
        """
        questions: list[str] = []
        for number, option in enumerate(tests):
            questions += [*(["-a"] if number else []), option, path]
        argv = [*_as(person), "test", *questions]
        return process.run(argv, timeout_s=self._look_deadline_s, ok=(0, _NO), max_output=1 << 12).code == 0

    def _take_back(self, target: str) -> None:
        try:
            if self.unmount(target, force=True, lazy=True) == "unmounted":
                log.warning("%s came up too late and was unmounted", target)
        except VdsmError as error:
            log.warning("%s may be mounted now: %s", target, error)


def _as(person: Person) -> list[str]:
    if os.geteuid() != 0:
        return []
    groups = ["--groups", ",".join(map(str, person.groups))] if person.groups else ["--clear-groups"]
    return ["setpriv", "--reuid", str(person.uid), "--regid", str(person.gid), *groups, "--"]


def _is_mounted(target: str) -> bool:
    try:
        return any(item.target == target for item in mounts.table())
    except OSError as error:
        raise Failed("reading the table of mounts", str(error)) from error
