"""What goes in and out of the storage verbs. Sizes are bytes; wire names and kinds are what the Engine uses.

The words of closed sets (`NFS`, `Data`, `COW`, ...) are those that are on the disks; the original's callers send
numbers for them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from vdsm.api.contract import Reply, Request, Text, Wire

BLANK: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for "none" where an id must be."""

PoolIdParam = Annotated[str, Wire("storagepoolID"), msgspec.Meta(description="the pool's id, a UUID")]
PoolOfDomain = Annotated[
    str, Wire("storagepoolID"), msgspec.Meta(description="the pool; the blank UUID: the one that the host is in")
]
DomainIdParam = Annotated[str, Wire("storagedomainID"), msgspec.Meta(description="the storage domain's id, a UUID")]
ImageIdParam = Annotated[str, Wire("imageID"), msgspec.Meta(description="the image's id, a UUID")]
VolumeIdParam = Annotated[str, Wire("volumeID"), msgspec.Meta(description="the volume's id, a UUID")]
JobIdParam = Annotated[
    str, Wire("job_id"), msgspec.Meta(description="the id that the job gets, a UUID; `Host.getJobs` shows it")
]

StorageType = Annotated[
    Literal["NFS", "FCP", "ISCSI", "LOCALFS", "POSIXFS", "GLUSTERFS"],
    Wire(codes=(("NFS", 1), ("FCP", 2), ("ISCSI", 3), ("LOCALFS", 4), ("POSIXFS", 6), ("GLUSTERFS", 7))),
]
DomainClass = Annotated[Literal["Data", "Iso", "Backup"], Wire(codes=(("Data", 1), ("Iso", 2), ("Backup", 3)))]
VolumeFormat = Annotated[Literal["COW", "RAW"], Wire(codes=(("COW", 4), ("RAW", 5)))]
VolumeAllocation = Annotated[Literal["PREALLOCATED", "SPARSE"], Wire(codes=(("PREALLOCATED", 1), ("SPARSE", 2)))]
VolumeRole = Annotated[Literal["SHARED", "INTERNAL", "LEAF"], Wire(codes=(("SHARED", 6), ("INTERNAL", 7), ("LEAF", 8)))]
MoveOperation = Annotated[Literal["COPY", "MOVE"], Wire(codes=(("COPY", 1), ("MOVE", 2)))]
Legality = Literal["LEGAL", "ILLEGAL"]
Bytes = Annotated[Text, msgspec.Meta(ge=0, le=1 << 49)]
Description = Annotated[str, msgspec.Meta(max_length=500)]
DomainName = Annotated[str, msgspec.Meta(max_length=50)]


class StorageConnection(Request, frozen=True, kw_only=True):
    """A way to storage. Of a LOCALFS one only ``connection`` counts; those of block storage are not used yet."""

    id: str = BLANK
    """The caller's name for it, which the answer repeats."""
    connection: str
    """What is mounted: `server:/export`, a device, or for LOCALFS an absolute path."""
    vfs_type: Annotated[str, Wire("vfs_type")] = ""
    """POSIXFS: the kernel's name of the file system."""
    mnt_options: Annotated[str, Wire("mnt_options")] = ""
    """More mount options, separated by commas."""
    protocol_version: Annotated[str, Wire("protocol_version")] = ""
    """NFS: `3`, `4`, `4.1`, ... or `auto`; empty: 3."""
    timeout: Text | None = None
    """NFS: tenths of a second until a request is sent again."""
    retrans: Text | None = None
    """NFS: how often a request is sent again."""
    user: str = ""
    password: str = ""
    port: str = ""
    portal: str = ""
    iqn: str = ""
    tpgt: str = ""
    iface_name: str = ""
    net_iface_name: str = ""
    ipv6_enabled: Annotated[str | bool, Wire("ipv6_enabled")] = ""


class ConnectionStatus(Reply, frozen=True, kw_only=True):
    """What became of one connection; ``status`` is 0 or an error's code."""

    id: str
    status: int


class SpmStatus(Reply, frozen=True, kw_only=True):
    """Who manages a pool's metadata: this host's own part in it, and who holds the lease; -1 stands for nobody."""

    spm_status: str
    """Free, Contend or SPM: this host's part."""
    spm_lver: int
    """How often the lease was taken."""
    spm_id: int
    """The holder's host id."""


