"""The storage of a host that manages itself: what a manager does with many verbs, each in one."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from vdsm.api.contract import Pool, Reply, Request, Role, delete, get, namespace, post, verb
from vdsm.api.storage_types import StorageType

StorageName = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$", description="the storage's name"),
]


class StorageRequest(Request, frozen=True, kw_only=True):
    """Storage for this host."""

    name: StorageName
    type: Literal["LOCALFS", "NFS", "POSIXFS"] = "LOCALFS"
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    """LOCALFS: an absolute path of a directory; NFS: `server:/export`; POSIXFS: what is mounted."""
    vfs_type: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """POSIXFS: the kernel's name of the file system."""
    mount_options: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    """More mount options, separated by commas."""
    nfs_version: Annotated[str, msgspec.Meta(max_length=8)] = "auto"


class StorageView(Reply, frozen=True, kw_only=True):
    """A storage domain of this host."""

    name: str
    domain_id: str
    pool_id: str
    type: StorageType
    path: str
    """As it was given."""
    status: Literal["active", "connecting", "failing"]
    """connecting: the agent is at it, and goes on until it works; failing: it does not answer as it should."""
    reason: str = ""
    """Why it is not active."""
    master: bool = False
    """It carries the pool's own data."""
    total: int | None = None
    """Bytes; None: not known now."""
    free: int | None = None


@namespace("Storage")
class Storage(Protocol):
    """Storage domains that this host uses without a manager; it remembers them and connects them when it starts.

    The first one makes a storage pool of this host's own. A host that a manager has connected to a pool refuses.
    """

    @verb(rest=get("/storage"), pool=Pool.STORAGE)
    def list(self) -> list[StorageView]:
        """This host's own storage domains; what does not answer is shown as it was known last."""

    @verb(rest=post("/storage", body="storage", status=201), role=Role.ADMIN, pool=Pool.STORAGE)
    def create(self, storage: StorageRequest) -> StorageView:
        """Make a storage domain, take it into this host's pool and use it.

        Args:
            storage: what, and how it is called.

        Raises:
            AlreadyExists: there is one of this name.
            DomainExists: there is a storage domain at that path already; `Storage.attach` takes it.
            StorageBusy: a manager has connected this host to a pool.
            BadParameter: names the field; nothing was made.
        """

    @verb(rest=post("/storage/attach", body="storage", status=201), role=Role.ADMIN, pool=Pool.STORAGE)
    def attach(self, storage: StorageRequest) -> StorageView:
        """Use a storage domain that exists, with all that is in it.

        One that belongs to a pool already brings this host into that pool, if this host has none yet; hosts then share
        it, and each needs a host id of its own in the configuration (``storage.host_id``).

        Args:
            storage: where it is, and how it is to be called here.

        Raises:
            AlreadyExists: there is one of this name.
            NoSuchDomain: there is no storage domain at that path.
            StorageBusy: a manager has connected this host to a pool, or the domain is another pool's.
        """

    @verb(rest=delete("/storage/{name}"), role=Role.ADMIN, pool=Pool.STORAGE)
    def remove(
        self,
        name: Annotated[str, msgspec.Meta(description="the storage's name")],
        destroy: Annotated[bool, msgspec.Meta(description="also delete everything in it")] = False,  # noqa: FBT002
    ) -> None:
        """Stop using a storage domain; its content stays, unless it is to be destroyed.

        Args:
            name: the storage's name.
            destroy: also delete the domain and all its images.

        Raises:
            NotFound: there is none of this name.
            StorageBusy: VMs use images in it.
        """
