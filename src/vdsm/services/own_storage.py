"""The storage of a host that manages itself: remembered here, connected and managed without anybody's help.

    storage.json    the pool, its master, and each storage: what to connect, its domain, and whether it is made or kept

    making --> connect > make the domain > into the pool (the first one: make the pool) > activate --> kept
                 |
                 a failure, or the agent's end before the domain was there: everything is taken back

A keeper brings up what is kept when the agent starts, and again whenever something is missing: connections, the pool,
the pool's manager (SPM) unless another host of the pool is it, and the domains in use.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from vdsm.api import storage as api
from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import AlreadyExists, BadParameter, Busy, Failed, NotFound, VdsmError
from vdsm.base.persist import persist_file, read_file
from vdsm.base.undo import Undo
from vdsm.operations.records import TaskResult, TaskState
from vdsm.storage.connection.connections import Connection, Connections
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_maker import NewDomain
from vdsm.storage.domains.domain_work import DomainWork
from vdsm.storage.domains.domains import Domains
from vdsm.storage.domains.monitor import Monitors
from vdsm.storage.errors import InvalidParameter, NoSuchDomain, StorageAccessDenied, StorageBusy
from vdsm.storage.formats.mounts import normalize
from vdsm.storage.ids import DomainId, PoolId, new_id
from vdsm.storage.kinds import AttachedStatus, DomainRole, StorageType
from vdsm.storage.pool.pools import Pools
from vdsm.storage.pool.spm import SpmRole
from vdsm.storage.pool.tasks import Tasks

log = logging.getLogger(__name__)

_FORMAT: Final = 1
_POOL_NAME: Final = "own"
_RETRY_S: Final = 10.0
_PATIENCE_S: Final = 5.0
_REFUSALS: Final = frozenset({InvalidParameter.code, StorageAccessDenied.code})
_TASK_S: Final = 300.0
_POLL_S: Final = 0.02


class _Kept(msgspec.Struct, frozen=True):
    """One storage on record; ``made`` is False until its domain is in the pool and in use."""

    request: api.StorageRequest
    domain_id: DomainId
    made: bool = False
    fresh: bool = True


class _Record(msgspec.Struct, frozen=True):
    """What is remembered."""

    format: int = _FORMAT
    pool_id: PoolId | None = None
    master_id: DomainId | None = None
    master_version: int = 1
    storages: tuple[_Kept, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StorageParts:
    """What the storage is managed with."""

    connections: Connections
    domains: Domains
    work: DomainWork
    pools: Pools
    tasks: Tasks
    monitors: Monitors
    host_id: int = 1


class OwnStorage:
    """Implements ``api.storage.Storage``.

    Args:
        place: where it remembers.
        parts: what the storage is managed with.
        in_use: whether a VM of this host has images in a domain.
    """

    def __init__(self, place: Path, parts: StorageParts, in_use: Callable[[DomainId], bool]) -> None:
        self._place: Final = place
        self._parts: Final = parts
        self._in_use: Final = in_use
        self._lock = threading.Lock()  # one change at a time; those who only look do not take it
        self._record = _read(place)
        self._reasons = {kept.request.name: "it is being connected" for kept in self._record.storages}
        self._wake = threading.Event()
        self._stopping = False
        self._settled = threading.Event()

    # -- verbs

    def list(self) -> list[api.StorageView]:
        """All, as they are known."""
        return [self._view(kept) for kept in self._record.storages]

    def create(self, storage: api.StorageRequest) -> api.StorageView:
        """Make a domain and use it."""
        with self._changing():
            self._check_new(storage)
            return self._add(_Kept(storage, DomainId(new_id())))

    def attach(self, storage: api.StorageRequest) -> api.StorageView:
        """Use a domain that is there."""
        with self._changing():
            self._check_new(storage)
            with Undo() as undo:
                self._connect(storage)
                undo.add(self._disconnect, storage)
                domain = self._domain_at(storage)
                undo.commit()
            return self._add(_Kept(storage, domain.id, fresh=False))

    def remove(self, name: str, destroy: bool = False) -> None:  # noqa: FBT001, FBT002 - the contract's
        """Use it no more."""
        with self._changing():
            kept = self._named(name)
            if self._in_use(kept.domain_id):
                raise StorageBusy(name, "VMs have images in it")
            others = [other for other in self._record.storages if other is not kept]
            if others:
                self._take_out(kept)
            else:
                self._close_pool()
            if destroy:
                self._parts.work.format(kept.domain_id, auto_detach=True)
            self._write(msgspec.structs.replace(self._record, storages=tuple(others)) if others else _Record())
            self._disconnect(kept.request)

    # -- life

    def start(self) -> None:
        """Begin to bring up what is remembered; returns at once."""
        threads.start("storage-keeper", self._keep)

    def stop(self) -> None:
        """Bring up no more."""
        self._stopping = True
        self._wake.set()

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until the first attempt to bring everything up is over; False: it took longer."""
        return self._settled.wait(timeout_s)

    def _keep(self) -> None:
        while not self._stopping:
            if self._record.storages:
                with self._lock:
                    self._bring_up()
            self._settled.set()
            self._wake.wait(_RETRY_S)
            self._wake.clear()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time; the keeper may be at a server that does not answer.

        Raises:
            Busy: another change takes longer than anybody should wait.
        """
        if not self._lock.acquire(timeout=_PATIENCE_S):
            raise Busy("this host's storage")
        try:
            yield
        finally:
            self._lock.release()

    def _bring_up(self) -> None:
        """Everything that is missing, as far as it goes."""
        silent = self._connect_missing()
        for kept in self._record.storages:
            if kept.request.name in silent:
                self._reasons[kept.request.name] = silent[kept.request.name]
                continue
            try:
                if not kept.made:
                    self._settle(kept)
                else:
                    self._open(kept)
                self._reasons.pop(kept.request.name, None)
            except VdsmError as error:
                if self._reasons.get(kept.request.name) != str(error):
                    log.warning("storage %s is not there: %s", kept.request.name, error)
                self._reasons[kept.request.name] = str(error)

    def _connect_missing(self) -> dict[str, str]:
        """Connect all that is not there, side by side; what cannot be, with the reason."""
        there = {mount.spec for mount in self._parts.connections.mounts()}
        wanted = [kept.request for kept in self._record.storages if normalize(kept.request.path) not in there]
        found = self._parts.connections.connect([_connection(request) for request in wanted]) if wanted else []
        return {status.id: status.reason for status in found if status.code}

    def _settle(self, kept: _Kept) -> None:
        """Go on with what the agent's end cut off, or take it back."""
        self._parts.work.settle()
        try:
            self._parts.domains.find(kept.domain_id)
        except NoSuchDomain:
            log.warning("storage %s was not made: it is forgotten", kept.request.name)
            self._drop(kept)
            return
        self._use(kept)

    def _open(self, kept: _Kept) -> None:
        parts, record = self._parts, self._record
        if record.pool_id is None or record.master_id is None:
            raise Failed("opening the pool", "it is not known")
        if parts.pools.current() is None:
            parts.pools.connect(record.pool_id, parts.host_id, record.master_id, record.master_version, None)
        self._manage(record.pool_id)
        self._activate(kept, record.pool_id)

    # -- steps

    def _add(self, kept: _Kept) -> api.StorageView:
        before = self._record
        with Undo() as undo:
            undo.add(self._write, before)
            self._write(msgspec.structs.replace(before, storages=(*before.storages, kept)))
            undo.add(self._disconnect, kept.request)
            self._connect(kept.request)
            if kept.fresh:
                self._parts.work.create(_new_domain(kept))
                undo.add(self._parts.work.format, kept.domain_id, auto_detach=True)
            if not before.storages:
                undo.add(self._close_pool)
            self._use(kept)
            undo.commit()
        return self._view(self._named(kept.request.name))

    def _use(self, kept: _Kept) -> None:
        """Take a connected domain into the pool, and on record as made."""
        pools, record = self._parts.pools, self._record
        metadata = self._parts.domains.info(kept.domain_id)
        owner = metadata.pools[0] if metadata.pools else None
        if record.pool_id is None:
            if owner is not None and metadata.role is not DomainRole.MASTER:
                raise StorageBusy(kept.request.name, f"it belongs to the pool {owner}, whose master must come first")
            version = metadata.pool.master_version if owner is not None and metadata.pool is not None else 1
            pool_id = owner or PoolId(new_id())
            # On record first: a pool that is made by half has an owner.
            record = msgspec.structs.replace(record, pool_id=pool_id, master_id=kept.domain_id, master_version=version)
            self._write(record)
        pool_id, master_id = _pool_of(record)
        if owner is not None and owner != pool_id:
            raise StorageBusy(kept.request.name, f"it belongs to the pool {owner}")
        if owner is None and master_id == kept.domain_id:
            pools.create(pool_id, _POOL_NAME, kept.domain_id, record.master_version, [kept.domain_id])
        if pools.current() is None:
            pools.connect(pool_id, self._parts.host_id, master_id, record.master_version, None)
        self._manage(pool_id)
        if owner is None and master_id != kept.domain_id:
            pools.attach(kept.domain_id, pool_id)
        self._activate(kept, pool_id)
        made = msgspec.structs.replace(kept, made=True)
        self._write(
            msgspec.structs.replace(
                self._record,
                storages=tuple(made if other.domain_id == kept.domain_id else other for other in record.storages),
            )
        )

    def _manage(self, pool_id: PoolId) -> None:
        """Become the pool's SPM, unless this host or another one is."""
        pools = self._parts.pools
        status = pools.spm_status(pool_id)
        if status.status is SpmRole.FREE and status.host_id in {-1, self._parts.host_id}:
            self._finish(pools.spm_start(pool_id))

    def _activate(self, kept: _Kept, pool_id: PoolId) -> None:
        info = self._parts.pools.info(pool_id)
        known = info.domains.get(kept.domain_id)
        if known is None or known.status is not AttachedStatus.ACTIVE:
            self._parts.pools.activate(kept.domain_id, pool_id)

    def _take_out(self, kept: _Kept) -> None:
        """Out of a pool that goes on."""
        pools, record = self._parts.pools, self._record
        pool_id, master_id = _pool_of(record)
        if kept.domain_id == master_id:
            heir = next(other.domain_id for other in record.storages if other.domain_id != kept.domain_id)
            version = record.master_version + 1
            self._finish(pools.switch_master(pool_id, master_id, heir, version))
            record = msgspec.structs.replace(record, master_id=heir, master_version=version)
            self._write(record)
            master_id = heir
        pools.deactivate(kept.domain_id, pool_id)
        pools.detach(kept.domain_id, pool_id)

    def _close_pool(self) -> None:
        pools, record = self._parts.pools, self._record
        pool_id = pools.current()
        if pool_id is None or pool_id != record.pool_id:
            return
        if pools.spm_status(pool_id).status is SpmRole.SPM:
            pools.spm_stop(pool_id)
        pools.disconnect(pool_id)

    def _finish(self, task_id: str) -> None:
        """Wait for a task, and forget it.

        Raises:
            Failed: it did not succeed, or takes too long.
        """
        until_s = monotonic_s() + _TASK_S
        while (status := self._parts.tasks.status(task_id)).state != TaskState.FINISHED.value:
            if monotonic_s() > until_s:
                raise Failed(f"task {task_id}", "it takes too long")
            self._wake.wait(_POLL_S)
        self._parts.tasks.clear(task_id)
        if status.result != TaskResult.SUCCESS.value:
            raise Failed(f"task {task_id}", status.message)

    def _connect(self, request: api.StorageRequest) -> None:
        (status,) = self._parts.connections.connect([_connection(request)])
        if status.code in _REFUSALS:
            raise BadParameter("path", status.reason)
        if status.code:
            raise Failed(f"connecting {request.path}", status.reason)

    def _disconnect(self, request: api.StorageRequest) -> None:
        self._parts.connections.disconnect([_connection(request)])

    def _domain_at(self, request: api.StorageRequest) -> Domain:
        spec = normalize(request.path)
        mounts = {mount.path for mount in self._parts.connections.mounts() if mount.spec == spec}
        for domain_id in self._parts.domains.visible():
            domain = self._parts.domains.find(domain_id)
            if domain.mount in mounts:
                return domain
        raise NoSuchDomain(f"at {request.path}")

    # -- the record

    def _check_new(self, storage: api.StorageRequest) -> None:
        for kept in self._record.storages:
            if kept.request.name == storage.name:
                raise AlreadyExists("storage", storage.name)
            if normalize(kept.request.path) == normalize(storage.path):
                raise BadParameter("path", f"{storage.path} is storage {kept.request.name} already")
        current = self._parts.pools.current()
        if current is not None and current != self._record.pool_id:
            raise StorageBusy(storage.name, f"a manager has connected this host to the pool {current}")

    def _named(self, name: str) -> _Kept:
        for kept in self._record.storages:
            if kept.request.name == name:
                return kept
        raise NotFound("storage", name)

    def _drop(self, kept: _Kept) -> None:
        others = tuple(other for other in self._record.storages if other.domain_id != kept.domain_id)
        self._write(msgspec.structs.replace(self._record, storages=others) if others else _Record())
        self._disconnect(kept.request)

    def _write(self, record: _Record) -> None:
        persist_file(self._place, msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        self._record = record

    def _view(self, kept: _Kept) -> api.StorageView:
        report = self._parts.monitors.reports().get(kept.domain_id)
        reason = self._reasons.get(kept.request.name, "")
        status: Literal["active", "connecting", "failing"] = "active"
        if reason or report is None or not kept.made:
            status = "connecting"
        if report is not None and not report.valid:
            status, reason = "failing", report.reason
        space = report.space if report is not None else None
        return api.StorageView(
            name=kept.request.name,
            domain_id=kept.domain_id,
            pool_id=self._record.pool_id or "",
            type=kept.request.type,
            path=kept.request.path,
            status=status,
            reason=reason,
            master=kept.domain_id == self._record.master_id,
            total=space.total if space is not None else None,
            free=space.free if space is not None else None,
        )


def _pool_of(record: _Record) -> tuple[PoolId, DomainId]:
    if record.pool_id is None or record.master_id is None:
        raise Failed("looking for the pool", "there is none")
    return record.pool_id, record.master_id


def _connection(request: api.StorageRequest) -> Connection:
    return Connection(
        id=request.name,
        type=StorageType[request.type],
        spec=request.path,
        vfs_type=request.vfs_type,
        options=request.mount_options,
        protocol_version=request.nfs_version if request.type == "NFS" else "",
    )


def _new_domain(kept: _Kept) -> NewDomain:
    return NewDomain(
        id=kept.domain_id, kind=StorageType[kept.request.type], spec=kept.request.path, name=kept.request.name
    )


def _read(place: Path) -> _Record:
    data = read_file(place)
    if data is None:
        return _Record()
    try:
        record = msgspec.json.decode(data, type=_Record)
    except msgspec.MsgspecError as error:
        raise Failed(f"reading {place}", str(error)) from error
    if record.format != _FORMAT:
        raise Failed(f"reading {place}", f"its format is {record.format}, not {_FORMAT}")
    return record
