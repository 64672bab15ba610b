"""The storage domains that this host reaches: finds them in what is connected, and opens, makes and formats them.

A domain is looked for in all mounts at once, in each through its own helper process: one that does not answer costs
its own look-up the deadline, and nobody who finds what he wants elsewhere. What was opened stays open until it is
forgotten: the monitor does that when a domain has gone or changed its version, the connections when they end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from vdsm.base.clock import now_utc
from vdsm.base.errors import Busy
from vdsm.storage.access import FileAccess
from vdsm.storage.backend import Space
from vdsm.storage.domains import domain_maker
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_errors import DomainAttached, DomainNotReady, LongDescription, NotMounted
from vdsm.storage.domains.domain_maker import NewDomain
from vdsm.storage.domains.domain_opener import DomainOpener, DomainTools
from vdsm.storage.domains.domain_places import DomainPlaces, Mount
from vdsm.storage.errors import NoSuchDomain
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.formats.domain import MAX_DESCRIPTION, DomainMetadata
from vdsm.storage.formats.mounts import normalize
from vdsm.storage.ids import DomainId

log = logging.getLogger(__name__)


class Domains:
    """See the module; may be used by many threads at once.

    Args:
        connections_view: everything that is connected now.
        tools: what domains work with.
        timeout_s: seconds for each call to a storage.
    """

    def __init__(
        self, connections_view: Callable[[], Sequence[Mount]], tools: DomainTools, *, timeout_s: float = 10.0
    ) -> None:
        self._view: Final = connections_view
        self._opener: Final = DomainOpener(tools, timeout_s)
        self._timeout_s: Final = timeout_s
        self._places: Final = DomainPlaces(connections_view, self._opener.files, timeout_s)
        self._lock = threading.Lock()
        self._open: dict[DomainId, Domain] = {}
        self._edits: dict[str, threading.Lock] = {}

    def find(self, domain_id: DomainId) -> Domain:
        """A domain, opened now or before.

        Raises:
            NoSuchDomain: no connected storage has it.
            Damaged, UnsupportedVersion, WrongBlockSize: it is there and cannot be used.
            Unfinished, NotResponding, ...: none that answers has it, and one that does not answer may.
        """
        with self._lock:
            known = self._open.get(domain_id)
        if known is not None:
            return known
        for _ in range(2):
            mount = self._places.find(domain_id)
            try:
                domain = self._opener.open(mount, domain_id)
            except NoSuchDomain:
                # It is not where it was seen last: look anew.
                self._places.forget(domain_id)
                continue
            with self._lock:
                return self._open.setdefault(domain_id, domain)
        raise NoSuchDomain(domain_id)

    def visible(self) -> list[DomainId]:
        """The domains in all storage that answers, sorted."""
        return self._places.visible()

    def forget(self, domain_id: DomainId) -> None:
        """Open the domain anew when it is asked for next. Its lock stays what it is."""
        with self._lock:
            self._open.pop(domain_id, None)

    def forget_mount(self, path: str) -> None:
        """A connection has ended: forget what was there, and end its helper."""
        self._places.forget_mount(path)
        with self._lock:
            self._open = {ident: domain for ident, domain in self._open.items() if domain.mount != path}
        self._opener.close(path)

    def info(self, domain_id: DomainId) -> DomainMetadata:
        """What the domain says of itself now.

        Raises:
            NoSuchDomain, Damaged, ...: see ``find``.
        """
        return self.find(domain_id).backend.read_domain()

    def address(self, domain_id: DomainId) -> str:
        """Where the domain is now: "server:/path", or a directory; its metadata says where it was made.

        Raises:
            NoSuchDomain, Damaged, ...: see ``find``.
        """
        path = self.find(domain_id).mount
        return next((normalize(mount.spec) for mount in self._view() if mount.path == path), "")

    def space(self, domain_id: DomainId) -> Space:
        """The domain's room now."""
        return self.find(domain_id).backend.space()

    def validate(self, domain_id: DomainId) -> DomainMetadata:
        """Open the domain anew and see that all that every domain has is there.

        Raises:
            DomainNotReady: something is missing.
            NoSuchDomain, Damaged, ...: see ``find``.
        """
        self.forget(domain_id)
        domain = self.find(domain_id)
        metadata = domain.backend.read_domain()
        special = [item.name for item in tree.special_files(domain.kind, domain.version, domain.geometry)]
        with told(f"looking at {domain.path}"):
            there = set(domain.files.listdir(f"{domain.path}/{tree.DOM_MD}"))
            if tree.IMAGES not in domain.files.listdir(domain.path):
                raise DomainNotReady(domain.path, f"it has no {tree.IMAGES}")
        missing = [name for name in special if name not in there]
        if missing:
            raise DomainNotReady(domain.path, f"it has no {', '.join(missing)}")
        return metadata

    def update(self, domain_id: DomainId, change: Callable[[DomainMetadata], DomainMetadata]) -> DomainMetadata:
        """Change a domain's metadata: read, changed and written while nobody else of this host does.

        Other hosts are kept away by the caller's lease.

        Args:
            domain_id: the domain.
            change: makes the new metadata from what is on the disk.

        Raises:
            Busy: somebody else has been at it for long.
            InvalidParameter: a value cannot be written.
            NoSpace, StorageFailed, Unfinished, NotResponding: it is as it was, or (Unfinished) may be changed yet.
        """
        domain = self.find(domain_id)
        with self._alone(domain_id):
            before = domain.backend.read_domain()
            after = change(before)
            if after != before:
                domain.backend.write_domain(after)
        if (after.version, after.geometry, after.domain_class) != (
            domain.version,
            domain.geometry,
            domain.domain_class,
        ):
            self.forget(domain_id)
        return after

    def set_description(self, domain_id: DomainId, text: str) -> None:
        """Give a domain another name.

        Raises:
            LongDescription: it has more than 50 characters.
            InvalidParameter: it is more than one line.
        """
        if len(text) > MAX_DESCRIPTION:
            raise LongDescription(len(text), MAX_DESCRIPTION)
        self.update(domain_id, lambda metadata: replace(metadata, description=text))

    def create(self, request: NewDomain) -> Domain:
        """Make a domain, without a journal; see ``domain_work.DomainWork`` for one that survives the agent's end.

        Raises:
            NotMounted: what it is to lie in is not connected.
            DomainExists, LongDescription, ...: see ``domain_maker.described`` and ``create_domain``.
        """
        mount = self.place_for(request)
        with self._alone(mount.path):
            files = self._opener.files(mount.path)
            metadata = domain_maker.described(files, mount.path, request)
            lock = self._opener.lock(mount.path, metadata)
            now_s = int(now_utc().timestamp())
            domain_maker.create_domain(files, mount.path, metadata, lock.format, now_s=now_s)
        self._places.note(mount.path, request.id)
        return self.find(request.id)

    def format(self, domain_id: DomainId, *, auto_detach: bool = False) -> None:
        """Take a domain away with all that is in it; what cannot be finished can be done again.

        Raises:
            DomainAttached: it belongs to a pool, and ``auto_detach`` was not asked for.
            NoSuchDomain, Damaged, ...: see ``find``.
        """
        mount_path = self.formattable(domain_id, auto_detach=auto_detach)
        with self._alone(mount_path):
            domain_maker.remove_domain(self._opener.files(mount_path), mount_path, domain_id)
        self.forget_whole(domain_id)

    def note_made(self, request: NewDomain) -> None:
        """Know where a domain was made, so that it need not be looked for everywhere.

        Raises:
            NotMounted: that is not connected any more.
        """
        self._places.note(self.place_for(request).path, request.id)

    def place_for(self, request: NewDomain) -> Mount:
        """Where a new domain is to be made.

        Raises:
            NotMounted: that is not connected.
        """
        wanted = normalize(request.spec)
        fitting = [mount for mount in self._view() if normalize(mount.spec) == wanted]
        for mount in sorted(fitting, key=lambda mount: mount.type is not request.kind):
            if mount.type.is_shared is request.kind.is_shared:
                return mount
        raise NotMounted(request.spec)

    def formattable(self, domain_id: DomainId, *, auto_detach: bool) -> str:
        """The mount of a domain that may be formatted, also of one without metadata: half made, or half removed.

        Raises:
            See ``format``.
        """
        self.forget(domain_id)
        try:
            domain = self.find(domain_id)
        except NoSuchDomain:
            place = self._half_made(domain_id)
            if place is None:
                raise
            return place.path
        pools = domain.backend.read_domain().pools
        if pools and not auto_detach:
            raise DomainAttached(domain_id, ", ".join(pools))
        return domain.mount

    def forget_whole(self, domain_id: DomainId) -> None:
        """A domain has been taken away: forget all about it."""
        self.forget(domain_id)
        self._opener.forget_locks(domain_id)
        self._places.forget(domain_id)

    def connected_files(self, mount_path: str) -> FileAccess:
        """The files of a mount that is there: without it the same path would be an empty directory of this host.

        Raises:
            NotMounted: it is not there.
        """
        if mount_path not in {mount.path for mount in self._view()}:
            raise NotMounted(mount_path)
        return self._opener.files(mount_path)

    @property
    def opener(self) -> DomainOpener:
        """How domains are opened, and where their locks are."""
        return self._opener

    def _half_made(self, domain_id: DomainId) -> Mount | None:
        """The mount that has what is left of a domain's making or removing."""
        mount = self._places.half_made(domain_id)
        if mount is None:
            return None
        path = f"{mount.path}/{domain_id}"
        with told(f"looking at {path}"):
            names = self._opener.files(mount.path).listdir(path)
        return mount if not names or tree.DOM_MD in names else None

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Keep this host's other changers of the same thing out."""
        with self._lock:
            mutex = self._edits.setdefault(name, threading.Lock())
        if not mutex.acquire(timeout=self._timeout_s):
            raise Busy(f"change of {name}")
        try:
            yield
        finally:
            mutex.release()
