"""The verbs of external leases: leases of a domain that belong to no volume, for VMs and jobs."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import Pool, Role, Wire, namespace, post, verb
from vdsm.api.storage_types import LeaseAddress, LeaseInfo, LeaseMetadata, LeaseStatus

LeaseParam = Annotated[LeaseAddress, msgspec.Meta(description="the lease: its domain and its id, both UUIDs")]


@namespace("Lease")
class Lease(Protocol):
    """External leases: of a domain, but of no volume; for highly available VMs, and for jobs."""

    @verb(rest=post("/leases", status=202), role=Role.OPERATOR, pool=Pool.STORAGE)
    def create(self, lease: LeaseParam, metadata: LeaseMetadata | None = None) -> str:
        """Make a lease; the answer is the task's id. One that is there already is fine.

        Args:
            lease: the lease: its domain and its id.
            metadata: the job that it guards.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchDomain: the domain is not connected.
        """

    @verb(rest=post("/leases/delete", status=202), role=Role.OPERATOR, pool=Pool.STORAGE)
    def delete(self, lease: LeaseParam) -> str:
        """Delete a lease; the answer is the task's id. One that is not there is fine.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchDomain: the domain is not connected.
        """

    @verb(rest=post("/leases/info"), role=Role.OPERATOR, pool=Pool.STORAGE)
    def info(self, lease: LeaseParam) -> LeaseInfo:
        """Where a lease is.

        Raises:
            NoSuchLease: there is none of this id.
            NoSuchDomain: the domain is not connected.
        """

    @verb(rest=post("/leases/status"), role=Role.OPERATOR, pool=Pool.STORAGE)
    def status(self, lease: LeaseParam) -> LeaseStatus:
        """Who has a lease, and what it says of its job.

        Raises:
            NoSuchLease: there is none of this id.
            LeaseFailed: its area cannot be read.
        """

    @verb(rest=post("/leases/fence"), role=Role.OPERATOR, pool=Pool.STORAGE)
    def fence(self, lease: LeaseParam, metadata: LeaseMetadata) -> None:
        """Mark the job of a lease as fenced, so that the host that had it does not finish it.

        Args:
            lease: the lease: its domain and its id.
            metadata: the job as it must be found: PENDING, with its generation.

        Raises:
            NoSuchLease: there is none of this id.
            LeaseHeld: a host has it: the job may be running.
        """

    @verb(rest=post("/leases/rebuild", status=202), role=Role.ADMIN, pool=Pool.STORAGE, name="rebuild_leases")
    def rebuild(self, domain_id: Annotated[str, Wire("sd_id")]) -> str:
        """Mend a domain's damaged index of leases, from the leases themselves; the answer is the task's id.

        Args:
            domain_id: the domain.

        Raises:
            NotSpm: this host does not manage the pool.
            NoSuchDomain: the domain is not connected.
        """
