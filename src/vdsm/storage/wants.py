"""What operations on storage lock: one naming for all kinds, so that those that are in each other's way know it.

    ("domain", DOMAIN)             shared by all who use it; exclusive for what takes it away
    ("image", DOMAIN/IMAGE)        exclusive for what changes its chain; shared for what only reads it
    ("volume", DOMAIN/VOLUME)      exclusive for what writes one volume's data while its chain stays

Hand what these return to a kind's ``wants``; parts of the same that are asked for twice are taken once.
"""

from __future__ import annotations

from collections.abc import Sequence

from vdsm.operations.locks import Mode, Resource
from vdsm.storage.ids import DomainId, ImageRef, VolumeRef

Wanted = tuple[Resource, Mode]


def of_domain(domain_id: DomainId, mode: Mode = Mode.SHARED) -> Sequence[Wanted]:
    """A domain as a whole."""
    return [(Resource("domain", domain_id), mode)]


def of_image(image: ImageRef, mode: Mode = Mode.EXCLUSIVE) -> Sequence[Wanted]:
    """An image with all its volumes, and that its domain stays."""
    name = f"{image.domain_id}/{image.image_id}"
    return [*of_domain(image.domain_id), (Resource("image", name), mode)]


def of_volume(volume: VolumeRef, mode: Mode = Mode.EXCLUSIVE) -> Sequence[Wanted]:
    """One volume, and that its image's chain stays as it is."""
    name = f"{volume.domain_id}/{volume.volume_id}"
    return [*of_image(volume.image, Mode.SHARED), (Resource("volume", name), mode)]
