"""A domain's external leases on its storage: the index in ``xleases``, and the leases that it points at.

Reading costs one access and can be done by any host; only the SPM changes anything. The order of the changes keeps both
apart: a lease is written before its record and its record is removed before it, so a record always has its lease.

``rebuild`` mends a damaged index without guessing. The index is right wherever it can be read, and the leases are made
to fit:

    record            lease at its place        becomes
    readable          anything else             the lease is written anew
    readable, "u"     anything                  free; it did not count before
    a second of one   anything                  free; it was never found
    beyond the end    -                         free
    unreadable        of a lease of this        the record of that lease
                      domain, nowhere else
    unreadable        anything else             free
    free              anything                  the lease is cleared

Source: storage format, section 3.6.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from vdsm.base.errors import Failed, VdsmError
from vdsm.storage.backend import Area, LeaseWriter, SharedArea
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import NoSuchLease, UnsupportedOperation
from vdsm.storage.formats import xleases
from vdsm.storage.formats.leases import JobValue, LeaseRecord, decode_value, value_offset
from vdsm.storage.formats.xleases import Broken, Index, Record
from vdsm.storage.ids import DomainId, LeaseId, is_uuid

log = logging.getLogger(__name__)

_NOBODY: Final = DomainId("")


class LeaseAreas(LeaseWriter, Protocol):
    """Who formats lease areas, and can say what is in one: ``SanlockLeases``, ``TwinHost``."""

    def read_names(self, resource: LeaseRecord) -> tuple[str, str] | None:
        """The lockspace and the resource whose lease is at the record's place; None when there is none.

        Raises:
            LeaseFailed: it could not be read.
        """


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the rebuilding of an index has changed; all empty when it was right.

    Attributes:
        recovered: leases whose unreadable record was written anew.
        freed: numbers of records that are free now and were not.
        rewritten: leases that were not at their record's place.
        cleared: numbers of free records that had a lease at their place.
    """

    recovered: tuple[LeaseId, ...] = ()
    freed: tuple[int, ...] = ()
    rewritten: tuple[LeaseId, ...] = ()
    cleared: tuple[int, ...] = ()


