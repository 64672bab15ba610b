"""Names, modes and sizes in the directory of a file domain, and the trees of links on a host.

    <mount>/<domain>/      0755
      dom_md/              0755
        metadata           0644  replaced by rename
        ids                0660  one lease area; empty until sanlock made it (and always on LOCALFS, where it is locked)
        leases             0660  two lease areas; likewise
        xleases            0660  version 4 on, not on LOCALFS
        inbox, outbox      0660  16 MiB, sparse
      images/              0755
        <image>/           0755
          <volume>         0660
          <volume>.meta    0644
          <volume>.lease   0660  one lease area; not on LOCALFS
        _remove_me_<image>/      being deleted: every host of the original deletes what has such a name
      master/              0755  of the pool: tasks/, vms/

All belongs to vdsm:kvm (36:36). One mount holds one domain.

    /rhev/data-center/mnt/<connection>/<domain>     glusterSD/, blockSD/ between for those kinds
    /rhev/data-center/<pool>/<domain>, mastersd     links to the domains of the connected pool
    /run/vdsm/storage/<domain>/<image>              what a VM's disk is opened through

Source: storage format, sections 1.1, 1.4 and 1.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vdsm.storage.formats.leases import FILE_LEASES_SLOTS, MIB, Geometry
from vdsm.storage.formats.xleases import INDEX_SIZE
from vdsm.storage.ids import ImageId, VolumeId, is_uuid
from vdsm.storage.kinds import StorageType

OWNER: Final = 36  # vdsm
GROUP: Final = 36  # kvm
DIRECTORY_MODE: Final = 0o755
METADATA_MODE: Final = 0o644
DATA_MODE: Final = 0o660  # QEMU and sanlock get at it through the group

DATA_CENTER: Final = "/rhev/data-center"
RUN: Final = "/run/vdsm/storage"
GLUSTER: Final = "glusterSD"
BLOCK: Final = "blockSD"
MASTER_LINK: Final = "mastersd"

DOM_MD: Final = "dom_md"
IMAGES: Final = "images"
MASTER: Final = "master"
TASKS: Final = "tasks"
VMS: Final = "vms"
METADATA: Final = "metadata"
IDS: Final = "ids"
LEASES: Final = "leases"
XLEASES: Final = "xleases"
INBOX: Final = "inbox"
OUTBOX: Final = "outbox"

META_SUFFIX: Final = ".meta"
LEASE_SUFFIX: Final = ".lease"
REMOVED_PREFIX: Final = "_remove_me_"
MAILBOX_SIZE: Final = 16 * MIB
ISO_IMAGE: Final = ImageId("11111111-1111-1111-1111-111111111111")


@dataclass(frozen=True, slots=True)
class SpecialFile:
    """A file of ``dom_md`` beside the metadata.

    Attributes:
        name: its name.
        fresh_size: bytes when it is made; those that sanlock formats begin empty.
        size: bytes in a domain that is ready.
    """

    name: str
    fresh_size: int
    size: int
    mode: int = DATA_MODE


def special_files(storage_type: StorageType, version: int, shape: Geometry) -> tuple[SpecialFile, ...]:
    """The files of ``dom_md``, in the order of their making."""
    shared = storage_type.is_shared
    area = shape.alignment if shared else 0
    fresh = shape.alignment + INDEX_SIZE
    xleases = (SpecialFile(XLEASES, fresh, fresh),) if shared and version >= 4 else ()
    return (
        SpecialFile(IDS, 0, area),
        SpecialFile(LEASES, 0, FILE_LEASES_SLOTS * area),
        *xleases,
        SpecialFile(INBOX, MAILBOX_SIZE, MAILBOX_SIZE),
        SpecialFile(OUTBOX, MAILBOX_SIZE, MAILBOX_SIZE),
    )


def volume_of_meta(name: str) -> VolumeId | None:
    """The volume that a file of an image directory describes; None when the name is no ``<volume>.meta``."""
    ident = name.removesuffix(META_SUFFIX)
    return VolumeId(ident) if ident != name and is_uuid(ident) else None


def removed_name(image_id: ImageId) -> str:
    """The name of an image's directory while it is deleted."""
    return f"{REMOVED_PREFIX}{image_id}"
