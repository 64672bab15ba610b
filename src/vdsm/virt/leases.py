"""The door between VMs and their leases: what only one host may have at a time, so that a VM runs once.

A VM names a lease, ``Leases.locate`` says where it is, and libvirt's lock manager takes it before the guest runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """What a VM says about one of its leases.

    Attributes:
        field: how an error names it to the one who asked.
        domain_id: the storage domain that it is in.
        lease_id: its id; an external lease's, or a volume's.
        image_id: the image of the volume, when it is the lease of one of the VM's own; else empty.
    """

    field: str
    domain_id: str
    lease_id: str
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class LeaseLocation:
    """Where a lease is: a file or device, and the byte in it."""

    path: str
    offset: int


class Leases(Protocol):
    """Finds leases."""

    def locate(self, ref: LeaseRef) -> LeaseLocation:
        """Where the lease is.

        Raises:
            BadParameter: there is none, or nobody on this host would take it; names ``ref.field``.
        """
