"""A storage domain's metadata: the text in ``dom_md/metadata`` of file domains, the tags of block domains.

    ALIGNMENT BLOCK_SIZE (V5)  CLASS  DESCRIPTION  IOOPTIMEOUTSEC LEASERETRIES LEASETIMESEC LOCKPOLICY
    LOCKRENEWALINTERVALSEC  POOL_UUID  REMOTE_PATH (files)  ROLE  SDUUID  TYPE  VERSION  VGUUID PV0..PVn (block)
    and the pool's keys in the master domain

Versions 3 to 5 are read and written back as what they are; new domains are version 5. Keys that nobody knows are kept.

Source: storage format, sections 1.5, 2.3 and 11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from vdsm.storage.errors import BadValue, InvalidParameter, MissingKey, UnsupportedVersion
from vdsm.storage.formats import pool, sealed
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.formats.pool import PoolMetadata
from vdsm.storage.ids import BLANK, DomainId, PoolId, is_uuid
from vdsm.storage.kinds import DomainClass, DomainRole, StorageType

E = TypeVar("E", bound=Enum)

VERSIONS: Final = (3, 4, 5)
ISO_VERSIONS: Final = (0, *VERSIONS)
"""Domains of installation media have no metadata that a later version has more of: managers make them of version 0."""
CURRENT: Final = 5
MAX_DESCRIPTION: Final = 50  # characters

_PV_KEY: Final = re.compile(r"PV(0|[1-9][0-9]*)")
_OWN: Final = frozenset({
    *("ALIGNMENT", "BLOCK_SIZE", "CLASS", "DESCRIPTION", "IOOPTIMEOUTSEC", "LEASERETRIES", "LEASETIMESEC"),
    *("LOCKPOLICY", "LOCKRENEWALINTERVALSEC", "POOL_UUID", "REMOTE_PATH", "ROLE", "SDUUID", "TYPE", "VERSION"),
    "VGUUID",
})


@dataclass(frozen=True, slots=True)
class LeaseParameters:
    """Times of a lease manager of long ago: still written, and used by nobody."""

    policy: str = ""
    renewal_interval_s: int = 5
    lease_time_s: int = 60
    io_timeout_s: int = 10
    retries: int = 3


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """One disk of a block domain (PVn).

    Attributes:
        guid: the multipath map's name, its WWID.
        uuid: LVM's id of it.
        extents: how many it has.
        offset: the number of extents of those before it.
        start: always 0, not the true start of the data.
    """

    guid: str
    uuid: str
    extents: int
    offset: int
    start: int = 0

    def __str__(self) -> str:
        return f"pv:{self.guid},uuid:{self.uuid},pestart:{self.start},pecount:{self.extents},mapoffset:{self.offset}"


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """What only block domains have; the first disk holds the ``metadata`` volume."""

    uuid: str
    disks: tuple[PhysicalVolume, ...]


@dataclass(frozen=True, slots=True)
class DomainMetadata:
    """A storage domain, as it describes itself.

    Attributes:
        domain_id: SDUUID.
        version: 3 to 5.
        storage_type: what it lies on.
        domain_class: what it is for.
        role: whether it is its pool's master domain.
        description: its name, up to 50 characters.
        pools: where it is attached; more than one only for ISO domains.
        remote_path: what was mounted, for people to read; only on file domains.
        geometry: sizes of sectors and of lease areas.
        leases: numbers that nobody uses.
        pool: the pool's own data, in its master domain.
        group: the disks, on block domains.
        others: every other key, kept as it is.
    """

    domain_id: DomainId
    storage_type: StorageType
    version: int = CURRENT
    domain_class: DomainClass = DomainClass.DATA
    role: DomainRole = DomainRole.REGULAR
    description: str = ""
    pools: tuple[PoolId, ...] = ()
    remote_path: str | None = None
    geometry: Geometry = field(default_factory=Geometry)
    leases: LeaseParameters = field(default_factory=LeaseParameters)
    pool: PoolMetadata | None = None
    group: VolumeGroup | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    def pairs(self) -> dict[str, str]:
        """The keys and values on disk, without the checksum.

        Raises:
            InvalidParameter: a description is too long, or a value would not come back whole.
        """
        if len(self.description) > MAX_DESCRIPTION:
            raise InvalidParameter("description", f"must have at most {MAX_DESCRIPTION} characters")
        found = {
            **self.others,
            "CLASS": self.domain_class.value,
            "DESCRIPTION": self.description,
            "IOOPTIMEOUTSEC": str(self.leases.io_timeout_s),
            "LEASERETRIES": str(self.leases.retries),
            "LEASETIMESEC": str(self.leases.lease_time_s),
            "LOCKPOLICY": self.leases.policy,
            "LOCKRENEWALINTERVALSEC": str(self.leases.renewal_interval_s),
            "POOL_UUID": ",".join(self.pools),
            "ROLE": self.role.value,
            "SDUUID": self.domain_id,
            "TYPE": self.storage_type.value,
            "VERSION": str(self.version),
            **(self.pool.pairs() if self.pool else {}),
            **self._placed(),
        }
        for key, value in found.items():
            sealed.check_value(key, value)
        return found

    def _placed(self) -> dict[str, str]:
        found = {}
        if self.version >= 5:
            found["ALIGNMENT"] = str(self.geometry.alignment)
            found["BLOCK_SIZE"] = str(self.geometry.block_size)
        if self.remote_path is not None:
            found["REMOTE_PATH"] = self.remote_path
        if self.group is not None:
            found["VGUUID"] = self.group.uuid
            found.update((f"PV{number}", str(disk)) for number, disk in enumerate(self.group.disks))
        return found


def encode_domain(metadata: DomainMetadata) -> bytes:
    """The text of a file domain's ``dom_md/metadata``.

    Raises:
        InvalidParameter: a value cannot be written.
    """
    return sealed.encode(metadata.pairs())


def decode_domain(data: bytes, what: str) -> DomainMetadata:
    """Read a file domain's metadata; ``what`` names it in errors.

    Raises:
        Damaged: it is no such text, its checksum is wrong (BrokenSeal), a key is missing (MissingKey) or has a value
            that it cannot have (BadValue).
        UnsupportedVersion: it is of a version that is not spoken here.
    """
    return parse_domain(sealed.decode(data, what), what)


def parse_domain(pairs: Mapping[str, str], what: str) -> DomainMetadata:
    """Read the pairs of a domain's metadata; see :func:`decode_domain` for the errors."""
    version = _version(pairs, what)
    disks = _disks(pairs, what)
    master = pool.parse_pool(pairs, what)
    known = _OWN | {f"PV{number}" for number in range(len(disks))} | (pool.KEYS if master else frozenset())
    ident = _value(pairs, "SDUUID", what)
    if not is_uuid(ident):
        raise BadValue(what, f"SDUUID is {ident!r:.80}")
    return DomainMetadata(
        domain_id=DomainId(ident),
        version=version,
        storage_type=_word(StorageType, pairs, "TYPE", what),
        domain_class=_word(DomainClass, pairs, "CLASS", what),
        role=_role(pairs, what),
        description=pairs.get("DESCRIPTION", ""),
        pools=_pools(pairs.get("POOL_UUID", ""), what),
        remote_path=pairs.get("REMOTE_PATH"),
        geometry=_geometry(pairs, version, what),
        leases=_leases(pairs),
        pool=master,
        group=VolumeGroup(pairs["VGUUID"], disks) if "VGUUID" in pairs else None,
        others={key: value for key, value in pairs.items() if key not in known},
    )


