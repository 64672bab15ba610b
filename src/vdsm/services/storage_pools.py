"""The verbs of storage pools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from vdsm.api import storage_types as api
from vdsm.services import storage_answers as answers
from vdsm.services.storage_gates import Gates
from vdsm.services.storage_spm import SpmDoor
from vdsm.storage.domains import iso_files
from vdsm.storage.domains.domains import Domains
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.formats.domain import LeaseParameters
from vdsm.storage.ids import (
    BLANK,
    DomainId,
    PoolId,
    parse_domain_id,
    parse_image_id,
    parse_pool_id,
    parse_volume_id,
)
from vdsm.storage.images.image_kinds import ImageKinds
from vdsm.storage.images.image_queries import ImageQueries
from vdsm.storage.images.merge_kinds import Subchain
from vdsm.storage.kinds import AttachedStatus, DomainClass
from vdsm.storage.pool.pools import Pools, read_domain_map


class StoragePoolService:
    """Implements ``api.storage_pool.StoragePool``."""

    def __init__(self, pools: Pools, domains: Domains, queries: ImageQueries, gates: Gates) -> None:
        self._pools: Final = pools
        self._domains: Final = domains
        self._queries: Final = queries
        self._gates: Final = gates

    def create(  # noqa: PLR0913 - the contract's
        self,
        pool_id: str,
        name: str,
        master_id: str,
        *,
        master_version: int = 1,
        domain_list: tuple[str, ...] = (),
        lock_renewal_interval_sec: int = 5,
        lease_time_sec: int = 60,
        io_op_timeout_sec: int = 10,
        lease_retries: int = 3,
    ) -> None:
        """Make a pool."""
        leases = LeaseParameters("", lock_renewal_interval_sec, lease_time_sec, io_op_timeout_sec, lease_retries)
        with self._changing(pool_id) as ident:
            domains = [parse_domain_id(item, f"domainList[{index}]") for index, item in enumerate(domain_list)]
            self._pools.create(ident, name, parse_domain_id(master_id, "masterSdUUID"), master_version, domains, leases)

    def connect(
        self,
        pool_id: str,
        host_id: int,
        master_id: str,
        *,
        master_version: int = 1,
        domains: dict[str, str] | None = None,
        scsi_key: str = "",
    ) -> None:
        """Make this host part of a pool."""
        del scsi_key
        with self._changing(pool_id) as ident:
            master = parse_domain_id(master_id, "masterSdUUID")
            known = None if domains is None else read_domain_map(domains)
            self._pools.connect(ident, host_id, master, master_version, known)

    def disconnect(self, pool_id: str, *, host_id: int = 1, scsi_key: str = "", remove: bool = False) -> None:
        """Take this host out of it."""
        del host_id, scsi_key, remove
        with self._changing(pool_id) as ident:
            self._pools.disconnect(ident)

    def destroy(self, pool_id: str, *, host_id: int = 1, scsi_key: str = "") -> None:
        """Dissolve it."""
        del host_id, scsi_key
        with self._changing(pool_id) as ident:
            self._pools.destroy(ident)

    def refresh(self, pool_id: str, *, master_id: str = BLANK, master_version: int = 0) -> None:
        """Look at it anew."""
        with self._changing(pool_id) as ident:
            if master_id == BLANK:
                self._pools.refresh(ident)
            else:
                self._pools.refresh(ident, parse_domain_id(master_id, "masterSdUUID"), master_version)

    def get_info(self, pool_id: str) -> api.PoolInfo:
        """The pool and its domains."""
        ident = parse_pool_id(pool_id)
        with self._gates.place(f"the SPM of pool {ident}"):
            return answers.pool_info(self._pools.info(ident))

    def set_description(self, pool_id: str, description: str) -> None:
        """Rename it."""
        with self._changing(pool_id) as ident:
            self._pools.set_description(ident, description)

    def get_spm_status(self, pool_id: str) -> api.SpmStatus:
        """Who manages it."""
        ident = parse_pool_id(pool_id)
        with self._gates.place(f"the SPM of pool {ident}"):
            found = self._pools.spm_status(ident)
            return api.SpmStatus(spm_status=found.status.value, spm_lver=found.lver, spm_id=found.host_id)

    def spm_start(
        self,
        pool_id: str,
        *,
        prev_id: int = -1,
        prev_lver: int = -1,
        enable_scsi_fencing: bool = False,
        max_host_id: int = 250,
        dom_version: int | None = None,
    ) -> str:
        """Begin to manage it."""
        del prev_id, prev_lver, enable_scsi_fencing, max_host_id
        return self._pools.spm_start(parse_pool_id(pool_id), dom_version)

    def spm_stop(self, pool_id: str) -> None:
        """Stop that."""
        with self._changing(pool_id) as ident:
            self._pools.spm_stop(ident)

    def reconstruct_master(  # noqa: PLR0913 - the contract's
        self,
        pool_id: str,
        host_id: int,
        name: str,
        master_id: str,
        master_version: int,
        domains: dict[str, str],
        *,
        lock_renewal_interval_sec: int = 5,
        lease_time_sec: int = 60,
        io_op_timeout_sec: int = 10,
        lease_retries: int = 3,
    ) -> None:
        """Make another domain its master."""
        leases = LeaseParameters("", lock_renewal_interval_sec, lease_time_sec, io_op_timeout_sec, lease_retries)
        with self._changing(pool_id) as ident:
            master = parse_domain_id(master_id, "masterSdUUID")
            known = read_domain_map(domains)
            self._pools.reconstruct_master(ident, host_id, name, master, master_version, known, leases)

    def switch_master(self, pool_id: str, old_master_id: str, new_master_id: str, master_version: int) -> str:
        """Move its data to another domain."""
        with self._changing(pool_id) as ident:
            old = parse_domain_id(old_master_id, "oldMasterUUID")
            return self._pools.switch_master(
                ident, old, parse_domain_id(new_master_id, "newMasterUUID"), master_version
            )

    def upgrade(self, pool_id: str, target_version: int) -> Literal["started"]:
        """Give its domains a newer format; it is done when this returns."""
        with self._changing(pool_id) as ident:
            self._pools.upgrade(ident, target_version)
            return "started"

    def get_iso_list(self, pool_id: str, extension: str = "iso") -> list[str]:
        """The files of its ISO domain."""
        for ident in self._active(parse_pool_id(pool_id)):
            with self._gates.place(ident):
                domain = self._domains.find(ident)
                if domain.domain_class is DomainClass.ISO:
                    return iso_files.iso_list(domain, extension)
        return []

    def get_domains_containing_image(self, pool_id: str, image_id: str) -> list[str]:
        """The domains that have an image."""
        image, found = parse_image_id(image_id), []
        for ident in self._active(parse_pool_id(pool_id)):
            with self._gates.place(ident):
                if self._domains.find(ident).domain_class is not DomainClass.ISO and image in self._queries.images(
                    ident
                ):
                    found.append(str(ident))
        return found

    def _active(self, pool_id: PoolId) -> list[DomainId]:
        domains = self._pools.info(pool_id).domains
        return [ident for ident, known in domains.items() if known.status is AttachedStatus.ACTIVE]

    @contextmanager
    def _changing(self, pool_id: str) -> Iterator[PoolId]:
        """Changes of a pool are made one after the other: they have places of their own."""
        ident = parse_pool_id(pool_id)
        with self._gates.place(f"pool {ident}"):
            yield ident


class StorageMergeService:
    """Implements ``api.storage_pool.StorageMerges``."""

    def __init__(self, kinds: ImageKinds, spm: SpmDoor, gates: Gates) -> None:
        self._kinds: Final = kinds
        self._spm: Final = spm
        self._gates: Final = gates

    def prepare_merge(self, pool_id: str, subchain_info: api.Subchain) -> str:
        """Make the base ready."""
        request = _subchain(subchain_info)
        with self._gates.place(request.domain_id):
            return self._spm.submit(pool_id, self._kinds.prepare_merge, request)

    def finalize_merge(self, pool_id: str, subchain_info: api.Subchain) -> str:
        """Take the merged volume out."""
        request = _subchain(subchain_info)
        with self._gates.place(request.domain_id):
            return self._spm.submit(pool_id, self._kinds.finalize_merge, request)

    def reduce_volume(
        self, pool_id: str, domain_id: str, image_id: str, volume_id: str, *, allow_active: bool = False
    ) -> str:
        """There is nothing to give back on file systems."""
        del allow_active
        parse_image_id(image_id)
        parse_volume_id(volume_id)
        with self._gates.domain(domain_id):
            self._spm.spm(pool_id)
            raise UnsupportedOperation("volumes on file systems have nothing to reduce")


def _subchain(given: api.Subchain) -> Subchain:
    return Subchain(
        domain_id=parse_domain_id(given.sd_id, "subchainInfo.sd_id"),
        image_id=parse_image_id(given.img_id, "subchainInfo.img_id"),
        base_id=parse_volume_id(given.base_id, "subchainInfo.base_id"),
        top_id=parse_volume_id(given.top_id, "subchainInfo.top_id"),
        base_generation=given.base_generation,
    )
