"""Short changes of images, made at once and in one write each, which need no journal; the SPM's.

They wait for the locks of longer operations on the same image, up to a deadline.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from vdsm.operations.locks import Locks
from vdsm.storage import plans, wants
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import NoSuchImage, NoSuchVolume
from vdsm.storage.executor import DataMover, carry_out, change
from vdsm.storage.formats.volume import tidy_description
from vdsm.storage.ids import ImageRef, VolumeId, VolumeRef
from vdsm.storage.images import scope
from vdsm.storage.images.headers import FileHeaders, Headers
from vdsm.storage.images.mover import FindDomain
from vdsm.storage.kinds import Legality, VolumeFormat
from vdsm.storage.steps import Change


class ImageChanges:
    """Makes short changes; may be used by many threads at once.

    Args:
        find: the handle on a domain.
        mover: who changes the data of images.
        locks: shared with all operations.
        headers: who reads what containers say.
        timeout_s: seconds to wait for the locks.
    """

    def __init__(
        self, find: FindDomain, mover: DataMover, locks: Locks, headers: Headers | None = None, timeout_s: float = 120.0
    ) -> None:
        self._find: Final = find
        self._mover: Final = mover
        self._locks: Final = locks
        self._headers: Final = headers or FileHeaders()
        self._timeout_s: Final = timeout_s

    def set_description(self, volume: VolumeRef, description: str) -> None:
        """Replace a volume's description, of which 210 characters are kept.

        Raises:
            NoSuchDomain, NoSuchVolume: it is not there.
            MetadataOverflow, InvalidParameter: it cannot be written.
            Locked: others use the image.
        """
        self._change(Change(volume, description=tidy_description(description)))

    def set_legality(self, volume: VolumeRef, legality: Legality) -> None:
        """Say whether a volume's content may be used.

        Raises:
            NoSuchDomain, NoSuchVolume: it is not there.
            Locked: others use the image.
        """
        self._change(Change(volume, legality=legality))

    def synchronize(self, image: ImageRef, actual: Sequence[VolumeId]) -> None:
        """Make the metadata say what the chain is, after a live merge of one volume; on the host that has it open.

        Args:
            image: the image.
            actual: its own volumes, base first, as the hypervisor knows them.

        Raises:
            NoSuchDomain, NoSuchImage: it is not there.
            WrongChain: the two cannot be explained by one volume that was merged.
            Locked: others use the image.
        """
        with self._locks.hold(_owner("synchronize"), wants.of_image(image), timeout_s=self._timeout_s):
            backend = self._find(image.domain_id).backend
            images = scope.known(backend, image.domain_id, [image.image_id])
            for step in plans.synchronize(images, image, actual):
                carry_out(step, backend, self._mover)

    def reconcile(self, image: ImageRef, leaf_id: VolumeId) -> tuple[VolumeId, ...]:
        """Learn the true chain from the qcow2 headers, and make the metadata say so; nobody may have the image open.

        Args:
            image: the image.
            leaf_id: its top, as the one who asks knows it.

        Returns:
            The image's chain, base first; with the template that it stands on.

        Raises:
            NoSuchDomain, NoSuchImage, NoSuchVolume: it is not there.
            WrongChain: headers and metadata cannot be explained by one volume that was merged.
            Damaged: a header cannot be read.
            Locked: others use the image.
        """
        with self._locks.hold(_owner("reconcile"), wants.of_image(image), timeout_s=self._timeout_s):
            domain = self._find(image.domain_id)
            images = scope.known(domain.backend, image.domain_id, [image.image_id])
            if image not in images:
                raise NoSuchImage(image.image_id, image.domain_id)
            if leaf_id not in images[image].volumes:
                raise NoSuchVolume(leaf_id)
            actual, plan = plans.reconcile(images, image, self._backing(domain, image), leaf_id)
            for step in plan:
                carry_out(step, domain.backend, self._mover)
            bottom = images[image].below(actual[0]) if actual else None
            return actual if bottom is None or bottom.parent is None else (bottom.parent, *actual)

    def _backing(self, domain: Domain, ref: ImageRef) -> Mapping[VolumeId, VolumeId | None]:
        paths = domain.backend.prepare(ref.image_id)
        try:
            return {
                ident: self._headers.backing(domain, VolumeRef(ref.domain_id, ref.image_id, ident), paths[ident])
                for ident, volume in domain.backend.image(ref.image_id).volumes.items()
                if volume.format is VolumeFormat.COW
            }
        finally:
            domain.backend.teardown(ref.image_id)

    def _change(self, step: Change) -> None:
        with self._locks.hold(_owner("change"), wants.of_image(step.volume.image), timeout_s=self._timeout_s):
            change(step, self._find(step.volume.domain_id).backend)


def _owner(what: str) -> str:
    return f"{what} {uuid.uuid4()}"
