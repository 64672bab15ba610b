"""The closed sets of the repository: the words on disk, and the numbers that the API has for them.

Words are compared case-sensitively, on disk and in memory.
"""

from __future__ import annotations

from enum import Enum, StrEnum, unique
from typing import Self

from vdsm.storage.errors import InvalidParameter


class Numbered(Enum):
    """A word on disk, the member's value, that has a number in the API."""

    number: int

    def __new__(cls, word: str, number: int) -> Self:
        """Make the word the value, so that ``Kind("WORD")`` finds the member."""
        member = object.__new__(cls)
        member._value_ = word
        member.number = number
        return member

    @classmethod
    def of_word(cls, word: str, field: str) -> Self:
        """The member of this word.

        Raises:
            InvalidParameter: there is none; names ``field``.
        """
        for member in cls:
            if member.value == word:
                return member
        raise InvalidParameter(field, f"must be one of {[member.value for member in cls]}, is {word!r:.40}")

    @classmethod
    def of_number(cls, number: int, field: str) -> Self:
        """The member with this number in the API.

        Raises:
            InvalidParameter: there is none; names ``field``.
        """
        for member in cls:
            if member.number == number:
                return member
        raise InvalidParameter(field, f"must be one of {sorted(member.number for member in cls)}, is {number}")


@unique
class StorageType(Numbered):
    """What a domain lies on (TYPE)."""

    NFS = "NFS", 1
    FCP = "FCP", 2
    ISCSI = "ISCSI", 3
    LOCALFS = "LOCALFS", 4
    CIFS = "CIFS", 5
    POSIXFS = "POSIXFS", 6
    GLUSTERFS = "GLUSTERFS", 7

    @property
    def is_block(self) -> bool:
        """A volume group, not a file system."""
        return self in {StorageType.FCP, StorageType.ISCSI}

    @property
    def is_shared(self) -> bool:
        """Several hosts reach it, so that leases and a mailbox are needed."""
        return self is not StorageType.LOCALFS


@unique
class DomainClass(Numbered):
    """What a domain is for (CLASS)."""

    DATA = "Data", 1
    ISO = "Iso", 2
    BACKUP = "Backup", 3


@unique
class DomainRole(Enum):
    """Whether a domain carries the pool's own data (ROLE)."""

    REGULAR = "Regular"
    MASTER = "Master"


@unique
class AttachedStatus(Enum):
    """A domain's state in the pool's list (POOL_DOMAINS)."""

    ACTIVE = "Active"
    ATTACHED = "Attached"


@unique
class VolumeFormat(Numbered):
    """How a volume's data is laid out (FORMAT)."""

    COW = "COW", 4
    RAW = "RAW", 5

    @property
    def qemu(self) -> str:
        """QEMU's word for it."""
        return "qcow2" if self is VolumeFormat.COW else "raw"


@unique
class Allocation(Numbered):
    """Whether a volume's space is taken at once (TYPE of a volume)."""

    UNKNOWN = "UNKNOWN", 0
    PREALLOCATED = "PREALLOCATED", 1
    SPARSE = "SPARSE", 2


@unique
class VolumeKind(Numbered):
    """A volume's place in its chain (VOLTYPE)."""

    SHARED = "SHARED", 6  # a template's only volume: images stand on it, nothing in it ever changes
    INTERNAL = "INTERNAL", 7  # other volumes of its image stand on it
    LEAF = "LEAF", 8  # the top, the one that is written


@unique
class Legality(Enum):
    """Whether a volume's content may be used (LEGALITY)."""

    LEGAL = "LEGAL"
    ILLEGAL = "ILLEGAL"  # being made, or about to be deleted
    FAKE = "FAKE"  # stands for a template that is elsewhere, on Backup domains


@unique
class DiskType(StrEnum):
    """What a disk holds (DISKTYPE). Old domains also have "1" and "2", which both mean data."""

    DATA = "DATA"
    ISO = "ISOF"
    MEMORY_DUMP = "MEMD"
    MEMORY_METADATA = "MEMM"
    OVF_STORE = "OVFS"
    ENGINE_VM_DISK = "HEVD"
    ENGINE_SANLOCK = "HESD"
    ENGINE_METADATA = "HEMD"
    ENGINE_CONFIGURATION = "HECI"
    SCRATCH = "SCRD"
