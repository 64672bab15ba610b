"""What is wrong with a domain beside its images: metadata, special files, leases, and what its pool has under way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vdsm.operations import journal
from vdsm.operations.records import SETTLED, Phase, Record
from vdsm.storage.access import FileStat
from vdsm.storage.backend import Area
from vdsm.storage.checks.check_facts import Finding, MakeFile, RebuildLeases, SetMode, Skipped, Word
from vdsm.storage.checks.check_images import lacks
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged, LeaseFailed
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.formats.leases import decode_leader
from vdsm.storage.kinds import DomainRole
from vdsm.storage.leases.lease_index import LeaseAreas, LeaseIndex
from vdsm.storage.pool import master

# The first sector of sanlock's lockspace (storage format, section 3.2), little endian.
_LOCKSPACE_MAGIC: Final = bytes.fromhex("10202112")
_RECORD: Final = ".json"
_DOES_NOT_HEAL: Final = frozenset({Phase.UNFINISHED, Phase.HALF_UNDONE})
_NO_FORMATTING: Final = "formatting it while other hosts use the domain would set them free of each other"


class DomainCheck:
    """The check of one domain without its images.

    Args:
        domain: the domain, on files.
        areas: who can read what is in lease areas.
        managed: whether this host is the pool's manager, whose operations are under way.
    """

    def __init__(self, domain: Domain, areas: LeaseAreas, *, managed: bool) -> None:
        self._domain: Final = domain
        self._areas: Final = areas
        self._managed: Final = managed
        self.skipped: Final[list[Skipped]] = []

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong.

        Raises:
            StorageFailed, ...: the storage refused.
        """
        described = None
        try:
            described = self._domain.backend.read_domain()
        except Damaged as error:
            yield Finding(
                Word.DOMAIN_METADATA, f"{tree.DOM_MD}/{tree.METADATA}", str(error), "what it said cannot be known"
            )
        if described is not None and not self._domain.is_as(described):
            what = "its version, type or sizes are others than when it was opened"
            yield Finding(Word.DOMAIN_METADATA, f"{tree.DOM_MD}/{tree.METADATA}", what, "connect it anew")
        yield from self._modes()
        sound: set[str] = set()
        yield from self._special_files(sound)
        if self._domain.kind.is_shared:
            yield from self._leases(sound)
        if described is not None and described.role is DomainRole.MASTER:
            yield from self._operations()

    def _modes(self) -> Iterator[Finding]:
        files, path = self._domain.files, self._domain.path
        with told(f"looking at {path}"):
            places = {"": tree.DIRECTORY_MODE, tree.DOM_MD: tree.DIRECTORY_MODE, tree.IMAGES: tree.DIRECTORY_MODE}
            found = {name: files.stat(f"{path}/{name}".rstrip("/")).mode for name in places}
        for name, wanted in places.items():
            if lacks(found[name], wanted):
                yield _mode(name, found[name], wanted)

    def _special_files(self, sound: set[str]) -> Iterator[Finding]:
        """Look at the special files; those that are all there are put into ``sound``."""
        path = f"{self._domain.path}/{tree.DOM_MD}"
        with told(f"listing {path}"):
            there = {entry.name: entry.stat for entry in self._domain.files.scan(path)}
        if (metadata := there.get(tree.METADATA)) is not None and lacks(metadata.mode, tree.METADATA_MODE):
            yield _mode(f"{tree.DOM_MD}/{tree.METADATA}", metadata.mode, tree.METADATA_MODE)
        for item in tree.special_files(self._domain.kind, self._domain.version, self._domain.geometry):
            found = there.get(item.name)
            if found is None or found.size < item.size:
                yield self._incomplete(item, found)
                continue
            sound.add(item.name)
            if lacks(found.mode, item.mode):
                yield _mode(f"{tree.DOM_MD}/{item.name}", found.mode, item.mode)

    def _incomplete(self, item: tree.SpecialFile, found: FileStat | None) -> Finding:
        path = f"{tree.DOM_MD}/{item.name}"
        what = "it is not there" if found is None else f"it has {found.size} bytes, and must have {item.size}"
        if item.name in {tree.INBOX, tree.OUTBOX} or not self._domain.kind.is_shared:
            fix = MakeFile(path, item.size, item.mode)
            return Finding(Word.SPECIAL_FILE, path, what, "it is made; nothing of value is ever in it", fix)
        return Finding(Word.SPECIAL_FILE, path, what, _NO_FORMATTING)

    def _leases(self, sound: set[str]) -> Iterator[Finding]:
        sector = self._domain.geometry.block_size
        if tree.IDS in sound and not self._domain.backend.area(Area.IDS).read(0, sector).startswith(_LOCKSPACE_MAGIC):
            yield Finding(Word.LOCKSPACE, f"{tree.DOM_MD}/{tree.IDS}", "it holds no lockspace", _NO_FORMATTING)
        if tree.LEASES in sound:
            yield from self._pool_lease()
        if tree.XLEASES in sound:
            yield from self._external()

    def _pool_lease(self) -> Iterator[Finding]:
        lease = self._domain.lock.sdm
        path = f"{tree.DOM_MD}/{tree.LEASES}"
        data = self._domain.backend.area(Area.LEASES).read(lease.offset, self._domain.geometry.block_size)
        try:
            leader = decode_leader(data, path)
        except Damaged as error:
            yield Finding(Word.POOL_LEASE, path, error.reason, _NO_FORMATTING)
            return
        if (leader.lockspace, leader.resource) != (lease.lockspace, lease.resource):
            what = f"it is of {leader.resource:.40} in {leader.lockspace:.40}"
            yield Finding(Word.POOL_LEASE, path, what, _NO_FORMATTING)

    def _external(self) -> Iterator[Finding]:
        """Whether index and leases agree."""
        path = f"{tree.DOM_MD}/{tree.XLEASES}"
        index = LeaseIndex(self._domain, self._areas)
        remedy = "the index is rebuilt: it is right where it can be read"
        try:
            records = list(index.read().records())
            wrong = [
                record.lease_id
                for record in records
                if record.updating or index.names(record.number) != (self._domain.id, record.lease_id)
            ]
        except Damaged as error:
            yield Finding(Word.EXTERNAL_LEASES, path, error.reason, remedy, RebuildLeases())
            return
        except LeaseFailed as error:
            self.skipped.append(Skipped(path, str(error)))
            return
        if wrong:
            what = f"{len(wrong)} leases are not where the index has them, {wrong[0]} among them"
            yield Finding(Word.EXTERNAL_LEASES, path, what, remedy, RebuildLeases())

    def _operations(self) -> Iterator[Finding]:
        """What the pool's manager has in its journal, in its master domain."""
        directory = f"{tree.MASTER}/{master.OPERATIONS}"
        path = f"{self._domain.path}/{directory}"
        with told(f"reading {path}"):
            try:
                names = [name for name in self._domain.files.listdir(path) if name.endswith(_RECORD)]
            except FileNotFoundError:
                return
        for name in names:
            with told(f"reading {path}/{name}"):
                try:
                    data = self._domain.files.read(f"{path}/{name}", direct=self._domain.kind.is_shared)
                except FileNotFoundError:
                    continue
            yield from self._operation(f"{directory}/{name}", journal.parse(name.removesuffix(_RECORD), data))

    def _operation(self, path: str, found: Record | journal.Damaged) -> Iterator[Finding]:
        if isinstance(found, journal.Damaged):
            what = f"its record cannot be read: {found.reason}"
            yield Finding(Word.OPERATION, path, what, "what it did cannot be known")
        elif found.phase in _DOES_NOT_HEAL:
            remedy = "the pool's manager tries again when it starts"
            yield Finding(Word.OPERATION, path, f"{found.kind} is {found.phase}", remedy)
        elif found.phase not in SETTLED:
            words = f"{found.kind} is {found.phase}"
            if self._managed:
                self.skipped.append(Skipped(path, words))
            else:
                yield Finding(Word.OPERATION, path, words, "the pool's next manager ends it or takes it back")


def _mode(path: str, mode: int, wanted: int) -> Finding:
    target = mode | wanted
    what = f"its mode is {mode:04o}, and must have all of {wanted:04o}"
    return Finding(Word.MODE, path, what, f"it is set to {target:04o}", SetMode(path, target))
