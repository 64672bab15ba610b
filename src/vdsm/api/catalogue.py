"""All verbs of the agent, by their names."""

from __future__ import annotations

from vdsm.api.contract import Verb, verbs_of
from vdsm.api.host import Host
from vdsm.api.host_storage import HostStorage
from vdsm.api.image import Image
from vdsm.api.lease import Lease
from vdsm.api.sdm import VolumeJobs
from vdsm.api.storage import Storage
from vdsm.api.storage_checks import StorageChecks
from vdsm.api.storage_domain import StorageDomain
from vdsm.api.storage_pool import StorageConnections, StorageMerges, StoragePool
from vdsm.api.task import Task
from vdsm.api.token import Tokens
from vdsm.api.transfer import ImageTickets, Nbd
from vdsm.api.vm import Definitions, Vm
from vdsm.api.volume import Volume

# A path of REST is served by the first that fits: fixed ones (/tasks/info) stand before those with ids (/tasks/{id}).
PROTOCOLS: tuple[type, ...] = (
    Host,
    HostStorage,
    Vm,
    Definitions,
    Storage,
    StoragePool,
    StorageConnections,
    StorageMerges,
    StorageDomain,
    StorageChecks,
    Image,
    Volume,
    VolumeJobs,
    Lease,
    Task,
    ImageTickets,
    Nbd,
    Tokens,
)


def all_verbs() -> dict[str, Verb]:
    """Every verb by its name, ``VM.create``; in the order of their declaration."""
    return {verb.name: verb for protocol in PROTOCOLS for verb in verbs_of(protocol)}
