"""The steps that every change of images is made of, as data: what a journal keeps and a back end carries out.

Each step can be carried out again when nobody knows whether it was: twice is once. ``apply`` says what a step does to
what is known of a domain's images, so that a plan can be proved before it runs.

Pure: no threads, no tools, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from vdsm.storage.chain import Image
from vdsm.storage.errors import NoSuchVolume
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import ImageRef, VolumeId, VolumeRef
from vdsm.storage.kinds import Allocation, Legality, VolumeFormat, VolumeKind

Images: TypeAlias = Mapping[ImageRef, Image]


@dataclass(frozen=True, slots=True)
class Backing:
    """What a new volume's data stands on: the file's name is the bare volume id, its format is told."""

    volume_id: VolumeId
    format: VolumeFormat


@dataclass(frozen=True, slots=True)
class NewData:
    """The container of a new volume's data.

    Attributes:
        capacity: virtual size in bytes.
        initial_size: bytes of room on a block domain; None for the usual.
    """

    format: VolumeFormat
    allocation: Allocation
    capacity: int
    backing: Backing | None = None
    initial_size: int | None = None


@dataclass(frozen=True, slots=True)
class ShareTemplate:
    """Link a template's volume into an image, which is made if need be."""

    template: VolumeRef
    image: ImageRef


@dataclass(frozen=True, slots=True)
class UnshareTemplate:
    """Take the link to a template's volume out of an image that has no volumes of its own; the volume stays."""

    template: VolumeRef
    image: ImageRef


@dataclass(frozen=True, slots=True)
class MakeData:
    """Make the container of a new volume: half-made, seen by nobody, replaced when it is made again."""

    volume: VolumeRef
    data: NewData


@dataclass(frozen=True, slots=True)
class Publish:
    """Give a half-made volume its metadata and its lease: from now on it is there."""

    volume: VolumeRef
    metadata: VolumeMetadata


@dataclass(frozen=True, slots=True)
class Change:
    """Rewrite some of a volume's metadata, in one write; None leaves a value as it is.

    Attributes:
        parent: what it stands on from now on.
        orphan: it stands on nothing from now on.
        description: as it is kept, see formats.volume.tidy_description.
    """

    volume: VolumeRef
    kind: VolumeKind | None = None
    legality: Legality | None = None
    capacity: int | None = None
    generation: int | None = None
    parent: VolumeId | None = None
    orphan: bool = False
    description: str | None = None

    def changed(self, metadata: VolumeMetadata) -> VolumeMetadata:
        """The metadata after it."""
        return replace(
            metadata,
            kind=metadata.kind if self.kind is None else self.kind,
            legality=metadata.legality if self.legality is None else self.legality,
            capacity=metadata.capacity if self.capacity is None else self.capacity,
            generation=metadata.generation if self.generation is None else self.generation,
            parent=None if self.orphan else self.parent or metadata.parent,
            description=metadata.description if self.description is None else self.description,
        )


@dataclass(frozen=True, slots=True)
class GrowData:
    """Make a raw volume's data at least this long."""

    volume: VolumeRef
    capacity: int


@dataclass(frozen=True, slots=True)
class Resize:
    """Let a qcow2 header tell another, larger virtual size. Again is the same."""

    volume: VolumeRef
    capacity: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Write a volume's data into its parent's, which the lease of ``base`` guards. Again is the same."""

    top: VolumeRef
    base: VolumeRef


@dataclass(frozen=True, slots=True)
class Rebase:
    """Let a qcow2 header name another parent of the same content."""

    volume: VolumeRef
    backing: Backing


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a volume's data, lease and metadata."""

    volume: VolumeRef


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """Put an image aside in one step: it is no image any more, and its data waits to be purged."""

    image: ImageRef


@dataclass(frozen=True, slots=True)
class PurgeImage:
    """Delete the data of an image that was put aside."""

    image: ImageRef


Step: TypeAlias = (
    ShareTemplate
    | UnshareTemplate
    | MakeData
    | Publish
    | Change
    | GrowData
    | Resize
    | Commit
    | Rebase
    | Delete
    | RemoveImage
    | PurgeImage
)
Plan: TypeAlias = tuple[Step, ...]


def apply(images: Images, step: Step) -> Images:
    """What is known of the images after a step.

    Raises:
        NoSuchVolume: the step changes the metadata of a volume that is not there.
    """
    match step:
        case ShareTemplate(template, image):
            return _share(images, template, image)
        case UnshareTemplate(template, image):
            return _unshare(images, template, image)
        case Publish(volume, metadata):
            return _put(images, volume, metadata)
        case Change(volume):
            return _change(images, step, volume)
        case Delete(volume):
            return _delete(images, volume)
        case RemoveImage(image):
            return {ref: other for ref, other in images.items() if ref != image}
        case MakeData() | GrowData() | Resize() | Commit() | Rebase() | PurgeImage():
            return images


def undoing(images: Images, step: Step) -> Step | None:
    """What takes a step back, whether it was carried out, half carried out or not begun.

    Args:
        images: what was known before the step; later steps are taken back before it.
        step: the step.

    Returns:
        None when there is nothing to take back: a longer container does no harm; and what was committed, rebased,
        deleted or put aside stays so.
    """
    match step:
        case ShareTemplate(template, image):
            linked = image in images and template.volume_id in images[image].shared
            return None if linked else UnshareTemplate(template, image)
        case MakeData(volume) | Publish(volume):
            return Delete(volume)
        case Change(volume):
            if volume.image not in images:
                raise NoSuchVolume(volume.volume_id)
            return _change_back(step, images[volume.image].volume(volume.volume_id))
        case _:
            return None


def _change_back(step: Change, before: VolumeMetadata) -> Change:
    moved = step.orphan or step.parent is not None
    return Change(
        step.volume,
        kind=None if step.kind is None else before.kind,
        legality=None if step.legality is None else before.legality,
        capacity=None if step.capacity is None else before.capacity,
        generation=None if step.generation is None else before.generation,
        parent=before.parent if moved else None,
        orphan=moved and before.parent is None,
        description=None if step.description is None else before.description,
    )


def _share(images: Images, template: VolumeRef, target: ImageRef) -> Images:
    image = images.get(target, Image(target.image_id))
    metadata = images[template.image].volume(template.volume_id)
    return {**images, target: replace(image, shared={**image.shared, template.volume_id: metadata})}


def _unshare(images: Images, template: VolumeRef, target: ImageRef) -> Images:
    image = images.get(target, Image(target.image_id))
    left = {ident: metadata for ident, metadata in image.shared.items() if ident != template.volume_id}
    others = {ref: other for ref, other in images.items() if ref != target}
    return {**others, target: replace(image, shared=left)} if left or image.volumes else others


def _put(images: Images, volume: VolumeRef, metadata: VolumeMetadata) -> Images:
    image = images.get(volume.image, Image(volume.image_id))
    return {**images, volume.image: replace(image, volumes={**image.volumes, volume.volume_id: metadata})}


def _change(images: Images, change: Change, volume: VolumeRef) -> Images:
    if volume.image not in images:
        raise NoSuchVolume(volume.volume_id)
    changed = change.changed(images[volume.image].volume(volume.volume_id))
    return _put(images, volume, changed)


def _delete(images: Images, volume: VolumeRef) -> Images:
    image = images.get(volume.image)
    if image is None:
        return images
    left = {ident: metadata for ident, metadata in image.volumes.items() if ident != volume.volume_id}
    others = {ref: other for ref, other in images.items() if ref != volume.image}
    # An image is gone with its last own volume; a template's link goes with it.
    return {**others, volume.image: replace(image, volumes=left)} if left else others
