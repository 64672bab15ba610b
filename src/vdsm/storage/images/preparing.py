"""Images made usable on this host, and given back: what a VM, a transfer or a job opens.

    /run/vdsm/storage/DOMAIN/IMAGE  ->  the image's directory      files: a link; block storage: a directory of links

With a pool's id the paths are those in the domain's own directory, without one those in /run. Before anything is
opened, the capacity in the metadata of each own volume is raised to what its container says: it may have been left 0,
or too small, by a resize that was cut off.

Source: storage format, sections 1.9 and 7.1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from vdsm.base.errors import VdsmError
from vdsm.storage.chain import Image
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import IllegalVolume, NoSuchVolume
from vdsm.storage.executor import change
from vdsm.storage.formats import tree
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.ids import DomainId, ImageId, PoolId, VolumeId, VolumeRef
from vdsm.storage.images.headers import FileHeaders, Headers
from vdsm.storage.images.inspection import Inspector
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.kinds import Legality, VolumeFormat
from vdsm.storage.steps import Change

log = logging.getLogger(__name__)

Accept = Callable[[Domain, Image, VolumeId, Mapping[VolumeId, str]], None]


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """One volume that is ready.

    Attributes:
        volume: its address in the image that was asked for, also of a template's.
        path: in the domain's own directory.
        format: of its data.
        lease: where its lease is; None when the domain has none.
    """

    volume: VolumeRef
    path: str
    format: VolumeFormat
    lease: LeaseRecord | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image that is ready.

    Attributes:
        path: the leaf's, to be opened.
        is_block: it is a device.
        format: of the leaf's data.
        volumes: all of the image, the template's included, in no order that matters.
    """

    path: str
    is_block: bool
    format: VolumeFormat
    volumes: tuple[PreparedVolume, ...]


class Preparing(Protocol):
    """What others need of the Preparer."""

    def prepare(
        self,
        pool_id: PoolId | None,
        domain_id: DomainId,
        image_id: ImageId,
        leaf_id: VolumeId,
        *,
        allow_illegal: bool = False,
    ) -> Prepared:
        """See Preparer."""

    def teardown(self, domain_id: DomainId, image_id: ImageId) -> None:
        """See Preparer."""


class ImageLinks(Protocol):
    """What is needed of the repository."""

    def link_image(self, domain_id: DomainId, image_id: ImageId, target: str) -> str:
        """See Repository."""

    def unlink_image(self, domain_id: DomainId, image_id: ImageId) -> None:
        """See Repository."""


class Preparer:
    """Prepares and tears down.

    Args:
        find: the handle on a domain.
        links: who makes the links in /run.
        headers: who reads what containers say.
        accept: who refuses images that QEMU must not open.
    """

    def __init__(
        self, find: FindDomain, links: ImageLinks, headers: Headers | None = None, accept: Accept | None = None
    ) -> None:
        self._find: Final = find
        self._links: Final = links
        self._headers: Final = headers or FileHeaders()
        self._accept: Final = accept or _accept

    def prepare(
        self,
        pool_id: PoolId | None,
        domain_id: DomainId,
        image_id: ImageId,
        leaf_id: VolumeId,
        *,
        allow_illegal: bool = False,
    ) -> Prepared:
        """Make an image usable; twice is once.

        Args:
            pool_id: the connected pool, or None.
            domain_id: where it is.
            image_id: the image.
            leaf_id: the volume to be opened, which need not be the top.
            allow_illegal: also if volumes of it are marked ILLEGAL.

        Raises:
            NoSuchDomain, NoSuchImage, NoSuchVolume: it is not there.
            IllegalVolume: a volume's content is not to be used.
            ImageRefused: a volume's header does not say what the metadata says, or is hostile.
            Damaged: its metadata cannot be read.
            StorageFailed: the storage or /run refused; nothing is left prepared.
        """
        domain = self._find(domain_id)
        image = domain.backend.image(image_id)
        if image.below(leaf_id) is None:
            raise NoSuchVolume(leaf_id)
        if not allow_illegal:
            _refuse_illegal(image)
        paths = domain.backend.prepare(image_id)
        try:
            if not allow_illegal:
                self._accept(domain, image, leaf_id, paths)
            for ident in image.volumes:
                self._repair(domain, VolumeRef(domain_id, image_id, ident), image, paths[ident])
            link = self._links.link_image(domain_id, image_id, f"{domain.path}/{tree.IMAGES}/{image_id}")
            return _prepared(domain, image, leaf_id, paths, paths[leaf_id] if pool_id else f"{link}/{leaf_id}")
        except VdsmError:
            self._tear_down_quietly(domain_id, image_id)
            raise

    def teardown(self, domain_id: DomainId, image_id: ImageId) -> None:
        """Take ``prepare`` back; nothing if it was not prepared.

        Raises:
            NoSuchDomain: the domain is not there.
            StorageFailed: the storage refused.
        """
        self._links.unlink_image(domain_id, image_id)
        self._find(domain_id).backend.teardown(image_id)

    def _tear_down_quietly(self, domain_id: DomainId, image_id: ImageId) -> None:
        try:
            self.teardown(domain_id, image_id)
        except VdsmError as error:
            log.warning("image %s of domain %s cannot be torn down: %s", image_id, domain_id, error)

    def _repair(self, domain: Domain, volume: VolumeRef, image: Image, path: str) -> None:
        """Raise a capacity that is smaller than the container's; what is being filled has no say yet."""
        known = image.volumes[volume.volume_id]
        if known.legality is Legality.ILLEGAL:
            return
        actual = self._headers.virtual_size(domain, volume, path, known.format)
        if actual > known.capacity:
            log.warning("volume %s has %d bytes; its metadata said %d", volume.volume_id, actual, known.capacity)
            change(Change(volume, capacity=actual), domain.backend)


def _accept(domain: Domain, image: Image, leaf_id: VolumeId, paths: Mapping[VolumeId, str]) -> None:
    Inspector(domain.files, direct=domain.kind.is_shared).accept(image, leaf_id, paths)


def _refuse_illegal(image: Image) -> None:
    for ident, volume in sorted({**image.volumes, **image.shared}.items()):
        if volume.legality is Legality.ILLEGAL:
            raise IllegalVolume(ident)


def _prepared(domain: Domain, image: Image, leaf_id: VolumeId, paths: Mapping[VolumeId, str], path: str) -> Prepared:
    volumes = {**image.volumes, **image.shared}
    found = []
    for ident in sorted(volumes):
        ref = VolumeRef(domain.id, image.image_id, ident)
        found.append(PreparedVolume(ref, paths[ident], volumes[ident].format, domain.backend.volume_lease(ref)))
    return Prepared(path, domain.kind.is_block, volumes[leaf_id].format, tuple(found))
