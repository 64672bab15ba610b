"""What is wrong with one image, judged by everything that was read of it.

An image's own volumes are right when their names, metadata, chain, headers, leases and links agree. Each fault is named
once, by what it comes from: a volume whose data is missing has no header that could be wrong, too.

What may be mended needs no guess: the disk itself says what is right (a header its size, a chain its kinds, a template
its links), or nothing of value can be lost. All else is left, with the reason.

Pure: no threads, no tools, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vdsm.storage import plans
from vdsm.storage.access import NEW_SUFFIX, FileStat
from vdsm.storage.chain import Fault, differences, right_kind
from vdsm.storage.checks.check_facts import (
    Finding,
    Fix,
    RemoveDirectory,
    RemoveFile,
    SetMode,
    Steps,
    Word,
    WriteLease,
)
from vdsm.storage.checks.check_listing import Listed
from vdsm.storage.errors import WrongChain
from vdsm.storage.formats import tree
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef, is_uuid
from vdsm.storage.images.inspection import Expected, judge
from vdsm.storage.kinds import Legality, VolumeFormat, VolumeKind
from vdsm.storage.steps import Change, Delete, ShareTemplate, UnshareTemplate
from vdsm.system.qemu_img.header import Header

# More than the headers and tables of an empty image: somebody's data may be in it.
_EMPTY: Final = 1 << 20
_CHAIN: Final[Mapping[Fault, tuple[Word, str]]] = {
    Fault.PARENT_MISSING: (Word.PARENT_MISSING, "what it stands on is gone; nobody else has that data"),
    Fault.CYCLE: (Word.CYCLE, "which volume is the base cannot be told"),
    Fault.SECOND_LEAF: (Word.SECOND_LEAF, "which of them is used cannot be told"),
    Fault.SHARED_WITH_PARENT: (Word.TEMPLATE_WITH_PARENT, "whether it is a template cannot be told"),
    Fault.RAW_WITH_PARENT: (Word.RAW_WITH_PARENT, "whether its format or its parent is wrong cannot be told"),
    Fault.SMALLER: (Word.SMALLER, "which of the two sizes is meant cannot be told"),
    Fault.HOME: (Word.FOREIGN, "whose it is cannot be told"),
    Fault.LEFTOVER: (Word.LEFTOVER, "whoever merged or deleted it deletes it: its data may still be wanted"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the images are.

    Attributes:
        domain_id: their domain.
        has_leases: whether each volume has a lease.
        homes: images that templates are in, by the template's id.
    """

    domain_id: DomainId
    has_leases: bool
    homes: Mapping[VolumeId, Listed]


