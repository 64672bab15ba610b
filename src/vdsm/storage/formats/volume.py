"""A volume's metadata: the text in ``<volume>.meta`` of file domains, a slot of 512 bytes on block domains.

    CAP=67108864                version 5; before it SIZE, in sectors of 512 bytes
    CTIME=1795341752            seconds since the epoch
    DESCRIPTION={"DiskAlias":"chain","DiskDescription":""}
    DISKTYPE=DATA  DOMAIN=...  FORMAT=COW  GEN=0  IMAGE=...  LEGALITY=LEGAL
    MTIME=0                     versions 3 and 4
    PUUID=...                   the parent, or the blank UUID
    SEQ=2                       version 5
    TYPE=SPARSE  VOLTYPE=INTERNAL
    EOF

One per line, ascending keys, UTF-8, at most 512 bytes on every kind of storage, because disks move. Every change
rewrites all of it, and keys that nobody knows are lost. One reader serves all versions.

Source: storage format, sections 1.7 and 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from vdsm.storage.errors import BadValue, Damaged, InvalidParameter, MetadataOverflow, MissingKey
from vdsm.storage.formats.leases import GENERATIONS
from vdsm.storage.ids import BLANK, DomainId, ImageId, VolumeId, is_uuid
from vdsm.storage.kinds import Allocation, DiskType, Legality, VolumeFormat, VolumeKind

E = TypeVar("E", bound=Enum)

LIMIT: Final = 512
"""Bytes of all of it, the last line included."""
MAX_DESCRIPTION: Final = 210  # characters
MAX_SEQUENCE: Final = (1 << 32) - 1
CAPACITY_UNIT: Final = 4096
"""New volumes' capacities are rounded up to this."""

_END: Final = b"EOF"
_SECTOR: Final = 512
_WIPED: Final = "NONE"


@dataclass(frozen=True, slots=True)
class VolumeMetadata:
    """A volume, as it describes itself.

    Attributes:
        domain_id: the domain that it was made in.
        image_id: the image that it was made in: a template's volume is also seen in others.
        capacity: the virtual size in bytes; 0 for the moment of a resize.
        created_s: whole seconds since the epoch.
        format: RAW or COW (qcow2).
        allocation: whether its space was taken at once.
        kind: its place in the chain.
        legality: whether its content may be used.
        parent: what it stands on.
        description: free text, up to 210 characters.
        disk_type: what the disk holds; DiskType's words, or the old "1" and "2".
        generation: counts jobs that changed the data, 0 to 999.
        sequence: a number that the manager gives; not kept before version 5.
    """

    domain_id: DomainId
    image_id: ImageId
    capacity: int
    created_s: int
    format: VolumeFormat
    allocation: Allocation
    kind: VolumeKind = VolumeKind.LEAF
    legality: Legality = Legality.LEGAL
    parent: VolumeId | None = None
    description: str = ""
    disk_type: str = DiskType.DATA
    generation: int = 0
    sequence: int = 0


def tidy_description(text: str) -> str:
    """What is kept of a description: the first 210 characters, without blanks around."""
    return text[:MAX_DESCRIPTION].strip()


def round_capacity(size: int) -> int:
    """The capacity of a new volume that is to hold ``size`` bytes."""
    return size + -size % CAPACITY_UNIT


