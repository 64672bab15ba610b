"""Copying an image while a VM writes it: first its structure (cloneImageStructure), then its data (syncImageData).

The manager clones the chain without data, lets the hypervisor mirror what the VM writes into the clone's leaf, and has
the rest copied meanwhile. So the clone's volumes are LEGAL from the beginning: who looks after it is the manager, which
deletes the clone when anything fails.

Source: storage format, section 7.7; the verbs Image.cloneStructure, Image.syncData.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum, unique
from functools import partial

import msgspec

from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Mode, Wants
from vdsm.storage import wants
from vdsm.storage.errors import NoSuchImage, NoSuchVolume, VolumeExists
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.images.copying import Copier, OneCopy, copies_of_chain
from vdsm.storage.images.image_errors import ImageInTheWay
from vdsm.storage.images.mover import Target
from vdsm.storage.kinds import Legality


@unique
class Part(StrEnum):
    """The volumes whose data is copied."""

    ALL = "ALL"
    INTERNAL = "INTERNAL"  # all but the leaf
    LEAF = "LEAF"


class CloneStructure(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose chain is to be made in another domain, without data. ``copies`` is decided."""

    domain_id: DomainId
    image_id: ImageId
    target_domain_id: DomainId
    copies: list[OneCopy] = []


class SyncData(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose data is to be copied into its clone. ``volumes``, base first, and ``sizes`` are decided."""

    domain_id: DomainId
    image_id: ImageId
    target_domain_id: DomainId
    part: Part = Part.ALL
    volumes: list[VolumeId] = []
    sizes: list[int] = []


def clone_structure(copier: Copier) -> Kind[CloneStructure]:
    """The kind cloneImageStructure."""

    def decide(given: CloneStructure) -> CloneStructure:
        source, target = ImageRef(given.domain_id, given.image_id), copier.find(given.target_domain_id)
        if given.domain_id == given.target_domain_id:
            raise ImageInTheWay(given.image_id, given.domain_id)
        try:
            target.backend.image(given.image_id)
        except NoSuchImage:
            image = copier.find(given.domain_id).backend.image(given.image_id)
        else:
            raise ImageInTheWay(given.image_id, given.target_domain_id)
        copies = copies_of_chain(copier, image, source, given.target_domain_id)
        for copy in copies:
            if target.backend.homes(copy.target.volume_id):
                raise VolumeExists(copy.target.volume_id)
        return msgspec.structs.replace(given, copies=copies)

    def steps(given: CloneStructure) -> Sequence[Step]:
        return [
            Step(f"make volume {copy.target.volume_id}", partial(_make, copier, copy), partial(_unmake, copier, copy))
            for copy in given.copies
        ]

    return Kind("cloneImageStructure", 1, CloneStructure, steps, _locks, decide)


def sync_data(copier: Copier) -> Kind[SyncData]:
    """The kind syncImageData. What was copied when it is cut off or fails stays: the target is the manager's."""

    def decide(given: SyncData) -> SyncData:
        source = copier.find(given.domain_id).backend
        image = source.image(given.image_id)
        there = copier.find(given.target_domain_id).backend.image(given.image_id)
        chain = image.chain()
        for ident in chain:
            if ident not in there.volumes:
                raise NoSuchVolume(ident)
        copier.images.chain(VolumeRef(given.domain_id, given.image_id, chain[-1]))
        chosen = {Part.ALL: chain, Part.INTERNAL: chain[:-1], Part.LEAF: chain[-1:]}[given.part]
        sizes = [source.data(VolumeRef(given.domain_id, given.image_id, ident)).allocated for ident in chosen]
        return msgspec.structs.replace(given, volumes=list(chosen), sizes=sizes)

    def copy(given: SyncData, ident: VolumeId, run: Run) -> None:
        source = VolumeRef(given.domain_id, given.image_id, ident)
        target = VolumeRef(given.target_domain_id, given.image_id, ident)
        copier.images.watched(run).copy(source, target, Target.SAME)

    def steps(given: SyncData) -> Sequence[Step]:
        return [
            Step(f"copy the data of volume {ident}", partial(copy, given, ident), weight=1.0 + size)
            for ident, size in zip(given.volumes, given.sizes, strict=True)
        ]

    return Kind("syncImageData", 1, SyncData, steps, _locks, decide, Policy.RESUME)


def _make(copier: Copier, copy: OneCopy, _: Run) -> None:
    copier.make(copy, Legality.LEGAL)


def _unmake(copier: Copier, copy: OneCopy, _: Run) -> None:
    copier.unmake(copy)


def _locks(given: CloneStructure | SyncData) -> Wants:
    return [
        *wants.of_image(ImageRef(given.domain_id, given.image_id), Mode.SHARED),
        *wants.of_image(ImageRef(given.target_domain_id, given.image_id)),
    ]
