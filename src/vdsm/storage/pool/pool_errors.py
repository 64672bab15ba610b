"""What can be wrong with the storage pool, its SPM and its tasks; the numbers are the original's (see ``errors``)."""

from __future__ import annotations

from dataclasses import dataclass

from vdsm.base.errors import Failed, Rejected
from vdsm.operations.records import Fault


@dataclass(eq=False)
class PoolConnected(Rejected):
    """The host is connected to this pool, under another id than the one given."""

    name = "pool_connected"
    code = 302
    status = 409
    message = "this host is connected to pool {pool_id} as host {host_id}"
    pool_id: str
    host_id: int


@dataclass(eq=False)
class NoMaster(Rejected):
    """The pool's master domain is not there."""

    name = "no_master"
    code = 304
    status = 404
    message = "master domain {domain_id} of pool {pool_id} is not there: {reason}"
    pool_id: str
    domain_id: str
    reason: str


@dataclass(eq=False)
class NoSuchPool(Rejected):
    """The host is not connected to this pool."""

    name = "no_such_pool"
    code = 309
    status = 404
    message = "this host is not connected to storage pool {pool_id}"
    pool_id: str


@dataclass(eq=False)
class OtherCanBeMaster(Rejected):
    """The master domain goes last: another active domain could take its place."""

    name = "other_can_be_master"
    code = 310
    status = 409
    message = "domain {other} of pool {pool_id} could be the master"
    pool_id: str
    other: str


@dataclass(eq=False)
class PoolExists(Rejected):
    """The host is connected to this pool, so it cannot be made."""

    name = "pool_exists"
    code = 316
    status = 409
    message = "storage pool {pool_id} already exists"
    pool_id: str


@dataclass(eq=False)
class CannotBeMaster(Rejected):
    """Only a data domain can be a pool's master."""

    name = "cannot_be_master"
    code = 317
    status = 422
    message = "domain {domain_id} is of the class {domain_class} and cannot be a master"
    domain_id: str
    domain_class: str


@dataclass(eq=False)
class OtherPool(Rejected):
    """The host is connected to another pool; it has one at a time."""

    name = "other_pool"
    code = 323
    status = 409
    message = "this host is connected to storage pool {pool_id}"
    pool_id: str


@dataclass(eq=False)
class WrongMaster(Rejected):
    """The domain is not the pool's master, or the pool's master has another version."""

    name = "wrong_master"
    code = 324
    status = 409
    message = "domain {domain_id} as master of pool {pool_id}: {reason}"
    pool_id: str
    domain_id: str
    reason: str


@dataclass(eq=False)
class PoolInUse(Rejected):
    """Not while the host is connected to the pool."""

    name = "pool_in_use"
    code = 325
    status = 409
    message = "this host is connected to storage pool {pool_id}"
    pool_id: str


@dataclass(eq=False)
class TooManyDomains(Rejected):
    """A pool has at most so many domains."""

    name = "too_many_domains"
    code = 328
    status = 409
    message = "a storage pool has at most {limit} domains"
    limit: int


@dataclass(eq=False)
class NotInPool(Rejected):
    """The domain does not say that it belongs to the pool."""

    name = "not_in_pool"
    code = 353
    status = 409
    message = "domain {domain_id} is not in pool {pool_id}"
    domain_id: str
    pool_id: str


@dataclass(eq=False)
class AlreadyAttached(Rejected):
    """The domain belongs to a pool already."""

    name = "already_attached"
    code = 380
    status = 409
    message = "domain {domain_id} is attached to pool {pools}"
    domain_id: str
    pools: str


@dataclass(eq=False)
class DomainActive(Rejected):
    """An active domain is not detached."""

    name = "domain_active"
    code = 382
    status = 409
    message = "domain {domain_id} is active"
    domain_id: str


@dataclass(eq=False)
class MasterNotDetached(Rejected):
    """The master domain is not detached: another becomes master before, or the pool is destroyed."""

    name = "master_not_detached"
    code = 383
    status = 409
    message = "domain {domain_id} is the master of its pool"
    domain_id: str


@dataclass(eq=False)
class TooNew(Rejected):
    """The domain's format is newer than the pool's."""

    name = "domain_too_new"
    code = 395
    status = 409
    message = "domain {domain_id} has version {version}, the pool has {expected}"
    domain_id: str
    version: int
    expected: int


@dataclass(eq=False)
class MixedVersions(Rejected):
    """Data domains of a new pool are of one version."""

    name = "mixed_versions"
    code = 398
    status = 409
    message = "domain {domain_id} has version {version}, the master domain has {expected}"
    domain_id: str
    version: int
    expected: int


@dataclass(eq=False)
class NoSuchTask(Rejected):
    """There is no task of this id, or it was cleared."""

    name = "no_such_task"
    code = 401
    status = 404
    message = "task {task_id:.80} does not exist"
    task_id: str


@dataclass(eq=False)
class TaskNotEnded(Rejected):
    """A task is cleared when it has ended."""

    name = "task_not_ended"
    code = 402
    status = 409
    message = "task {task_id} has not ended"
    task_id: str


@dataclass(eq=False)
class WrongTaskState(Rejected):
    """The task is in a state in which this cannot be done."""

    name = "wrong_task_state"
    code = 410
    status = 409
    message = "task {task_id}: {reason}"
    task_id: str
    reason: str


@dataclass(eq=False)
class SpmNotStarted(Rejected):
    """This host cannot become the SPM now."""

    name = "spm_not_started"
    code = 650
    status = 409
    message = "the SPM of pool {pool_id} is not started: {reason}"
    pool_id: str
    reason: str


@dataclass(eq=False)
class TasksRunning(Rejected):
    """The SPM is not stopped while it works."""

    name = "tasks_running"
    code = 653
    status = 409
    message = "the SPM of pool {pool_id} is at work: {tasks}"
    pool_id: str
    tasks: str


@dataclass(eq=False)
class NotSpm(Rejected):
    """Only the SPM may do this, and this host is not it."""

    name = "not_spm"
    code = 654
    status = 409
    message = "this host is not the SPM of pool {pool_id}"
    pool_id: str


@dataclass(eq=False)
class IsSpm(Rejected):
    """Not while this host is the SPM."""

    name = "is_spm"
    code = 656
    status = 409
    message = "this host is the SPM of pool {pool_id}"
    pool_id: str


@dataclass(eq=False)
class SpmStatusUnknown(Failed):
    """Who the SPM is cannot be told now."""

    name = "spm_status_unknown"
    code = 659
    status = 503


@dataclass(eq=False)
class OperationFailed(Failed):
    """What an operation met, as its journal has it: with the name and number of the error that it was."""

    message = "{reason}"


def error_of(fault: Fault, what: str) -> OperationFailed:
    """The error to tell a caller who waited for an operation."""
    words = {"name": fault.name, "code": fault.code, "__doc__": OperationFailed.__doc__}
    kind: type[OperationFailed] = type(OperationFailed.__name__, (OperationFailed,), words)
    return kind(what, fault.text)
