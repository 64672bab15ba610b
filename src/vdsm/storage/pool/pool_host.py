"""This host's place in its pool: the session, the SPM's part of it, links and monitors. The base of ``pools.Pools``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Unfinished, VdsmError
from vdsm.base.threads import itmap
from vdsm.operations.journal import JournalStore, MemoryJournal
from vdsm.operations.kinds import Kind, Kinds
from vdsm.operations.locks import Locks, Mode, Resource
from vdsm.operations.manager import Operations
from vdsm.operations.records import OperationView, Phase
from vdsm.storage.domains.domain import Domain
from vdsm.storage.ids import DomainId, PoolId, new_id
from vdsm.storage.kinds import DomainClass
from vdsm.storage.pool.pool_errors import NoSuchPool, NotSpm, OtherPool
from vdsm.storage.pool.pool_kinds import INTERNAL, PoolKinds, pool_kinds
from vdsm.storage.pool.pool_maker import PoolMaker
from vdsm.storage.pool.pool_session import DomainSource, PoolLinks, PoolSession, Watchers
from vdsm.storage.pool.pool_writer import PoolWriter
from vdsm.storage.pool.spm import Spm, start_kind
from vdsm.storage.pool.spm_term import MakeWatchdog, SpmParts
from vdsm.storage.pool.watchdog import Watchdog
from vdsm.storage.pool.write_gate import WriteGate, spm_gate

log = logging.getLogger(__name__)

# Domains are looked for at the same time, each with the deadline of its helper.
_FINDERS: Final = 16
_FIND_S: Final = 90.0
_LEAVE_S: Final = 20.0
_CHANGE_S: Final = 170.0  # the Engine gives up after 180


@dataclass(frozen=True, kw_only=True)
class PoolParts:
    """What pools are made of.

    Attributes:
        domains: finds domains.
        links: keeps the pool's links.
        monitors: watches its active domains.
        kinds: of the SPM's operations on images and leases; those of the pool itself are added.
        locks: shared with all who lock domains and images.
        journal: this host's, for making and mending pools; a directory of its own.
        gate: makes what lets the SPM write; see ``SpmParts``.
        watchdog: makes the one that looks at a gate's lease.
        fence: called when a lease is lost or cannot be given back; see ``SpmParts``.
        changed: told of each task's change of phase; must not wait.
        point: for tests.
        join_s: seconds to wait until this host shows as alive on a domain.
        workers: how many of the SPM's tasks run at once.
    """

    domains: DomainSource
    links: PoolLinks
    monitors: Watchers
    kinds: list[Kind[Any]] = field(default_factory=list)
    locks: Locks = field(default_factory=Locks)
    journal: JournalStore = field(default_factory=MemoryJournal)
    gate: Callable[[Domain, int], WriteGate] = spm_gate
    watchdog: MakeWatchdog = Watchdog
    fence: Callable[[str], None] = lambda _: None
    changed: Callable[[OperationView], None] = lambda _: None
    point: Callable[[str], None] = lambda _: None
    join_s: float = 180.0
    workers: int = 10


class PoolHost:
    """The pool that this host is in; may be used by many threads at once."""

    def __init__(self, parts: PoolParts) -> None:
        self._parts: Final = parts
        self._domains: Final = parts.domains
        self._writer: Final = PoolWriter(parts.domains, join_s=parts.join_s)
        self._kinds: Final[PoolKinds] = pool_kinds(parts.domains, self._writer, self._the_spm)
        self._maker: Final = PoolMaker(parts.domains, parts.journal, parts.locks, self._writer, point=parts.point)
        self._spm_parts: Final = SpmParts(
            domains=parts.domains,
            kinds=(*parts.kinds, *self._kinds.all()),
            locks=parts.locks,
            waited=INTERNAL,
            gate=parts.gate,
            watchdog=parts.watchdog,
            fence=parts.fence,
            changed=parts.changed,
            moved=self._moved,
            point=parts.point,
            join_s=parts.join_s,
            workers=parts.workers,
        )
        # What lives in memory only: starting the SPM.
        self._start_kind: Final = start_kind(lambda: self._the_spm().start_steps(), self._upgrade)
        self.host_tasks: Final = Operations(
            Kinds([self._start_kind]), MemoryJournal(), Locks(), workers=1, changed=self._start_changed
        )
        self._session: PoolSession | None = None
        self._spm: Spm | None = None
        self._iso: set[DomainId] = set()

    def begin(self) -> None:
        """Settle what the last process left of making and mending pools; before anything else.

        Raises:
            OSError: this host's journal cannot be read.
        """
        self.host_tasks.resume()
        self._maker.resume()

    def end(self, deadline_s: float) -> bool:
        """Stop everything where it is; leases end with the process.

        Returns:
            Whether all steps that ran had come to an end within ``deadline_s`` seconds.
        """
        spm = self._spm
        done = [self.host_tasks.stop(deadline_s), self._maker.stop(deadline_s)]
        if spm is not None:
            done.append(spm.halt(deadline_s))
        return all(done)

    def current(self) -> PoolId | None:
        """The pool that this host is connected to."""
        session = self._session
        return session.facts.pool_id if session is not None else None

    def session(self, pool_id: PoolId) -> PoolSession:
        """What is known of the pool.

        Raises:
            NoSuchPool: this host is not connected to it.
        """
        session = self._session
        if session is None or session.facts.pool_id != pool_id:
            raise NoSuchPool(pool_id)
        return session

    def spm(self, pool_id: PoolId) -> Spm:
        """This host as the pool's SPM.

        Raises:
            NoSuchPool: this host is not connected to the pool.
            NotSpm: another host is the SPM, or none.
        """
        spm = self._spm_of(pool_id)
        spm.check()
        return spm

    def domain_changed(self, domain_id: DomainId) -> None:
        """A domain has become valid: it is linked; the SPM sets a second master right, and goes on with its tasks."""
        session = self._session
        if session is None or domain_id not in session.facts.domains:
            return
        self._relink(session)
        self._mend_role(session, domain_id)
        if self._spm is not None:
            with suppress(NotSpm):
                self._spm.operations.tend(ended=True)

    def _mend_role(self, session: PoolSession, domain_id: DomainId) -> None:
        """Overridden where the SPM's changes are."""

    def _upgrade(self, pool_id: PoolId, version: int) -> None:
        """Overridden, as ``_mend_role``."""

    def _spm_of(self, pool_id: PoolId) -> Spm:
        self.session(pool_id)
        spm = self._spm
        if spm is None:
            raise NoSuchPool(pool_id)
        return spm

    def _the_spm(self) -> Spm:
        spm = self._spm
        if spm is None:
            raise NoSuchPool("")
        return spm

    def _start_changed(self, view: OperationView) -> None:
        spm = self._spm
        if spm is not None and view.phase in {Phase.UNDONE, Phase.HALF_UNDONE}:
            spm.give_up()
        elif view.phase is Phase.DONE:
            # In a thread of its own, as this one must not wait.
            threads.start("pool-roles", self._mend_roles)

    def _mend_roles(self) -> None:
        session = self._session
        for domain_id in session.facts.active() if session is not None else ():
            if session is not None and domain_id != session.facts.master.id:
                self._mend_role(session, domain_id)

    def _moved(self) -> None:
        session = self._session
        if session is not None:
            self._relink(session)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep this host's other changers of the pool out."""
        wants = [(Resource("pool of this host", ""), Mode.EXCLUSIVE)]
        with self._parts.locks.hold(f"pool call {new_id()}", wants, timeout_s=_CHANGE_S):
            yield

    def _only(self, pool_id: PoolId) -> None:
        current = self.current()
        if current not in {None, pool_id}:
            raise OtherPool(str(current))

    def _enter(self, session: PoolSession) -> None:
        """Use a pool from now on, or what has changed of it."""
        if session is not self._session:
            self._session, self._spm = session, Spm(session, self._spm_parts)
        self._relink(session)
        self._watch(session)

    def _leave(self, session: PoolSession) -> None:
        self._parts.monitors.use_host_id(None)
        self._session = self._spm = None
        until_s = monotonic_s() + _LEAVE_S
        for domain_id in session.facts.domains:
            # What does not answer is left behind: its monitor leaves the lockspace when it can.
            self._parts.monitors.unwatch(domain_id, wait_s=max(0.0, until_s - monotonic_s()))
        self._parts.links.unlink_pool(session.facts.pool_id)

    def _relink(self, session: PoolSession) -> None:
        facts = session.facts
        domains = self._find(facts.active())
        found = {ident: domain.path for ident, domain in domains.items()}
        if self._session is session:
            self._iso = {ident for ident, domain in domains.items() if domain.domain_class is DomainClass.ISO}
            self._parts.links.link_pool(facts.pool_id, found, facts.master.path)

    def _watch(self, session: PoolSession, gone: Mapping[DomainId, object] | None = None) -> None:
        facts = session.facts
        monitors = self._parts.monitors
        monitors.use_host_id(facts.host_id)
        active = facts.active()
        for domain_id in active:
            monitors.watch(domain_id)
        for domain_id in {*facts.domains, *(gone or {})} - set(active):
            monitors.unwatch(domain_id, wait_s=0.0)

    def _find(self, idents: list[DomainId]) -> dict[DomainId, Domain]:
        """Those domains that can be found; one that does not answer keeps no other back."""
        found: dict[DomainId, Domain] = {}
        if not idents:
            return found
        try:
            for ident, outcome in itmap(self._domains.find, idents, workers=_FINDERS, timeout_s=_FIND_S):
                try:
                    found[ident] = outcome.result()
                except VdsmError as error:
                    log.warning("domain %s of the pool is not there: %s", ident, error)
        except Unfinished as error:
            log.warning("some domains of the pool do not answer: %s", error)
        return found
