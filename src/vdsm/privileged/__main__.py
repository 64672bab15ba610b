"""supervdsmd: the root helper's process. ``supervdsmd [--config FILE] [--show-config]``; SIGTERM ends it."""

from __future__ import annotations

import argparse
import logging
import os
import pwd
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdsm.base import config as configuration
from vdsm.base import logs
from vdsm.base.errors import VdsmError
from vdsm.privileged.local import LocalPrivileged
from vdsm.privileged.mount_rules import MountRules
from vdsm.privileged.mounting import Mounting, Person
from vdsm.privileged.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vdsm.base.config import Config

log = logging.getLogger(__name__)

# The uid and gid that hosts which share storage agree on (storage format, section 1.3), and of VMs' processes.
SHARED_ID: Final = 36
QEMU_USERS: Final = ("qemu", "libvirt-qemu")
NOBODY: Final = 65534


def main(argv: Sequence[str] | None = None) -> int:
    """Run supervdsmd until SIGTERM or SIGINT; returns the exit status: 0, 1 (could not serve) or 2 (bad usage)."""
    parser = argparse.ArgumentParser(prog="supervdsmd", description="VDSM's root helper.")
    parser.add_argument("--config", type=Path, help=f"configuration file (default: {configuration.DEFAULT_PATH})")
    parser.add_argument("--show-config", action="store_true", help="print the effective configuration and exit")
    options = parser.parse_args(argv)
    try:
        config = configuration.load(options.config)
    except VdsmError as error:
        sys.stderr.write(f"supervdsmd: {error}\n")
        return 2
    if options.show_config:
        sys.stdout.write(configuration.show(config))
        return 0
    try:
        logs.configure(config.log.level, config.log_file("supervdsm"))
        _serve(config)
    except (VdsmError, OSError) as error:
        log.exception("cannot serve")
        sys.stderr.write(f"supervdsmd: {error}\n")
        return 1
    return 0


def _serve(config: Config) -> None:
    settings = config.supervdsm
    user = _user(config.users.user)
    implementation = LocalPrivileged(
        # The client must hear of a hanging storage before it gives up itself.
        call_deadline_s=settings.call_deadline_s * 2 / 3,
        kvm_probe_s=settings.kvm_probe_s,
        mounting=_mounting(config, user),
    )
    path = config.supervdsm_socket
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        if user is not None:
            # vdsmd makes its own socket there.
            os.chown(path.parent, user.pw_uid, user.pw_gid)
    server = Server(
        implementation,
        path,
        allowed_uids={0} if user is None else {0, user.pw_uid},
        settings=settings,
        owner=None if user is None else (os.getuid(), user.pw_gid),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.serve()


def _mounting(config: Config, user: pwd.struct_passwd | None) -> Mounting:
    settings = config.storage
    rules = MountRules(str(Path(settings.repository_dir).resolve()), settings.fuse_types)
    agent = Person(SHARED_ID, SHARED_ID) if user is None else Person(user.pw_uid, user.pw_gid, _groups(user))
    return Mounting(
        rules,
        agent,
        _qemu(),
        mount_deadline_s=settings.mount_deadline_s,
        look_deadline_s=config.supervdsm.call_deadline_s * 2 / 3,
    )


def _qemu() -> Person:
    """Who VMs run as; where nobody has one of the usual names, somebody with no more than the shared group."""
    for name in QEMU_USERS:
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return Person(user.pw_uid, user.pw_gid, (*_groups(user), SHARED_ID))
    return Person(NOBODY, SHARED_ID)


def _groups(user: pwd.struct_passwd) -> tuple[int, ...]:
    return tuple(os.getgrouplist(user.pw_name, user.pw_gid))


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        log.warning("there is no user %s: only root is served", name)
        return None


if __name__ == "__main__":
    sys.exit(main())
