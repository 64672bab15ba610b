"""The verbs of storage domains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vdsm.api import storage_types as api
from vdsm.services import storage_answers as answers
from vdsm.services.storage_gates import Gates
from vdsm.services.storage_leases import LeaseDumps
from vdsm.services.storage_spm import SpmDoor
from vdsm.storage.domains import iso_files
from vdsm.storage.domains.domain_maker import NewDomain, parse_version
from vdsm.storage.domains.domain_work import DomainWork
from vdsm.storage.domains.domains import Domains
from vdsm.storage.domains.monitor import Monitors
from vdsm.storage.errors import NoSuchImage
from vdsm.storage.ids import BLANK, DomainId, PoolId, parse_domain_id, parse_image_id, parse_pool_id
from vdsm.storage.images.image_queries import ImageQueries
from vdsm.storage.kinds import DomainClass, StorageType
from vdsm.storage.pool.pools import Pools


class StorageDomainService:
    """Implements ``api.storage_domain.StorageDomain``."""

    def __init__(  # noqa: PLR0913 - the parts of storage that domains have to do with
        self,
        *,
        domains: Domains,
        work: DomainWork,
        monitors: Monitors,
        pools: Pools,
        queries: ImageQueries,
        leases: LeaseDumps,
        spm: SpmDoor,
        gates: Gates,
    ) -> None:
        self._domains: Final = domains
        self._work: Final = work
        self._monitors: Final = monitors
        self._pools: Final = pools
        self._queries: Final = queries
        self._leases: Final = leases
        self._spm: Final = spm
        self._gates: Final = gates

    def create(  # noqa: PLR0913 - the contract's
        self,
        domain_id: str,
        domain_type: api.StorageType,
        location: str,
        name: str,
        *,
        domain_class: api.DomainClass = "Data",
        version: int | None = None,
        block_size: int = 512,
        max_hosts: int = 250,
    ) -> None:
        """Make a domain."""
        request = NewDomain(
            id=parse_domain_id(domain_id),
            kind=StorageType.of_word(domain_type, "domainType"),
            spec=location,
            name=name,
            domain_class=DomainClass.of_word(domain_class, "domainClass"),
            version=parse_version(version),
            block_size=block_size,
            max_hosts=max_hosts,
        )
        with self._gates.place(location):
            self._work.create(request)

    def format(self, domain_id: str, *, auto_detach: bool = False) -> None:
        """Delete a domain."""
        with self._gates.domain(domain_id) as ident:
            self._work.format(ident, auto_detach=auto_detach)

    def validate(self, domain_id: str) -> None:
        """Look whether it is all there."""
        with self._gates.domain(domain_id) as ident:
            self._domains.validate(ident)

    def attach(self, domain_id: str, pool_id: str) -> None:
        """Make it part of the pool."""
        with self._in_pool(domain_id, pool_id) as (ident, pool):
            self._pools.attach(ident, pool)

    def detach(
        self,
        domain_id: str,
        pool_id: str,
        *,
        master_id: str = BLANK,
        master_version: int = 0,
        force: bool = False,
    ) -> None:
        """Take it out of the pool."""
        del master_id, master_version
        with self._in_pool(domain_id, pool_id) as (ident, pool):
            (self._pools.force_detach if force else self._pools.detach)(ident, pool)

    def activate(self, domain_id: str, pool_id: str) -> None:
        """Let hosts use it."""
        with self._in_pool(domain_id, pool_id) as (ident, pool):
            self._pools.activate(ident, pool)

    def deactivate(self, domain_id: str, pool_id: str, *, master_id: str = BLANK, master_version: int = 0) -> None:
        """Keep hosts from using it."""
        with self._in_pool(domain_id, pool_id) as (ident, pool):
            new_master = None if master_id == BLANK else parse_domain_id(master_id, "masterSdUUID")
            self._pools.deactivate(ident, pool, new_master, master_version)

    def get_info(self, domain_id: str) -> api.DomainInfo:
        """What its metadata says."""
        with self._gates.domain(domain_id) as ident:
            return self._info(ident)

    def get_stats(self, domain_id: str) -> api.DomainStats:
        """Its room."""
        with self._gates.domain(domain_id) as ident:
            return answers.domain_stats(self._domains.space(ident))

    def get_images(self, domain_id: str) -> list[str]:
        """Its images."""
        with self._gates.domain(domain_id) as ident:
            return list(self._queries.images(ident))

    def get_volumes(self, domain_id: str, *, pool_id: str = BLANK, image_id: str = BLANK) -> list[str]:
        """Its volumes, or an image's."""
        del pool_id
        with self._gates.domain(domain_id) as ident:
            if image_id == BLANK:
                return list(self._queries.volumes(ident))
            found = self._queries.volumes(ident, parse_image_id(image_id))
            if not found:
                raise NoSuchImage(image_id, ident)
            return list(found)

    def set_description(self, domain_id: str, description: str) -> None:
        """Rename it."""
        with self._gates.domain(domain_id) as ident:
            self._spm.may_write(ident)
            self._domains.set_description(ident, description)

    def dump(self, domain_id: str, *, full: bool = False) -> api.DomainDump:
        """All that is on it."""
        with self._gates.domain(domain_id, "sd_id") as ident:
            found = self._queries.dump(ident)
            return api.DomainDump(
                metadata=self._info(ident),
                volumes={name: answers.volume_dump(facts) for name, facts in found.volumes.items()},
                **(self._leases.of(self._domains.find(ident)) if full else {}),
            )

    def get_file_stats(
        self, domain_id: str, pattern: str = "*", *, case_sensitive: bool = False
    ) -> dict[str, api.FileStats]:
        """An ISO domain's files."""
        with self._gates.domain(domain_id) as ident:
            found = iso_files.file_stats(self._domains.find(ident), pattern, case_sensitive=case_sensitive)
            return answers.file_stats(found)

    def get_file_list(self, domain_id: str, pattern: str = "*", *, case_sensitive: bool = False) -> list[str]:
        """The names of an ISO domain's files."""
        return sorted(self.get_file_stats(domain_id, pattern, case_sensitive=case_sensitive))

    def _info(self, ident: DomainId) -> api.DomainInfo:
        metadata, address = self._domains.info(ident), self._domains.address(ident)
        return answers.domain_info(metadata, address, self._monitors.reports().get(ident))

    @contextmanager
    def _in_pool(self, domain_id: str, pool_id: str) -> Iterator[tuple[DomainId, PoolId]]:
        """Changes of a pool are made one after the other: they have places of their own."""
        ident, pool = parse_domain_id(domain_id), parse_pool_id(pool_id)
        with self._gates.place(f"pool {pool}"):
            yield ident, pool
