"""The verbs that explain and repair storage domains."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import BoolText, Pool, Reply, Role, Wire, get, namespace, post, verb
from vdsm.api.storage_types import BLANK, DomainIdParam

OneImage = Annotated[str, Wire("imageID"), msgspec.Meta(description="only this image; the blank UUID: all")]


class StorageFinding(Reply, frozen=True, kw_only=True):
    """Something on a storage domain that does not agree with the rest."""

    word: str
    """What it is, as a word that stays the same: `kind`, `half-made`, `backing`, ..."""
    object: str
    """What it is wrong with: a path below the domain's directory; empty: the directory itself."""
    what: str
    """A sentence for people."""
    remedy: str
    """What mending does, or did; where it cannot be mended, why it is left alone."""
    repairable: bool
    image_id: str = ""
    volume_id: str = ""


class StorageSkipped(Reply, frozen=True, kw_only=True):
    """Something that was not looked at."""

    object: str
    reason: str


class StorageCheck(Reply, frozen=True, kw_only=True):
    """What a check found; no findings: everything agrees."""

    findings: list[StorageFinding]
    skipped: list[StorageSkipped]
    """What was in use or under way, or could not be looked at."""
    images: int
    volumes: int
    """How many were looked at."""


class StorageRepair(Reply, frozen=True, kw_only=True):
    """What a repair did."""

    mended: list[StorageFinding]
    left: list[StorageFinding]
    """What is still wrong."""
    skipped: list[StorageSkipped]


@namespace("StorageDomain", service="StorageChecks")
class StorageChecks(Protocol):
    """Whether all that is on a storage domain agrees."""

    @verb(rest=get("/storage-domains/{domain_id}/check"), pool=Pool.STORAGE)
    def check(self, domain_id: DomainIdParam, *, image_id: OneImage = BLANK, data: BoolText = False) -> StorageCheck:
        """See that metadata, chains, headers, leases, links, modes and names agree; each difference is named.

        Nothing is changed. What this host's operations have under way is no difference; what other hosts change
        meanwhile may look like one, so the pool's manager (SPM) is the host to ask.

        Args:
            domain_id: the domain.
            image_id: only this image, and nothing of the domain.
            data: also have qemu-img check the qcow2 volumes that are not in use; image by image, or it takes too long.

        Raises:
            NoSuchDomain: it is not connected.
            UnsupportedOperation: it is not on files.
        """

    @verb(rest=post("/storage-domains/{domain_id}/repair"), role=Role.ADMIN, pool=Pool.STORAGE)
    def repair(self, domain_id: DomainIdParam, *, image_id: OneImage = BLANK, data: BoolText = False) -> StorageRepair:
        """Mend the differences that need no guess; the others are left, with the reason. Can be done again at any time.

        Args:
            domain_id: the domain.
            image_id: only this image, and nothing of the domain.
            data: also give back clusters that qcow2 volumes have leaked.

        Raises:
            NoSuchDomain: it is not connected.
            NotSpm: it belongs to a pool, and another host manages that.
            UnsupportedOperation: it is not on files.
        """
