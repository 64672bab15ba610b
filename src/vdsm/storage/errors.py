"""What can be wrong with stored things; the numbers are the original's published ones, which an Engine branches on.

Rejected   the request was refused before anything was changed
Failed     the thing is as it was
Damaged    what is on the disk is not what it should be: nothing was guessed and nothing was changed

What does not answer in time is ``Unfinished``, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdsm.base.errors import BadParameter, Failed, Rejected


@dataclass(eq=False)
class InvalidParameter(BadParameter):
    """A field of a storage request is wrong."""

    name = "invalid_parameter"
    code = 1000


@dataclass(eq=False)
class NoSuchVolume(Rejected):
    """The image has no such volume."""

    name = "no_such_volume"
    code = 201
    status = 404
    message = "volume {volume_id} does not exist"
    volume_id: str


@dataclass(eq=False)
class VolumeExists(Rejected):
    """A volume of this id is there already."""

    name = "volume_exists"
    code = 212
    status = 409
    message = "volume {volume_id} already exists"
    volume_id: str


@dataclass(eq=False)
class VolumeHasChildren(Rejected):
    """Other volumes stand on it."""

    name = "volume_has_children"
    code = 204
    status = 409
    message = "volume {volume_id} has children: {children}"
    volume_id: str
    children: str


@dataclass(eq=False)
class SharedVolume(Rejected):
    """A template's volume never changes, and is only deleted by force."""

    name = "shared_volume"
    code = 223
    status = 409
    message = "volume {volume_id} is shared: a template's"
    volume_id: str


@dataclass(eq=False)
class NotLeaf(Rejected):
    """Only the top of a chain can take this."""

    name = "not_leaf"
    code = 224
    status = 409
    message = "volume {volume_id} is not the leaf of its image"
    volume_id: str


@dataclass(eq=False)
class IllegalVolume(Rejected):
    """The volume is marked ILLEGAL: its content is not to be used."""

    name = "illegal_volume"
    code = 227
    status = 409
    message = "volume {volume_id} is illegal"
    volume_id: str


@dataclass(eq=False)
class IllegalParent(Rejected):
    """An ILLEGAL volume gets no snapshot."""

    name = "illegal_parent"
    code = 226
    status = 409
    message = "volume {volume_id} is illegal and cannot be a parent"
    volume_id: str


@dataclass(eq=False)
class WrongFormat(Rejected):
    """The format, or its combination with the allocation, is not possible here."""

    name = "wrong_format"
    code = 202
    status = 422
    message = "format: {reason}"
    reason: str


@dataclass(eq=False)
class WrongVolumeSize(Rejected):
    """The size does not fit what the volume stands on or holds."""

    name = "wrong_volume_size"
    code = 229
    status = 422
    message = "size: {reason}"
    reason: str


@dataclass(eq=False)
class NoSuchImage(Rejected):
    """The domain has no such image."""

    name = "no_such_image"
    code = 268
    status = 404
    message = "image {image_id} does not exist in domain {domain_id}"
    image_id: str
    domain_id: str


@dataclass(eq=False)
class WrongChain(Rejected):
    """The volumes of the image do not make the chain that the request needs."""

    name = "wrong_chain"
    code = 262
    status = 409
    message = "image {image_id}: {reason}"
    image_id: str
    reason: str


@dataclass(eq=False)
class NoSuchDomain(Rejected):
    """No storage domain of this id is connected."""

    name = "no_such_domain"
    code = 358
    status = 404
    message = "storage domain {domain_id} does not exist"
    domain_id: str


@dataclass(eq=False)
class DomainExists(Rejected):
    """A storage domain is there already."""

    name = "domain_exists"
    code = 365
    status = 409
    message = "{where} already has the storage domain {domain_id}"
    where: str
    domain_id: str


@dataclass(eq=False)
class UnsupportedVersion(Rejected):
    """This version of the on-disk format is not spoken here."""

    name = "unsupported_version"
    code = 394
    status = 422
    message = "storage format {version} is not supported"
    version: str


@dataclass(eq=False)
class WrongBlockSize(Rejected):
    """The storage's block size is not the one that the domain was made for."""

    name = "wrong_block_size"
    code = 348
    status = 409
    message = "block size: {reason}"
    reason: str


@dataclass(eq=False)
class VolumeNotMade(Failed):
    """A new volume's container could not be made; what there is of it is half-made, and nobody's."""

    name = "volume_not_made"
    code = 205
    status = 500


@dataclass(eq=False)
class NoSpace(Failed):
    """The domain is full."""

    name = "no_space"
    code = 397
    status = 507


@dataclass(eq=False)
class StorageFailed(Failed):
    """The storage underneath refused an access."""

    name = "storage_failed"
    code = 200
    status = 500


@dataclass(eq=False)
class LeaseExists(Rejected):
    """An external lease of this id is there already."""

    name = "lease_exists"
    code = 1002
    status = 409
    message = "lease {lease_id} already exists"
    lease_id: str


