"""The closed sets of the repository: the words on disk. The API has numbers for some (api/storage_types.py).

Words are compared case-sensitively, on disk and in memory.
"""

from __future__ import annotations

from enum import Enum, StrEnum, unique
from typing import Self

from vdsm.storage.errors import InvalidParameter


class Worded(Enum):
    """A word that the disk and the API share."""

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


@unique
class StorageType(Worded):
    """What a domain lies on (TYPE)."""

    NFS = "NFS"
    FCP = "FCP"
    ISCSI = "ISCSI"
    LOCALFS = "LOCALFS"
    CIFS = "CIFS"
    POSIXFS = "POSIXFS"
    GLUSTERFS = "GLUSTERFS"

    @property
    def is_block(self) -> bool:
        """A volume group, not a file system."""
        return self in {StorageType.FCP, StorageType.ISCSI}

    @property
    def is_shared(self) -> bool:
        """Several hosts reach it, so that leases and a mailbox are needed."""
        return self is not StorageType.LOCALFS


@unique
class DomainClass(Worded):
    """What a domain is for (CLASS)."""

    DATA = "Data"
    ISO = "Iso"
    BACKUP = "Backup"


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
class VolumeFormat(Worded):
    """How a volume's data is laid out (FORMAT)."""

    COW = "COW"
    RAW = "RAW"

    @property
    def qemu(self) -> str:
        """QEMU's word for it."""
        return "qcow2" if self is VolumeFormat.COW else "raw"


@unique
class Allocation(Worded):
    """Whether a volume's space is taken at once (TYPE of a volume)."""

    UNKNOWN = "UNKNOWN"
    PREALLOCATED = "PREALLOCATED"
    SPARSE = "SPARSE"


@unique
class VolumeKind(Worded):
    """A volume's place in its chain (VOLTYPE)."""

    SHARED = "SHARED"  # a template's only volume: images stand on it, nothing in it ever changes
    INTERNAL = "INTERNAL"  # other volumes of its image stand on it
    LEAF = "LEAF"  # the top, the one that is written


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
