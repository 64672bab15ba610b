"""The verbs of storage domains."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import BoolText, Pool, Role, Text, Wire, delete, get, namespace, post, put, verb
from vdsm.api.storage_types import (
    BLANK,
    DomainClass,
    DomainDump,
    DomainIdParam,
    DomainInfo,
    DomainName,
    DomainStats,
    FileStats,
    ImageIdParam,
    PoolIdParam,
    PoolOfDomain,
    StorageType,
)

MasterId = Annotated[str, Wire("masterSdUUID")]


@namespace("StorageDomain")
class StorageDomain(Protocol):
    """Storage domains: where images are. One directory of a file system has one domain."""

    @verb(rest=post("/storage-domains", status=201), role=Role.ADMIN, pool=Pool.STORAGE, legacy="createStorageDomain")
    def create(  # noqa: PLR0913 - the original's parameters
        self,
        domain_id: DomainIdParam,
        domain_type: StorageType,
        location: Annotated[str, Wire("typeArgs")],
        name: DomainName,
        *,
        domain_class: DomainClass = "Data",
        version: Annotated[Text, msgspec.Meta(ge=0, le=5)] | None = None,
        block_size: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 512,
        max_hosts: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 250,
    ) -> None:
        """Make an empty domain on storage that is connected.

        Args:
            domain_id: its id, a UUID that nothing else has.
            domain_type: what it lies on.
            location: what was connected: `server:/export`, or for LOCALFS a path.
            name: up to 50 characters, for people.
            domain_class: what it is for.
            version: of its format; None: the newest, 5.
            block_size: 512 or 4096 bytes, or 0: what the storage has.
            max_hosts: how many hosts can use it at a time; decides the leases' size with 4096 byte blocks.

        Raises:
            InvalidParameter: an id or number is wrong.
            NotMounted: nothing of this place is connected.
            DomainExists: there is a domain already.
            UnsupportedVersion: this version cannot be made.
            WrongBlockSize: the storage has other blocks.
            NoSpace: there is no room.
        """

    @verb(
        rest=delete("/storage-domains/{domain_id}"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="formatStorageDomain",
    )
    def format(self, domain_id: DomainIdParam, *, auto_detach: BoolText = False) -> None:
        """Delete a domain and all that is on it.

        Args:
            domain_id: the domain.
            auto_detach: also when it says that it belongs to a pool.

        Raises:
            NoSuchDomain: it is not connected.
            DomainAttached: it belongs to a pool.
        """

    @verb(
        rest=get("/storage-domains/{domain_id}/validity"),
        pool=Pool.STORAGE,
        legacy="validateStorageDomain",
    )
    def validate(self, domain_id: DomainIdParam) -> None:
        """Look whether a domain is all there and can be used on this host.

        Raises:
            NoSuchDomain: it is not connected.
            Damaged: something of it is not what it should be.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/attach"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="attachStorageDomain",
    )
    def attach(self, domain_id: DomainIdParam, pool_id: PoolIdParam) -> None:
        """Make a domain part of the pool; only the pool's manager (SPM) does it.

        Raises:
            NoSuchDomain: it is not connected.
            AlreadyAttached: it belongs to a pool.
            NotSpm: this host is not the SPM.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/detach"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="detachStorageDomain",
    )
    def detach(
        self,
        domain_id: DomainIdParam,
        pool_id: PoolIdParam,
        *,
        master_id: MasterId = BLANK,
        master_version: int = 0,
        force: BoolText = False,
    ) -> None:
        """Take a domain out of the pool.

        Args:
            domain_id: the domain.
            pool_id: the pool.
            master_id: which domain is the pool's master; the blank UUID: it is not checked.
            master_version: the version of the pool's master; with the blank UUID it is not checked.
            force: wipe the pool's traces from a domain that this host need not have connected to the pool.

        Raises:
            NoSuchDomain: it is not connected.
            NotInPool: it does not belong to the pool.
            NotSpm: this host is not the SPM, and it is not forced.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/activate"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="activateStorageDomain",
    )
    def activate(self, domain_id: DomainIdParam, pool_id: PoolIdParam) -> None:
        """Let the pool's hosts use a domain that is attached.

        Raises:
            NoSuchDomain: it is not connected.
            NotInPool: it does not belong to the pool.
            NotSpm: this host is not the SPM.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/deactivate"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="deactivateStorageDomain",
    )
    def deactivate(
        self,
        domain_id: DomainIdParam,
        pool_id: PoolIdParam,
        *,
        master_id: MasterId = BLANK,
        master_version: int = 0,
    ) -> None:
        """Keep the pool's hosts from using a domain; it stays attached.

        Args:
            domain_id: the domain.
            pool_id: the pool.
            master_id: which domain becomes the pool's master if this one is it; the blank UUID: none.
            master_version: the version of the new master.

        Raises:
            NoSuchDomain: it is not connected.
            NotInPool: it does not belong to the pool.
            NotSpm: this host is not the SPM.
        """

    @verb(rest=get("/storage-domains/{domain_id}"), pool=Pool.STORAGE, legacy="getStorageDomainInfo")
    def get_info(self, domain_id: DomainIdParam) -> DomainInfo:
        """What a domain's metadata says.

        Raises:
            NoSuchDomain: it is not connected.
            Damaged: its metadata cannot be read.
        """

    @verb(rest=get("/storage-domains/{domain_id}/stats"), pool=Pool.STORAGE, legacy="getStorageDomainStats")
    def get_stats(self, domain_id: DomainIdParam) -> DomainStats:
        """How much room a domain has.

        Raises:
            NoSuchDomain: it is not connected.
        """

    @verb(rest=get("/storage-domains/{domain_id}/images"), pool=Pool.STORAGE, legacy="getImagesList")
    def get_images(self, domain_id: DomainIdParam) -> list[str]:
        """The ids of a domain's images.

        Raises:
            NoSuchDomain: it is not connected.
        """

    @verb(rest=get("/storage-domains/{domain_id}/volumes"), pool=Pool.STORAGE, legacy="getVolumesList")
    def get_volumes(
        self, domain_id: DomainIdParam, *, pool_id: PoolOfDomain = BLANK, image_id: ImageIdParam = BLANK
    ) -> list[str]:
        """The ids of a domain's volumes, or only of one image's.

        Args:
            domain_id: the domain.
            pool_id: not used.
            image_id: the image; the blank UUID: all.

        Raises:
            NoSuchDomain: it is not connected.
            NoSuchImage: it has no such image.
        """

    @verb(
        rest=put("/storage-domains/{domain_id}/description"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="setStorageDomainDescription",
    )
    def set_description(self, domain_id: DomainIdParam, description: DomainName) -> None:
        """Rename a domain.

        Args:
            domain_id: the domain.
            description: the new name, up to 50 characters.

        Raises:
            NoSuchDomain: it is not connected.
        """

    @verb(rest=get("/storage-domains/{domain_id}/dump"), pool=Pool.STORAGE)
    def dump(self, domain_id: Annotated[DomainIdParam, Wire("sd_id")], *, full: BoolText = False) -> DomainDump:
        """All that is on a domain: its metadata, its volumes, its leases. Damaged parts are named and kept apart.

        Args:
            domain_id: the domain.
            full: with the leases as they are on the disk.

        Raises:
            NoSuchDomain: it is not connected.
        """

    @verb(rest=get("/storage-domains/{domain_id}/file-stats"), pool=Pool.STORAGE)
    def get_file_stats(
        self,
        domain_id: DomainIdParam,
        pattern: Annotated[str, msgspec.Meta(max_length=255)] = "*",
        *,
        case_sensitive: BoolText = False,
    ) -> dict[str, FileStats]:
        """The files of an ISO domain, by name.

        Args:
            domain_id: the domain.
            pattern: which files: `*` and `?` as in a shell.
            case_sensitive: whether upper and lower case differ in the pattern.

        Raises:
            NoSuchDomain: it is not connected.
            NoFileList: it is no ISO domain.
        """

    @verb(rest=get("/storage-domains/{domain_id}/files"), pool=Pool.STORAGE, legacy="getFileList")
    def get_file_list(
        self,
        domain_id: DomainIdParam,
        pattern: Annotated[str, msgspec.Meta(max_length=255)] = "*",
        *,
        case_sensitive: BoolText = False,
    ) -> list[str]:
        """The names of an ISO domain's files.

        Args:
            domain_id: the domain.
            pattern: which files: `*` and `?` as in a shell.
            case_sensitive: whether upper and lower case differ in the pattern.

        Raises:
            NoSuchDomain: it is not connected.
            NoFileList: it is no ISO domain.
        """
