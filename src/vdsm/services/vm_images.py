"""A VM's images, wherever they are: in storage domains by their ids, or at plain paths."""

from __future__ import annotations

import logging
from collections.abc import Callable

from vdsm.base.errors import BadParameter, VdsmError
from vdsm.storage.errors import Damaged, InvalidParameter, NoSpace, StorageFailed
from vdsm.storage.formats import tree
from vdsm.storage.ids import (
    DomainId,
    ImageId,
    PoolId,
    VolumeId,
    parse_domain_id,
    parse_image_id,
    parse_pool_id,
    parse_volume_id,
)
from vdsm.storage.images.preparing import Preparing
from vdsm.virt.disks import ImageRef, Images, Location
from vdsm.virt.domxml import DomainFacts

log = logging.getLogger(__name__)


class VmImages:
    """Implements ``virt.disks.Images``: ids go to the image repository, everything else is a path.

    A path outside the repository's tree is what it says, whatever ids are noted beside it: a manager's XML that was
    changed to use a file of this host.
    """

    def __init__(
        self,
        paths: Images,
        repository: Preparing,
        connected: Callable[[], str | None],
        trees: tuple[str, ...] = (tree.DATA_CENTER,),
    ) -> None:
        """Build.

        Args:
            paths: takes plain paths.
            repository: takes ids.
            connected: says which storage pool this host is connected to.
            trees: where the repository is, on this host and to managers.
        """
        self._paths = paths
        self._repository = repository
        self._connected = connected
        self._trees = tuple(f"{place}/" for place in trees)

    def prepare(self, ref: ImageRef) -> Location:
        """Make an image usable; see ``Images``."""
        if self._is_path(ref):
            return self._paths.prepare(ref)
        pool_id, domain_id, image_id, volume_id = self._address(ref)
        try:
            found = self._repository.prepare(pool_id, domain_id, image_id, volume_id)
        except (Damaged, NoSpace, StorageFailed):
            raise
        except VdsmError as error:
            if error.status >= 500:
                raise  # the storage's trouble, not the request's
            raise BadParameter(ref.field, str(error)) from error
        if ref.format is not None and ref.format != found.format.qemu:
            raise BadParameter(ref.field, f"volume {volume_id} is {found.format.qemu}, not {ref.format}")
        return Location(found.path, block=found.is_block, shared=True)

    def teardown(self, ref: ImageRef) -> None:
        """Give it back; see ``Images``."""
        if self._is_path(ref):
            self._paths.teardown(ref)
            return
        self._repository.teardown(DomainId(ref.domain_id), ImageId(ref.image_id))

    def release(self, facts: DomainFacts) -> None:
        """Give back all images of a VM that ended, and that another process of the agent prepared.

        A failure is logged and keeps no other image.
        """
        for disk in facts.disks:
            if not disk.volume_id:
                continue
            try:
                self._repository.teardown(DomainId(disk.domain_id), ImageId(disk.image_id))
            except VdsmError as error:
                log.warning("VM %s: disk %s is not given back: %s", facts.vm_id, disk.target, error)

    def _is_path(self, ref: ImageRef) -> bool:
        return not ref.volume_id or bool(ref.path and not ref.path.startswith(self._trees))

    def _address(self, ref: ImageRef) -> tuple[PoolId, DomainId, ImageId, VolumeId]:
        try:
            pool_id = parse_pool_id(ref.pool_id, "poolID")
            address = (
                pool_id,
                parse_domain_id(ref.domain_id, "domainID"),
                parse_image_id(ref.image_id, "imageID"),
                parse_volume_id(ref.volume_id, "volumeID"),
            )
        except InvalidParameter as error:
            raise BadParameter(ref.field, str(error)) from error
        if pool_id != self._connected():
            raise BadParameter(ref.field, f"poolID: this host is not connected to the storage pool {pool_id}")
        return address
