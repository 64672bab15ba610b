"""Where leases are, how large their areas are, and what a lease's value says.

    ids      offset 0                             the lockspace: one sector per host id
    leases   (area)          file domains         1 x area    SDM, the lease of the SPM; slot 0 is never written
                             block domains        also volumes: (100 + metadata slot) x area
    <volume>.lease           file domains         offset 0    the volume's lease, one area long
    xleases  (3 + record) x area                  external leases; see ``xleases``

An area is what sanlock calls align; it follows from the sector size and from how many hosts there can be:

    sector 512     up to 2000 hosts     1 MiB
    sector 4096    up to 250            1 MiB     500: 2 MiB     1000: 4 MiB     2000: 8 MiB

A lease's first sector, which sanlock writes (little endian), says who has it:

    0x00 magic 0x06152010   0x04 version   0x20 owner's host id   0x28 and generation   0x30 how often it was taken
    0x38 lockspace (48)   0x68 resource (48)   0x98 since when, by the owner's clock; 0: nobody has it

Source: storage format, sections 1.4, 2.6, 3.1, 3.2 and 3.7.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from vdsm.storage.errors import Damaged, InvalidParameter
from vdsm.storage.ids import DomainId

MIB: Final = 1 << 20
SECTORS: Final = (512, 4096)
MAX_HOSTS: Final = 2000

SDM: Final = "SDM"
"""The resource that only the SPM holds."""
SDM_SLOT: Final = 1
FIRST_VOLUME_SLOT: Final = 100  # of block domains' leases volume
LEASE_SLOTS: Final = 2048

FILE_LEASES_SLOTS: Final = 2
"""Length of a file domain's ``leases`` once it is made, in areas."""

RESERVED_HOST_ID: Final = 250
"""Used by the original for a moment when a pool is made; it has no mailbox either."""
MAX_HOST_ID: Final = 249
"""The largest id that is safe for a host to live under."""

GENERATIONS: Final = 1000
"""Generations of volumes and jobs go from 0 to 999 and begin again: they are compared for equality only."""
VALUE_SIZE: Final = 512

# Areas for sectors of 4096: the largest number of hosts, and the size.
_LARGE_SECTOR_AREAS: Final = ((250, MIB), (500, 2 * MIB), (1000, 4 * MIB), (2000, 8 * MIB))


_LEADER: Final = struct.Struct("<I28xQQQ48s48sQ")
_LEADER_MAGIC: Final = 0x06152010


@dataclass(frozen=True, slots=True)
class Geometry:
    """A domain's sector size and the size of one lease's area, bytes.

    Raises:
        InvalidParameter: the two do not go together.
    """

    block_size: int = 512
    alignment: int = MIB

    def __post_init__(self) -> None:
        if self.block_size not in SECTORS:
            raise InvalidParameter("block_size", f"must be one of {SECTORS}, is {self.block_size}")
        allowed = [MIB] if self.block_size == 512 else [area for _, area in _LARGE_SECTOR_AREAS]
        if self.alignment not in allowed:
            raise InvalidParameter("alignment", f"must be one of {allowed}, is {self.alignment}")

    @property
    def max_hosts(self) -> int:
        """How many hosts fit."""
        if self.block_size == 512:
            return MAX_HOSTS
        return next(hosts for hosts, area in _LARGE_SECTOR_AREAS if area == self.alignment)


def geometry(block_size: int, max_hosts: int = 250) -> Geometry:
    """The geometry of a new domain.

    Raises:
        InvalidParameter: no such sector size, or too many or too few hosts.
    """
    if not 1 <= max_hosts <= MAX_HOSTS:
        raise InvalidParameter("maxHosts", f"must be between 1 and {MAX_HOSTS}, is {max_hosts}")
    if block_size != 4096:
        return Geometry(block_size)
    return Geometry(block_size, next(area for hosts, area in _LARGE_SECTOR_AREAS if max_hosts <= hosts))


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """All that sanlock has to be told to take one lease."""

    lockspace: DomainId
    resource: str
    path: str
    offset: int
    geometry: Geometry


def sdm_lease(domain_id: DomainId, leases_path: str, shape: Geometry) -> LeaseRecord:
    """The SPM's lease, on file and block domains."""
    return LeaseRecord(domain_id, SDM, leases_path, SDM_SLOT * shape.alignment, shape)


