"""Images as chains of volumes: who stands on whom, and what is wrong with it.

    template  SHARED     another image's only volume; linked into every image that stands on it
        ^
    base      INTERNAL   the image's own volumes ...
        ^
    middle    INTERNAL
        ^
    leaf      LEAF       ... the only one that a VM writes

A volume names its parent (PUUID); an image is read from its leaf down to, and without, the template. Beside the chain
there may be ILLEGAL volumes that nothing stands on: merged and not deleted yet, or the leftover of a deletion.

Pure: no threads, no tools, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

from vdsm.storage.errors import NoSuchVolume, WrongChain
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import ImageId, VolumeId
from vdsm.storage.kinds import Legality, VolumeFormat, VolumeKind


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a domain.

    Attributes:
        image_id: its id.
        volumes: its own volumes.
        shared: volumes of other images that are linked into it: the template, or nothing.
    """

    image_id: ImageId
    volumes: Mapping[VolumeId, VolumeMetadata] = field(default_factory=dict)
    shared: Mapping[VolumeId, VolumeMetadata] = field(default_factory=dict)

    def volume(self, volume_id: VolumeId) -> VolumeMetadata:
        """One of its own volumes.

        Raises:
            NoSuchVolume: it has none of this id.
        """
        try:
            return self.volumes[volume_id]
        except KeyError as error:
            raise NoSuchVolume(volume_id) from error

    def below(self, volume_id: VolumeId) -> VolumeMetadata | None:
        """What a volume stands on: one of its own or the template; None when it is not there."""
        return self.volumes.get(volume_id) or self.shared.get(volume_id)

    def children(self, volume_id: VolumeId) -> tuple[VolumeId, ...]:
        """Its own volumes that stand on this one, sorted."""
        return tuple(sorted(ident for ident, volume in self.volumes.items() if volume.parent == volume_id))

    def tops(self) -> tuple[VolumeId, ...]:
        """Its own volumes that nothing of it stands on, sorted."""
        parents = {volume.parent for volume in self.volumes.values()}
        return tuple(sorted(ident for ident in self.volumes if ident not in parents))

    def leaf(self) -> VolumeId:
        """The top of the chain: the only top, or among several the only one that is not ILLEGAL.

        Raises:
            WrongChain: there is none, or it cannot be told.
        """
        tops = self.tops()
        legal = [ident for ident in tops if self.volumes[ident].legality is not Legality.ILLEGAL]
        found = legal if len(tops) > 1 else list(tops)
        if len(found) != 1:
            raise WrongChain(self.image_id, f"it has {len(found)} leaves")
        return found[0]

    def chain(self, top: VolumeId | None = None) -> tuple[VolumeId, ...]:
        """Its own volumes from the base up to ``top`` (the leaf).

        Raises:
            NoSuchVolume: it has no such top.
            WrongChain: a parent is missing, or the chain goes round.
        """
        found: list[VolumeId] = []
        ident: VolumeId | None = self.leaf() if top is None else top
        volume = self.volume(ident) if ident is not None else None
        while ident is not None and volume is not None and ident in self.volumes:
            if ident in found:
                raise WrongChain(self.image_id, f"volume {ident} stands on itself")
            found.append(ident)
            ident = volume.parent
            volume = None if ident is None else self.below(ident)
        if ident is not None and volume is None:
            raise WrongChain(self.image_id, f"volume {found[-1]} stands on {ident}, which is not there")
        return tuple(reversed(found))

    def template(self) -> VolumeId | None:
        """The other image's volume at the bottom of the chain.

        Raises:
            WrongChain: as for :meth:`chain`.
        """
        return self.volumes[self.chain()[0]].parent if self.volumes else None


@unique
class Fault(Enum):
    """What can be wrong with a volume in its chain."""

    PARENT_MISSING = "its parent is not there"
    CYCLE = "it stands on itself"
    SECOND_LEAF = "nothing stands on it, and it is not the only such volume that is legal"
    KIND = "its kind does not fit its place in the chain"
    SHARED_WITH_PARENT = "it is a template's and stands on something"
    RAW_WITH_PARENT = "it is raw and stands on something"
    SMALLER = "it is smaller than what it stands on"
    EMPTY = "its capacity is 0: a resize was cut off"
    HOME = "it says that it is of another image"
    LEFTOVER = "it was merged or deleted, and is still there"


@dataclass(frozen=True, slots=True)
class Difference:
    """One fault of one volume."""

    volume_id: VolumeId
    fault: Fault


def differences(image: Image) -> tuple[Difference, ...]:
    """Everything in which the image is not a sound chain, by volume; LEFTOVER alone does no harm."""
    return tuple(Difference(ident, fault) for ident in sorted(image.volumes) for fault in _faults(image, ident))


def right_kind(image: Image, volume_id: VolumeId) -> VolumeKind:
    """The kind that a volume should have: a template's stays one."""
    if image.volume(volume_id).kind is VolumeKind.SHARED:
        return VolumeKind.SHARED
    return VolumeKind.INTERNAL if image.children(volume_id) else VolumeKind.LEAF


def _faults(image: Image, volume_id: VolumeId) -> Iterator[Fault]:
    volume = image.volumes[volume_id]
    if volume.image_id != image.image_id:
        yield Fault.HOME
    if volume.capacity == 0:
        yield Fault.EMPTY
    if _is_leftover(image, volume_id):
        # What a volume that is about to go says of its place is of no account.
        yield Fault.LEFTOVER
        return
    yield from _faults_of_parent(image, volume_id, volume)
    tops = image.tops()
    if volume_id in tops and sum(not _is_leftover(image, ident) for ident in tops) > 1:
        yield Fault.SECOND_LEAF
    if volume.kind is not _kind_without_leftovers(image, volume_id):
        yield Fault.KIND


def _faults_of_parent(image: Image, volume_id: VolumeId, volume: VolumeMetadata) -> Iterator[Fault]:
    if volume.parent is None:
        return
    if volume.kind is VolumeKind.SHARED:
        yield Fault.SHARED_WITH_PARENT
    if volume.format is VolumeFormat.RAW:
        yield Fault.RAW_WITH_PARENT
    parent = image.below(volume.parent)
    if parent is None:
        yield Fault.PARENT_MISSING
    elif 0 < volume.capacity < parent.capacity:
        yield Fault.SMALLER
    if _stands_on_itself(image, volume_id):
        yield Fault.CYCLE


def _is_leftover(image: Image, volume_id: VolumeId) -> bool:
    """ILLEGAL, nothing stands on it, and the image has another volume."""
    volume = image.volumes[volume_id]
    return volume.legality is Legality.ILLEGAL and not image.children(volume_id) and len(image.volumes) > 1


def _kind_without_leftovers(image: Image, volume_id: VolumeId) -> VolumeKind:
    volume = image.volumes[volume_id]
    if volume.kind is VolumeKind.SHARED:
        return VolumeKind.SHARED
    children = image.children(volume_id)
    # A parent whose only children are leftovers may already have been set back to LEAF, or not yet.
    if children and all(_is_leftover(image, child) for child in children) and volume.kind is VolumeKind.LEAF:
        return VolumeKind.LEAF
    return VolumeKind.INTERNAL if children else VolumeKind.LEAF


def _stands_on_itself(image: Image, volume_id: VolumeId) -> bool:
    seen: set[VolumeId] = set()
    ident: VolumeId | None = volume_id
    while ident is not None and ident not in seen:
        seen.add(ident)
        volume = image.volumes.get(ident)
        ident = None if volume is None else volume.parent
    return ident == volume_id