class ImageCheck:
    """The judgement of one image."""

    def __init__(self, listed: Listed, place: Place) -> None:
        self._listed: Final = listed
        self._image: Final = listed.image
        self._place: Final = place

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, each once."""
        if not self._listed.entries:
            path = f"{tree.IMAGES}/{self._image.image_id}"
            yield self._of_image(Word.EMPTY_IMAGE, "nothing is in it", "it is removed", RemoveDirectory(path))
            return
        yield from self._strange_names()
        for ident, reason in self._listed.unreadable.items():
            yield self._of(ident, Word.METADATA_DAMAGED, reason, "what it said cannot be known")
        yield from self._half_made()
        for ident in sorted(self._image.volumes):
            yield from self._volume(ident, self._image.volumes[ident])
        yield from self._chain()
        yield from self._backing()
        yield from self._links()
        yield from self._modes()

    # -- names

    def _strange_names(self) -> Iterator[Finding]:
        known = {name.partition(".")[0] for name in self._listed.entries if is_uuid(name) or tree.volume_of_meta(name)}
        ends = {"", tree.META_SUFFIX, tree.LEASE_SUFFIX}
        for name in sorted(self._listed.entries):
            ident, dot, end = name.partition(".")
            if ident in known and dot + end in ends:
                continue
            path = f"{tree.IMAGES}/{self._image.image_id}/{name}"
            if name.endswith(f"{tree.META_SUFFIX}{NEW_SUFFIX}") and ident in known:
                yield Finding(
                    Word.UNFINISHED_WRITE, path, "a change of metadata that was cut off", "it is removed",
                    RemoveFile(path), self._image.image_id,
                )  # fmt: skip
            else:
                words = "it is nothing of an image"
                yield Finding(Word.STRAY, path, words, "nobody knows whose it is", None, self._image.image_id)

    def _half_made(self) -> Iterator[Finding]:
        volumes = {ident for name in self._listed.entries if (ident := tree.volume_of_meta(name)) is not None}
        for name in sorted(self._listed.entries):
            if not is_uuid(name) or name in volumes:
                continue
            ident, stat = VolumeId(name), self._listed.entries[name]
            if ident in self._place.homes and self._same(ident, "", self._place.homes[ident]):
                yield from self._half_linked(ident)
            elif self._is_named(ident):
                remedy = "others stand on it, and what its metadata said cannot be known"
                yield self._of(ident, Word.METADATA_MISSING, "it has no metadata", remedy)
            elif stat.allocated > _EMPTY:
                remedy = f"{stat.allocated} bytes are in it, which may be wanted"
                yield self._of(ident, Word.METADATA_MISSING, "it has no metadata", remedy)
            else:
                delete = Steps((Delete(self._ref(ident)),), (self._ref(ident),))
                words = "its making was cut off: it has no metadata and no data"
                yield self._of(ident, Word.HALF_MADE, words, "it is deleted", delete)

    def _half_linked(self, ident: VolumeId) -> Iterator[Finding]:
        """A template's data that is linked without its metadata: linking or unlinking was cut off."""
        if any(volume.parent == ident for volume in self._image.volumes.values()):
            return  # told as a link that is missing
        yield self._unused(ident, self._place.homes[ident])

    def _is_named(self, ident: VolumeId) -> bool:
        """Whether metadata or a header names a volume as what it stands on."""
        named = any(volume.parent == ident for volume in self._image.volumes.values())
        return named or any(backing_of(header) == ident for header in self._listed.headers.values())

    # -- one volume

    def _volume(self, ident: VolumeId, volume: VolumeMetadata) -> Iterator[Finding]:
        data = self._listed.entries.get(ident)
        if data is None:
            yield self._without_data(ident, volume)
            return
        if volume.legality is not Legality.ILLEGAL:  # what is being filled has no say yet
            if volume.format is VolumeFormat.RAW:
                yield from self._raw(ident, volume, data)
            else:
                yield from self._header(ident, volume, data)
        yield from self._lease(ident, volume)

    def _without_data(self, ident: VolumeId, volume: VolumeMetadata) -> Finding:
        if volume.legality is Legality.ILLEGAL and not self._is_named(ident):
            fix = Steps((Delete(self._ref(ident)),))
            return self._of(ident, Word.DATA_MISSING, "its deletion was cut off", "it is deleted", fix)
        return self._of(ident, Word.DATA_MISSING, "its data is not there", "nobody else has that data")

    def _raw(self, ident: VolumeId, volume: VolumeMetadata, data: FileStat) -> Iterator[Finding]:
        if data.size < volume.capacity:
            what = f"its data has {data.size} bytes, its metadata says {volume.capacity}"
            yield self._of(ident, Word.DATA_SIZE, what, "what was in the rest is not there")
        elif data.size > volume.capacity:
            yield self._larger(ident, volume, data.size, "its data has")

    def _header(self, ident: VolumeId, volume: VolumeMetadata, data: FileStat) -> Iterator[Finding]:
        header = self._listed.headers.get(ident)
        if header is None:
            return
        if isinstance(header, str):
            yield self._of(ident, Word.HEADER, header, "what its header said cannot be known")
            return
        below = self._image.below(volume.parent) if volume.parent else None
        # Names of parents are looked at with the chain as a whole; a parent that is not there is a fault of the chain.
        expected = Expected(header_parent(header), None if below is None else below.format, None, data.size)
        reasons = judge(header, expected)
        if backing_of(header) is None and header.backing is not None:
            reasons = (*reasons, f"it names {header.backing!r:.80} beneath it")
        if reasons:
            yield self._of(ident, Word.HEADER, "; ".join(reasons), "its header is not changed")
        elif header.virtual_size > volume.capacity:
            yield self._larger(ident, volume, header.virtual_size, "its header says")
        elif header.virtual_size < volume.capacity and volume.kind is VolumeKind.LEAF:
            what = f"its header says {header.virtual_size} bytes, its metadata {volume.capacity}"
            yield self._of(ident, Word.CAPACITY, what, "an extension was not finished: extend it again")

    def _larger(self, ident: VolumeId, volume: VolumeMetadata, size: int, words: str) -> Finding:
        what = f"{words} {size} bytes, its metadata {volume.capacity}"
        if size % 512:
            return self._of(ident, Word.DATA_SIZE, what, "that is no size of a disk")
        fix = Steps((Change(self._ref(ident), capacity=size),))
        return self._of(ident, Word.CAPACITY, what, f"the metadata is made to say {size}", fix)

    def _lease(self, ident: VolumeId, volume: VolumeMetadata) -> Iterator[Finding]:
        if not self._place.has_leases:
            return
        if f"{ident}{tree.LEASE_SUFFIX}" not in self._listed.entries:
            yield self._of(ident, Word.LEASE_MISSING, "it has no lease", "it is written", WriteLease(self._ref(ident)))
            return
        leader = self._listed.leases.get(ident)
        if leader is None:
            fix = WriteLease(self._ref(ident))
            yield self._of(ident, Word.LEASE_DAMAGED, "its lease is none", "it is written anew", fix)
        elif (leader.lockspace, leader.resource) != (volume.domain_id, ident):
            what = f"its lease is of {leader.resource:.40} in {leader.lockspace:.40}"
            yield self._of(ident, Word.LEASE_DAMAGED, what, "somebody may hold it")

    # -- the chain

    def _chain(self) -> Iterator[Finding]:
        for item in differences(self._image):
            ident, fault = item.volume_id, item.fault
            volume = self._image.volumes[ident]
            if fault is Fault.KIND:
                kind = right_kind(self._image, ident)
                words = f"it says {volume.kind.value}, and is {kind.value}"
                fix = Steps((Change(self._ref(ident), kind=kind),))
                yield self._of(ident, Word.KIND, words, f"the metadata is made to say {kind.value}", fix)
            elif fault is Fault.PARENT_MISSING and self._is_elsewhere(ident):
                continue  # a link, or metadata, is missing: told there
            elif fault is Fault.LEFTOVER and ident not in self._listed.entries:
                continue  # its data is gone already: told there
            elif fault is Fault.EMPTY:
                if volume.legality is Legality.ILLEGAL or ident not in self._listed.entries:
                    yield self._of(ident, Word.CAPACITY, fault.value, "its data does not say how large it is")
                # else: its header or data is larger than that, and told there
            else:
                word, remedy = _CHAIN[fault]
                yield self._of(ident, word, _words(fault, volume), remedy)
        for ident, volume in sorted(self._image.volumes.items()):
            children = self._image.children(ident)
            legal = [child for child in children if self._image.volumes[child].legality is not Legality.ILLEGAL]
            if volume.legality is Legality.ILLEGAL and legal and not self._merged(ident):
                remedy = "whether its content is whole cannot be told"
                yield self._of(ident, Word.ILLEGAL_PARENT, f"it is ILLEGAL, and {legal[0]} stands on it", remedy)

    def _is_elsewhere(self, ident: VolumeId) -> bool:
        parent = self._image.volumes[ident].parent
        if parent is None:
            return False
        return parent in self._place.homes or parent in self._listed.unreadable or parent in self._listed.entries

    def _mismatched(self) -> dict[VolumeId, VolumeId | None]:
        """Its qcow2 volumes whose header names another parent than their metadata, with what it names."""
        return {
            ident: backing_of(header)
            for ident, header in self._listed.headers.items()
            if isinstance(header, Header)
            and self._image.volumes[ident].legality is not Legality.ILLEGAL
            and (header.backing is None or backing_of(header) is not None)
            and backing_of(header) != self._image.volumes[ident].parent
        }

    def _merge(self) -> Steps | None:
        """What ends a merge that was cut off: one volume marked ILLEGAL that the headers have left out."""
        ref = ImageRef(self._place.domain_id, self._image.image_id)
        backing = {ident: backing_of(header) for ident, header in self._listed.headers.items()}
        try:
            actual, plan = plans.reconcile({ref: self._image}, ref, backing)
            gone = [ident for ident in self._image.chain() if ident not in actual]
        except WrongChain:
            return None
        if len(gone) != 1 or self._image.volumes[gone[0]].legality is not Legality.ILLEGAL:
            return None
        changed = {step.volume.volume_id for step in plan if isinstance(step, Change)}
        return Steps(plan) if changed == set(self._mismatched()) else None

    def _merged(self, ident: VolumeId) -> bool:
        """Whether headers have left a volume out already."""
        return bool(self._mismatched()) and ident not in set(self._mismatched().values()) and self._merge() is not None

    def _backing(self) -> Iterator[Finding]:
        wrong = self._mismatched()
        merge = self._merge() if wrong else None
        for ident, named in sorted(wrong.items()):
            known = self._image.volumes[ident].parent
            what = f"its header names {named or 'nothing'} beneath it, its metadata {known or 'nothing'}"
            if merge is not None:
                remedy = "the merge that was cut off is ended: the metadata is made to say what the header does"
                yield self._of(ident, Word.BACKING, what, remedy, merge)
            else:
                yield self._of(ident, Word.BACKING, what, "which of them is right cannot be told")

    # -- templates

    def _links(self) -> Iterator[Finding]:
        wanted = {volume.parent for volume in self._image.volumes.values() if volume.parent is not None}
        templates = {ident for ident in wanted if ident not in self._image.volumes and ident in self._place.homes}
        for ident in sorted(templates):
            yield from self._link(ident, self._place.homes[ident])
        for ident in sorted(set(self._image.shared) - wanted):
            home = self._place.homes.get(ident)
            if home is None:
                yield self._of(ident, Word.LINK_WRONG, "it is a link to a template that is gone", "its data is left")
                continue
            yield self._unused(ident, home)

    def _unused(self, ident: VolumeId, home: Listed) -> Finding:
        words = "nothing of the image stands on this link to a template"
        if not self._same(ident, "", home):
            return self._of(ident, Word.LINK_UNUSED, words, "its data is not the template's")
        template = VolumeRef(self._place.domain_id, home.id, ident)
        fix = Steps((UnshareTemplate(template, ImageRef(self._place.domain_id, self._image.image_id)),))
        return self._of(ident, Word.LINK_UNUSED, words, "the link is removed; the template stays", fix)

    def _link(self, ident: VolumeId, home: Listed) -> Iterator[Finding]:
        ends = [tree.META_SUFFIX, "", *([tree.LEASE_SUFFIX] if self._place.has_leases else [])]
        missing = [end for end in ends if f"{ident}{end}" not in self._listed.entries]
        # A template's metadata may have been replaced in one place: it is a copy then, and as good.
        wrong = [
            end for end in ends if end != tree.META_SUFFIX and end not in missing and not self._same(ident, end, home)
        ]
        if wrong:
            names = ", ".join(f"{ident}{end}" for end in wrong)
            yield self._of(ident, Word.LINK_WRONG, f"{names} is not the template's", "which is right cannot be told")
        elif missing:
            names = ", ".join(f"{ident}{end}" for end in missing)
            template = VolumeRef(self._place.domain_id, home.id, ident)
            fix = Steps((ShareTemplate(template, ImageRef(self._place.domain_id, self._image.image_id)),))
            yield self._of(ident, Word.LINK_MISSING, f"{names} of the template is not linked", "it is linked", fix)

    def _same(self, ident: VolumeId, end: str, home: Listed) -> bool:
        ours, theirs = self._listed.entries.get(f"{ident}{end}"), home.entries.get(f"{ident}{end}")
        if ours is None or theirs is None:
            return False
        return (ours.inode, ours.device) == (theirs.inode, theirs.device)

    # -- modes

    def _modes(self) -> Iterator[Finding]:
        path = f"{tree.IMAGES}/{self._image.image_id}"
        if lacks(self._listed.own_mode, tree.DIRECTORY_MODE):
            yield _mode(path, self._listed.own_mode, tree.DIRECTORY_MODE, self._image.image_id)
        for name, stat in sorted(self._listed.entries.items()):
            ident, dot, end = name.partition(".")
            wanted = {"": tree.DATA_MODE, tree.META_SUFFIX: tree.METADATA_MODE, tree.LEASE_SUFFIX: tree.DATA_MODE}
            mode = wanted.get(dot + end)
            # What is linked is told of where it is at home.
            if is_uuid(ident) and ident not in self._image.shared and mode is not None and lacks(stat.mode, mode):
                yield _mode(f"{path}/{name}", stat.mode, mode, self._image.image_id, VolumeId(ident))

    def _ref(self, ident: VolumeId) -> VolumeRef:
        return VolumeRef(self._place.domain_id, self._image.image_id, ident)

    def _of(self, ident: VolumeId, word: Word, what: str, remedy: str, fix: Fix | None = None) -> Finding:
        path = f"{tree.IMAGES}/{self._image.image_id}/{ident}"
        return Finding(word, path, what, remedy, fix, self._image.image_id, ident)

    def _of_image(self, word: Word, what: str, remedy: str, fix: Fix | None = None) -> Finding:
        return Finding(word, f"{tree.IMAGES}/{self._image.image_id}", what, remedy, fix, self._image.image_id)