class PoolFacts(Reply, frozen=True, kw_only=True):
    """A pool. ``domains`` is a list in a text: `id:Active,id:Attached`."""

    name: str
    type: str
    version: Text
    master_uuid: Annotated[str, Wire("master_uuid")]
    master_ver: Annotated[int, Wire("master_ver")]
    lver: int
    spm_id: Annotated[int, Wire("spm_id")]
    pool_status: Annotated[str, Wire("pool_status")]
    domains: str
    isoprefix: str = ""


class PoolDomain(Reply, frozen=True, kw_only=True):
    """A pool's domain as this host sees it; sizes in bytes, left out while the domain does not answer."""

    status: str
    version: int
    diskfree: Text | None = None
    disktotal: Text | None = None
    alerts: list[dict[str, Any]]
    isoprefix: str = ""


class PoolInfo(Reply, frozen=True, kw_only=True):
    """A pool and its domains."""

    info: PoolFacts
    dominfo: dict[str, PoolDomain]


class DomainInfo(Reply, frozen=True, kw_only=True):
    """A storage domain, as its metadata says."""

    uuid: str
    name: str
    type: str
    domain_class: Annotated[str, Wire("class")]
    role: str
    version: Text
    pool: list[str]
    remote_path: str = ""
    state: str | None = None
    """OK, or why it cannot be used, as the monitor saw it last; left out for a domain that is not monitored."""
    master_ver: Annotated[int, Wire("master_ver")] = 0
    lver: int = -1
    spm_id: Annotated[int, Wire("spm_id")] = -1
    block_size: Annotated[int, Wire("block_size")]
    alignment: int


class DomainStats(Reply, frozen=True, kw_only=True):
    """A storage domain's room in bytes. File domains have no metadata area that could fill up."""

    disktotal: Text
    diskfree: Text
    mdavalid: bool = True
    mdathreshold: bool = True
    mdasize: Text = 0
    mdafree: Text = 0
    status: str | None = None
    alerts: list[dict[str, Any]] = []


class FileStats(Reply, frozen=True, kw_only=True):
    """A file of an ISO domain; ``status`` is 0 when every host can read it."""

    status: int
    size: Text
    ctime: Text
    """Seconds since 1970."""


class VolumeDump(Reply, frozen=True, kw_only=True):
    """A volume in a dump; one that cannot be read has ``status`` INVALID and says why."""

    image: str
    status: str
    reason: str | None = None
    parent: str | None = None
    capacity: int | None = None
    apparentsize: int | None = None
    truesize: int | None = None
    format: str | None = None
    type: str | None = None
    voltype: str | None = None
    disktype: str | None = None
    legality: str | None = None
    description: str | None = None
    ctime: int | None = None
    generation: int | None = None
    sequence: int | None = None


class DomainDump(Reply, frozen=True, kw_only=True):
    """All that is on a storage domain."""

    metadata: DomainInfo
    volumes: dict[str, VolumeDump]
    leases: list[dict[str, Any]] = []
    lockspace: list[dict[str, Any]] = []
    xleases: dict[str, dict[str, Any]] = {}


class PreparedImage(Reply, frozen=True, kw_only=True):
    """Where an image's leaf can be opened on this host."""

    path: str


class VolumeLease(Reply, frozen=True, kw_only=True):
    """A volume's lease: where it is, and the host ids that have it; ``version`` is left out when nobody has."""

    path: str
    offset: int
    owners: list[int]
    version: int | None = None


class VolumeInfo(Reply, frozen=True, kw_only=True):
    """A volume; sizes in bytes, times in seconds since 1970. What its metadata says is left out when it is damaged."""

    uuid: str
    image: str
    domain: str
    pool: str
    parent: str = BLANK
    """What it stands on; the blank UUID: nothing."""
    children: list[str] = []
    """Always empty: to know it all other volumes would have to be read."""
    status: str
    """OK, ILLEGAL, or INVALID when its metadata cannot be read."""
    truesize: Text
    apparentsize: Text
    description: str | None = None
    legality: str | None = None
    capacity: Text | None = None
    type: str | None = None
    format: str | None = None
    disktype: str | None = None
    voltype: str | None = None
    ctime: Text | None = None
    mtime: Text = 0
    generation: int | None = None
    sequence: int | None = None
    lease: VolumeLease | None = None


class VolumeSize(Reply, frozen=True, kw_only=True):
    """What a volume takes: its length, and what it uses of its domain; bytes."""

    truesize: Text
    apparentsize: Text


