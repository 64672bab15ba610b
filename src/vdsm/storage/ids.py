"""Ids of stored things, as types. On disk all are lower-case UUIDs in their 8-4-4-4-12 form; upper case is refused."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Final, NewType

from vdsm.storage.errors import InvalidParameter

PoolId = NewType("PoolId", str)
DomainId = NewType("DomainId", str)
ImageId = NewType("ImageId", str)
VolumeId = NewType("VolumeId", str)
LeaseId = NewType("LeaseId", str)

BLANK: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for "none" where a format needs an id."""

_FORM: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Whether the text has the form of an id."""
    return _FORM.fullmatch(text) is not None


def parse_pool_id(text: str, field: str = "storagepoolID") -> PoolId:
    """Check a pool's id (see :func:`parse_domain_id`)."""
    return PoolId(_checked(text, field))


def parse_domain_id(text: str, field: str = "storagedomainID") -> DomainId:
    """Check a domain's id.

    Raises:
        InvalidParameter: it is no lower-case UUID, or the blank one; names ``field``.
    """
    return DomainId(_checked(text, field))


def parse_image_id(text: str, field: str = "imageID") -> ImageId:
    """Check an image's id (see :func:`parse_domain_id`)."""
    return ImageId(_checked(text, field))


def parse_volume_id(text: str, field: str = "volumeID") -> VolumeId:
    """Check a volume's id (see :func:`parse_domain_id`)."""
    return VolumeId(_checked(text, field))


def parse_parent_id(text: str, field: str = "srcVolUUID") -> VolumeId | None:
    """Check a parent's id; the blank one says that there is no parent."""
    return None if text == BLANK else VolumeId(_checked(text, field))


def parse_lease_id(text: str, field: str = "lease_id") -> LeaseId:
    """Check an external lease's id (see :func:`parse_domain_id`)."""
    return LeaseId(_checked(text, field))


def parse_job_id(text: str, field: str = "job_id") -> str:
    """Check a job's id, which its manager gave it (see :func:`parse_domain_id`)."""
    return _checked(text, field)


def new_id() -> str:
    """A fresh random id, of any kind."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, order=True)
class ImageRef:
    """The full address of one image; the order is the lock order."""

    domain_id: DomainId
    image_id: ImageId


@dataclass(frozen=True, slots=True, order=True)
class VolumeRef:
    """The full address of one volume; the order is the lock order."""

    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId

    @property
    def image(self) -> ImageRef:
        """Its image's address."""
        return ImageRef(self.domain_id, self.image_id)


def _checked(text: str, field: str) -> str:
    if not is_uuid(text):
        raise InvalidParameter(field, f"must be a lower-case UUID, is {text!r:.80}")
    if text == BLANK:
        raise InvalidParameter(field, "must not be the blank UUID")
    return text
