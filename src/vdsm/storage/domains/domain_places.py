"""Which domain is in which mount: found out by looking into all mounts at once, by one thread for each at most.

    find(id)    known: at once           unknown: every mount is looked at anew; the first that has it ends the wait
    look        begun unless one is under way; whoever comes meanwhile waits for it, and looks once more if it began
                before he came and did not show what he wants

A mount that does not answer costs its own look the deadline, and nobody who finds what he wants elsewhere.
"""

from __future__ import annotations

import glob
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Failed, Unfinished, VdsmError
from vdsm.storage.access import FileReader
from vdsm.storage.errors import NoSuchDomain
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.ids import DomainId, is_uuid
from vdsm.storage.kinds import StorageType

log = logging.getLogger(__name__)

# Added to the deadline of the two calls of a look: theirs come first.
_MARGIN_S: Final = 5.0


class Mount(Protocol):
    """A connection that is there: mounted, or linked when it is a local directory."""

    @property
    def path(self) -> str:
        """Where it is mounted."""

    @property
    def type(self) -> StorageType:
        """What it was connected as."""

    @property
    def spec(self) -> str:
        """What was connected: "server:/path", or a local directory."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a look at a mount brought.

    Attributes:
        begun_s: the monotonic instant of its beginning.
        ended_s: and of its end.
        domains: the domains there; the format allows one.
        halves: directories named like domains, without metadata.
        error: why nothing could be seen.
    """

    begun_s: float
    ended_s: float
    domains: frozenset[DomainId] = frozenset()
    halves: frozenset[DomainId] = frozenset()
    error: VdsmError | None = None


class DomainPlaces:
    """See the module; may be used by many threads at once.

    Args:
        view: everything that is connected now.
        files_of: the files of a mount, by its path; with a deadline on each call.
        timeout_s: that deadline, in seconds.
    """

    def __init__(
        self, view: Callable[[], Sequence[Mount]], files_of: Callable[[str], FileReader], timeout_s: float
    ) -> None:
        self._view: Final = view
        self._files_of: Final = files_of
        self._patience_s: Final = 2 * timeout_s + _MARGIN_S
        self._changed = threading.Condition()
        self._sights: dict[str, Sight] = {}
        self._known: dict[str, frozenset[DomainId]] = {}
        self._under_way: set[str] = set()

    def find(self, domain_id: DomainId) -> Mount:
        """Where a domain is.

        Raises:
            NoSuchDomain: no mount has it.
            Unfinished, NotResponding, ...: none that answers has it, and one that does not answer may.
        """
        mounts = {mount.path: mount for mount in self._view()}
        sights = self._survey(mounts, lambda: self._place_of(domain_id, mounts) is not None)
        with self._changed:
            place = self._place_of(domain_id, mounts)
            if place is not None:
                return mounts[place]
            # One file system has one domain: of those that are known to have another one nothing is expected.
            doubts = [sight.error for path, sight in sights.items() if sight.error and not self._known.get(path)]
        raise doubts[0] if doubts else NoSuchDomain(domain_id)

    def half_made(self, domain_id: DomainId) -> Mount | None:
        """The mount that has a directory for this domain and no metadata in it; None when no mount that answers has."""
        mounts = {mount.path: mount for mount in self._view()}
        for path, sight in self._survey(mounts, lambda: False).items():
            if domain_id in sight.halves:
                return mounts[path]
        return None

    def visible(self) -> list[DomainId]:
        """The domains in all mounts that answer, sorted."""
        sights = self._survey({mount.path: mount for mount in self._view()}, lambda: False)
        return sorted({domain_id for sight in sights.values() for domain_id in sight.domains})

    def note(self, mount_path: str, domain_id: DomainId) -> None:
        """A domain was seen there by other means."""
        with self._changed:
            self._known[mount_path] = self._known.get(mount_path, frozenset()) | {domain_id}

    def forget(self, domain_id: DomainId) -> None:
        """A domain is not where it was."""
        with self._changed:
            self._known = {path: domains - {domain_id} for path, domains in self._known.items()}

    def forget_mount(self, path: str) -> None:
        """A mount has gone."""
        with self._changed:
            self._known.pop(path, None)
            self._sights.pop(path, None)

    def _place_of(self, domain_id: DomainId, mounts: Mapping[str, Mount]) -> str | None:
        return next((path for path, known in self._known.items() if domain_id in known and path in mounts), None)

    def _survey(self, mounts: Mapping[str, Mount], enough: Callable[[], bool]) -> dict[str, Sight]:
        """Look at all mounts, until that is done or it is enough; what was seen since it began, or why not."""
        began = monotonic_s()
        until = began + self._patience_s
        with self._changed:
            while not enough():
                late = [path for path in mounts if self._sight_since(path, began) is None]
                for path in late:
                    self._begin_look(path)
                left = until - monotonic_s()
                if not late or left <= 0:
                    break
                self._changed.wait(left)
            silence = Sight(began, until, error=Unfinished("looking for domains", self._patience_s))
            return {path: self._sight_since(path, began) or silence for path in mounts}

    def _sight_since(self, path: str, began_s: float) -> Sight | None:
        """The last sight of a mount if it answers a question of that instant; a failure need not have begun later."""
        sight = self._sights.get(path)
        if sight is None or (sight.ended_s if sight.error else sight.begun_s) < began_s:
            return None
        return sight

    def _begin_look(self, path: str) -> None:
        if path not in self._under_way:
            self._under_way.add(path)
            threads.start(f"look-{path}", self._look, path)

    def _look(self, path: str) -> None:
        began = monotonic_s()
        try:
            sight = self._seen(path, began)
        except VdsmError as error:
            log.warning("%s cannot be searched for domains: %s", path, error)
            sight = Sight(began, monotonic_s(), error=error)
        except Exception as error:  # who waits must hear of it
            log.exception("looking for domains in %s failed", path)
            sight = Sight(began, monotonic_s(), error=Failed(f"looking for domains in {path}", str(error)))
        with self._changed:
            self._under_way.discard(path)
            self._sights[path] = sight
            if sight.error is None:
                self._known[path] = sight.domains
            self._changed.notify_all()

    def _seen(self, path: str, began_s: float) -> Sight:
        files = self._files_of(path)
        with told(f"looking for domains in {path}"):
            names = {name for name in files.listdir(path) if is_uuid(name)}
            described = files.glob(f"{glob.escape(path)}/*/{tree.DOM_MD}/{tree.METADATA}")
        domains = {found.rsplit("/", 3)[1] for found in described} & names
        if len(domains) > 1:
            log.warning("%s has %d domains; the original sees one of them: %s", path, len(domains), sorted(domains))
        return Sight(
            began_s,
            monotonic_s(),
            frozenset(map(DomainId, domains)),
            frozenset(map(DomainId, names - domains)),
        )