def _value(pairs: Mapping[str, str], key: str, what: str) -> str:
    try:
        return pairs[key]
    except KeyError as error:
        raise MissingKey(what, f"it has no {key}") from error


def _version(pairs: Mapping[str, str], what: str) -> int:
    text = _value(pairs, "VERSION", what)
    spoken = ISO_VERSIONS if pairs.get("CLASS") == DomainClass.ISO.value else VERSIONS
    if text not in {str(version) for version in spoken}:
        raise UnsupportedVersion(f"{text:.20}")
    return int(text)


def _word(kind: type[E], pairs: Mapping[str, str], key: str, what: str) -> E:
    text = _value(pairs, key, what)
    try:
        return kind(text)
    except ValueError as error:
        raise BadValue(what, f"{key} is {text!r:.80}") from error


def _role(pairs: Mapping[str, str], what: str) -> DomainRole:
    text = _value(pairs, "ROLE", what)
    try:
        return DomainRole(text.capitalize())
    except ValueError as error:
        raise BadValue(what, f"ROLE is {text!r:.80}") from error


def _pools(text: str, what: str) -> tuple[PoolId, ...]:
    found = []
    for item in text.split(","):
        ident = item.strip()
        if ident in {"", BLANK}:
            continue
        if not is_uuid(ident):
            raise BadValue(what, f"POOL_UUID is {text!r:.120}")
        found.append(PoolId(ident))
    return tuple(found)


def _geometry(pairs: Mapping[str, str], version: int, what: str) -> Geometry:
    usual = Geometry()
    try:
        block_size = int(pairs.get("BLOCK_SIZE", usual.block_size))
        alignment = int(pairs.get("ALIGNMENT", usual.alignment))
        found = Geometry(block_size, alignment)
    except (ValueError, InvalidParameter) as error:
        raise BadValue(what, f"{error}") from error
    if version < 5 and found != usual:
        raise BadValue(what, f"version {version} has no block size {block_size} with alignment {alignment}")
    return found


def _leases(pairs: Mapping[str, str]) -> LeaseParameters:
    usual = LeaseParameters()

    def number(key: str, default: int) -> int:
        text = pairs.get(key, "")
        return int(text) if text.isascii() and text.isdigit() else default

    return LeaseParameters(
        policy=pairs.get("LOCKPOLICY", ""),
        renewal_interval_s=number("LOCKRENEWALINTERVALSEC", usual.renewal_interval_s),
        lease_time_s=number("LEASETIMESEC", usual.lease_time_s),
        io_timeout_s=number("IOOPTIMEOUTSEC", usual.io_timeout_s),
        retries=number("LEASERETRIES", usual.retries),
    )


def _disks(pairs: Mapping[str, str], what: str) -> tuple[PhysicalVolume, ...]:
    numbers = sorted(int(match[1]) for key in pairs if (match := _PV_KEY.fullmatch(key)))
    if numbers and (numbers != list(range(len(numbers))) or "VGUUID" not in pairs):
        raise BadValue(what, f"it has the disks {numbers} and {'a' if 'VGUUID' in pairs else 'no'} VGUUID")
    return tuple(_disk(pairs[f"PV{number}"], what) for number in numbers)


def _disk(text: str, what: str) -> PhysicalVolume:
    parts = dict(item.partition(":")[::2] for item in text.split(","))
    try:
        return PhysicalVolume(
            guid=parts["pv"],
            uuid=parts["uuid"],
            extents=int(parts["pecount"]),
            offset=int(parts["mapoffset"]),
            start=int(parts["pestart"]),
        )
    except (KeyError, ValueError) as error:
        raise BadValue(what, f"a disk is described as {text!r:.200}") from error