@dataclass(eq=False)
class NoSuchLease(Rejected):
    """There is no such external lease."""

    name = "no_such_lease"
    code = 100
    status = 404
    message = "lease {lease_id} does not exist"
    lease_id: str


@dataclass(eq=False)
class Damaged(Failed):
    """What is on the disk is not what it should be; nothing was changed."""

    name = "damaged"
    code = 749
    status = 500
    message = "{what} is damaged: {reason}"


@dataclass(eq=False)
class MissingKey(Damaged):
    """Metadata lacks a key that every reader needs."""

    name = "metadata_key_missing"
    code = 751


@dataclass(eq=False)
class BrokenSeal(Damaged):
    """A domain's metadata and its checksum do not agree."""

    name = "metadata_checksum"
    code = 752


@dataclass(eq=False)
class BadValue(Damaged):
    """A value in metadata is not one of those that its key can have."""

    name = "metadata_value"
    code = 753


@dataclass(eq=False)
class MetadataOverflow(Rejected):
    """A volume's metadata would not fit in its 512 bytes."""

    name = "metadata_overflow"
    code = 756
    status = 422
    message = "metadata would take {size} of {limit} bytes: the description is too long"
    size: int
    limit: int


@dataclass(eq=False)
class HostIdFailed(Failed):
    """The host cannot show on a domain that it is alive."""

    name = "host_id_failed"
    code = 661
    status = 503


@dataclass(eq=False)
class LeaseFailed(Failed):
    """A lease could not be taken, given back or looked at."""

    name = "lease_failed"
    code = 651
    status = 503


@dataclass(eq=False)
class LeaseHeld(Rejected):
    """Another host or process has the lease."""

    name = "lease_held"
    code = 651
    status = 409
    message = "lease {resource} of domain {domain_id} is held by {owner}"
    resource: str
    domain_id: str
    owner: str


@dataclass(eq=False)
class VolumeBusy(Rejected):
    """Somebody has the volume open."""

    name = "volume_busy"
    code = 203
    status = 409
    message = "volume {volume_id} is in use on this host"
    volume_id: str


@dataclass(eq=False)
class NotWritable(Rejected):
    """The volume's place in its chain does not allow that it changes."""

    name = "volume_not_writable"
    code = 213
    status = 409
    message = "volume {volume_id} cannot be written: {reason}"
    volume_id: str
    reason: str


@dataclass(eq=False)
class WrongResize(Rejected):
    """A volume only grows."""

    name = "wrong_resize"
    code = 232
    status = 422
    message = "size: volume {volume_id} has {capacity} bytes already"
    volume_id: str
    capacity: int


@dataclass(eq=False)
class InvalidUpdate(Rejected):
    """A volume cannot be changed into this."""

    name = "invalid_volume_update"
    code = 235
    status = 409
    message = "volume {volume_id}: {reason}"
    volume_id: str
    reason: str


@dataclass(eq=False)
class DiscardUnsupported(Rejected):
    """There is nothing to discard on this storage."""

    name = "discard_unsupported"
    code = 349
    status = 422
    message = "discard: not on the storage domain {domain_id}, which is on files"
    domain_id: str


@dataclass(eq=False)
class GenerationMismatch(Rejected):
    """The volume was changed by another job since its generation was asked for."""

    name = "generation_mismatch"
    code = 911
    status = 409
    message = "generation: {requested} was asked for, the volume has {actual}"
    requested: int
    actual: int


@dataclass(eq=False)
class UnsupportedOperation(Rejected):
    """The volume or its storage has no such thing."""

    name = "unsupported_operation"
    code = 2009
    status = 422
    message = "{reason}"
    reason: str


@dataclass(eq=False)
class WrongJob(Rejected):
    """A lease's value is not that of the job that was named, or the job is not pending any more."""

    name = "wrong_job_status"
    code = 912
    status = 409
    message = "lease {lease_id}: {reason}"
    lease_id: str
    reason: str


@dataclass(eq=False)
class LeaseLost(Failed):
    """A lease was held, and is not any more."""

    name = "lease_lost"
    code = 651
    status = 503


@dataclass(eq=False)
class ConnectionFailed(Failed):
    """A connection to storage could not be made or ended."""

    name = "connection_failed"
    code = 451
    status = 502


@dataclass(eq=False)
class StorageAccessDenied(Rejected):
    """The root of the storage is not for the agent's user, or not for virtual machines."""

    name = "storage_access_denied"
    code = 469
    status = 403
    message = "{who} cannot use {path}: it must be readable, writable and searchable by 36:36 and searchable by QEMU"
    who: str
    path: str


@dataclass(eq=False)
class MountFailed(Failed):
    """Storage could not be mounted or unmounted."""

    name = "mount_failed"
    code = 477
    status = 502


@dataclass(eq=False)
class StorageBusy(Rejected):
    """A storage cannot be used, or left, as things are."""

    name = "storage_busy"
    code = 1000
    status = 409
    message = "storage {storage}: {reason}"
    storage: str
    reason: str
