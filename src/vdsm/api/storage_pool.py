"""The verbs of storage pools: the ways to storage, the pool that the host is in, and who manages its metadata (SPM)."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec

from vdsm.api.contract import BoolText, Pool, Role, Text, Wire, delete, get, namespace, post, put, verb
from vdsm.api.storage_types import (
    BLANK,
    ConnectionStatus,
    DomainIdParam,
    DomainName,
    ImageIdParam,
    PoolIdParam,
    PoolInfo,
    PoolOfDomain,
    SpmStatus,
    StorageConnection,
    StorageType,
    Subchain,
    VolumeIdParam,
)

HostIdParam = Annotated[
    int, Wire("hostID"), msgspec.Meta(ge=1, le=2000, description="this host's number in the pool, 1 to 2000")
]
ScsiKey = Annotated[str, Wire("scsiKey"), msgspec.Meta(description="not used")]
MasterId = Annotated[str, Wire("masterSdUUID"), msgspec.Meta(description="the pool's master domain")]
MasterVersion = Annotated[Text, msgspec.Meta(ge=0, le=1 << 31, description="how often the pool changed its master")]
DomainStates = Annotated[dict[str, str], Wire("domainDict")]
Connections = Annotated[tuple[StorageConnection, ...], Wire("connectionParams")]
SubchainParam = Annotated[Subchain, msgspec.Meta(description="what is merged")]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=3600, description="seconds; only noted, as the original does")]


@namespace("StoragePool", service="StorageConnections")
class StorageConnections(Protocol):
    """Storage pools: the ways to storage, the pool that the host is in, and who manages its metadata (SPM)."""

    @verb(rest=post("/storage-connections"), role=Role.ADMIN, pool=Pool.STORAGE, legacy="connectStorageServer")
    def connect_storage_server(
        self,
        domain_type: StorageType,
        connections: Connections,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> list[ConnectionStatus]:
        """Mount what is not mounted, all at the same time; each connection has a deadline of its own.

        Args:
            domain_type: of all of them.
            connections: the ways; connecting one again is fine.
            pool_id: not used.
        """

    @verb(
        rest=post("/storage-connections/disconnect"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="disconnectStorageServer",
    )
    def disconnect_storage_server(
        self,
        domain_type: StorageType,
        connections: Connections,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> list[ConnectionStatus]:
        """Unmount, also what hangs; disconnecting what is not connected is fine.

        Args:
            domain_type: of all of them.
            connections: the ways.
            pool_id: not used.
        """

    @verb(
        rest=post("/storage-connections/validate"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="validateStorageServerConnection",
    )
    def validate_storage_server_connection(
        self,
        domain_type: StorageType,
        connections: Connections,
        *,
        pool_id: PoolOfDomain = BLANK,
    ) -> list[ConnectionStatus]:
        """Try whether connections would work, without keeping them.

        Args:
            domain_type: of all of them.
            connections: the ways.
            pool_id: not used.
        """


@namespace("StoragePool")
class StoragePool(Protocol):
    """Storage pools: what the host is in, and who manages its metadata (SPM)."""

    @verb(rest=post("/pools", status=201), role=Role.ADMIN, pool=Pool.STORAGE, legacy="createStoragePool")
    def create(  # noqa: PLR0913 - the original's parameters
        self,
        pool_id: PoolIdParam,
        name: DomainName,
        master_id: MasterId,
        *,
        master_version: MasterVersion = 1,
        domain_list: tuple[str, ...] = (),
        lock_renewal_interval_sec: Seconds = 5,
        lease_time_sec: Seconds = 60,
        io_op_timeout_sec: Seconds = 10,
        lease_retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3,
    ) -> None:
        """Make a pool of domains that belong to none.

        Args:
            pool_id: its id, a UUID that nothing else has.
            name: for people.
            master_id: the domain that carries the pool's own data.
            master_version: how often the pool changed its master.
            domain_list: all its domains; the master may be among them.
            lock_renewal_interval_sec: only noted, as the original does.
            lease_time_sec: only noted.
            io_op_timeout_sec: only noted.
            lease_retries: only noted.

        Raises:
            NoSuchDomain: one of the domains is not connected.
            AlreadyAttached: one of them belongs to a pool.
        """

    @verb(rest=post("/pools/{pool_id}/connect"), role=Role.ADMIN, pool=Pool.STORAGE, legacy="connectStoragePool")
    def connect(
        self,
        pool_id: PoolIdParam,
        host_id: HostIdParam,
        master_id: MasterId,
        *,
        master_version: MasterVersion = 1,
        domains: Annotated[dict[str, str] | None, Wire("domainDict")] = None,
        scsi_key: ScsiKey = "",
    ) -> None:
        """Make this host part of a pool: it watches its domains, and may become its manager. Again is fine.

        Args:
            pool_id: the pool; a host is in one at a time.
            host_id: this host's number, 1 to 2000, which no other host of the pool has.
            master_id: the pool's master domain.
            master_version: how often the pool changed its master.
            domains: all its domains and their states, `active` or `attached`; None: what the master's metadata says.
            scsi_key: not used.

        Raises:
            NoMaster: the master domain is not connected.
            WrongMaster: it is another domain.
        """

    @verb(
        rest=post("/pools/{pool_id}/disconnect"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="disconnectStoragePool",
    )
    def disconnect(
        self,
        pool_id: PoolIdParam,
        *,
        host_id: HostIdParam = 1,
        scsi_key: ScsiKey = "",
        remove: BoolText = False,
    ) -> None:
        """Take this host out of a pool; not while it manages it. What is not connected is disconnected already.

        Args:
            pool_id: the pool.
            host_id: not used.
            scsi_key: not used.
            remove: not used.

        Raises:
            IsSpm: this host manages the pool.
        """

    @verb(rest=delete("/pools/{pool_id}"), role=Role.ADMIN, pool=Pool.STORAGE, legacy="destroyStoragePool")
    def destroy(self, pool_id: PoolIdParam, *, host_id: HostIdParam = 1, scsi_key: ScsiKey = "") -> None:
        """Dissolve a pool: its domains belong to none afterwards; what is on them stays.

        Raises:
            NoSuchPool: this host is not in it.
            NotSpm: this host does not manage it.
        """

    @verb(rest=post("/pools/{pool_id}/refresh"), role=Role.OPERATOR, pool=Pool.STORAGE, legacy="refreshStoragePool")
    def refresh(self, pool_id: PoolIdParam, *, master_id: MasterId = BLANK, master_version: MasterVersion = 0) -> None:
        """Look anew which domains the pool has, and where.

        Args:
            pool_id: the pool.
            master_id: its master; the blank UUID: the known one.
            master_version: the master's version.

        Raises:
            NoSuchPool: this host is not in it.
        """

    @verb(rest=get("/pools/{pool_id}"), pool=Pool.STORAGE, legacy="getStoragePoolInfo")
    def get_info(self, pool_id: PoolIdParam) -> PoolInfo:
        """A pool and its domains, as this host sees them.

        Raises:
            NoSuchPool: this host is not in it.
        """

    @verb(
        rest=put("/pools/{pool_id}/description"),
        role=Role.ADMIN,
        pool=Pool.STORAGE,
        legacy="setStoragePoolDescription",
    )
    def set_description(self, pool_id: PoolIdParam, description: DomainName) -> None:
        """Rename a pool.

        Args:
            pool_id: the pool.
            description: the new name.

        Raises:
            NoSuchPool: this host is not in it.
            NotSpm: this host does not manage it.
        """

    @verb(rest=get("/pools/{pool_id}/spm"), pool=Pool.STORAGE, legacy="getSpmStatus")
    def get_spm_status(self, pool_id: PoolIdParam) -> SpmStatus:
        """Who manages the pool's metadata, as the lease on the master domain says.

        Raises:
            NoSuchPool: this host is not in it.
        """

    @verb(rest=post("/pools/{pool_id}/spm/start", status=202), role=Role.ADMIN, pool=Pool.STORAGE, legacy="spmStart")
    def spm_start(
        self,
        pool_id: PoolIdParam,
        *,
        prev_id: Annotated[Text, Wire("prevID")] = -1,
        prev_lver: Text = -1,
        enable_scsi_fencing: BoolText = False,
        max_host_id: Annotated[Text, Wire("maxHostID"), msgspec.Meta(ge=1, le=2000)] = 250,
        dom_version: Annotated[Text, msgspec.Meta(ge=0, le=5)] | None = None,
    ) -> str:
        """Begin to manage the pool's metadata; what another manager left half done is settled first.

        Args:
            pool_id: the pool.
            prev_id: who did it before; only logged.
            prev_lver: the lease's version before; only logged.
            enable_scsi_fencing: not used.
            max_host_id: the highest number that a host of the pool may have.
            dom_version: which version the pool's domains should have; older ones are upgraded.

        Raises:
            NoSuchPool: this host is not in it.
            IsSpm: it does so already.
        """

    @verb(rest=post("/pools/{pool_id}/spm/stop"), role=Role.ADMIN, pool=Pool.STORAGE, legacy="spmStop")
    def spm_stop(self, pool_id: PoolIdParam) -> None:
        """Stop managing the pool's metadata; not while there are tasks.

        Raises:
            NoSuchPool: this host is not in it.
            TasksRunning: there are tasks.
        """

    @verb(
        rest=post("/pools/{pool_id}/reconstruct-master"), role=Role.ADMIN, pool=Pool.STORAGE, legacy="reconstructMaster"
    )
    def reconstruct_master(  # noqa: PLR0913 - the original's parameters
        self,
        pool_id: PoolIdParam,
        host_id: Annotated[HostIdParam, Wire("hostId")],
        name: DomainName,
        master_id: MasterId,
        master_version: MasterVersion,
        domains: DomainStates,
        *,
        lock_renewal_interval_sec: Seconds = 5,
        lease_time_sec: Seconds = 60,
        io_op_timeout_sec: Seconds = 10,
        lease_retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3,
    ) -> None:
        """Make another domain the pool's master, because the old one is lost; by a host that is not in the pool.

        Args:
            pool_id: the pool.
            host_id: this host's number.
            name: the pool's name.
            master_id: the new master.
            master_version: its version: higher than the old one's.
            domains: all the pool's domains and their states.
            lock_renewal_interval_sec: only noted, as the original does.
            lease_time_sec: only noted.
            io_op_timeout_sec: only noted.
            lease_retries: only noted.

        Raises:
            NoSuchDomain: the new master is not connected.
            PoolConnected: this host is in the pool.
        """

    @verb(rest=post("/pools/{pool_id}/switch-master", status=202), role=Role.ADMIN, pool=Pool.STORAGE)
    def switch_master(
        self,
        pool_id: PoolIdParam,
        old_master_id: Annotated[str, Wire("oldMasterUUID")],
        new_master_id: Annotated[str, Wire("newMasterUUID")],
        master_version: MasterVersion,
    ) -> str:
        """Move the pool's own data to another of its domains.

        Args:
            pool_id: the pool.
            old_master_id: the present master.
            new_master_id: the next one.
            master_version: the next one's version.

        Raises:
            NotSpm: this host does not manage the pool.
            WrongMaster: the present master is another domain.
        """

    @verb(rest=post("/pools/{pool_id}/upgrade"), role=Role.ADMIN, pool=Pool.STORAGE, legacy="upgradeStoragePool")
    def upgrade(
        self,
        pool_id: PoolIdParam,
        target_version: Annotated[Text, Wire("targetDomVersion"), msgspec.Meta(ge=0, le=5)],
    ) -> Literal["started"]:
        """Bring the pool's domains to a newer version of their format.

        Args:
            pool_id: the pool.
            target_version: the version.

        Raises:
            NotSpm: this host does not manage the pool.
            UnsupportedVersion: domains of this version cannot be made.
        """

    @verb(rest=get("/pools/{pool_id}/iso-files"), pool=Pool.STORAGE, legacy="getIsoList")
    def get_iso_list(
        self,
        pool_id: PoolIdParam,
        extension: Annotated[str, Wire("filenameExtension"), msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,16}$")] = "iso",
    ) -> list[str]:
        """The names of the files on the pool's active ISO domain; none when there is no such domain.

        Args:
            pool_id: the pool.
            extension: only files whose names end so: `iso`, `vfd`.

        Raises:
            NoSuchPool: this host is not in it.
        """

    @verb(rest=get("/pools/{pool_id}/images/{image_id}/domains"), pool=Pool.STORAGE, legacy="getImageDomainsList")
    def get_domains_containing_image(self, pool_id: PoolIdParam, image_id: ImageIdParam) -> list[str]:
        """Which of the pool's active data domains have an image.

        Raises:
            NoSuchPool: this host is not in it.
        """


@namespace("StoragePool", service="StorageMerges")
class StorageMerges(Protocol):
    """The parts of a cold merge that the pool's manager does."""

    @verb(rest=post("/pools/{pool_id}/prepare-merge", status=202), role=Role.OPERATOR, pool=Pool.STORAGE)
    def prepare_merge(self, pool_id: PoolIdParam, subchain_info: SubchainParam) -> str:
        """Make the base of a merge ready to take what comes.

        Raises:
            NotSpm: this host does not manage the pool.
        """

    @verb(rest=post("/pools/{pool_id}/finalize-merge", status=202), role=Role.OPERATOR, pool=Pool.STORAGE)
    def finalize_merge(self, pool_id: PoolIdParam, subchain_info: SubchainParam) -> str:
        """Take the volume that was merged out of its chain; it is left ILLEGAL, to be deleted.

        Raises:
            NotSpm: this host does not manage the pool.
        """

    @verb(
        rest=post("/storage-domains/{domain_id}/images/{image_id}/volumes/{volume_id}/reduce", status=202),
        role=Role.OPERATOR,
        pool=Pool.STORAGE,
    )
    def reduce_volume(
        self,
        pool_id: PoolIdParam,
        domain_id: DomainIdParam,
        image_id: ImageIdParam,
        volume_id: VolumeIdParam,
        *,
        allow_active: BoolText = False,
    ) -> str:
        """Give back what a volume's container has beyond its data; on file systems there is nothing to give back.

        Args:
            pool_id: the pool.
            domain_id: the domain.
            image_id: the image.
            volume_id: the volume.
            allow_active: also a leaf.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchVolume: it is not there.
        """
