"""What has to be mounted for a connection: source, type of file system, options. Pure.

    NFS        soft,nosharecache,timeo=<tenths>,retrans=<n>[,nfsvers=<n>[,minorversion=<m>]][,<options>][,nolock]
    POSIXFS    as the request says
    GLUSTERFS  as the request says

Source: storage format, section 1.3.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Final

from vdsm.storage.errors import InvalidParameter
from vdsm.storage.formats.mounts import normalize
from vdsm.storage.kinds import StorageType

log = logging.getLogger(__name__)

AUTO: Final = "auto"
_VERSION: Final = re.compile(r"([34])(?:\.([0-9]))?")
_NFS: Final = re.compile(r"(\[[^\]/]+\]|[^/:\[\]]+):/.*", re.DOTALL)
_LOCKS: Final = frozenset({"lock", "nolock"})
_MOST_TIMEOUT: Final = 36000
_MOST_RETRANS: Final = 100
# Below this an NFS server may be given up before sanlock has given up its lease.
_SANLOCK_DS: Final = 100


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection as it was asked for.

    Attributes:
        id: the manager's name for it.
        type: the kind of storage.
        spec: server:/export, a device, or a local directory.
        vfs_type: the file system, for POSIXFS.
        options: more mount options.
        protocol_version: of NFS: "3", "4", "4.1", "auto"; empty for the default.
        timeout: of NFS, in tenths of a second; None for the default.
        retrans: how often NFS asks again; None for the default.
    """

    id: str
    type: StorageType
    spec: str
    vfs_type: str = ""
    options: str = ""
    protocol_version: str = ""
    timeout: int | None = None
    retrans: int | None = None


@dataclass(frozen=True, slots=True)
class NfsDefaults:
    """What a connection gets that does not say it; see ``Connection``."""

    version: str = "3"
    timeout: int = 100
    retrans: int = 3


@dataclass(frozen=True, slots=True)
class MountRequest:
    """The arguments of mount(8), but for the target."""

    source: str
    vfs_type: str
    options: str


def mount_request(connection: Connection, defaults: NfsDefaults) -> MountRequest:
    """What to mount for a connection that is mounted.

    Raises:
        InvalidParameter: a field is missing or cannot be.
    """
    match connection.type:
        case StorageType.NFS:
            if not _NFS.fullmatch(connection.spec):
                raise InvalidParameter("connection", f"must be server:/export, is {connection.spec!r:.80}")
            return MountRequest(normalize(connection.spec), "nfs", nfs_options(connection, defaults))
        case StorageType.POSIXFS:
            if not connection.vfs_type:
                raise InvalidParameter("vfs_type", "is missing")
            if not connection.spec:
                raise InvalidParameter("connection", "is missing")
            return MountRequest(connection.spec, connection.vfs_type, connection.options)
        case StorageType.GLUSTERFS:
            return MountRequest(normalize(connection.spec), "glusterfs", connection.options)
        case StorageType.LOCALFS | StorageType.CIFS | StorageType.FCP | StorageType.ISCSI:
            raise InvalidParameter("domainType", f"{connection.type.value} is not mounted")


def nfs_options(connection: Connection, defaults: NfsDefaults) -> str:
    """The option string of an NFS connection.

    Raises:
        InvalidParameter: a number is out of range, or there is no such version.
    """
    version = connection.protocol_version or defaults.version
    timeout = defaults.timeout if connection.timeout is None else connection.timeout
    retrans = defaults.retrans if connection.retrans is None else connection.retrans
    if not 1 <= timeout <= _MOST_TIMEOUT:
        raise InvalidParameter("timeout", f"must be 1 to {_MOST_TIMEOUT} tenths of a second, is {timeout}")
    if not 0 <= retrans <= _MOST_RETRANS:
        raise InvalidParameter("retrans", f"must be 0 to {_MOST_RETRANS}, is {retrans}")
    if timeout < _SANLOCK_DS:
        log.warning("connection %s: with timeo=%d leases may outlive the storage", connection.id, timeout)
    words = ["soft", "nosharecache", f"timeo={timeout}", f"retrans={retrans}"]
    found = _VERSION.fullmatch(version)
    if found is not None:
        words.append(f"nfsvers={found[1]}")
        words += [f"minorversion={found[2]}"] if found[2] else []
    elif version.lower() != AUTO:
        raise InvalidParameter("protocol_version", f"must be 3, 4, 4.<n> or auto, is {version!r:.20}")
    more = [word for word in map(str.strip, connection.options.split(",")) if word]
    words += more
    # Version 3 locks through daemons that a host need not run; sanlock does not need them.
    if (found is None or found[1] == "3") and _LOCKS.isdisjoint(more):
        words.append("nolock")
    return ",".join(words)
