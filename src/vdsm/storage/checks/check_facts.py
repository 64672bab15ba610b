"""What checking a storage domain finds, as data: what is wrong with which object, and what would mend it.

Pure: no threads, no tools, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TypeAlias

from vdsm.storage.ids import ImageId, VolumeId, VolumeRef
from vdsm.storage.steps import Plan


@unique
class Word(StrEnum):
    """What can be wrong; the words are stable."""

    # The domain.
    DOMAIN_METADATA = "domain-metadata"
    SPECIAL_FILE = "special-file"
    LOCKSPACE = "lockspace"
    POOL_LEASE = "pool-lease"
    EXTERNAL_LEASES = "external-leases"
    OPERATION = "operation"
    MODE = "mode"
    STRAY = "stray"
    # Images and volumes.
    HALF_MADE = "half-made"
    PUT_ASIDE = "put-aside"
    EMPTY_IMAGE = "empty-image"
    UNFINISHED_WRITE = "unfinished-write"
    METADATA_DAMAGED = "metadata-damaged"
    METADATA_MISSING = "metadata-missing"
    DATA_MISSING = "data-missing"
    DATA_SIZE = "data-size"
    # Chains.
    PARENT_MISSING = "parent-missing"
    CYCLE = "cycle"
    SECOND_LEAF = "second-leaf"
    KIND = "kind"
    TEMPLATE_WITH_PARENT = "template-with-parent"
    RAW_WITH_PARENT = "raw-with-parent"
    SMALLER = "smaller-than-parent"
    CAPACITY = "capacity"
    FOREIGN = "foreign"
    LEFTOVER = "leftover"
    ILLEGAL_PARENT = "illegal-parent"
    # Headers, links, leases, content.
    HEADER = "header"
    BACKING = "backing"
    LINK_MISSING = "link-missing"
    LINK_WRONG = "link-wrong"
    LINK_UNUSED = "link-unused"
    LEASE_MISSING = "lease-missing"
    LEASE_DAMAGED = "lease-damaged"
    DATA_LEAKS = "data-leaks"
    DATA_CORRUPT = "data-corrupt"


@dataclass(frozen=True, slots=True)
class Steps:
    """Carry out steps of the chain's; ``free`` of them must not be open on this host."""

    plan: Plan
    free: tuple[VolumeRef, ...] = ()


@dataclass(frozen=True, slots=True)
class SetMode:
    """Set the permission bits of a file or directory."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class MakeFile:
    """Make a file that is not there, or make it long enough; what is new in it reads as zeros."""

    path: str
    size: int
    mode: int


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """Remove a directory that is empty."""

    path: str


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """Remove what an interrupted writing of a file has left beside it."""

    path: str


@dataclass(frozen=True, slots=True)
class WriteLease:
    """Write the lease of a volume that has none."""

    volume: VolumeRef


@dataclass(frozen=True, slots=True)
class RebuildLeases:
    """Rebuild the index of external leases (``lease_index``)."""


@dataclass(frozen=True, slots=True)
class FreeLeaks:
    """Give back the clusters of a qcow2 image that nothing refers to."""

    volume: VolumeRef


Fix: TypeAlias = Steps | SetMode | MakeFile | RemoveDirectory | RemoveFile | WriteLease | RebuildLeases | FreeLeaks


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference.

    Attributes:
        word: what it is.
        object: what it is wrong with, as a path below the domain's directory, or the domain itself ("").
        what: a sentence for people.
        remedy: what mending does, or why it is left alone.
        fix: how it is mended; None: it is left alone.
        image_id: whose it is.
        volume_id: whose it is.
    """

    word: Word
    object: str
    what: str
    remedy: str
    fix: Fix | None = None
    image_id: ImageId | None = None
    volume_id: VolumeId | None = None

    @property
    def key(self) -> tuple[Word, str]:
        """By which it is known again."""
        return self.word, self.object


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not looked at, or not to its end, and why."""

    object: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of a check: everything that does not agree, and what could not be looked at."""

    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    images: int = 0
    volumes: int = 0
