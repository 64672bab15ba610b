"""What has to be done, step by step, for each change of a chain. Everything is checked here, before the first step.

    create   parent: LEAF -> INTERNAL (a template: -> SHARED, and linked in); make the data; publish
    delete   ILLEGAL; stands on nothing; parent: INTERNAL -> LEAF; delete
    merge    prepare: grow the base to the top's capacity
             commit:  the top's data into the base; the base's generation + 1
             finish:  the top ILLEGAL; what stood on it: rebased onto the base, then PUUID; (it is deleted later)
    remove   put the whole image aside; purge it
    synchronize   make the metadata say what the hypervisor, or the qcow2 headers, know already

After each single step no data is out of reach: the order of the steps is the point. Where a step was cut off, what is
left is sound, or a half-made volume that nobody sees, or a LEFTOVER, which ``chain.differences`` names.

Source: storage format, sections 1.8 and 7. Pure: no threads, no tools, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vdsm.storage.chain import Image
from vdsm.storage.errors import (
    IllegalParent,
    IllegalVolume,
    NoSuchImage,
    NoSuchVolume,
    NotLeaf,
    SharedVolume,
    VolumeExists,
    VolumeHasChildren,
    WrongChain,
    WrongFormat,
    WrongVolumeSize,
)
from vdsm.storage.formats.leases import next_generation
from vdsm.storage.formats.volume import VolumeMetadata, round_capacity, tidy_description
from vdsm.storage.ids import ImageRef, VolumeId, VolumeRef
from vdsm.storage.kinds import Allocation, DiskType, Legality, VolumeFormat, VolumeKind
from vdsm.storage.steps import (
    Backing,
    Change,
    Commit,
    Delete,
    GrowData,
    Images,
    MakeData,
    NewData,
    Plan,
    Publish,
    PurgeImage,
    Rebase,
    RemoveImage,
    ShareTemplate,
    Step,
)


@dataclass(frozen=True, slots=True)
class NewVolume:
    """A volume that is asked for.

    Attributes:
        volume: its address.
        capacity: virtual size in bytes; rounded up to 4096.
        created_s: whole seconds since the epoch, for its metadata.
        parent: what it is to stand on: the leaf of its own image, or a template of another.
        initial_size: bytes of room on a block domain.
        legality: ILLEGAL for the target of a copy or an upload.
    """

    volume: VolumeRef
    capacity: int
    created_s: int
    format: VolumeFormat = VolumeFormat.COW
    allocation: Allocation = Allocation.SPARSE
    parent: VolumeRef | None = None
    initial_size: int | None = None
    legality: Legality = Legality.LEGAL
    description: str = ""
    disk_type: str = DiskType.DATA
    sequence: int = 0

    def data(self, backing: VolumeFormat | None) -> NewData:
        """Its container; ``backing`` is the parent's format."""
        on = Backing(self.parent.volume_id, backing) if self.parent and backing else None
        return NewData(self.format, self.allocation, round_capacity(self.capacity), on, self.initial_size)

    def metadata(self) -> VolumeMetadata:
        """Its metadata once it is there."""
        return VolumeMetadata(
            domain_id=self.volume.domain_id,
            image_id=self.volume.image_id,
            capacity=round_capacity(self.capacity),
            created_s=self.created_s,
            format=self.format,
            allocation=self.allocation,
            legality=self.legality,
            parent=self.parent.volume_id if self.parent else None,
            description=tidy_description(self.description),
            disk_type=self.disk_type,
            sequence=self.sequence,
        )


def create(images: Images, new: NewVolume) -> Plan:
    """Make a volume: an image's first one, a snapshot on its leaf, or a clone of a template.

    Raises:
        VolumeExists: the domain has a volume of this id.
        NoSuchImage, NoSuchVolume: the parent is not there.
        IllegalParent: the parent's content is not to be used.
        NotLeaf: something else stands on the parent.
        WrongChain: the image has volumes already, and the new one would stand on none of them.
        WrongFormat, WrongVolumeSize: it cannot be like this.
    """
    image = images.get(new.volume.image, Image(new.volume.image_id))
    # In any image: on block storage volumes of all images have their names in one place.
    if any(new.volume.volume_id in other.volumes for other in images.values()):
        raise VolumeExists(new.volume.volume_id)
    if new.capacity < 1:
        raise WrongVolumeSize(f"must be at least 1 byte, is {new.capacity}")
    if new.parent is None:
        if image.volumes:
            raise WrongChain(image.image_id, "it has volumes, and a new one must stand on its leaf")
        return (MakeData(new.volume, new.data(None)), Publish(new.volume, new.metadata()))
    parent = _volume(images, new.parent)
    _check_child(new, parent)
    steps: list[Step] = []
    if new.parent.image == new.volume.image:
        steps += _under_snapshot(image, new.parent, parent)
    else:
        steps += _under_clone(image, new, parent, images[new.parent.image])
    return (*steps, MakeData(new.volume, new.data(parent.format)), Publish(new.volume, new.metadata()))


