"""What a block domain keeps in a volume group, whose name is the domain's id: tags, slots and special volumes.

    VG tag   RHAT_storage_domain (or ..._UNREADY while it is made)     MDT_<KEY=VALUE>   the domain's metadata
    LV tags  IU_<image>   PU_<parent or blank>   MD_<slot>             OVIRT_VOL_INITIALIZING instead, while it is made
             IU__remove_me_<image>, IU__remove_me_ZERO_<image>         being deleted
    slot     of a volume's metadata in the LV ``metadata``: 512 bytes at 1 MiB + slot x 8 KiB (before: slot x 512)

In a tag's text each character other than letters, digits and ``_+.-/=!:#`` is ``&<decimal code point>&``. Whether a
slot is taken, the MD_ tags tell and nothing else: a free slot still holds the metadata of a volume that was deleted.

Source: storage format, sections 2.1 to 2.7.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from vdsm.storage.errors import Damaged, InvalidParameter, NoSpace
from vdsm.storage.formats import sealed
from vdsm.storage.formats.domain import DomainMetadata, parse_domain
from vdsm.storage.formats.leases import FIRST_VOLUME_SLOT, LEASE_SLOTS, MIB, Geometry
from vdsm.storage.ids import BLANK, ImageId, VolumeId, is_uuid

GIB: Final = 1 << 30
EXTENT: Final = 128 * MIB

DOMAIN_TAG: Final = "RHAT_storage_domain"
UNREADY_TAG: Final = "RHAT_storage_domain_UNREADY"
METADATA_PREFIX: Final = "MDT_"
IMAGE_PREFIX: Final = "IU_"
PARENT_PREFIX: Final = "PU_"
SLOT_PREFIX: Final = "MD_"
INITIALIZING_TAG: Final = "OVIRT_VOL_INITIALIZING"
REMOVED: Final = "_remove_me_"
ZEROED: Final = "_remove_me_ZERO_"

SLOT_SIZE: Final = 512
_SLOTS_START: Final = MIB
_SLOT_STEP: Final = 8192
LAST_SLOT: Final = LEASE_SLOTS - FIRST_VOLUME_SLOT - 1

THIN_CHUNK: Final = 2560 * MIB
"""A thin volume begins with this, and a leaf keeps as much free."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_+.\-/=!:#]")
_ENCODED: Final = re.compile(r"&(\d{1,7})&")


@dataclass(frozen=True, slots=True)
class SpecialVolume:
    """One of the logical volumes that make a volume group a domain; the size in bytes is what is asked for."""

    name: str
    size: int


def special_volumes(version: int, shape: Geometry) -> tuple[SpecialVolume, ...]:
    """The special volumes in the order of their making: ``metadata`` must get extent 0 of the first disk."""
    xleases = (SpecialVolume("xleases", 1024 * shape.alignment),) if version >= 4 else ()
    return (
        SpecialVolume("metadata", 128 * MIB),
        SpecialVolume("ids", 8 * MIB),
        SpecialVolume("inbox", 16 * MIB),
        SpecialVolume("outbox", 16 * MIB),
        SpecialVolume("leases", LEASE_SLOTS * shape.alignment),
        *xleases,
        SpecialVolume("master", 1024 * MIB),
    )


def encode_tag(text: str) -> str:
    """A text as LVM takes it for a tag."""
    return "".join(char if _PLAIN.fullmatch(char) else f"&{ord(char)}&" for char in text)


def decode_tag(tag: str) -> str:
    """The text of a tag."""
    return _ENCODED.sub(lambda match: chr(int(match[1])) if int(match[1]) <= 0x10FFFF else match[0], tag)


def domain_tags(metadata: DomainMetadata) -> frozenset[str]:
    """A domain's metadata as tags, the checksum among them.

    Raises:
        InvalidParameter: a value cannot be written.
    """
    return frozenset(METADATA_PREFIX + encode_tag(line) for line in sealed.lines(metadata.pairs()))


def parse_domain_tags(tags: Iterable[str], what: str) -> DomainMetadata:
    """Read a domain's metadata from all tags of its volume group.

    Raises:
        Damaged: as in ``domain.decode_domain``.
        UnsupportedVersion: as there.
    """
    texts = [decode_tag(tag.removeprefix(METADATA_PREFIX)) for tag in tags if tag.startswith(METADATA_PREFIX)]
    return parse_domain(sealed.unseal(texts, what), what)


