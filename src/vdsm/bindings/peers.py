"""Who is at the other end: by client certificate, by the kernel's word on a unix socket, or by bearer token."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from vdsm.api.contract import Role
from vdsm.base.errors import Denied

# Linux: the supplementary groups of the peer at the time it connected. Python has no name for it. Asking the kernel
# needs no user database, which may be on a network and hang.
_SO_PEERGROUPS: Final = getattr(socket, "SO_PEERGROUPS", 59)
# Python's getsockopt takes no more: 256 groups. Who has more is known by the first group only.
_GROUPS_BYTES: Final = 1024
_UCRED: Final = struct.Struct("3i")


class Way(StrEnum):
    """How a caller proved who it is."""

    CERTIFICATE = "certificate"
    UNIX = "unix"
    TOKEN = "token"  # noqa: S105 - a word of this enum
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``name`` is for the log: a certificate's common name, a user, a token's name."""

    name: str
    role: Role
    way: Way

    def __str__(self) -> str:
        return f"{self.way}:{self.name}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kernel says of a unix socket's peer."""

    pid: int
    uid: int
    groups: frozenset[int]


def certificate_caller(peer_certificate: Mapping[str, Any] | None) -> Caller | None:
    """The caller of a verified client certificate (as ``ssl`` decodes it), or None when there was none.

    The host's CA signs certificates for managers and hosts only, so they may do everything.
    """
    if not peer_certificate:
        return None
    names = dict(pair for rdn in peer_certificate.get("subject", ()) for pair in rdn)
    return Caller(str(names.get("commonName", "?"))[:200], Role.ADMIN, Way.CERTIFICATE)


def plain_caller(address: str) -> Caller:
    """The caller on a TCP port without TLS: whoever reaches the port may do everything, as its configuration says."""
    return Caller(address, Role.ADMIN, Way.PLAIN)


def credentials(connection: socket.socket) -> Credentials:
    """Ask the kernel who connected to a unix socket.

    Raises:
        OSError: it is no connected unix socket.
    """
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(packed)
    item = struct.calcsize("I")
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        groups = b""
    return Credentials(pid, uid, frozenset({gid, *struct.unpack(f"{len(groups) // item}I", groups)}))


def group_id(name: str) -> int | None:
    """The id of a group by its name; asks the user database, so only at start."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def user_id(name: str) -> int | None:
    """The id of a user by its name; asks the user database, so only at start."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def unix_caller(who: Credentials, allowed_group: int | None, denied_user: int | None = None) -> Caller:
    """The caller on the unix socket: root, or a member of the allowed group; both may do everything.

    QEMU runs with the group of the images, which may be the same one: ``denied_user`` keeps a guest that broke out of
    its QEMU from giving orders.

    Raises:
        Denied: neither, or the one who is denied.
    """
    if who.uid != 0 and who.uid == denied_user:
        raise Denied("the unix socket", "anybody but QEMU's user")
    if who.uid == 0 or (allowed_group is not None and allowed_group in who.groups):
        return Caller("root" if who.uid == 0 else f"uid {who.uid}", Role.ADMIN, Way.UNIX)
    raise Denied("the unix socket", f"root or group {allowed_group}")


def own_credentials() -> Credentials:
    """What the kernel would say of this process."""
    return Credentials(os.getpid(), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
