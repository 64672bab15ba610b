"""Proves that everything on a storage domain agrees, or names each difference.

    domain     metadata, special files, lockspace and leases, external leases, the pool's journal    check_domain
    images     names, metadata, sizes, chains, headers, leases, links, modes                         check_images
    data       the structure of every qcow2 volume, by qemu-img; only when it is asked for

The first look takes no locks. Where it finds something in an image, it looks again while nobody of this host changes
that image: what an operation has under way is no difference. What other hosts change meanwhile may be one: the pool's
manager is the host to ask.

Nothing is changed here; ``repair`` does that.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from vdsm.operations.locks import Locked, Locks, Mode
from vdsm.storage import wants
from vdsm.storage.checks.check_domain import DomainCheck
from vdsm.storage.checks.check_facts import Checked, Finding, FreeLeaks, Skipped, Steps, Word
from vdsm.storage.checks.check_images import ImageCheck, Place, needed_templates
from vdsm.storage.checks.check_listing import Listed, Reader
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged, UnsupportedOperation, VolumeBusy
from vdsm.storage.formats import tree
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.images.image_errors import ImageRefused
from vdsm.storage.images.mover import FindDomain, QemuImages
from vdsm.storage.images.usage import refuse_busy
from vdsm.storage.kinds import DomainClass, Legality, VolumeFormat
from vdsm.storage.leases.lease_index import LeaseAreas
from vdsm.storage.steps import PurgeImage

_LOCK_S: Final = 2.0


class DomainChecker:
    """See the module; may be used by many threads at once.

    Args:
        find: the handle on a domain.
        areas: who can read what is in lease areas.
        data: who checks the structure of images.
        locks: what this host's operations hold.
    """

    def __init__(self, find: FindDomain, areas: LeaseAreas, data: QemuImages, locks: Locks) -> None:
        self._find: Final = find
        self._areas: Final = areas
        self._data: Final = data
        self.locks: Final = locks

    def check(
        self, domain_id: DomainId, *, image_id: ImageId | None = None, data: bool = False, managed: bool = False
    ) -> Checked:
        """Look at a domain.

        Args:
            domain_id: which.
            image_id: only at this image, if it is there.
            data: also at the structure of qcow2 volumes that no VM of this host has open; takes long.
            managed: this host is the pool's manager.

        Raises:
            NoSuchDomain, NotResponding, ...: the domain cannot be reached.
            UnsupportedOperation: it is not on files.
        """
        domain = self._find(domain_id)
        if domain.kind.is_block:
            raise UnsupportedOperation("checking block storage")
        found = Checked()
        if image_id is None:
            found = self._domain(domain, managed=managed)
        if domain.domain_class is not DomainClass.ISO:
            found = _joined(found, self._images(domain, image_id))
            if data:
                found = _joined(found, self._structure(domain, image_id))
        return found

    def image(self, domain: Domain, image_id: ImageId) -> list[Finding]:
        """What is wrong with an image, or what is left of it; whoever asks holds its lock."""
        reader = Reader(domain)
        listed = reader.some([image_id])
        found = list(self._judged(domain, reader, listed)) if listed else []
        if reader.is_aside(image_id):
            found.append(_aside(domain, image_id))
        return found

    def domain(self, domain: Domain, *, managed: bool) -> Checked:
        """What is wrong with a domain beside its images."""
        return self._domain(domain, managed=managed)

    def _domain(self, domain: Domain, *, managed: bool) -> Checked:
        looked = DomainCheck(domain, self._areas, managed=managed)
        return Checked(tuple(looked.findings()), tuple(looked.skipped))

    def _images(self, domain: Domain, image_id: ImageId | None) -> Checked:
        reader = Reader(domain)
        if image_id is None:
            listing = reader.all()
            listed, aside, strays = listing.images, listing.aside, listing.strays
        else:
            listed = reader.some([image_id])
            aside, strays = ((image_id,) if reader.is_aside(image_id) else ()), ()
        suspects = {finding.image_id for finding in self._judged(domain, reader, listed)} | set(aside)
        findings = [
            Finding(Word.STRAY, f"{tree.IMAGES}/{name}", "it is no image", "nobody knows whose it is")
            for name in strays
        ]
        skipped = []
        for suspect in sorted(filter(None, suspects)):
            confirmed = self._again(domain, suspect)
            if isinstance(confirmed, Skipped):
                skipped.append(confirmed)
            else:
                findings += confirmed
        volumes = sum(len(image.image.volumes) + len(image.unreadable) for image in listed.values())
        return Checked(tuple(findings), tuple(skipped), len(listed), volumes)

    def _again(self, domain: Domain, image_id: ImageId) -> list[Finding] | Skipped:
        """Look at an image while nobody of this host changes it."""
        claim = wants.of_image(ImageRef(domain.id, image_id), Mode.SHARED)
        try:
            with self.locks.hold(owner("check"), claim, timeout_s=_LOCK_S):
                return self.image(domain, image_id)
        except Locked as error:
            return Skipped(f"{tree.IMAGES}/{image_id}", f"{error.holders} is at work on it")

    def _judged(self, domain: Domain, reader: Reader, listed: Mapping[ImageId, Listed]) -> Iterator[Finding]:
        place = Place(domain.id, domain.kind.is_shared, _homes(domain, reader, listed))
        for image_id in sorted(listed):
            yield from ImageCheck(listed[image_id], place).findings()

    def _structure(self, domain: Domain, image_id: ImageId | None) -> Checked:
        """Have qemu-img look at the volumes."""
        wanted = domain.backend.image_ids() if image_id is None else (image_id,)
        findings: list[Finding] = []
        skipped: list[Skipped] = []
        for ident in wanted:
            path = f"{tree.IMAGES}/{ident}"
            ref = ImageRef(domain.id, ident)
            try:
                with self.locks.hold(owner("check"), wants.of_image(ref, Mode.SHARED), timeout_s=_LOCK_S):
                    findings += self._structure_of(domain, ref)
            except Locked as error:
                skipped.append(Skipped(path, f"{error.holders} is at work on it"))
            except VolumeBusy:
                skipped.append(Skipped(path, "it is in use"))
            except (ImageRefused, Damaged) as error:
                skipped.append(Skipped(path, f"its data cannot be looked at: {error}"))
        return Checked(tuple(findings), tuple(skipped))

    def _structure_of(self, domain: Domain, ref: ImageRef) -> Iterable[Finding]:
        volumes = domain.backend.image(ref.image_id).volumes if ref.image_id in domain.backend.image_ids() else {}
        refs = {ident: VolumeRef(domain.id, ref.image_id, ident) for ident in sorted(volumes)}
        refuse_busy(domain, refs.values())
        found: list[Finding] = []
        for ident, volume in refs.items():
            if volumes[ident].format is VolumeFormat.COW and volumes[ident].legality is not Legality.ILLEGAL:
                found += self._structure_of_volume(volume)
        return found

    def _structure_of_volume(self, volume: VolumeRef) -> Iterator[Finding]:
        answer = self._data.check(volume)
        path = f"{tree.IMAGES}/{volume.image_id}/{volume.volume_id}"
        if not answer.sound:
            what = f"qemu-img finds {answer.corruptions} corruptions and {answer.errors} errors"
            remedy = "mending it would be guessing: copy what can be read"
            yield Finding(Word.DATA_CORRUPT, path, what, remedy, None, volume.image_id, volume.volume_id)
        elif not answer.clean:
            what = f"{answer.leaks} clusters are taken and not used"
            fix = FreeLeaks(volume)
            yield Finding(Word.DATA_LEAKS, path, what, "they are given back", fix, volume.image_id, volume.volume_id)


def owner(what: str) -> str:
    """A name for who holds locks, for the time being."""
    return f"{what} {uuid.uuid4()}"


def _homes(domain: Domain, reader: Reader, listed: Mapping[ImageId, Listed]) -> dict[VolumeId, Listed]:
    """The images that templates are in, which the images listed have to do with."""
    wanted: set[VolumeId] = set().union(*(needed_templates(image) for image in listed.values()))
    found = {ident: image for image in listed.values() for ident in wanted & set(image.image.volumes)}
    others: Collection[ImageId] = {home for ident in wanted - set(found) for home in domain.backend.homes(ident)}
    more = reader.some(sorted(set(others) - set(listed)))
    return found | {ident: image for image in more.values() for ident in wanted & set(image.image.volumes)}


def _aside(domain: Domain, image_id: ImageId) -> Finding:
    ref = ImageRef(domain.id, image_id)
    path = f"{tree.IMAGES}/{tree.removed_name(image_id)}"
    what = "it was deleted, and its data is still there"
    return Finding(Word.PUT_ASIDE, path, what, "its data is deleted", Steps((PurgeImage(ref),)), image_id)


def _joined(one: Checked, other: Checked) -> Checked:
    return replace(
        one,
        findings=(*one.findings, *other.findings),
        skipped=(*one.skipped, *other.skipped),
        images=one.images + other.images,
        volumes=one.volumes + other.volumes,
    )