def backing_of(header: Header | str) -> VolumeId | None:
    """The volume that a header names beneath it; None when it names none."""
    if isinstance(header, str) or header.backing is None:
        return None
    return VolumeId(header.backing) if is_uuid(header.backing) else None


def header_parent(header: Header) -> VolumeId | None:
    """What a header names, as if it were the right one: that is judged with the chain."""
    return None if header.backing is None else VolumeId(header.backing)


def lacks(mode: int, wanted: int) -> bool:
    """Whether owner or group lack a right that they need."""
    return bool(wanted & ~mode)


def needed_templates(listed: Listed) -> set[VolumeId]:
    """The templates that an image has to do with: linked into it, also by half, or stood on and not its own."""
    image = listed.image
    parents = {volume.parent for volume in image.volumes.values() if volume.parent is not None}
    linked = {
        VolumeId(name)
        for name, stat in listed.entries.items()
        if stat.links > 1 and is_uuid(name) and name not in image.volumes
    }
    return {*image.shared, *linked, *(parents - set(image.volumes))}


def _words(fault: Fault, volume: VolumeMetadata) -> str:
    if fault is Fault.PARENT_MISSING:
        return f"what it stands on, {volume.parent}, is not there"
    if fault is Fault.HOME:
        return f"it says that it is of image {volume.image_id}"
    return str(fault.value)


def _mode(path: str, mode: int, wanted: int, image_id: ImageId, volume_id: VolumeId | None = None) -> Finding:
    target = mode | wanted
    what = f"its mode is {mode:04o}, and must have all of {wanted:04o}"
    return Finding(Word.MODE, path, what, f"it is set to {target:04o}", SetMode(path, target), image_id, volume_id)
