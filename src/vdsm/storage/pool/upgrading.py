"""Domains get the format of today: version 4 becomes 5; local ones of version 3, too, which lack nothing else.

    1  (pivot)  the domain: VERSION, ALIGNMENT and BLOCK_SIZE in one write
    2           each volume's metadata is written anew: CAP and SEQ instead of SIZE

A host reads both forms of a volume's metadata in a domain of either version, so between the two nothing is out of
reach. What cannot be read is left as it is. Shared domains of version 3 have no place for external leases, which a
newer one must have: they are refused.

Source: storage format, section 11.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from vdsm.operations.kinds import Kind, Run, Step
from vdsm.operations.locks import Mode, Wants
from vdsm.storage import wants
from vdsm.storage.errors import UnsupportedVersion
from vdsm.storage.formats.domain import CURRENT, DomainMetadata
from vdsm.storage.ids import DomainId, VolumeRef
from vdsm.storage.pool import pool_edits
from vdsm.storage.pool.pool_edits import Edit
from vdsm.storage.pool.pool_session import DomainSource
from vdsm.storage.pool.pool_writer import PoolWriter

log = logging.getLogger(__name__)

UPGRADE: Final = "upgradeDomain"


class UpgradeDomain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A domain and the write that makes it one of the new version."""

    domain_id: DomainId
    edit: Edit


def upgrade_kind(domains: DomainSource, writer: PoolWriter) -> Kind[UpgradeDomain]:
    """The kind; see ``pool_kinds``."""

    def steps(given: UpgradeDomain) -> list[Step]:
        def write(run: Run) -> None:
            _write_volumes(domains, given.domain_id, run)

        return [*writer.steps([given.edit], pivot_last=True), Step("write all volumes' metadata anew", write, weight=9)]

    def wanted(given: UpgradeDomain) -> Wants:
        return wants.of_domain(given.domain_id, Mode.EXCLUSIVE)

    return Kind(UPGRADE, 1, UpgradeDomain, steps, wanted)


def upgrading(domain: DomainMetadata, version: int) -> UpgradeDomain:
    """What has to be done.

    Raises:
        UnsupportedVersion: not to that version, or not from the domain's.
    """
    old = 3 if not domain.storage_type.is_shared else 4
    if version != CURRENT or not old <= domain.version < version:
        raise UnsupportedVersion(f"{domain.version} to {version}")
    shape = domain.geometry
    keys = {"VERSION": str(version), "ALIGNMENT": str(shape.alignment), "BLOCK_SIZE": str(shape.block_size)}
    return UpgradeDomain(domain.domain_id, pool_edits.edit(domain, keys))


def _write_volumes(domains: DomainSource, domain_id: DomainId, run: Run) -> None:
    # Found anew: it is a domain of another version by now.
    backend = domains.find(domain_id).backend
    contents = backend.images()
    for volume, error in contents.damaged.items():
        log.error("volume %s stays as it is: %s", volume, error)
    every = [
        VolumeRef(domain_id, image.image_id, ident) for image in contents.images.values() for ident in image.volumes
    ]
    for number, volume in enumerate(every, 1):
        run.check()
        backend.rewrite(volume, backend.volume(volume))
        run.progress(number / len(every))
