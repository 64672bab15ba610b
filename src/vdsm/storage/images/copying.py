"""Copies of volumes and images, within a domain and between domains: copyImage, moveImage.

    each volume    made, ILLEGAL, and filled by qemu-img; an attempt that was cut off is begun anew, with a new file:
                   whoever was left writing to the old one (a process that could not be killed) does no harm
    then           all become LEGAL, the leaf last
    a move         from then on only goes forward: the source is put aside, and purged

Cut off anywhere it goes on at the next start, behind the last volume that was finished. Cancelled, or when a step
fails, nothing of the target is left. The source is not touched before the target is whole.

Source: storage format, sections 7.2 and 7.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from vdsm.base.clock import now_utc
from vdsm.base.errors import Rejected
from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Mode, Wants
from vdsm.storage import wants
from vdsm.storage.chain import Image
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import DiscardUnsupported, IllegalVolume, NoSuchImage, VolumeExists, WrongFormat
from vdsm.storage.executor import change
from vdsm.storage.formats.volume import VolumeMetadata, tidy_description
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.images import scope
from vdsm.storage.images.image_errors import ImageInTheWay, NoTemplateThere, TemplateInUse
from vdsm.storage.images.mover import FindDomain, QemuImages, Target
from vdsm.storage.kinds import Allocation, Legality, VolumeFormat, VolumeKind
from vdsm.storage.steps import Backing, Change, NewData

# A step that only writes metadata, beside one that copies so many bytes.
_SMALL: Final = float(16 << 20)


class OneCopy(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of one volume, as it was decided.

    Attributes:
        source: from where.
        target: to where.
        data: the container that it gets.
        metadata: what the target says of itself at the end.
        template: a template of the target's domain that has to be linked in first.
        size: bytes to be copied, for the progress.
    """

    source: VolumeRef
    target: VolumeRef
    data: NewData
    metadata: VolumeMetadata
    template: VolumeRef | None = None
    size: int = 0


class CopyVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume, with all it stands on, that becomes the only volume of a new image (copyImage).

    Attributes:
        description: None leaves the source's.
        format: None leaves the source's.
        allocation: None leaves the source's.
        shared: it becomes a template's.
        force: an image that is in the way is removed.
        discard: only for block storage.
        copies: decided.
        remove_first: decided: there is an image in the way.
    """

    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId
    target_domain_id: DomainId
    target_image_id: ImageId
    target_volume_id: VolumeId
    description: str | None = None
    format: VolumeFormat | None = None
    allocation: Allocation | None = None
    shared: bool = False
    force: bool = False
    post_zero: bool = False
    discard: bool = False
    copies: list[OneCopy] = []
    remove_first: bool = False

    @property
    def source(self) -> VolumeRef:
        """Its address."""
        return VolumeRef(self.domain_id, self.image_id, self.volume_id)

    @property
    def target(self) -> VolumeRef:
        """The address of the copy."""
        return VolumeRef(self.target_domain_id, self.target_image_id, self.target_volume_id)


class MoveImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that goes to another domain with its whole chain, under the same ids (moveImage).

    Attributes:
        keep: the source stays (operation 1, copy) or goes (operation 2, move).
        force: an image that is in the way is removed.
        post_zero: the source is wiped on block storage.
        discard: only for block storage.
        copies: decided.
        remove_first: decided: there is an image in the way.
    """

    domain_id: DomainId
    image_id: ImageId
    target_domain_id: DomainId
    keep: bool = False
    force: bool = False
    post_zero: bool = False
    discard: bool = False
    copies: list[OneCopy] = []
    remove_first: bool = False

    @property
    def source(self) -> ImageRef:
        """Its address."""
        return ImageRef(self.domain_id, self.image_id)

    @property
    def target(self) -> ImageRef:
        """Where it goes."""
        return ImageRef(self.target_domain_id, self.image_id)


