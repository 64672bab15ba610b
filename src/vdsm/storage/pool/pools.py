"""The storage pool of this host: made, connected, looked at, managed.

    create, reconstruct_master    by a host that is in no pool; its own journal (``pool_maker``)
    connect --> links to the active domains, monitors on them
        spm_start --> a task in memory --> this host is the SPM (``spm``), with the journal on the master domain
            attach, detach, activate, ... (``pool_domains``)
        spm_stop
    disconnect

A host is in one pool at a time. Who only asks (``info``, ``spm_status``, ``spm``) never waits for a change under way.

Source: storage format, sections 3.4, 3.5 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vdsm.base.errors import VdsmError
from vdsm.storage.backend import Space
from vdsm.storage.errors import InvalidParameter, NoSuchDomain
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import DomainMetadata, LeaseParameters
from vdsm.storage.formats.pool import MAX_DOMAINS
from vdsm.storage.ids import DomainId, PoolId, parse_domain_id
from vdsm.storage.kinds import AttachedStatus, DomainClass, DomainRole, StorageType
from vdsm.storage.pool.pool_domains import PoolDomains
from vdsm.storage.pool.pool_errors import (
    IsSpm,
    NoMaster,
    PoolConnected,
    PoolExists,
    PoolInUse,
    SpmNotStarted,
    SpmStatusUnknown,
    TooManyDomains,
    WrongMaster,
)
from vdsm.storage.pool.pool_host import PoolParts
from vdsm.storage.pool.pool_maker import described
from vdsm.storage.pool.pool_session import UNNAMED, PoolFacts, PoolSession
from vdsm.storage.pool.spm import SpmRole, SpmStart, SpmStatus

__all__ = ["DomainInPool", "PoolInfo", "PoolParts", "Pools"]

_TOO_NEW: Final = "its domains have version {}, {} was asked for"


@dataclass(frozen=True, slots=True)
class DomainInPool:
    """A domain, as its pool sees it.

    Attributes:
        status: whether it is in use.
        version: of its format; -1 is unknown.
        space: its room; None when it is not in use or has not answered.
        iso_prefix: where its files are, on an active ISO domain; "" otherwise.
        valid: it can be used, as its monitor saw it last.
    """

    status: AttachedStatus
    version: int
    space: Space | None
    iso_prefix: str
    valid: bool


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool, as a host in it sees it.

    Attributes:
        name: its description; where the manager keeps it, "No Description".
        iso_prefix: where the files of its ISO domain are; "" when it has none.
        lver: how often the SPM has changed; -1 is unknown.
        master_id: its master domain.
        master_version: goes up with each change of the master.
        spm_id: the SPM's host id; -1 is none, or unknown.
        type: what its master domain lies on.
        version: of its master domain's format.
        domains: all its domains.
    """

    name: str
    iso_prefix: str
    lver: int
    master_id: DomainId
    master_version: int
    spm_id: int
    type: StorageType
    version: int
    domains: Mapping[DomainId, DomainInPool]


