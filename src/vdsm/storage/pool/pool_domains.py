"""A pool's domains: attached, detached, activated, deactivated, and made master, by the SPM.

    unattached --attach--> Attached --activate--> Active --deactivate--> Attached --detach--> unattached
                                                    ^                       (the master: another becomes it first)
                                                    +-- only these are linked and watched

Each change of metadata is an operation on the SPM's journal. The list of domains itself is kept in memory, where the
manager's is known (it tells it to each host that connects), and otherwise also in the master's metadata.

Source: storage format, section 3.5.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from vdsm.base.errors import VdsmError
from vdsm.operations.records import Phase
from vdsm.storage.errors import UnsupportedVersion
from vdsm.storage.formats.leases import RESERVED_HOST_ID
from vdsm.storage.formats.pool import MAX_DOMAINS
from vdsm.storage.ids import DomainId, PoolId
from vdsm.storage.kinds import AttachedStatus, DomainClass, DomainRole
from vdsm.storage.pool import master as masters
from vdsm.storage.pool import pool_edits
from vdsm.storage.pool.pool_edits import Edit
from vdsm.storage.pool.pool_errors import (
    AlreadyAttached,
    CannotBeMaster,
    DomainActive,
    MasterNotDetached,
    NotInPool,
    OtherCanBeMaster,
    TooManyDomains,
    TooNew,
    WrongMaster,
    error_of,
)
from vdsm.storage.pool.pool_host import PoolHost
from vdsm.storage.pool.pool_kinds import ChangePool
from vdsm.storage.pool.pool_session import PoolFacts, PoolSession
from vdsm.storage.pool.spm import Spm, SpmRole
from vdsm.storage.pool.switching import SwitchMaster
from vdsm.storage.pool.upgrading import upgrading

log = logging.getLogger(__name__)

_WAIT_S: Final = 160.0


class PoolDomains(PoolHost):
    """See the module."""

    def attach(self, domain_id: DomainId, pool_id: PoolId) -> None:
        """Let a domain belong to the pool; it is Attached then.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            NoSuchDomain: the domain is not connected.
            AlreadyAttached: it belongs to this pool, or another one.
            TooNew: its version is newer than the pool's.
            TooManyDomains: the pool has a hundred.
            LeaseHeld: another pool's SPM is at work on it.
        """
        with self._changing():
            spm, facts = self.spm(pool_id), self.session(pool_id).facts
            metadata = self._domains.find(domain_id).backend.read_domain()
            others = set(metadata.pools) - {pool_id}
            if domain_id in facts.domains or (others and metadata.domain_class is not DomainClass.ISO):
                raise AlreadyAttached(domain_id, ", ".join(metadata.pools))
            if metadata.domain_class is DomainClass.DATA and metadata.version > facts.master.version:
                raise TooNew(domain_id, metadata.version, facts.master.version)
            if len(facts.domains) >= MAX_DOMAINS:
                raise TooManyDomains(MAX_DOMAINS)
            edit = pool_edits.attaching(metadata, pool_id, facts.host_id)
            self._change(spm, "attach", domain_id, [edit], AttachedStatus.ATTACHED)

    def detach(self, domain_id: DomainId, pool_id: PoolId) -> None:
        """Let a domain belong to the pool no more.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            NoSuchDomain: the domain is not connected.
            NotInPool: it does not belong to the pool.
            MasterNotDetached: it is the pool's master.
            DomainActive: it is in use.
        """
        with self._changing():
            spm, facts = self.spm(pool_id), self.session(pool_id).facts
            _check_detachable(facts, domain_id)
            metadata = self._domains.find(domain_id).backend.read_domain()
            if pool_id not in metadata.pools:
                raise NotInPool(domain_id, pool_id)
            host_id = facts.host_id if metadata.domain_class is DomainClass.ISO else 0
            self._change(spm, "detach", domain_id, [pool_edits.detaching(metadata, pool_id, host_id)], None)

    def force_detach(self, domain_id: DomainId, pool_id: PoolId | None) -> None:
        """Forget a domain that cannot be reached (of the connected pool), or clean what a domain says of its pools.

        Args:
            domain_id: the domain.
            pool_id: the pool; None: all that the domain names.

        Raises:
            MasterNotDetached: it is the connected pool's master.
            NoSuchDomain: its metadata is to be cleaned, and it is not connected.
            LeaseHeld, LeaseFailed, HostIdFailed: another host is at work on it.
        """
        with self._changing():
            session = self._session
            if session is None or domain_id not in session.facts.domains:
                self._maker.clean(domain_id, pool_id, RESERVED_HOST_ID)
                return
            facts = session.facts
            if domain_id == facts.master.id:
                raise MasterNotDetached(domain_id)
            self._change(self.spm(facts.pool_id), "force detach", domain_id, [], None)

    def activate(self, domain_id: DomainId, pool_id: PoolId) -> None:
        """Use a domain that is attached; again is fine. One of an older version gets the pool's.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            NoSuchDomain: the domain is not connected.
            NotInPool: it does not belong to the pool.
            TooNew: its version is newer than the pool's.
            UnsupportedVersion: it is older, and cannot be raised.
        """
        with self._changing():
            spm, facts = self.spm(pool_id), self.session(pool_id).facts
            metadata = self._domains.find(domain_id).backend.read_domain()
            if domain_id not in facts.domains or pool_id not in metadata.pools:
                raise NotInPool(domain_id, pool_id)
            if metadata.domain_class is DomainClass.DATA and metadata.version > facts.master.version:
                raise TooNew(domain_id, metadata.version, facts.master.version)
            self._raise_version(spm, facts, domain_id, facts.master.version)
            edits = []
            if domain_id != facts.master.id and metadata.role is DomainRole.MASTER:
                edits.append(pool_edits.role(metadata, DomainRole.REGULAR))
            self._change(spm, "activate", domain_id, edits, AttachedStatus.ACTIVE)

    def deactivate(
        self, domain_id: DomainId, pool_id: PoolId, new_master_id: DomainId | None = None, master_version: int = 0
    ) -> None:
        """Use a domain no more; it stays attached. Again is fine.

        Args:
            domain_id: the domain.
            pool_id: the pool.
            new_master_id: which becomes the master, when the domain is it; None when it is the last.
            master_version: the new master's version.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            NotInPool: the domain does not belong to the pool.
            OtherCanBeMaster: it is the master, others are active, and none of them was named.
        """
        with self._changing():
            spm, session = self.spm(pool_id), self.session(pool_id)
            facts = session.facts
            if domain_id not in facts.domains:
                raise NotInPool(domain_id, pool_id)
            if domain_id == facts.master.id:
                self._replace_master(spm, facts, new_master_id, master_version)
            self._change(spm, "deactivate", domain_id, [], AttachedStatus.ATTACHED)

    def switch_master(self, pool_id: PoolId, old_id: DomainId, new_id: DomainId, master_version: int) -> str:
        """Begin to make another active domain the master; the task's id.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            WrongMaster: ``old_id`` is not the master, or the version is not higher.
            NotInPool, CannotBeMaster: the new one cannot be it.
        """
        with self._changing():
            spm, facts = self.spm(pool_id), self.session(pool_id).facts
            if facts.master.id != old_id:
                raise WrongMaster(pool_id, old_id, f"it is {facts.master.id}")
            return spm.submit(self._kinds.switch, self._switching(facts, new_id, master_version))

    def upgrade(self, pool_id: PoolId, version: int) -> None:
        """Give the pool's active data domains another version, the master first; nothing if they have it.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            UnsupportedVersion: it is older than theirs, or cannot be reached from theirs.
            VdsmError: one of them could not be changed; those before it are.
        """
        with self._changing():
            spm, facts = self.spm(pool_id), self.session(pool_id).facts
            if version < facts.master.version:
                raise UnsupportedVersion(f"{facts.master.version} to {version}")
            for ident in dict.fromkeys([facts.master.id, *facts.active()]):
                self._raise_version(spm, facts, ident, version)

    def destroy(self, pool_id: PoolId) -> None:
        """Dissolve the pool: all its domains belong to none, and this host is connected to none.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            NoSuchDomain: a domain cannot be reached.
            TasksRunning: something is under way.
        """
        with self._changing():
            spm, session = self.spm(pool_id), self.session(pool_id)
            facts = session.facts
            spm.check_idle()
            others = [ident for ident in facts.domains if ident != facts.master.id]
            read = [self._domains.find(ident).backend.read_domain() for ident in (*others, facts.master.id)]
            edits = [pool_edits.detaching(domain, pool_id) for domain in read if pool_id in domain.pools]
            change = ChangePool(pool_id, "destroy", tuple(facts.domains), tuple(edits))
            spm.perform(self._kinds.destroy, change, _WAIT_S)
            master = facts.master
            spm.stop(lambda: masters.wipe(master))
            self._leave(session)

    def set_description(self, pool_id: PoolId, text: str) -> None:
        """Rename the pool. Where the manager keeps its name, only the master's metadata says so.

        Raises:
            NotSpm, NoSuchPool: this host does not manage the pool.
            InvalidParameter: it is too long.
        """
        with self._changing():
            spm, session = self.spm(pool_id), self.session(pool_id)
            metadata = session.facts.master.backend.read_domain()
            if metadata.pool is None:
                return
            keys = replace(metadata.pool, description=text).pairs()
            edit = pool_edits.edit(metadata, {pool_edits.DESCRIPTION: keys[pool_edits.DESCRIPTION]})
            spm.perform(self._kinds.change, ChangePool(pool_id, "rename", (), (edit,)), _WAIT_S)
            if session.facts.on_disk:
                session.set_name(text)

    def _change(
        self, spm: Spm, what: str, domain_id: DomainId, edits: list[Edit], status: AttachedStatus | None
    ) -> None:
        """Write, then note a domain's new state; links and monitors follow."""
        session = self._the_session()
        before = session.facts
        after = before.with_domain(domain_id, status)
        if before.on_disk:
            metadata = before.master.backend.read_domain()
            if metadata.pool is not None:
                listed = replace(metadata.pool, domains=dict(after.domains))
                edits = [*edits, pool_edits.listing(before.master.id, metadata.pool, listed)]
        if edits:
            touched = (domain_id,) if what in {"attach", "detach"} else ()
            change = ChangePool(before.pool_id, what, touched, tuple(edits))
            spm.perform(self._kinds.change, change, _WAIT_S)
        session.set_domain(domain_id, status)
        self._relink(session)
        self._watch(session, before.domains)

    def _raise_version(self, spm: Spm, facts: PoolFacts, domain_id: DomainId, version: int) -> None:
        metadata = self._domains.find(domain_id).backend.read_domain()
        if metadata.domain_class is not DomainClass.DATA or metadata.version >= version:
            return
        spm.perform(self._kinds.upgrade, upgrading(metadata, version), _WAIT_S)
        if domain_id == facts.master.id:
            # The handle has the old version.
            self._the_session().set_master(self._domains.find(domain_id), facts.master_version)

    def _replace_master(self, spm: Spm, facts: PoolFacts, new_id: DomainId | None, version: int) -> None:
        others = [ident for ident in facts.active() if ident != facts.master.id]
        if new_id is None or new_id == facts.master.id:
            if others:
                raise OtherCanBeMaster(facts.pool_id, others[0])
            return
        view = spm.operations.wait(spm.submit(self._kinds.switch, self._switching(facts, new_id, version)), _WAIT_S)
        spm.operations.clear(view.id)
        if view.phase is not Phase.DONE and view.fault is not None:
            raise error_of(view.fault, "changing the master domain")

    def _switching(self, facts: PoolFacts, new_id: DomainId, version: int) -> SwitchMaster:
        metadata = self._domains.find(new_id).backend.read_domain()
        if facts.domains.get(new_id) is not AttachedStatus.ACTIVE or facts.pool_id not in metadata.pools:
            raise NotInPool(new_id, facts.pool_id)
        if metadata.domain_class is not DomainClass.DATA or metadata.version != facts.master.version:
            raise CannotBeMaster(new_id, f"{metadata.domain_class.value}, version {metadata.version}")
        if version <= facts.master_version:
            raise WrongMaster(facts.pool_id, new_id, f"version {version}; the master has {facts.master_version}")
        keys = {}
        if facts.on_disk:
            known = facts.master.backend.read_domain().pool
            keys = known.pairs() if known is not None else {}
        return SwitchMaster(facts.pool_id, facts.host_id, facts.master.id, new_id, version, keys)

    def _upgrade(self, pool_id: PoolId, version: int) -> None:
        self.upgrade(pool_id, version)

    def _mend_role(self, session: PoolSession, domain_id: DomainId) -> None:
        facts = session.facts
        spm = self._spm
        if spm is None or spm.role is not SpmRole.SPM or domain_id not in facts.active():
            return
        try:
            # No move of the master can begin meanwhile, and none is under way.
            with self._changing():
                metadata = self._domains.find(domain_id).backend.read_domain()
                moving = any(view.kind == self._kinds.switch.name for view in spm.busy())
                wrong = domain_id != session.facts.master.id and metadata.role is DomainRole.MASTER
                if wrong and facts.pool_id in metadata.pools and not moving:
                    log.warning("domain %s says that it is the master of pool %s", domain_id, facts.pool_id)
                    edit = pool_edits.role(metadata, DomainRole.REGULAR)
                    spm.perform(self._kinds.change, ChangePool(facts.pool_id, "one master", (), (edit,)), _WAIT_S)
        except VdsmError as error:
            log.info("the role of domain %s is not looked at: %s", domain_id, error)

    def _the_session(self) -> PoolSession:
        session = self._session
        if session is None:
            raise AssertionError  # its callers have looked
        return session


def _check_detachable(facts: PoolFacts, domain_id: DomainId) -> None:
    if domain_id not in facts.domains:
        raise NotInPool(domain_id, facts.pool_id)
    if domain_id == facts.master.id:
        raise MasterNotDetached(domain_id)
    if facts.domains[domain_id] is AttachedStatus.ACTIVE:
        raise DomainActive(domain_id)