def encode_volume(metadata: VolumeMetadata, version: int) -> bytes:
    """The text for a domain of this version.

    Raises:
        MetadataOverflow: it would take more than 512 bytes.
        InvalidParameter: a value would not come back as it is.
    """
    _check(metadata, version)
    pairs = {
        "CTIME": str(metadata.created_s),
        "DESCRIPTION": metadata.description,
        "DISKTYPE": str(metadata.disk_type),
        "DOMAIN": metadata.domain_id,
        "FORMAT": metadata.format.value,
        "GEN": str(metadata.generation),
        "IMAGE": metadata.image_id,
        "LEGALITY": metadata.legality.value,
        "PUUID": metadata.parent or BLANK,
        "TYPE": metadata.allocation.value,
        "VOLTYPE": metadata.kind.value,
    }
    if version >= 5:
        pairs |= {"CAP": str(metadata.capacity), "SEQ": str(metadata.sequence)}
    else:
        pairs |= {"MTIME": "0", "SIZE": str(metadata.capacity // _SECTOR)}
    text = "".join(f"{key}={pairs[key]}\n" for key in sorted(pairs)).encode() + _END + b"\n"
    if len(text) > LIMIT:
        raise MetadataOverflow(len(text), LIMIT)
    return text


def encode_slot(metadata: VolumeMetadata, version: int) -> bytes:
    """The text as a block domain keeps it: padded with NULs to 512 bytes. Errors as of :func:`encode_volume`."""
    return encode_volume(metadata, version).ljust(LIMIT, b"\0")


def decode_volume(data: bytes, what: str) -> VolumeMetadata:
    """Read a volume's metadata of any version; ``what`` names it in errors.

    Raises:
        Damaged: it is cut off or was wiped, lacks a key (MissingKey), or a key has a value that it cannot have
            (BadValue).
    """
    pairs = _pairs(data, what)
    if _WIPED in pairs:
        raise Damaged(what, "it was wiped when the volume was deleted")
    parent = _ident(pairs, "PUUID", what)
    return VolumeMetadata(
        domain_id=DomainId(_ident(pairs, "DOMAIN", what)),
        image_id=ImageId(_ident(pairs, "IMAGE", what)),
        capacity=_capacity(pairs, what),
        created_s=_number(pairs, "CTIME", what),
        format=_word(VolumeFormat, pairs, "FORMAT", what),
        allocation=_word(Allocation, pairs, "TYPE", what),
        kind=_word(VolumeKind, pairs, "VOLTYPE", what),
        legality=_word(Legality, pairs, "LEGALITY", what),
        parent=None if parent == BLANK else VolumeId(parent),
        description=_value(pairs, "DESCRIPTION", what),
        disk_type=_value(pairs, "DISKTYPE", what),
        generation=_number(pairs, "GEN", what) if "GEN" in pairs else 0,
        sequence=_number(pairs, "SEQ", what) if "SEQ" in pairs else 0,
    )


def _check(metadata: VolumeMetadata, version: int) -> None:
    description = metadata.description
    if len(description) > MAX_DESCRIPTION:
        raise InvalidParameter("desc", f"must have at most {MAX_DESCRIPTION} characters")
    for field, value in (("desc", description), ("diskType", metadata.disk_type)):
        if value != value.strip() or any(char in value for char in "\r\n\0") or not _writable(value):
            raise InvalidParameter(field, "must be one line of text without blanks around it")
    if not 0 <= metadata.generation < GENERATIONS:
        raise InvalidParameter("generation", f"must be between 0 and {GENERATIONS - 1}, is {metadata.generation}")
    if not 0 <= metadata.sequence <= MAX_SEQUENCE:
        raise InvalidParameter("sequence", f"must be between 0 and {MAX_SEQUENCE}, is {metadata.sequence}")
    if metadata.capacity < 0 or (version < 5 and metadata.capacity % _SECTOR):
        raise InvalidParameter("size", f"cannot be {metadata.capacity}")


def _writable(text: str) -> bool:
    return text.encode(errors="ignore").decode() == text


def _pairs(data: bytes, what: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    # Of a block slot 512 bytes count; of a file all, up to the line EOF.
    for line in data.rstrip(b"\0").splitlines():
        if line.startswith(_END):
            return pairs
        key, found, value = line.partition(b"=")
        if not found:
            continue
        try:
            pairs[key.decode().strip()] = value.decode().strip()
        except UnicodeDecodeError:
            continue  # the line does not count; a key that is needed is missed below
    raise Damaged(what, "its end is missing" if pairs else "there is nothing in it")


def _value(pairs: dict[str, str], key: str, what: str) -> str:
    try:
        return pairs[key]
    except KeyError as error:
        raise MissingKey(what, f"it has no {key}") from error


def _number(pairs: dict[str, str], key: str, what: str) -> int:
    text = _value(pairs, key, what)
    # Longer ones are no number of this world, and int() refuses the very long ones with an error of its own.
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise BadValue(what, f"{key} is {text!r:.80}")
    return int(text)


def _capacity(pairs: dict[str, str], what: str) -> int:
    if "CAP" in pairs:
        return _number(pairs, "CAP", what)
    return _number(pairs, "SIZE", what) * _SECTOR


def _ident(pairs: dict[str, str], key: str, what: str) -> str:
    text = _value(pairs, key, what)
    if not is_uuid(text):
        raise BadValue(what, f"{key} is {text!r:.80}")
    return text


def _word(kind: type[E], pairs: dict[str, str], key: str, what: str) -> E:
    text = _value(pairs, key, what)
    try:
        return kind(text)
    except ValueError as error:
        raise BadValue(what, f"{key} is {text!r:.80}") from error