class Pools(PoolDomains):
    """See the module; may be used by many threads at once."""

    def create(
        self,
        pool_id: PoolId,
        name: str,
        master_id: DomainId,
        master_version: int,
        domains: Sequence[DomainId] = (),
        leases: LeaseParameters | None = None,
    ) -> None:
        """Make a pool of domains that belong to none.

        Args:
            pool_id: its id.
            name: its description, up to 50 characters.
            master_id: the domain that becomes its master.
            master_version: usually 1.
            domains: the others; the master may be among them.
            leases: numbers that nobody uses; they are noted.

        Raises:
            PoolExists, OtherPool: this host is in a pool.
            TooManyDomains: there are more than a hundred.
            NoSuchDomain, AlreadyAttached, CannotBeMaster, MixedVersions, ...: see ``PoolMaker.create``.
        """
        with self._changing():
            if self.current() == pool_id:
                raise PoolExists(pool_id)
            self._only(pool_id)
            idents = list(dict.fromkeys([master_id, *domains]))
            if len(idents) > MAX_DOMAINS:
                raise TooManyDomains(MAX_DOMAINS)
            self._maker.create(pool_id, described(name, master_version, {}), idents, leases)

    def reconstruct_master(
        self,
        pool_id: PoolId,
        host_id: int,
        name: str,
        master_id: DomainId,
        master_version: int,
        domains: Mapping[DomainId, AttachedStatus],
        leases: LeaseParameters | None = None,
    ) -> None:
        """Make another domain the pool's master, because the old one is lost; this host is not in the pool.

        Raises:
            PoolInUse, OtherPool: this host is in a pool.
            NoSuchDomain, AlreadyAttached, CannotBeMaster, ...: see ``PoolMaker.reconstruct``.
        """
        with self._changing():
            if self.current() == pool_id:
                raise PoolInUse(pool_id)
            self._only(pool_id)
            listed = {**domains, master_id: AttachedStatus.ACTIVE}
            if len(listed) > MAX_DOMAINS:
                raise TooManyDomains(MAX_DOMAINS)
            wanted = described(name, master_version, listed)
            self._maker.reconstruct(pool_id, host_id, master_id, wanted, leases)

    def connect(
        self,
        pool_id: PoolId,
        host_id: int,
        master_id: DomainId,
        master_version: int,
        domains: Mapping[DomainId, AttachedStatus] | None = None,
    ) -> None:
        """Make this host part of a pool, or tell it what has changed of it. Again is fine.

        Args:
            pool_id: the pool.
            host_id: this host's number in it.
            master_id: its master domain.
            master_version: the master's version.
            domains: its domains, as the manager knows them; None: as the master's metadata says.

        Raises:
            OtherPool: this host is in another pool.
            PoolConnected: it is in this one, under another number.
            NoMaster: the master domain is not connected.
            WrongMaster: it is another domain, or of another version.
        """
        with self._changing():
            self._only(pool_id)
            session = self._session
            if session is not None and session.facts.host_id != host_id:
                raise PoolConnected(pool_id, session.facts.host_id)
            self._maker.settle()
            facts = self._facts(pool_id, host_id, master_id, master_version, domains)
            if session is None:
                self._enter(PoolSession(facts))
                return
            self._take_over(session, facts)

    def disconnect(self, pool_id: PoolId) -> None:
        """Take this host out of the pool; nothing when it is not in it.

        Raises:
            IsSpm: it manages the pool.
        """
        with self._changing():
            session = self._session
            if session is None or session.facts.pool_id != pool_id:
                return
            if self._spm is not None and self._spm.role is not SpmRole.FREE:
                raise IsSpm(pool_id)
            self._leave(session)

    def refresh(self, pool_id: PoolId, master_id: DomainId | None = None, master_version: int | None = None) -> None:
        """Look anew for the pool's domains; links and monitors follow.

        Raises:
            NoSuchPool: this host is not in it.
            NoMaster, WrongMaster: the master is not what it is said to be.
        """
        with self._changing():
            session = self.session(pool_id)
            known = session.facts
            facts = self._facts(
                pool_id,
                known.host_id,
                master_id or known.master.id,
                known.master_version if master_version is None else master_version,
                None if known.on_disk else known.domains,
            )
            self._take_over(session, facts)

    def info(self, pool_id: PoolId) -> PoolInfo:
        """The pool and its domains; what does not answer is told by its monitor.

        Raises:
            NoSuchPool: this host is not in it.
        """
        facts = self.session(pool_id).facts
        try:
            status = self.spm_status(pool_id)
        except VdsmError:
            status = SpmStatus(SpmRole.FREE, -1, -1)
        reports = self._parts.monitors.reports()
        domains = {}
        for ident, known in facts.domains.items():
            report = reports.get(ident)
            active = known is AttachedStatus.ACTIVE
            domains[ident] = DomainInPool(
                status=known,
                version=report.version if report is not None and active else -1,
                space=report.space if report is not None and active else None,
                iso_prefix=self._iso_prefix(facts, ident) if active else "",
                valid=report is None or report.valid,
            )
        return PoolInfo(
            name=facts.name,
            iso_prefix=next((item.iso_prefix for item in domains.values() if item.iso_prefix), ""),
            lver=status.lver,
            master_id=facts.master.id,
            master_version=facts.master_version,
            spm_id=status.host_id,
            type=facts.master.kind,
            version=facts.master.version,
            domains=domains,
        )

    def spm_status(self, pool_id: PoolId) -> SpmStatus:
        """Who manages the pool, as the lease on its master says.

        Raises:
            NoSuchPool: this host is not in it.
            SpmStatusUnknown: the lease cannot be looked at.
        """
        facts, spm = self.session(pool_id).facts, self._spm_of(pool_id)
        if spm.role is SpmRole.SPM:
            return SpmStatus(SpmRole.SPM, spm.lver, facts.host_id)
        lock = facts.master.lock
        try:
            state = lock.inspect(lock.sdm)
        except VdsmError as error:
            raise SpmStatusUnknown(f"looking for the SPM of pool {pool_id}", str(error)) from error
        return SpmStatus(spm.role, state.version or -1, state.owners[0] if state.owners else -1)

    def spm_start(self, pool_id: PoolId, version: int | None = None) -> str:
        """Begin to manage the pool; the id of a task that lives in memory.

        Args:
            pool_id: the pool.
            version: which version its domains should have; older ones are raised in the end. None is theirs.

        Raises:
            NoSuchPool: this host is not in it.
            IsSpm: it is the SPM.
            SpmNotStarted: it is about to be, or the pool's version is higher.
        """
        facts, spm = self.session(pool_id).facts, self._spm_of(pool_id)
        if version is not None and version < facts.master.version:
            raise SpmNotStarted(pool_id, _TOO_NEW.format(facts.master.version, version))
        if not spm.contend():
            if spm.role is SpmRole.SPM:
                raise IsSpm(pool_id)
            raise SpmNotStarted(pool_id, "it is being started")
        try:
            return self.host_tasks.submit(self._start_kind, SpmStart(pool_id, version)).id
        except VdsmError:
            spm.give_up()
            raise

    def spm_stop(self, pool_id: PoolId) -> None:
        """Manage the pool no more; nothing when this host does not.

        Raises:
            NoSuchPool: this host is not in it.
            TasksRunning: there is something under way.
        """
        with self._changing():
            self._spm_of(pool_id).stop()

    def _facts(
        self,
        pool_id: PoolId,
        host_id: int,
        master_id: DomainId,
        master_version: int,
        domains: Mapping[DomainId, AttachedStatus] | None,
    ) -> PoolFacts:
        """What is to be known of the pool, once the master has been looked at."""
        try:
            master = self._domains.find(master_id)
            metadata = master.backend.read_domain()
        except NoSuchDomain as error:
            raise NoMaster(pool_id, master_id, "it is not connected") from error
        _check_master(metadata, pool_id, master_version if domains is None else None)
        if domains is not None:
            listed = {**domains, master.id: domains.get(master.id, AttachedStatus.ACTIVE)}
            return PoolFacts(pool_id, host_id, master, master_version, listed)
        if metadata.pool is None:
            raise WrongMaster(pool_id, master_id, "its metadata has no pool")
        name = metadata.pool.description or UNNAMED
        listed = dict(metadata.pool.domains)
        return PoolFacts(pool_id, host_id, master, master_version, listed, on_disk=True, name=name)

    def _take_over(self, session: PoolSession, facts: PoolFacts) -> None:
        """Let the session know what is new."""
        known = session.facts
        if facts.master_version < known.master_version:
            raise WrongMaster(facts.pool_id, facts.master.id, f"version {known.master_version} is known")
        if facts.master.id != known.master.id and self._spm is not None and self._spm.role is not SpmRole.FREE:
            raise WrongMaster(facts.pool_id, facts.master.id, f"this host is the SPM on {known.master.id}")
        session.set_facts(facts)
        self._relink(session)
        self._watch(session, known.domains)

    def _iso_prefix(self, facts: PoolFacts, domain_id: DomainId) -> str:
        if domain_id not in self._iso:
            return ""
        return f"{self._parts.links.domain_link(facts.pool_id, domain_id)}/{tree.IMAGES}/{tree.ISO_IMAGE}"


def read_domain_map(words: Mapping[str, str]) -> dict[DomainId, AttachedStatus]:
    """The manager's list of domains: ids and "active" or "attached", in any case.

    Raises:
        InvalidParameter: it holds something else.
    """
    found = {}
    for ident, word in words.items():
        try:
            found[parse_domain_id(ident, "domainDict")] = AttachedStatus(word.strip().capitalize())
        except ValueError as error:
            raise InvalidParameter("domainDict", f"{ident} is {word!r:.40}") from error
    return found


def _check_master(metadata: DomainMetadata, pool_id: PoolId, version: int | None) -> None:
    ident = metadata.domain_id
    if pool_id not in metadata.pools:
        raise WrongMaster(pool_id, ident, "it does not belong to the pool")
    if metadata.role is not DomainRole.MASTER or metadata.domain_class is not DomainClass.DATA:
        raise WrongMaster(pool_id, ident, f"it is a {metadata.role.value} {metadata.domain_class.value} domain")
    if version is not None and metadata.pool is not None and metadata.pool.master_version != version:
        raise WrongMaster(pool_id, ident, f"its version is {metadata.pool.master_version}, not {version}")