@dataclass(frozen=True, slots=True)
class Copier:
    """What the steps of copies are made of.

    Attributes:
        find: the handle on a domain.
        images: who moves the data.
    """

    find: FindDomain
    images: QemuImages

    def removal(self, image: ImageRef) -> list[Step]:
        """Take an image that is in the way out of it; it does not come back."""
        return [
            Step(f"put aside image {image.image_id}, which is in the way", lambda _: self.put_aside(image)),
            Step(f"purge image {image.image_id}", lambda _: self.purge(image), weight=_SMALL, recorded=False),
        ]

    def filling(self, copy: OneCopy) -> Step:
        """Make a volume and fill it."""
        return Step(
            f"copy volume {copy.source.volume_id} to {copy.target.volume_id}",
            lambda run: self._fill(copy, run),
            lambda _: self.unmake(copy),
            weight=_SMALL + copy.size,
        )

    def legalizing(self, copies: Sequence[OneCopy], *, pivot: bool) -> Step:
        """Let the copies be used, the leaf at last."""

        def do(run: Run) -> None:
            for copy in copies:
                self.set_legality(copy.target, copy.metadata.legality)
                run.point("a volume is legal")

        return Step("let the copy be used", do, weight=_SMALL, pivot=pivot)

    def make(self, copy: OneCopy, legality: Legality) -> None:
        """Make a volume as if nothing of it had been there."""
        backend = self.find(copy.target.domain_id).backend
        backend.delete(copy.target)
        if copy.template is not None:
            backend.share(copy.template, copy.target.image_id)
        backend.make_data(copy.target, copy.data)
        backend.publish(copy.target, replace(copy.metadata, legality=legality))

    def unmake(self, copy: OneCopy) -> None:
        """Take ``make`` back."""
        backend = self.find(copy.target.domain_id).backend
        backend.delete(copy.target)
        if copy.template is not None:
            backend.unshare(copy.template, copy.target.image_id)

    def set_legality(self, volume: VolumeRef, legality: Legality) -> None:
        """Change the legality of a volume."""
        change(Change(volume, legality=legality), self.find(volume.domain_id).backend)

    def put_aside(self, image: ImageRef) -> None:
        """Let an image be none any more; nothing when that is done, and it was purged."""
        backend = self.find(image.domain_id).backend
        try:
            backend.remove_image(image.image_id)
        except NoSuchImage:
            return

    def purge(self, image: ImageRef) -> None:
        """Delete the data of an image that was put aside."""
        self.find(image.domain_id).backend.purge_image(image.image_id)

    def _fill(self, copy: OneCopy, run: Run) -> None:
        self.make(copy, Legality.ILLEGAL)
        run.point("the target is made")
        self.images.watched(run).copy(copy.source, copy.target, Target.FRESH)
        run.point("the target is filled")


def copy_image(copier: Copier) -> Kind[CopyVolume]:
    """The kind copyImage."""

    def steps(given: CopyVolume) -> Sequence[Step]:
        return [
            *(copier.removal(given.target.image) if given.remove_first else ()),
            *(copier.filling(copy) for copy in given.copies),
            copier.legalizing(given.copies, pivot=False),
        ]

    def locks(given: CopyVolume) -> Wants:
        return [
            *wants.of_image(given.source.image, Mode.SHARED),
            *wants.of_image(given.target.image),
        ]

    return Kind("copyImage", 1, CopyVolume, steps, locks, lambda given: _decide_copy(copier, given), Policy.RESUME)


def move_image(copier: Copier) -> Kind[MoveImage]:
    """The kind moveImage; a move is a pivot behind the target's becoming legal."""

    def steps(given: MoveImage) -> Sequence[Step]:
        away = [
            Step(f"put aside image {given.image_id}", lambda _: copier.put_aside(given.source), weight=_SMALL),
            Step(f"purge image {given.image_id}", lambda _: copier.purge(given.source), weight=_SMALL),
        ]
        return [
            *(copier.removal(given.target) if given.remove_first else ()),
            *(copier.filling(copy) for copy in given.copies),
            copier.legalizing(given.copies, pivot=not given.keep),
            *([] if given.keep else away),
        ]

    def locks(given: MoveImage) -> Wants:
        mode = Mode.SHARED if given.keep else Mode.EXCLUSIVE
        return [*wants.of_image(given.source, mode), *wants.of_image(given.target)]

    return Kind("moveImage", 1, MoveImage, steps, locks, lambda given: _decide_move(copier, given), Policy.RESUME)


def copies_of_chain(copier: Copier, image: Image, source: ImageRef, target: DomainId) -> list[OneCopy]:
    """How an image's chain is copied, volume by volume, to another domain.

    Raises:
        WrongChain: it is no chain.
        IllegalVolume: one of its volumes is not to be used.
        NoTemplateThere: it stands on a template, and the target's domain does not have that.
        ImageRefused: a header was not accepted.
    """
    home, domain = copier.find(source.domain_id), copier.find(target)
    chain = image.chain()
    copier.images.chain(VolumeRef(*_parts(source), chain[-1]))
    template = _template_there(image, domain)
    formats = {template.volume_id: domain.backend.volume(template).format} if template else {}
    found: list[OneCopy] = []
    for ident in chain:
        before = image.volumes[ident]
        if before.legality is Legality.ILLEGAL:
            raise IllegalVolume(ident)
        layout, allocation = _suited(domain, before.format, before.allocation)
        formats[ident] = layout
        backing = Backing(before.parent, formats[before.parent]) if before.parent else None
        ref = VolumeRef(*_parts(source), ident)
        found.append(
            OneCopy(
                source=ref,
                target=VolumeRef(target, source.image_id, ident),
                data=NewData(
                    layout,
                    allocation,
                    before.capacity,
                    backing,
                    _initial_size(copier, domain, ref, layout, allocation, chain=False),
                ),
                metadata=replace(before, domain_id=target, format=layout, allocation=allocation),
                template=template if ident == chain[0] else None,
                size=home.backend.data(ref).allocated,
            )
        )
    return found