def delete(images: Images, volume: VolumeRef, *, force: bool = False) -> Plan:
    """Delete one volume that nothing stands on.

    Args:
        images: the domain's images.
        volume: the one to delete.
        force: also a template's, or one that others stand on.

    Raises:
        NoSuchImage, NoSuchVolume: it is not there.
        VolumeHasChildren, SharedVolume: it is needed.
    """
    metadata = _volume(images, volume)
    image = images[volume.image]
    children = image.children(volume.volume_id)
    if not force and metadata.kind is VolumeKind.SHARED:
        raise SharedVolume(volume.volume_id)
    if not force and children:
        raise VolumeHasChildren(volume.volume_id, ", ".join(children))
    steps: list[Step] = [Change(volume, legality=Legality.ILLEGAL)]
    if metadata.parent is not None:
        steps.append(Change(volume, orphan=True))
        parent = image.volumes.get(metadata.parent)
        others = [child for child in image.children(metadata.parent) if child != volume.volume_id]
        if parent is not None and parent.kind is VolumeKind.INTERNAL and not others:
            steps.append(Change(_beside(volume, metadata.parent), kind=VolumeKind.LEAF))
    return (*steps, Delete(volume))


def remove(images: Images, ref: ImageRef) -> Plan:
    """Delete a whole image.

    Raises:
        NoSuchImage: it is not there.
        SharedVolume: other images stand on it.
    """
    image = _image(images, ref)
    for other_ref, other in images.items():
        for ident in image.volumes if other_ref != ref else ():
            if ident in other.shared:
                raise SharedVolume(ident)
    return (RemoveImage(ref), PurgeImage(ref))


def prepare_merge(images: Images, base: VolumeRef, top: VolumeRef) -> Plan:
    """Make the base large enough for the top's data.

    Raises:
        NoSuchImage, NoSuchVolume: one of them is not there.
        WrongChain: the top does not stand on the base.
        SharedVolume: the base is a template's.
        IllegalVolume: one of them is not to be used.
    """
    below, above = _merging(images, base, top)
    if below.capacity >= above.capacity:
        return ()
    grow: Plan = (GrowData(base, above.capacity),) if below.format is VolumeFormat.RAW else ()
    return (*grow, Change(base, capacity=above.capacity))


def commit_merge(images: Images, base: VolumeRef, top: VolumeRef) -> Plan:
    """Write the top's data into the base; the generation then tells that it is done. Errors as prepare_merge.

    Raises:
        WrongVolumeSize: the base was not prepared.
    """
    below, above = _merging(images, base, top)
    if below.capacity < above.capacity:
        raise WrongVolumeSize(f"the base has {below.capacity} bytes and the top {above.capacity}")
    return (Commit(top, base), Change(base, generation=next_generation(below.generation)))


def finish_merge(images: Images, base: VolumeRef, top: VolumeRef) -> Plan:
    """Take the top out of the chain once its data is in the base. Errors as prepare_merge."""
    below, _ = _merging(images, base, top)
    children = images[top.image].children(top.volume_id)
    if not children:
        return (Change(top, legality=Legality.ILLEGAL),)
    if len(children) > 1:
        raise WrongChain(top.image_id, f"on volume {top.volume_id} stand {', '.join(children)}")
    child = _beside(top, children[0])
    return (
        Change(top, legality=Legality.ILLEGAL),
        Rebase(child, Backing(base.volume_id, below.format)),
        Change(child, parent=base.volume_id),
    )


def synchronize(images: Images, ref: ImageRef, actual: Sequence[VolumeId], leaf: VolumeId | None = None) -> Plan:
    """Make the metadata say what the chain is, when at most one volume has been taken out of it.

    Args:
        images: the domain's images.
        ref: the image.
        actual: its own volumes, base first, as who has the image open knows them.
        leaf: the top of the metadata's chain; None is to find it out.

    Raises:
        NoSuchImage: it is not there.
        WrongChain: the two cannot be explained by one volume that was merged.
    """
    image = _image(images, ref)
    leaf = _leaf_of(image, actual) if leaf is None else leaf
    known = image.chain(leaf)
    missing = [ident for ident in known if ident not in actual]
    if len(missing) > 1 or [ident for ident in known if ident in actual] != list(actual):
        raise WrongChain(ref.image_id, f"metadata has {', '.join(known)}; it is {', '.join(actual)}")
    if not missing:
        illegal = image.volumes[leaf].legality is Legality.ILLEGAL
        return (Change(_volume_ref(ref, leaf), legality=Legality.LEGAL),) if illegal else ()
    gone = missing[0]
    if gone == leaf:
        marked = image.volumes[gone].legality is Legality.ILLEGAL
        return () if marked else (Change(_volume_ref(ref, gone), legality=Legality.ILLEGAL),)
    parent = image.volumes[gone].parent
    return tuple(
        Change(_volume_ref(ref, child), parent=parent, orphan=parent is None) for child in image.children(gone)
    )


