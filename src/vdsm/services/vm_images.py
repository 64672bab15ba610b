"""A VM's images, wherever they are: in storage domains by their ids, or at plain paths."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from vdsm.base.errors import BadParameter, VdsmError
from vdsm.storage.errors import Damaged, InvalidParameter, NoSpace, StorageFailed
from vdsm.storage.ids import (
    DomainId,
    ImageId,
    VolumeId,
    parse_domain_id,
    parse_image_id,
    parse_pool_id,
    parse_volume_id,
)
from vdsm.virt.disks import ImageRef, Images, Location
from vdsm.virt.domxml import DomainFacts

log = logging.getLogger(__name__)


class PreparedImage(Protocol):
    """What the image repository says of an image that it has prepared."""

    @property
    def path(self) -> str:
        """Where its leaf is opened."""

    @property
    def format(self) -> str:
        """The leaf's format in QEMU's word."""

    @property
    def block(self) -> bool:
        """It is a block device."""


class Repository(Protocol):
    """The two calls to the image repository."""

    def prepare(self, domain_id: DomainId, image_id: ImageId, volume_id: VolumeId) -> PreparedImage:
        """Make an image usable on this host; twice is once."""

    def teardown(self, domain_id: DomainId, image_id: ImageId) -> None:
        """Take that back; nothing if it was not prepared."""


class VmImages:
    """Implements ``virt.disks.Images``: ids go to the image repository, everything else is a path."""

    def __init__(self, paths: Images, repository: Repository, connected: Callable[[], str | None]) -> None:
        """``connected`` says which storage pool this host is connected to."""
        self._paths = paths
        self._repository = repository
        self._connected = connected

    def prepare(self, ref: ImageRef) -> Location:
        """Make an image usable; see ``Images``."""
        if not ref.volume_id:
            return self._paths.prepare(ref)
        domain_id, image_id, volume_id = self._address(ref)
        try:
            found = self._repository.prepare(domain_id, image_id, volume_id)
        except (Damaged, NoSpace, StorageFailed):
            raise
        except VdsmError as error:
            if error.status >= 500:
                raise  # the storage's trouble, not the request's
            raise BadParameter(ref.field, str(error)) from error
        if ref.format is not None and ref.format != found.format:
            raise BadParameter(ref.field, f"volume {volume_id} is {found.format}, not {ref.format}")
        return Location(found.path, block=found.block, shared=True)

    def teardown(self, ref: ImageRef) -> None:
        """Give it back; see ``Images``."""
        if not ref.volume_id:
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

    def _address(self, ref: ImageRef) -> tuple[DomainId, ImageId, VolumeId]:
        try:
            pool_id = parse_pool_id(ref.pool_id, "poolID")
            address = (
                parse_domain_id(ref.domain_id, "domainID"),
                parse_image_id(ref.image_id, "imageID"),
                parse_volume_id(ref.volume_id, "volumeID"),
            )
        except InvalidParameter as error:
            raise BadParameter(ref.field, str(error)) from error
        if pool_id != self._connected():
            raise BadParameter(ref.field, f"poolID: this host is not connected to the storage pool {pool_id}")
        return address
