"""A VM's leases in storage domains, if libvirt takes leases on this host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vdsm.base.errors import BadParameter, VdsmError
from vdsm.storage.errors import Damaged, InvalidParameter, StorageFailed
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.ids import VolumeRef, parse_domain_id, parse_image_id, parse_lease_id, parse_volume_id
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.leases.external_leases import ExternalLeases
from vdsm.virt.leases import LeaseLocation, LeaseRef

_KEEPER: Final = "sanlock"
_UNKEPT: Final = (
    "libvirt on this host takes no leases, so another host could run the VM, too: install libvirt-sanlock and set"
    ' lock_manager = "sanlock" in /etc/libvirt/qemu.conf'
)


class VmLeases:
    """Implements ``virt.leases.Leases``.

    Args:
        find: the handle on a domain.
        external: the leases that belong to no volume.
        lock_manager: who takes leases for libvirt; asked each time, since it may be set up at any time.
    """

    def __init__(self, find: FindDomain, external: ExternalLeases, lock_manager: Callable[[], str]) -> None:
        self._find: Final = find
        self._external: Final = external
        self._lock_manager: Final = lock_manager

    def locate(self, ref: LeaseRef) -> LeaseLocation:
        """Where the lease is; see ``Leases``."""
        try:
            found = self._record(ref)
        except (Damaged, StorageFailed):
            raise
        except VdsmError as error:
            if error.status >= 500:
                raise  # the storage's trouble, not the request's
            raise BadParameter(ref.field, str(error)) from error
        if self._lock_manager() != _KEEPER:
            # It would start all the same, and nobody would know that it is not protected.
            raise BadParameter(ref.field, _UNKEPT)
        return LeaseLocation(found.path, found.offset)

    def _record(self, ref: LeaseRef) -> LeaseRecord:
        domain_id = parse_domain_id(ref.domain_id, "lockspace")
        if not ref.image_id:
            return self._external.info(domain_id, parse_lease_id(ref.lease_id, "key"))
        volume = VolumeRef(domain_id, parse_image_id(ref.image_id), parse_volume_id(ref.lease_id))
        found = self._find(domain_id).backend.volume_lease(volume)
        if found is None:
            raise InvalidParameter("lease", f"volumes of storage domain {domain_id} have no leases")
        return found
