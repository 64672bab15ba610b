"""The mailbox: how a host asks the SPM to extend a thin volume, in ``inbox`` and ``outbox`` of the master domain.

    inbox, outbox    16 MiB; host h's box is [h x 4096, (h + 1) x 4096); 64 slots of 64 bytes
    box              slots 0..62 messages, slot 63 unused but for its last four bytes, the checksum
    inbox's box 0    the event block: 00 "evt" and a random id (16 bytes in the usual order), else NULs

    message   0 version "1"   1 "xtnd"   5 domain id (16)   21 volume id (16)   37 size in MiB, 16 lower-case hex digits
              53 eleven "0" (the digit, not NUL)
    slot      all NUL: empty      64 x 01: "I have seen it"      else a message

Ids in messages are their 16 bytes in reverse. The checksum is the sum of the box's first 4092 bytes, little endian:
hosts write it in inbox, the SPM writes none in outbox. An answer repeats the first 37 bytes; a size of 0 is a failure.

Source: storage format, section 4.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from vdsm.storage.errors import Damaged, InvalidParameter
from vdsm.storage.formats.leases import MIB
from vdsm.storage.ids import DomainId, VolumeId

BOX_SIZE: Final = 4096
SLOT_SIZE: Final = 64
MESSAGE_SLOTS: Final = 63
CHECKSUM_OFFSET: Final = BOX_SIZE - 4
HOSTS: Final = 250
"""The SPM reads this many boxes, 0 to 249, so that host 250 has none."""
READ_SIZE: Final = HOSTS * BOX_SIZE

EMPTY: Final = bytes(SLOT_SIZE)
SEEN: Final = b"\1" * SLOT_SIZE
FAILED: Final = 0
"""The size in the answer to a request that failed."""

_MESSAGE: Final = struct.Struct("<c4s16s16s16s11s")
_VERSION: Final = b"1"
_EXTEND: Final = b"xtnd"
_PADDING: Final = b"0" * 11
_EVENT: Final = b"\0evt"
_SUM: Final = struct.Struct("<I")
_MAX_SIZE: Final = 0xFFFFFFFF
_ECHOED: Final = 37


@dataclass(frozen=True, slots=True)
class Extend:
    """A request to extend a volume, or its answer; the size is in MiB, and 0 in an answer says that it failed."""

    domain_id: DomainId
    volume_id: VolumeId
    size_mib: int


def box_offset(host_id: int) -> int:
    """Where a host's box is, in inbox and outbox.

    Raises:
        InvalidParameter: there is none for this id.
    """
    if not 1 <= host_id < HOSTS:
        raise InvalidParameter("hostID", f"must be between 1 and {HOSTS - 1}, is {host_id}")
    return host_id * BOX_SIZE


def request(domain_id: DomainId, volume_id: VolumeId, size: int) -> Extend:
    """A request for ``size`` bytes, rounded up to whole MiB."""
    return Extend(domain_id, volume_id, -(-size // MIB))


def encode_message(message: Extend) -> bytes:
    """A slot's 64 bytes.

    Raises:
        InvalidParameter: the size is negative or more than 32 bits.
    """
    if not 0 <= message.size_mib <= _MAX_SIZE:
        raise InvalidParameter("size", f"must be between 0 and {_MAX_SIZE} MiB, is {message.size_mib}")
    return _MESSAGE.pack(
        _VERSION,
        _EXTEND,
        uuid.UUID(message.domain_id).bytes[::-1],
        uuid.UUID(message.volume_id).bytes[::-1],
        b"%016x" % message.size_mib,
        _PADDING,
    )


def decode_message(slot: bytes) -> Extend | None:
    """What a slot says; None when it is empty or a mark that an answer was seen.

    Raises:
        Damaged: it is no message of a kind that is known.
    """
    if slot[:1] == b"\0" or slot == SEEN:
        return None
    try:
        version, kind, domain, volume, size, _ = _MESSAGE.unpack(slot)
        if version != _VERSION or kind != _EXTEND:
            raise Damaged("a message in the mailbox", f"it is of the unknown kind {version + kind!r}")
        return Extend(
            domain_id=DomainId(str(uuid.UUID(bytes=domain[::-1]))),
            volume_id=VolumeId(str(uuid.UUID(bytes=volume[::-1]))),
            size_mib=int(size, 16),
        )
    except (struct.error, ValueError) as error:
        raise Damaged("a message in the mailbox", "it cannot be read") from error


def answers(answer: bytes, asked: bytes) -> bool:
    """Whether a slot of outbox is the answer to the message in the same slot of inbox."""
    return answer[:_ECHOED] == asked[:_ECHOED]


def seal_box(slots: bytes) -> bytes:
    """A host's box for inbox: 63 slots (or fewer), padding and checksum."""
    if len(slots) > MESSAGE_SLOTS * SLOT_SIZE:
        raise InvalidParameter("slots", f"a box has {MESSAGE_SLOTS}")
    body = slots.ljust(CHECKSUM_OFFSET, b"\0")
    return body + _SUM.pack(sum(body))


def box_is_whole(box: bytes) -> bool:
    """Whether a box of inbox carries its own checksum; a torn one is looked at again in the next round."""
    return len(box) == BOX_SIZE and _SUM.unpack_from(box, CHECKSUM_OFFSET)[0] == sum(box[:CHECKSUM_OFFSET])


def encode_event(ident: uuid.UUID) -> bytes:
    """The event block that a host writes after its box: a new id makes the SPM look at once."""
    return (_EVENT + ident.bytes).ljust(BOX_SIZE, b"\0")


def decode_event(block: bytes) -> uuid.UUID | None:
    """The id in the event block; None when nobody ever wrote one."""
    if not block.startswith(_EVENT):
        return None
    return uuid.UUID(bytes=block[4:20])