def _decide_copy(copier: Copier, given: CopyVolume) -> CopyVolume:
    source, domain = copier.find(given.domain_id), copier.find(given.target_domain_id)
    if given.discard and not domain.kind.is_block:
        raise DiscardUnsupported(given.target_domain_id)
    if given.source.image == given.target.image:
        raise ImageInTheWay(given.image_id, given.domain_id)
    image = source.backend.image(given.image_id)
    before = image.volume(given.volume_id)
    if before.legality is Legality.ILLEGAL:
        raise IllegalVolume(given.volume_id)
    in_the_way = _is_in_the_way(domain, given.target.image, force=given.force)
    homes = [home for home in domain.backend.homes(given.target_volume_id) if home != given.target_image_id]
    if homes:
        raise VolumeExists(given.target_volume_id)
    chain = copier.images.chain(given.source)
    layout, allocation = given.format or before.format, given.allocation or before.allocation
    if domain.kind.is_block and (layout, allocation) == (VolumeFormat.RAW, Allocation.SPARSE):
        raise WrongFormat("a raw volume on block storage takes all its space at once")
    copy = OneCopy(
        source=given.source,
        target=given.target,
        data=NewData(
            layout,
            allocation,
            before.capacity,
            initial_size=_initial_size(copier, domain, given.source, layout, allocation, chain=True),
        ),
        metadata=_as_copied(given, before, layout, allocation),
        size=sum(_allocated(source, image, given.image_id, ident) for ident in chain),
    )
    return msgspec.structs.replace(given, copies=[copy], remove_first=in_the_way)


def _as_copied(
    given: CopyVolume, before: VolumeMetadata, layout: VolumeFormat, allocation: Allocation
) -> VolumeMetadata:
    return VolumeMetadata(
        domain_id=given.target_domain_id,
        image_id=given.target_image_id,
        capacity=before.capacity,
        created_s=int(now_utc().timestamp()),
        format=layout,
        allocation=allocation,
        kind=VolumeKind.SHARED if given.shared else VolumeKind.LEAF,
        description=before.description if given.description is None else tidy_description(given.description),
        disk_type=before.disk_type,
    )


def _decide_move(copier: Copier, given: MoveImage) -> MoveImage:
    source, domain = copier.find(given.domain_id), copier.find(given.target_domain_id)
    if given.discard and not source.kind.is_block:
        raise DiscardUnsupported(given.domain_id)
    if given.domain_id == given.target_domain_id:
        raise ImageInTheWay(given.image_id, given.domain_id)
    image = source.backend.image(given.image_id)
    if not given.keep:
        _check_template_unused(source, given.source)
    in_the_way = _is_in_the_way(domain, given.target, force=given.force)
    copies = copies_of_chain(copier, image, given.source, given.target_domain_id)
    for copy in copies:
        if any(home != given.image_id for home in domain.backend.homes(copy.target.volume_id)):
            raise VolumeExists(copy.target.volume_id)
    return msgspec.structs.replace(given, copies=copies, remove_first=in_the_way)


def _is_in_the_way(domain: Domain, target: ImageRef, *, force: bool) -> bool:
    try:
        domain.backend.image(target.image_id)
    except NoSuchImage:
        return False
    if not force:
        raise ImageInTheWay(target.image_id, target.domain_id)
    _check_template_unused(domain, target)
    return True


def _check_template_unused(domain: Domain, ref: ImageRef) -> None:
    others = [other.image_id for other in scope.with_dependents(domain.backend, ref) if other != ref]
    if others:
        raise TemplateInUse(ref.image_id, ", ".join(sorted(others)))


def _template_there(image: Image, domain: Domain) -> VolumeRef | None:
    ident = image.template()
    if ident is None:
        return None
    for home in domain.backend.homes(ident):
        ref = VolumeRef(domain.id, home, ident)
        try:
            metadata = domain.backend.volume(ref)
        except Rejected:
            continue
        if metadata.image_id == home and metadata.kind is VolumeKind.SHARED:
            return ref
    raise NoTemplateThere(domain.id, ident)


def _suited(domain: Domain, layout: VolumeFormat, allocation: Allocation) -> tuple[VolumeFormat, Allocation]:
    """What a volume becomes in a domain: block storage has no sparse raw volumes, but sparse qcow2 ones."""
    if domain.kind.is_block and (layout, allocation) == (VolumeFormat.RAW, Allocation.SPARSE):
        return VolumeFormat.COW, allocation
    return layout, allocation


def _initial_size(
    copier: Copier, domain: Domain, source: VolumeRef, layout: VolumeFormat, allocation: Allocation, *, chain: bool
) -> int | None:
    """Room that a sparse volume on block storage needs from the beginning."""
    if not domain.kind.is_block or layout is VolumeFormat.RAW or allocation is Allocation.PREALLOCATED:
        return None
    return copier.images.measure(source, layout, chain=chain).required


def _allocated(domain: Domain, image: Image, image_id: ImageId, ident: VolumeId) -> int:
    home = image_id if ident in image.volumes else image.shared[ident].image_id
    return domain.backend.data(VolumeRef(domain.id, home, ident)).allocated


def _parts(image: ImageRef) -> tuple[DomainId, ImageId]:
    return image.domain_id, image.image_id