class Bitmap(Reply, frozen=True, kw_only=True):
    """A dirty bitmap within a qcow2 image."""

    name: str
    granularity: int
    flags: list[str]


class QemuImageInfo(Reply, frozen=True, kw_only=True):
    """What an image's header says; sizes in bytes."""

    format: str
    virtualsize: int
    clustersize: int | None = None
    compat: str | None = None
    backingfile: str | None = None
    bitmaps: list[Bitmap] | None = None


class VolumeMeasure(Reply, frozen=True, kw_only=True):
    """What a copy of a volume would need, in bytes."""

    required: int
    bitmaps: int | None = None


class VolumeChecksum(Reply, frozen=True, kw_only=True):
    """The checksum of what a guest reads of a volume, whatever its format: that of ovirt-imageio and its clients."""

    algorithm: str
    block_size: Annotated[int, Wire("block_size")]
    """Bytes that are hashed at once; the checksum is the hash of these hashes."""
    checksum: str


class TaskExplanation(Reply, frozen=True, kw_only=True):
    """A task in words."""

    id: str
    verb: str
    arguments: str
    """With what, as JSON."""
    summary: str
    done: list[str]
    """Steps that are done and lasting."""
    uncertain: list[str]
    """Steps that may be done, half done or not begun."""
    left: list[str]
    """Steps that are not begun, or taken back."""
    next: str
    """What will become of it."""
    locks: list[str]
    """What it holds or waits for, and who else does."""


class LeaseAddress(Request, frozen=True, kw_only=True):
    """An external lease."""

    sd_id: Annotated[str, Wire("sd_id")]
    lease_id: Annotated[str, Wire("lease_id")]


class LeaseMetadata(Request, frozen=True, kw_only=True):
    """What a lease says of the job that it guards."""

    type: Literal["JOB"] = "JOB"
    job_id: Annotated[str, Wire("job_id")]
    job_status: Annotated[Literal["PENDING", "FAILED", "SUCCEEDED", "FENCED"], Wire("job_status")]
    generation: Annotated[int, msgspec.Meta(ge=0, le=999)]
    created: int | None = None
    """Seconds since 1970."""
    modified: int | None = None
    host_hardware_id: Annotated[str | None, Wire("host_hardware_id")] = None


class LeaseInfo(Reply, frozen=True, kw_only=True):
    """Where a lease is, for those who take it with sanlock."""

    sd_id: Annotated[str, Wire("sd_id")]
    lease_id: Annotated[str, Wire("lease_id")]
    path: str
    offset: int


class LeaseStatus(Reply, frozen=True, kw_only=True):
    """Who has a lease, and what it says of its job; empty when it says nothing."""

    owners: list[int]
    version: int | None = None
    metadata: dict[str, Any]


class VolumeAddress(Request, frozen=True, kw_only=True):
    """A volume that a job changes."""

    sd_id: Annotated[str, Wire("sd_id")]
    img_id: Annotated[str, Wire("img_id")]
    vol_id: Annotated[str, Wire("vol_id")]
    generation: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None
    """What its generation must be; None: it does not matter."""
    endpoint_type: Annotated[Literal["div"], Wire("endpoint_type")] = "div"


class CopyEndpoint(VolumeAddress, frozen=True, kw_only=True):
    """A volume that is copied, or copied to."""

    prepared: bool = False
    """The caller has prepared its image; it is neither prepared nor torn down."""
    lease: LeaseAddress | None = None
    """An external lease that guards the copy, in place of the volume's own."""


class Subchain(Request, frozen=True, kw_only=True):
    """The part of a chain that is merged: all from ``top_id`` down goes into ``base_id``."""

    sd_id: Annotated[str, Wire("sd_id")]
    img_id: Annotated[str, Wire("img_id")]
    base_id: Annotated[str, Wire("base_id")]
    top_id: Annotated[str, Wire("top_id")]
    base_generation: Annotated[int | None, Wire("base_generation")] = None


class VolumeChange(Request, frozen=True, kw_only=True):
    """What of a volume's metadata is changed; None: it stays as it is."""

    legality: Legality | None = None
    description: Description | None = None
    generation: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None
    type: Literal["SHARED"] | None = None
    """SHARED makes a leaf without parent a template."""


class Qcow2Change(Request, frozen=True, kw_only=True):
    """What of a qcow2 header is changed."""

    compat: Literal["0.10", "1.1"] | None = None