def reconcile(
    images: Images, ref: ImageRef, backing: Mapping[VolumeId, VolumeId | None], leaf: VolumeId | None = None
) -> tuple[tuple[VolumeId, ...], Plan]:
    """The true chain by the qcow2 headers, base first, and what makes the metadata say so.

    Args:
        images: the domain's images.
        ref: the image, which nobody has open.
        backing: for each of its volumes what its header names; None for raw and for those on nothing.
        leaf: its top before the merge; None is to find it out.

    Raises:
        NoSuchImage: it is not there.
        WrongChain: headers and metadata cannot be explained by one volume that was merged.
    """
    image = _image(images, ref)
    ident: VolumeId | None = image.leaf() if leaf is None else leaf
    if ident is not None and image.volumes[ident].legality is Legality.ILLEGAL:
        # It was merged into its parent and only waits to be deleted.
        ident = backing.get(ident)
    found: list[VolumeId] = []
    while ident is not None and ident in image.volumes:
        if ident in found:
            raise WrongChain(ref.image_id, f"the header of volume {found[-1]} names {ident} above it")
        found.append(ident)
        ident = backing.get(ident)
    if ident is not None and ident not in image.shared:
        raise WrongChain(ref.image_id, f"a header names {ident}, which is not there")
    actual = tuple(reversed(found))
    return actual, synchronize(images, ref, actual, leaf)


def _under_snapshot(image: Image, parent: VolumeRef, metadata: VolumeMetadata) -> Plan:
    legal = [
        ident for ident in image.children(parent.volume_id) if image.volumes[ident].legality is not Legality.ILLEGAL
    ]
    if metadata.kind is VolumeKind.SHARED or legal:
        raise NotLeaf(parent.volume_id)
    return (Change(parent, kind=VolumeKind.INTERNAL),) if metadata.kind is VolumeKind.LEAF else ()


def _under_clone(image: Image, new: NewVolume, template: VolumeMetadata, home: Image) -> Plan:
    parent = new.parent
    if parent is None or image.volumes:
        raise WrongChain(image.image_id, "it has volumes, so it cannot begin on a template")
    if template.parent is not None or home.children(parent.volume_id):
        raise WrongChain(home.image_id, "a template is one volume that stands on nothing")
    share = ShareTemplate(parent, new.volume.image)
    if template.kind is VolumeKind.SHARED:
        return (share,)
    return (Change(parent, kind=VolumeKind.SHARED), share)


def _check_child(new: NewVolume, parent: VolumeMetadata) -> None:
    if new.parent is not None and parent.legality is Legality.ILLEGAL:
        raise IllegalParent(new.parent.volume_id)
    if new.format is not VolumeFormat.COW:
        raise WrongFormat("a raw volume cannot stand on another")
    if round_capacity(new.capacity) < parent.capacity:
        raise WrongVolumeSize(f"must be at least the parent's {parent.capacity} bytes, is {new.capacity}")


def _merging(images: Images, base: VolumeRef, top: VolumeRef) -> tuple[VolumeMetadata, VolumeMetadata]:
    below, above = _volume(images, base), _volume(images, top)
    if base.image != top.image or above.parent != base.volume_id:
        raise WrongChain(top.image_id, f"volume {top.volume_id} does not stand on {base.volume_id}")
    if below.kind is VolumeKind.SHARED:
        raise SharedVolume(base.volume_id)
    for ref, metadata in ((base, below), (top, above)):
        if metadata.legality is Legality.ILLEGAL:
            raise IllegalVolume(ref.volume_id)
    return below, above


def _leaf_of(image: Image, actual: Sequence[VolumeId]) -> VolumeId:
    """The leaf of the metadata's chain that ``actual`` is part of: its top, or the ILLEGAL one merged into its top."""
    if not actual or actual[-1] not in image.volumes:
        raise WrongChain(image.image_id, "the chain has a top that is no volume of the image")
    above = image.children(actual[-1])
    if len(above) > 1 or any(image.children(ident) for ident in above):
        raise WrongChain(image.image_id, f"on its top {actual[-1]} stand {', '.join(above)} and others")
    return above[0] if above else actual[-1]


def _image(images: Images, ref: ImageRef) -> Image:
    try:
        return images[ref]
    except KeyError as error:
        raise NoSuchImage(ref.image_id, ref.domain_id) from error


def _volume(images: Images, ref: VolumeRef) -> VolumeMetadata:
    image = _image(images, ref.image)
    if ref.volume_id not in image.volumes:
        raise NoSuchVolume(ref.volume_id)
    return image.volumes[ref.volume_id]


def _volume_ref(image: ImageRef, volume_id: VolumeId) -> VolumeRef:
    return VolumeRef(image.domain_id, image.image_id, volume_id)


def _beside(volume: VolumeRef, other: VolumeId) -> VolumeRef:
    return VolumeRef(volume.domain_id, volume.image_id, other)