def volume_lease_offset(slot: int, shape: Geometry) -> int:
    """Where in a block domain's ``leases`` the lease of the volume in this metadata slot is.

    Raises:
        InvalidParameter: the volume has no room for it.
    """
    if not 0 <= slot < LEASE_SLOTS - FIRST_VOLUME_SLOT:
        raise InvalidParameter("slot", f"must be between 0 and {LEASE_SLOTS - FIRST_VOLUME_SLOT - 1}, is {slot}")
    return (FIRST_VOLUME_SLOT + slot) * shape.alignment


def host_sector_offset(host_id: int, shape: Geometry) -> int:
    """Where in ``ids`` a host shows that it is alive."""
    if not 1 <= host_id <= shape.max_hosts:
        raise InvalidParameter("hostID", f"must be between 1 and {shape.max_hosts}, is {host_id}")
    return (host_id - 1) * shape.block_size


def value_offset(shape: Geometry) -> int:
    """Where in a lease's area its value (LVB) is: after the leader, the requests and all hosts."""
    return (2 + shape.max_hosts) * shape.block_size


def next_generation(generation: int) -> int:
    """The generation after this one."""
    return (generation + 1) % GENERATIONS


@dataclass(frozen=True, slots=True)
class Leader:
    """Who has a lease, as its first sector says.

    Attributes:
        lockspace: its lockspace's name.
        resource: its name.
        owner: the host id that has it, or had it last.
        generation: of the owner's host id.
        version: how often it was taken.
        taken: whether it is.
    """

    lockspace: str
    resource: str
    owner: int
    generation: int
    version: int
    taken: bool


def decode_leader(data: bytes, what: str) -> Leader:
    """Read a lease's first sector.

    Raises:
        Damaged: there is no lease.
    """
    try:
        magic, owner, generation, version, lockspace, resource, timestamp = _LEADER.unpack_from(data)
        if magic != _LEADER_MAGIC:
            raise Damaged(what, "there is no lease")
        names = [name.rstrip(b"\0").decode("ascii") for name in (lockspace, resource)]
    except (struct.error, UnicodeDecodeError) as error:
        raise Damaged(what, f"its lease cannot be read: {error}") from error
    return Leader(names[0], names[1], owner, generation, version, timestamp != 0)


@unique
class JobStatus(Enum):
    """How far a job on an external lease has come."""

    PENDING = "PENDING"
    FAILED = "FAILED"
    SUCCEEDED = "SUCCEEDED"
    FENCED = "FENCED"


@dataclass(frozen=True, slots=True)
class JobValue:
    """The value of a lease that guards a job.

    Attributes:
        generation: 0 to 999.
        job_id: the job's id.
        status: how far it is.
        created_s: whole seconds since the epoch.
        modified_s: whole seconds since the epoch.
        host_hardware_id: the host that wrote it.
    """

    generation: int
    job_id: str
    status: JobStatus
    created_s: int
    modified_s: int
    host_hardware_id: str


def encode_value(value: JobValue | None) -> bytes:
    """A lease's value as sanlock keeps it: JSON, padded with NULs to 512 bytes.

    Raises:
        InvalidParameter: it is longer.
    """
    if value is None:
        return bytes(VALUE_SIZE)
    text = json.dumps({
        "type": "JOB",
        "generation": value.generation,
        "job_id": value.job_id,
        "job_status": value.status.value,
        "created": value.created_s,
        "modified": value.modified_s,
        "host_hardware_id": value.host_hardware_id,
    }).encode()
    if len(text) > VALUE_SIZE:
        raise InvalidParameter("metadata", f"must fit in {VALUE_SIZE} bytes, takes {len(text)}")
    return text.ljust(VALUE_SIZE, b"\0")


def decode_value(data: bytes, what: str) -> JobValue | None:
    """Read a lease's value; None when it has none.

    Raises:
        Damaged: it is not the value of a job.
    """
    text = data.rstrip(b"\0")
    if not text:
        return None
    try:
        found = json.loads(text)
        if found["type"] != "JOB":
            raise Damaged(what, f"its value is of the type {found['type']!r:.40}")
        return JobValue(
            generation=int(found["generation"]),
            job_id=str(found["job_id"]),
            status=JobStatus(found["job_status"]),
            created_s=int(found["created"]),
            modified_s=int(found["modified"]),
            host_hardware_id=str(found["host_hardware_id"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(what, f"its value cannot be read: {error}") from error
