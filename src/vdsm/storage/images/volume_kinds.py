"""Operations on single volumes: make, delete, extend.

createVolume       undone when it does not run through; what was made is gone again
deleteVolume       from the mark ILLEGAL on it only goes forward
extendImageSize    raw: the container, then its metadata. qcow2 that is not preallocated: nothing, as in the
                   original: a running VM may have it open, and the hypervisor grows it
updateVolumeSize   qcow2, which nobody has open: metadata says 0, the header is resized, metadata says how much
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from vdsm.base.clock import now_utc
from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Mode, Resource, Wants
from vdsm.storage import plans, wants
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import (
    DiscardUnsupported,
    NoSuchImage,
    NotWritable,
    UnsupportedOperation,
    WrongResize,
    WrongVolumeSize,
)
from vdsm.storage.formats.volume import encode_volume, round_capacity
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.images import scope
from vdsm.storage.images.planned import Carrier, Decided, Decision, Manner, planned_kind
from vdsm.storage.images.usage import refuse_busy
from vdsm.storage.kinds import Allocation, DiskType, Legality, VolumeFormat, VolumeKind
from vdsm.storage.plans import NewVolume
from vdsm.storage.steps import Change, GrowData, Images, Plan, Resize, apply

_MARKED: Final = Manner(Policy.RESUME, pivot=Change)


class BitmapTools(Protocol):
    """Who makes the bitmaps of new volumes."""

    def inherit_bitmaps(self, source: VolumeRef, target: VolumeRef) -> None:
        """Begin in a new volume those bitmaps that are enabled and whole in what it stands on. Again is the same."""

    def add_bitmap(self, volume: VolumeRef, bitmap: str) -> None:
        """Begin a bitmap."""


class CreateVolume(Decided, frozen=True, kw_only=True):
    """A volume that is asked for.

    Attributes:
        capacity: virtual size in bytes.
        parent_image_id: where the parent is; None is the volume's own image.
        parent_id: the leaf of the image, or a template; None when it stands on nothing.
        initial_size: bytes of room, for block storage.
        legal: False for what is filled by a copy or an upload.
        inherit_bitmaps: it gets those of its parent, empty.
        bitmap: one that it gets.
    """

    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId
    capacity: int
    format: VolumeFormat = VolumeFormat.COW
    allocation: Allocation = Allocation.SPARSE
    parent_image_id: ImageId | None = None
    parent_id: VolumeId | None = None
    initial_size: int | None = None
    legal: bool = True
    description: str = ""
    disk_type: str = DiskType.DATA
    sequence: int = 0
    inherit_bitmaps: bool = False
    bitmap: str | None = None

    @property
    def volume(self) -> VolumeRef:
        """Its address."""
        return VolumeRef(self.domain_id, self.image_id, self.volume_id)

    @property
    def parent(self) -> VolumeRef | None:
        """What it is to stand on."""
        if self.parent_id is None:
            return None
        return VolumeRef(self.domain_id, self.parent_image_id or self.image_id, self.parent_id)


class DeleteVolumes(Decided, frozen=True, kw_only=True):
    """Volumes of one image that are to go, in this order.

    Attributes:
        force: also those that others stand on, and a template's.
        post_zero: on block storage the data is wiped; files are only unlinked.
        discard: only for block storage.
    """

    domain_id: DomainId
    image_id: ImageId
    volume_ids: list[VolumeId]
    force: bool = False
    post_zero: bool = False
    discard: bool = False


class ExtendVolume(Decided, frozen=True, kw_only=True):
    """A volume that is to be larger; ``capacity`` in bytes, rounded up to 4096."""

    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId
    capacity: int

    @property
    def volume(self) -> VolumeRef:
        """Its address."""
        return VolumeRef(self.domain_id, self.image_id, self.volume_id)


def create_volume(carrier: Carrier, tools: BitmapTools | None = None) -> Kind[CreateVolume]:
    """The kind createVolume; without ``tools`` it refuses bitmaps."""

    def decide(domain: Domain, given: CreateVolume) -> Decision:
        if given.inherit_bitmaps or given.bitmap:
            _check_bitmaps(domain, given, able=tools is not None)
        return _decide_create(domain, given)

    kind = planned_kind(
        "createVolume",
        CreateVolume,
        decide,
        _wants_create,
        domain_of=lambda given: given.domain_id,
        carrier=carrier,
    )

    def plan(given: CreateVolume) -> Sequence[Step]:
        steps = kind.plan(given)
        if tools is None or not (given.inherit_bitmaps or given.bitmap):
            return steps
        return [*steps, Step("begin its bitmaps", partial(_begin_bitmaps, tools, given))]

    return replace(kind, plan=plan)


def delete_volumes(carrier: Carrier) -> Kind[DeleteVolumes]:
    """The kind deleteVolume."""
    return planned_kind(
        "deleteVolume",
        DeleteVolumes,
        _decide_delete,
        lambda given: wants.of_image(ImageRef(given.domain_id, given.image_id)),
        domain_of=lambda given: given.domain_id,
        carrier=carrier,
        manner=_MARKED,
    )


def extend_volume(carrier: Carrier) -> Kind[ExtendVolume]:
    """The kind extendImageSize."""
    return planned_kind(
        "extendImageSize",
        ExtendVolume,
        _decide_extend,
        lambda given: wants.of_image(given.volume.image),
        domain_of=lambda given: given.domain_id,
        carrier=carrier,
        manner=Manner(Policy.RESUME),
    )


def resize_volume(carrier: Carrier) -> Kind[ExtendVolume]:
    """The kind updateVolumeSize."""
    return planned_kind(
        "updateVolumeSize",
        ExtendVolume,
        _decide_resize,
        lambda given: wants.of_image(given.volume.image),
        domain_of=lambda given: given.domain_id,
        carrier=carrier,
        manner=Manner(Policy.RESUME, pivot=Resize),
    )


def _wants_create(given: CreateVolume) -> Wants:
    found = [*wants.of_image(given.volume.image)]
    # Two images must not get a volume of the same id at once.
    found.append((Resource("volume", f"{given.domain_id}/{given.volume_id}"), Mode.EXCLUSIVE))
    if given.parent is not None and given.parent.image != given.volume.image:
        # Copies may read the template meanwhile; but only one may mark it as shared.
        found += wants.of_image(given.parent.image, Mode.SHARED)
        found.append((Resource("template", f"{given.domain_id}/{given.parent.image_id}"), Mode.EXCLUSIVE))
    return found


def _decide_create(domain: Domain, given: CreateVolume) -> Decision:
    images = {given.image_id} | ({given.parent.image_id} if given.parent else set())
    found = scope.known(domain.backend, given.domain_id, images, [given.volume_id])
    new = NewVolume(
        given.volume,
        given.capacity,
        int(now_utc().timestamp()),
        given.format,
        given.allocation,
        given.parent,
        given.initial_size,
        Legality.LEGAL if given.legal else Legality.ILLEGAL,
        given.description,
        given.disk_type,
        given.sequence,
    )
    plan = plans.create(found, new)
    # What cannot be written is refused now and not after its data was made.
    encode_volume(new.metadata(), domain.version)
    return found, plan


def _begin_bitmaps(tools: BitmapTools, given: CreateVolume, _: Run) -> None:
    if given.inherit_bitmaps and given.parent is not None:
        tools.inherit_bitmaps(_beside(given.volume, given.parent), given.volume)
    if given.bitmap:
        tools.add_bitmap(given.volume, given.bitmap)


def _beside(volume: VolumeRef, parent: VolumeRef) -> VolumeRef:
    """What a volume stands on, in its own image: a template is linked into it."""
    return VolumeRef(volume.domain_id, volume.image_id, parent.volume_id)


def _check_bitmaps(domain: Domain, given: CreateVolume, *, able: bool) -> None:
    if given.format is not VolumeFormat.COW:
        raise UnsupportedOperation("bitmaps are for qcow2")
    if given.inherit_bitmaps and given.parent is None:
        raise UnsupportedOperation("without a parent there are no bitmaps to be inherited")
    if domain.version < 4 or not able:
        raise UnsupportedOperation(f"domain {domain.id} is of version {domain.version}, and has no bitmaps")


def _decide_delete(domain: Domain, given: DeleteVolumes) -> Decision:
    if given.discard and not domain.kind.is_block:
        raise DiscardUnsupported(given.domain_id)
    before = after = _one_image(domain, ImageRef(given.domain_id, given.image_id))
    plan: Plan = ()
    for volume_id in dict.fromkeys(given.volume_ids):
        volume = VolumeRef(given.domain_id, given.image_id, volume_id)
        steps = plans.delete(after, volume, force=given.force)
        for step in steps:
            after = apply(after, step)
        plan += steps
    refuse_busy(domain, [VolumeRef(given.domain_id, given.image_id, ident) for ident in given.volume_ids])
    return before, plan


def _decide_extend(domain: Domain, given: ExtendVolume) -> Decision:
    images = _one_image(domain, given.volume.image)
    image = images[given.volume.image]
    before = image.volume(given.volume_id)
    capacity = round_capacity(given.capacity)
    if before.kind is VolumeKind.SHARED:
        raise NotWritable(given.volume_id, "it is a template's")
    if before.format is VolumeFormat.COW:
        return images, ()
    # The base is also extended under others: before a larger volume is merged into it.
    if before.parent is not None and before.kind is not VolumeKind.LEAF:
        raise NotWritable(given.volume_id, "it is neither the base nor the leaf")
    if capacity < before.capacity:
        raise WrongResize(given.volume_id, before.capacity)
    return images, (GrowData(given.volume, capacity), Change(given.volume, capacity=capacity))


def _decide_resize(domain: Domain, given: ExtendVolume) -> Decision:
    images = _one_image(domain, given.volume.image)
    before = images[given.volume.image].volume(given.volume_id)
    if given.capacity < 1:
        raise WrongVolumeSize(f"must be at least 1 byte, is {given.capacity}")
    if before.format is not VolumeFormat.COW:
        raise UnsupportedOperation(f"volume {given.volume_id} is raw: it is extended")
    if before.kind is not VolumeKind.LEAF:
        raise NotWritable(given.volume_id, "it is not the leaf")
    capacity = round_capacity(given.capacity)
    if capacity < before.capacity:
        raise WrongResize(given.volume_id, before.capacity)
    # Before the metadata says that the capacity is in doubt.
    refuse_busy(domain, [given.volume])
    volume = given.volume
    return images, (Change(volume, capacity=0), Resize(volume, capacity), Change(volume, capacity=capacity))


def _one_image(domain: Domain, ref: ImageRef) -> Images:
    found = scope.known(domain.backend, ref.domain_id, [ref.image_id])
    if ref not in found:
        raise NoSuchImage(ref.image_id, ref.domain_id)
    return found
