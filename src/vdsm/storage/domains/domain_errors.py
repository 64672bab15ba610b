"""What can be wrong with storage domains as a whole; see ``errors`` for the rules and the rest."""

from __future__ import annotations

from dataclasses import dataclass

from vdsm.base.errors import Failed, Rejected
from vdsm.storage.errors import Damaged


@dataclass(eq=False)
class NotMounted(Rejected):
    """No connection to this storage is there."""

    name = "not_mounted"
    code = 360
    status = 409
    message = "{where} is not connected"
    where: str


@dataclass(eq=False)
class DomainNotReady(Damaged):
    """A domain lacks files or directories that every domain has."""

    name = "domain_layout"
    code = 371


@dataclass(eq=False)
class NoAccess(Rejected):
    """The permissions of the storage keep this agent out."""

    name = "no_access"
    code = 379
    status = 409
    message = "{where} cannot be read, written and searched by this agent"
    where: str


@dataclass(eq=False)
class LongDescription(Rejected):
    """A domain's name is too long."""

    name = "long_description"
    code = 387
    status = 422
    message = "a domain's name has at most {limit} characters, not {length}"
    length: int
    limit: int


@dataclass(eq=False)
class DomainAttached(Rejected):
    """A domain that belongs to a pool is not formatted."""

    name = "domain_attached"
    code = 391
    status = 409
    message = "storage domain {domain_id} is attached to {pools}"
    domain_id: str
    pools: str


@dataclass(eq=False)
class NoFileList(Rejected):
    """Only ISO domains have lists of files."""

    name = "no_file_list"
    code = 330
    status = 409
    message = "storage domain {domain_id} is no ISO domain"
    domain_id: str


@dataclass(eq=False)
class ReadFailed(Failed):
    """The storage does not let itself be read in time."""

    name = "read_failed"
    code = 2001
    status = 503
