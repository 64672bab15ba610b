"""The verbs of external leases, and the leases in dumps of domains."""

from __future__ import annotations

import logging
from typing import Any, Final

from vdsm.api import storage_types as api
from vdsm.base.clock import now_utc
from vdsm.base.errors import VdsmError
from vdsm.services.storage_gates import Gates
from vdsm.services.storage_spm import SpmDoor
from vdsm.storage.domains.domain import Domain
from vdsm.storage.formats import xleases
from vdsm.storage.formats.leases import JobStatus, JobValue
from vdsm.storage.ids import BLANK, DomainId, LeaseId, parse_domain_id, parse_job_id, parse_lease_id
from vdsm.storage.leases.external_leases import AddLease, ExternalLeases, LeaseKinds, RebuildLeases, RemoveLease
from vdsm.storage.leases.lease_index import LeaseAreas, LeaseIndex

log = logging.getLogger(__name__)


class LeaseService:
    """Implements ``api.lease.Lease``."""

    def __init__(self, leases: ExternalLeases, kinds: LeaseKinds, spm: SpmDoor, gates: Gates) -> None:
        self._leases: Final = leases
        self._kinds: Final = kinds
        self._spm: Final = spm
        self._gates: Final = gates

    def create(self, lease: api.LeaseAddress, metadata: api.LeaseMetadata | None = None) -> str:
        """Make it."""
        domain_id, lease_id = _address(lease)
        request = AddLease(domain_id=domain_id, lease_id=lease_id, job=None if metadata is None else _job(metadata))
        return self._spm.submit(BLANK, self._kinds.add, request)

    def delete(self, lease: api.LeaseAddress) -> str:
        """Delete it."""
        domain_id, lease_id = _address(lease)
        return self._spm.submit(BLANK, self._kinds.remove, RemoveLease(domain_id=domain_id, lease_id=lease_id))

    def info(self, lease: api.LeaseAddress) -> api.LeaseInfo:
        """Where it is."""
        domain_id, lease_id = _address(lease)
        with self._gates.place(domain_id):
            found = self._leases.info(domain_id, lease_id)
            return api.LeaseInfo(sd_id=domain_id, lease_id=lease_id, path=found.path, offset=found.offset)

    def status(self, lease: api.LeaseAddress) -> api.LeaseStatus:
        """Who has it."""
        domain_id, lease_id = _address(lease)
        with self._gates.place(domain_id):
            state, job = self._leases.status(domain_id, lease_id)
            return api.LeaseStatus(owners=list(state.owners), version=state.version, metadata=_shown(job))

    def fence(self, lease: api.LeaseAddress, metadata: api.LeaseMetadata) -> None:
        """Take its job away from whoever had it."""
        domain_id, lease_id = _address(lease)
        with self._gates.place(domain_id):
            self._leases.fence(domain_id, lease_id, _job(metadata))

    def rebuild(self, domain_id: str) -> str:
        """Mend the index."""
        request = RebuildLeases(domain_id=parse_domain_id(domain_id, "sd_id"))
        return self._spm.submit(BLANK, self._kinds.rebuild, request)


class LeaseDumps:
    """The leases in a dump of a domain; domains of one host have none.

    Args:
        areas: who reads lease areas.
    """

    def __init__(self, areas: LeaseAreas) -> None:
        self._areas: Final = areas

    def of(self, domain: Domain) -> dict[str, Any]:
        """The parts ``leases`` and ``xleases`` of the dump; what cannot be read is left out."""
        if not domain.kind.is_shared:
            return {}
        parts: dict[str, Any] = {}
        try:
            state = domain.lock.inspect(domain.lock.sdm)
            own = list(state.owners)
            lease = {"lockspace": domain.id, "resource": domain.lock.sdm.resource, "offset": domain.lock.sdm.offset}
            parts["leases"] = [{**lease, "own": own[0] if own else 0, "lver": state.version or 0}]
            parts["xleases"] = {
                record.lease_id: {
                    "offset": xleases.lease_offset(record.number, domain.geometry),
                    "updating": record.updating,
                }
                for record in LeaseIndex(domain, self._areas).read().records()
            }
        except VdsmError as error:
            log.warning("the leases of domain %s are not all in its dump: %s", domain.id, error)
        return parts


def _address(lease: api.LeaseAddress) -> tuple[DomainId, LeaseId]:
    return parse_domain_id(lease.sd_id, "lease.sd_id"), parse_lease_id(lease.lease_id, "lease.lease_id")


def _job(given: api.LeaseMetadata) -> JobValue:
    now_s = int(now_utc().timestamp())
    return JobValue(
        generation=given.generation,
        job_id=parse_job_id(given.job_id, "metadata.job_id"),
        status=JobStatus(given.job_status),
        created_s=now_s if given.created is None else given.created,
        modified_s=now_s if given.modified is None else given.modified,
        host_hardware_id=given.host_hardware_id or "",
    )


def _shown(job: JobValue | None) -> dict[str, Any]:
    if job is None:
        return {}
    return {
        "type": "JOB",
        "generation": job.generation,
        "job_id": job.job_id,
        "job_status": job.status.value,
        "created": job.created_s,
        "modified": job.modified_s,
        "host_hardware_id": job.host_hardware_id,
    }
