"""Making and formatting domains as journaled operations: an agent that is killed on the way takes it back, or ends it.

A making that does not come to its end is undone, also at the next start. A formatting has no way back and is finished.
Both need the storage to be connected: what is not, is settled when it is (``settle``).
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from vdsm.base.clock import now_utc
from vdsm.base.errors import Failed, VdsmError
from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Mode, Resource, Wants
from vdsm.operations.manager import Operations
from vdsm.operations.records import ENDED, SETTLED, Phase
from vdsm.storage import wants
from vdsm.storage.domains import domain_maker
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_maker import NewDomain, Stage
from vdsm.storage.domains.domains import Domains
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.formats.mounts import normalize
from vdsm.storage.ids import DomainId

log = logging.getLogger(__name__)

T = TypeVar("T")


class Making(Struct, frozen=True):
    """What the journal keeps of a making: the request, and what was decided.

    Attributes:
        request: what was asked for.
        mount: where it is made.
        block_size: the storage's sectors, in bytes.
        alignment: the size of a lease's area, in bytes.
        now_s: whole seconds since the epoch.
    """

    request: NewDomain
    mount: str = ""
    block_size: int = 512
    alignment: int = 1 << 20
    now_s: int = 0


class Formatting(Struct, frozen=True):
    """What the journal keeps of a formatting.

    Attributes:
        domain_id: what is formatted.
        auto_detach: also if it belongs to a pool.
        mount: where it is.
    """

    domain_id: DomainId
    auto_detach: bool = False
    mount: str = ""


class DomainKinds:
    """The kinds ``createStorageDomain`` and ``formatStorageDomain``, for the host's own journal."""

    def __init__(self, domains: Domains) -> None:
        self._domains: Final = domains
        self._lock = threading.Lock()
        self._errors: dict[DomainId, VdsmError] = {}
        self.make: Final = Kind(
            "createStorageDomain", 1, Making, self._plan_making, wants=_wants_making, decide=self._decide_making
        )
        self.format: Final = Kind(
            "formatStorageDomain",
            1,
            Formatting,
            self._plan_formatting,
            wants=lambda work: wants.of_domain(work.domain_id, Mode.EXCLUSIVE),
            decide=self._decide_formatting,
            policy=Policy.FINISH,
        )

    @property
    def all(self) -> Sequence[Kind[Any]]:
        """Both, for the registry."""
        return [self.make, self.format]

    def error_of(self, domain_id: DomainId) -> VdsmError | None:
        """The first thing that went wrong with a domain's making or formatting, once."""
        with self._lock:
            return self._errors.pop(domain_id, None)

    def _decide_making(self, work: Making) -> Making:
        request = work.request
        return self._noting(request.id, lambda: self._decided_making(work, request))

    def _decided_making(self, work: Making, request: NewDomain) -> Making:
        place = self._domains.place_for(request).path
        shape = domain_maker.described(self._domains.connected_files(place), place, request).geometry
        return msgspec.structs.replace(
            work,
            mount=place,
            block_size=shape.block_size,
            alignment=shape.alignment,
            now_s=int(now_utc().timestamp()),
        )

    def _plan_making(self, work: Making) -> list[Step]:
        metadata = domain_maker.metadata_of(work.request, Geometry(work.block_size, work.alignment))

        def format_leases() -> None:
            self._domains.opener.lock(work.mount, metadata).format()

        files = self._domains.opener.files(work.mount)
        stages = domain_maker.making(files, work.mount, metadata, format_leases, work.now_s)
        return [self._step(stage, work.request.id, work.mount) for stage in stages]

    def _decide_formatting(self, work: Formatting) -> Formatting:
        def decided() -> Formatting:
            place = self._domains.formattable(work.domain_id, auto_detach=work.auto_detach)
            return msgspec.structs.replace(work, mount=place)

        return self._noting(work.domain_id, decided)

    def _plan_formatting(self, work: Formatting) -> list[Step]:
        files = self._domains.opener.files(work.mount)
        stages = domain_maker.removing(files, work.mount, work.domain_id)
        return [self._step(stage, work.domain_id, work.mount) for stage in stages]

    def _step(self, stage: Stage, domain_id: DomainId, mount: str) -> Step:
        def do(function: Callable[[], None], _: Run) -> None:
            def done() -> None:
                self._domains.connected_files(mount)
                function()

            self._noting(domain_id, done)
            self._domains.forget(domain_id)

        return Step(stage.name, partial(do, stage.do), partial(do, stage.undo))

    def _noting(self, domain_id: DomainId, function: Callable[[], T]) -> T:
        """Keep the first error for who waits: the journal has its text only."""
        try:
            return function()
        except VdsmError as error:
            with self._lock:
                self._errors.setdefault(domain_id, error)
            raise


