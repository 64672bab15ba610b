"""The pool that this host is connected to: what is known of it in memory, and what it needs of others.

A frozen picture (``PoolFacts``) that is replaced as a whole, so that nobody who only asks ever waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.monitor import DomainReport
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.ids import DomainId, PoolId
from vdsm.storage.kinds import AttachedStatus

UNNAMED: Final = "No Description"


class DomainSource(Protocol):
    """Who finds domains: ``Domains``."""

    def find(self, domain_id: DomainId) -> Domain:
        """A connected domain, within a deadline.

        Raises:
            NoSuchDomain: it is not connected.
        """

    def update(self, domain_id: DomainId, change: Callable[[DomainMetadata], DomainMetadata]) -> DomainMetadata:
        """Read, change and write a domain's metadata while nobody else of this host does; what it is afterwards."""


class PoolLinks(Protocol):
    """Who keeps the pool's links: ``Repository``."""

    def pool_dir(self, pool_id: PoolId) -> str:
        """The pool's directory of links."""

    def domain_link(self, pool_id: PoolId, domain_id: DomainId) -> str:
        """The link to a domain of a pool."""

    def link_pool(self, pool_id: PoolId, domains: Mapping[DomainId, str], master: str | None) -> None:
        """Make the pool's directory have exactly these links, and the one to the master."""

    def unlink_pool(self, pool_id: PoolId) -> None:
        """Remove the pool's directory of links; nothing if there is none."""


class Watchers(Protocol):
    """Who watches domains: ``Monitors``."""

    def watch(self, domain_id: DomainId) -> None:
        """Look at a domain from now on; twice is once."""

    def unwatch(self, domain_id: DomainId, *, leave: bool = True, wait_s: float = 60.0) -> bool:
        """Look at it no more, and leave its lockspace; whether that was done in time."""

    def use_host_id(self, host_id: int | None) -> None:
        """Join the lockspaces of the watched domains under this id; None: join no more."""

    def reports(self) -> Mapping[DomainId, DomainReport]:
        """What is known of each watched domain; never waits."""


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A connected pool.

    Attributes:
        pool_id: its id.
        host_id: under which this host lives in it.
        master: its master domain.
        master_version: goes up with each change of the master.
        domains: all its domains; Active ones are linked and watched.
        on_disk: its list of domains is kept in the master's metadata; otherwise by the manager, and here in memory.
        name: its description; only known with ``on_disk``.
    """

    pool_id: PoolId
    host_id: int
    master: Domain
    master_version: int
    domains: Mapping[DomainId, AttachedStatus]
    on_disk: bool = False
    name: str = UNNAMED

    def active(self) -> list[DomainId]:
        """The domains that are in use."""
        return [ident for ident, status in self.domains.items() if status is AttachedStatus.ACTIVE]

    def with_domain(self, domain_id: DomainId, status: AttachedStatus | None) -> PoolFacts:
        """The same with a domain in this state; None: without it."""
        others = {ident: known for ident, known in self.domains.items() if ident != domain_id or status is not None}
        return replace(self, domains=others if status is None else {**others, domain_id: status})


class PoolSession:
    """The facts, as they change; one writer at a time, many readers."""

    def __init__(self, facts: PoolFacts) -> None:
        self._lock = threading.Lock()
        self._facts = facts

    @property
    def facts(self) -> PoolFacts:
        """What is known now."""
        return self._facts

    def set_domain(self, domain_id: DomainId, status: AttachedStatus | None) -> PoolFacts:
        """Note a domain's state; None: it is not in the pool any more."""
        with self._lock:
            self._facts = self._facts.with_domain(domain_id, status)
            return self._facts

    def set_master(self, master: Domain, version: int) -> PoolFacts:
        """Note which domain is the master."""
        with self._lock:
            self._facts = replace(self._facts, master=master, master_version=version)
            return self._facts

    def set_name(self, name: str) -> None:
        """Note the pool's name."""
        with self._lock:
            self._facts = replace(self._facts, name=name)

    def set_facts(self, facts: PoolFacts) -> None:
        """Note all anew."""
        with self._lock:
            self._facts = facts