def tag_changes(old: Collection[str], new: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What to take away and what to add, in one command, to come from the old metadata tags to the new ones.

    Tags that are no metadata stay.
    """
    before = {tag for tag in old if tag.startswith(METADATA_PREFIX)}
    return frozenset(before - set(new)), frozenset(set(new) - before)


@dataclass(frozen=True, slots=True)
class VolumeTags:
    """What a logical volume's tags say of the volume in it.

    Attributes:
        image_id: the image that it belongs to: the tag is right, not the slot.
        parent: what it stood on when the SPM last knew: the slot is right, not the tag.
        slot: where its metadata is.
        removed: its image is being deleted.
        zeroed: it is being wiped before.
    """

    image_id: ImageId
    parent: VolumeId | None
    slot: int
    removed: bool = False
    zeroed: bool = False

    def tags(self) -> frozenset[str]:
        """The three tags."""
        mark = (ZEROED if self.zeroed else REMOVED) if self.removed else ""
        return frozenset({
            f"{IMAGE_PREFIX}{mark}{self.image_id}",
            f"{PARENT_PREFIX}{self.parent or BLANK}",
            f"{SLOT_PREFIX}{self.slot}",
        })


def parse_volume_tags(tags: Collection[str], what: str) -> VolumeTags | None:
    """Read a logical volume's tags; None when it is still being made.

    Raises:
        Damaged: they are not those of a volume.
    """
    if INITIALIZING_TAG in tags:
        return None
    image = _tagged(tags, IMAGE_PREFIX, what)
    zeroed = image.startswith(ZEROED)
    removed = image.startswith(REMOVED)
    image = image.removeprefix(ZEROED if zeroed else REMOVED)
    parent = _tagged(tags, PARENT_PREFIX, what)
    slot = _tagged(tags, SLOT_PREFIX, what)
    if not is_uuid(image) or not is_uuid(parent) or not (slot.isascii() and slot.isdigit()):
        raise Damaged(what, f"its tags are {sorted(tags)}")
    return VolumeTags(ImageId(image), None if parent == BLANK else VolumeId(parent), int(slot), removed, zeroed)


def slot_offset(slot: int, version: int) -> int:
    """Where in the LV ``metadata`` a volume's metadata is.

    Raises:
        InvalidParameter: no volume can have this slot.
    """
    if not first_slot(version) <= slot <= LAST_SLOT:
        raise InvalidParameter("slot", f"must be between {first_slot(version)} and {LAST_SLOT}, is {slot}")
    return _SLOTS_START + slot * _SLOT_STEP if version >= 5 else slot * SLOT_SIZE


def first_slot(version: int) -> int:
    """The first slot that a volume may have."""
    return 1 if version >= 5 else 4


def free_slot(taken: Collection[int], version: int) -> int:
    """The lowest slot that no logical volume's tag names.

    Raises:
        NoSpace: all are taken.
    """
    for slot in range(first_slot(version), LAST_SLOT + 1):
        if slot not in taken:
            return slot
    raise NoSpace("placing a volume's metadata", f"all slots up to {LAST_SLOT} are taken")


def round_to_extent(size: int) -> int:
    """What LVM makes of a size."""
    return size + -size % EXTENT


def max_size(capacity: int) -> int:
    """The largest that a qcow2 volume's LV needs to be: its capacity and a tenth, in whole extents."""
    return round_to_extent(-(-capacity * 11 // 10))


def thin_size(capacity: int, initial: int | None) -> int:
    """The size of a new thin volume's LV.

    Args:
        capacity: its virtual size in bytes.
        initial: bytes of data that are to come at once.

    Raises:
        InvalidParameter: more data is to come than can be.
    """
    if initial is None:
        return round_to_extent(min(THIN_CHUNK, capacity))
    if initial > max_size(capacity):
        raise InvalidParameter("initialSize", f"must be at most {max_size(capacity)}, is {initial}")
    return round_to_extent(initial * 11 // 10)


def optimal_size(used: int, capacity: int, *, leaf: bool) -> int:
    """The size that a qcow2 volume's LV should have for ``used`` bytes (the end of its image)."""
    return min(round_to_extent(used + (THIN_CHUNK if leaf else 0)), max_size(capacity))


def _tagged(tags: Collection[str], prefix: str, what: str) -> str:
    # "MDT_" begins with no prefix of a volume's tags, so that what begins with one is meant.
    found = [tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)]
    if len(found) != 1:
        raise Damaged(what, f"it has {len(found)} tags {prefix}...: {sorted(tags)}")
    return found[0]
