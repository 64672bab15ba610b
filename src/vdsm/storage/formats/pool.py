"""The pool's data, kept in its master domain's metadata.

    MASTER_VERSION=1
    POOL_DESCRIPTION=name of the data center
    POOL_DOMAINS=<domain id>:Active,<domain id>:Attached
    POOL_SPM_ID=-1
    POOL_SPM_LVER=-1

On a living pool of today these keys keep what they had when the pool was made or its master reconstructed: who the
SPM is, the SDM lease tells; which domains belong to the pool, the manager. Only ROLE and POOL_UUID, which each domain
has for itself, are kept up.

Source: storage format, section 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vdsm.storage.errors import BadValue, InvalidParameter
from vdsm.storage.ids import DomainId, is_uuid
from vdsm.storage.kinds import AttachedStatus

MASTER_VERSION: Final = "MASTER_VERSION"
DESCRIPTION: Final = "POOL_DESCRIPTION"
DOMAINS: Final = "POOL_DOMAINS"
SPM_ID: Final = "POOL_SPM_ID"
SPM_LVER: Final = "POOL_SPM_LVER"
KEYS: Final = frozenset({MASTER_VERSION, DESCRIPTION, DOMAINS, SPM_ID, SPM_LVER})

NO_SPM: Final = -1
MAX_DESCRIPTION: Final = 50  # characters
MAX_DOMAINS: Final = 100


@dataclass(frozen=True, slots=True)
class PoolMetadata:
    """What the master domain says of its pool.

    Attributes:
        master_version: goes up with each change of the master domain.
        description: the pool's name, up to 50 characters.
        domains: each domain of the pool and its state.
        spm_id: the SPM's host id when the pool was made; -1 is none.
        spm_lver: how often the SPM had changed then; -1 is unknown.
    """

    master_version: int
    description: str = ""
    domains: Mapping[DomainId, AttachedStatus] = field(default_factory=dict)
    spm_id: int = NO_SPM
    spm_lver: int = -1

    def pairs(self) -> dict[str, str]:
        """The keys and values on disk.

        Raises:
            InvalidParameter: the description or the list of domains is too long.
        """
        if len(self.description) > MAX_DESCRIPTION:
            raise InvalidParameter("description", f"must have at most {MAX_DESCRIPTION} characters")
        if len(self.domains) > MAX_DOMAINS:
            raise InvalidParameter("domains", f"a pool has at most {MAX_DOMAINS} domains")
        return {
            MASTER_VERSION: str(self.master_version),
            DESCRIPTION: self.description,
            DOMAINS: ",".join(f"{domain}:{status.value}" for domain, status in self.domains.items()),
            SPM_ID: str(self.spm_id),
            SPM_LVER: str(self.spm_lver),
        }


def parse_pool(pairs: Mapping[str, str], what: str) -> PoolMetadata | None:
    """The pool's part of a domain's metadata; None when the domain carries no (whole) pool.

    Raises:
        BadValue: a number or the list of domains cannot be read.
    """
    if MASTER_VERSION not in pairs or DOMAINS not in pairs:
        return None
    return PoolMetadata(
        master_version=_number(pairs, MASTER_VERSION, what),
        description=pairs.get(DESCRIPTION, ""),
        domains=_domains(pairs[DOMAINS], what),
        spm_id=_number(pairs, SPM_ID, what),
        spm_lver=_number(pairs, SPM_LVER, what),
    )


def _number(pairs: Mapping[str, str], key: str, what: str) -> int:
    try:
        return int(pairs.get(key, "-1"))
    except ValueError as error:
        raise BadValue(what, f"{key} is {pairs[key]!r:.80}") from error


def _domains(text: str, what: str) -> dict[DomainId, AttachedStatus]:
    found = {}
    for item in filter(None, text.split(",")):
        ident, _, word = item.partition(":")
        # Old pools put quotes around the word, wrote it in lower case, and called Attached Inactive.
        status = word.strip().strip("'").capitalize().replace("Inactive", "Attached")
        if not is_uuid(ident.strip()) or status not in {known.value for known in AttachedStatus}:
            raise BadValue(what, f"{DOMAINS} holds {item!r:.120}")
        found[DomainId(ident.strip())] = AttachedStatus(status)
    return found