class LeaseIndex:
    """See the module; of one domain. Takes no locks: one writer at a time is the SPM's promise.

    Raises:
        UnsupportedOperation: the domain has no external leases.
    """

    def __init__(self, domain: Domain, areas: LeaseAreas) -> None:
        if not domain.kind.is_shared or domain.version < 4:
            raise UnsupportedOperation(f"storage domain {domain.id} has no external leases")
        self._domain: Final = domain
        self._areas: Final = areas
        self._shape: Final = domain.geometry
        self._area: Final[SharedArea] = domain.backend.area(Area.XLEASES)

    def read(self) -> Index:
        """The index, from the storage.

        Raises:
            Damaged: it has to be rebuilt.
        """
        return Index(self._read(), self._shape, self._area.path)

    def find(self, lease_id: LeaseId) -> LeaseRecord:
        """A lease of the index.

        Raises:
            NoSuchLease: there is none.
        """
        return self.at(self.read().find(lease_id).number, lease_id)

    def at(self, number: int, lease_id: LeaseId) -> LeaseRecord:
        """What sanlock has to be told of a lease at a record's place."""
        return xleases.lease_record(self._domain.id, Record(number, lease_id), self._area.path, self._shape)

    def place_for(self, lease_id: LeaseId) -> int | None:
        """The number that a new lease's record will get; None when it is there already.

        Raises:
            NoSpace: the index is full.
        """
        index = self.read()
        try:
            index.find(lease_id)
        except NoSuchLease:
            self._drop(index, lease_id)
            return index.first_free()
        return None

    def grow(self, number: int) -> None:
        """Make room for a record's lease."""
        self._area.grow(xleases.volume_size(number + 1, self._shape))

    def write_lease(self, number: int, lease_id: LeaseId) -> None:
        """Write the lease of a record that is to come."""
        self._areas.write_resource(self.at(number, lease_id))

    def write_record(self, number: int, lease_id: LeaseId) -> None:
        """Put a lease into the index, at the place that was foreseen; nothing if it is there.

        Raises:
            Failed: somebody else has changed the index.
        """
        index = self.read()
        try:
            found = index.find(lease_id)
        except NoSuchLease:
            for block in self._drop(index, lease_id):
                self._write(block)
            found, block = index.add(lease_id)
            if found.number == number:
                self._write(block)
        if found.number != number:
            raise Failed(f"adding lease {lease_id}", f"its place is {found.number} and not {number}")

    def remove_record(self, lease_id: LeaseId) -> None:
        """Take a lease out of the index; nothing if it is not there."""
        try:
            _, block = self.read().remove(lease_id)
        except NoSuchLease:
            return
        self._write(block)

    def clear_lease(self, number: int, lease_id: LeaseId) -> None:
        """Clear the lease of a record that is gone; nothing if something else is there, or its record is in use."""
        if any(record.number == number for record in self.read().records()):
            return
        if self.names(number) == (self._domain.id, lease_id):
            self._clear(number)

    def names(self, number: int) -> tuple[str, str] | None:
        """The lockspace and the resource whose lease is at a record's place; None when there is none, or no room."""
        if self._area.size() < xleases.volume_size(number + 1, self._shape):
            return None
        return self._names(number)

    def read_value(self, lease: LeaseRecord) -> JobValue | None:
        """What a lease's value says, as it is on the storage.

        Raises:
            Damaged: it is not that of a job.
        """
        data = self._area.read(lease.offset + value_offset(self._shape), self._shape.block_size)
        return decode_value(data[:512], f"lease {lease.resource}")

    def rebuild(self, now_s: int) -> Rebuilt:
        """Mend the index and the leases; see the module. Cut off, it is to be done again.

        Args:
            now_s: whole seconds since the epoch.

        Raises:
            VdsmError: something could not be read or written; until it is rebuilt the index is not used by anybody.
        """
        data = self._read()
        room = max(0, self._area.size() // self._shape.alignment - xleases.FIRST_SLOT)
        found = xleases.survey(data)
        names = [self._names(number) for number in range(min(room, len(found)))]
        keep = self._judged(found, names)
        freed = [number for number, record in enumerate(found) if record is not None and number not in keep]
        recovered = [record for number, record in keep.items() if isinstance(found[number], Broken)]
        mended = xleases.mended_index(data, self._shape, self._domain.id, now_s, [*freed, *recovered])
        start = xleases.index_offset(self._shape)
        self._area.write(start, xleases.flagged(mended, self._shape))
        rewritten, cleared = self._fit(keep, names)
        sector = self._shape.block_size
        self._area.write(start + sector, mended[sector:])
        self._area.write(start, mended[:sector])
        return Rebuilt(
            recovered=tuple(record.lease_id for record in recovered),
            freed=tuple(freed),
            rewritten=rewritten,
            cleared=cleared,
        )

    def _judged(self, found: list[Record | Broken | None], names: list[tuple[str, str] | None]) -> dict[int, Record]:
        """The records that there are to be, by number."""
        keep: dict[int, Record] = {}
        known: set[str] = set()
        for number in range(len(names)):
            record = found[number]
            if isinstance(record, Record) and not record.updating and record.lease_id not in known:
                keep[number] = record
                known.add(record.lease_id)
        for number, name in enumerate(names):
            if not isinstance(found[number], Broken) or name is None:
                continue
            lockspace, resource = name
            if lockspace == self._domain.id and is_uuid(resource) and resource not in known:
                keep[number] = Record(number, LeaseId(resource))
                known.add(resource)
        return keep

    def _fit(
        self, keep: dict[int, Record], names: list[tuple[str, str] | None]
    ) -> tuple[tuple[LeaseId, ...], tuple[int, ...]]:
        """Make the leases fit the records; those that were rewritten, and the numbers of those that were cleared."""
        rewritten, cleared = [], []
        for number, name in enumerate(names):
            record = keep.get(number)
            if record is None:
                if name is not None:
                    self._clear(number)
                    cleared.append(number)
            elif name != (self._domain.id, record.lease_id):
                self.write_lease(number, record.lease_id)
                rewritten.append(record.lease_id)
        return tuple(rewritten), tuple(cleared)

    def _names(self, number: int) -> tuple[str, str] | None:
        return self._areas.read_names(self.at(number, LeaseId("")))

    def _clear(self, number: int) -> None:
        place = self.at(number, LeaseId(""))
        empty = LeaseRecord(_NOBODY, "", place.path, place.offset, place.geometry)
        try:
            self._areas.write_resource(empty)
        except VdsmError as error:
            # Nobody finds it without its record, and whoever uses the place next writes it anew.
            log.warning("the lease at %d in %s was not cleared: %s", place.offset, place.path, error)

    def _drop(self, index: Index, lease_id: LeaseId) -> list[xleases.Block]:
        """Take out a record that does not count; the sector to write, if there was one."""
        try:
            return [index.remove(lease_id)[1]]
        except NoSuchLease:
            return []

    def _read(self) -> bytes:
        return self._area.read(xleases.index_offset(self._shape), xleases.INDEX_SIZE)

    def _write(self, block: xleases.Block) -> None:
        self._area.write(block.offset, block.data)