def _wants_making(work: Making) -> Wants:
    storage = Resource("storage", normalize(work.request.spec))
    return [*wants.of_domain(work.request.id, Mode.EXCLUSIVE), (storage, Mode.EXCLUSIVE)]


class DomainWork:
    """Makes and formats domains by way of the journal, and waits for it.

    Args:
        domains: the registry.
        kinds: registered with ``operations``.
        operations: on the host's own journal.
        timeout_s: seconds to wait for one to end; it goes on after them.
    """

    def __init__(
        self, domains: Domains, kinds: DomainKinds, operations: Operations, *, timeout_s: float = 180.0
    ) -> None:
        self._domains: Final = domains
        self._kinds: Final = kinds
        self._operations: Final = operations
        self._timeout_s: Final = timeout_s
        self._lock = threading.Lock()
        self._awaited: set[str] = set()

    def create(self, request: NewDomain) -> Domain:
        """Make a domain.

        Raises:
            NotMounted, DomainExists, LongDescription, ...: see ``Domains.create``; nothing is left.
            Unfinished: it has not ended in time, and goes on.
        """
        self._perform(self._kinds.make, Making(request), request.id)
        self._domains.note_made(request)
        return self._domains.find(request.id)

    def format(self, domain_id: DomainId, *, auto_detach: bool = False) -> None:
        """Take a domain away with all that is in it.

        Raises:
            DomainAttached, NoSuchDomain, ...: see ``Domains.format``; nothing was changed.
            StorageFailed, ...: it is gone for everybody, and what is left is taken away later.
            Unfinished: it has not ended in time, and goes on.
        """
        self._perform(self._kinds.format, Formatting(domain_id, auto_detach), domain_id)
        self._domains.forget_whole(domain_id)

    def settle(self) -> None:
        """Try again what could not be ended, because its storage was not connected or refused; call it now and then."""
        names = {kind.name for kind in self._kinds.all}
        with self._lock:
            awaited = set(self._awaited)
        for view in self._operations.views():
            if view.kind not in names or view.id in awaited or view.phase not in ENDED:
                continue
            try:
                if view.phase in SETTLED:
                    self._operations.clear(view.id)
                else:
                    self._operations.settle(view.id)
            except VdsmError as error:
                log.warning("%s %s is not settled: %s", view.kind, view.id, error)

    def _perform(self, kind: Kind[Any], arguments: Struct, domain_id: DomainId) -> None:
        self.settle()
        operation_id = str(uuid.uuid4())
        with self._lock:
            self._awaited.add(operation_id)
        try:
            self._kinds.error_of(domain_id)
            self._operations.submit(kind, arguments, operation_id)
            view = self._operations.wait(operation_id, self._timeout_s)
            error = self._kinds.error_of(domain_id)
            if view.phase in SETTLED:
                self._operations.clear(operation_id)
        finally:
            with self._lock:
                self._awaited.discard(operation_id)
        if view.phase is not Phase.DONE:
            raise error or Failed(kind.name, view.fault.text if view.fault else str(view.phase))
