"""Storage's facts as the contract shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vdsm.api import host_types
from vdsm.api import storage_types as api
from vdsm.base.clock import monotonic_s
from vdsm.operations.explanations import Explanation
from vdsm.storage.backend import Space
from vdsm.storage.domains.iso_files import IsoFile
from vdsm.storage.domains.monitor import DomainReport
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.ids import BLANK
from vdsm.storage.images.image_queries import VolumeFacts
from vdsm.storage.images.jobs import JOB_TYPE, JobView
from vdsm.storage.pool.pools import DomainInPool, PoolInfo
from vdsm.storage.pool.tasks import TaskInfo, TaskStatus
from vdsm.system.qemu_img.questions import Bitmap, Info, Measured


def domain_info(metadata: DomainMetadata, address: str, report: DomainReport | None = None) -> api.DomainInfo:
    """What StorageDomain.getInfo answers.

    Args:
        metadata: what the domain says of itself.
        address: where it is now; "": where it says.
        report: its monitor's, if it has one.
    """
    state = None if report is None else "OK" if report.valid else report.reason or "INVALID"
    return api.DomainInfo(
        uuid=metadata.domain_id,
        name=metadata.description,
        type=metadata.storage_type.value,
        domain_class=metadata.domain_class.value,
        role=metadata.role.value,
        version=metadata.version,
        pool=list(metadata.pools),
        remote_path=address or metadata.remote_path or "",
        state=state,
        master_ver=metadata.pool.master_version if metadata.pool is not None else 0,
        block_size=metadata.geometry.block_size,
        alignment=metadata.geometry.alignment,
    )


def domain_stats(space: Space) -> api.DomainStats:
    """What StorageDomain.getStats answers."""
    return api.DomainStats(disktotal=space.total, diskfree=space.free)


def health(report: DomainReport) -> host_types.StorageDomainHealth:
    """How a domain is, as in Host.getStats and Host.getStorageRepoStats."""
    return host_types.StorageDomainHealth(
        code=report.code,
        last_check=max(0.0, monotonic_s() - report.last_check_s),
        delay=report.delay_s,
        valid=report.valid,
        version=report.version,
        acquired=report.acquired,
        actual=report.actual,
    )


def file_stats(files: Mapping[str, IsoFile]) -> dict[str, api.FileStats]:
    """What StorageDomain.getFileStats answers."""
    return {
        name: api.FileStats(status=item.status, size=item.size, ctime=item.modified_s) for name, item in files.items()
    }


def volume_info(facts: VolumeFacts, pool_id: str) -> api.VolumeInfo:
    """What Volume.getInfo answers."""
    metadata = facts.metadata
    answer = api.VolumeInfo(
        uuid=facts.volume.volume_id,
        image=facts.volume.image_id,
        domain=facts.volume.domain_id,
        pool=pool_id,
        status=str(facts.status),
        truesize=facts.data.allocated,
        apparentsize=facts.data.apparent,
        lease=_lease(facts),
    )
    if metadata is None:
        return answer
    return msgspec.structs.replace(
        answer,
        parent=metadata.parent or BLANK,
        description=metadata.description,
        legality=metadata.legality.value,
        capacity=metadata.capacity,
        type=metadata.allocation.value,
        format=metadata.format.value,
        disktype=str(metadata.disk_type),
        voltype=metadata.kind.value,
        ctime=metadata.created_s,
        generation=metadata.generation,
        sequence=metadata.sequence,
    )


def _lease(facts: VolumeFacts) -> api.VolumeLease | None:
    if facts.lease is None:
        return None
    state = facts.lease_state
    return api.VolumeLease(
        path=facts.lease.path,
        offset=facts.lease.offset,
        owners=[] if state is None else list(state.owners),
        version=None if state is None else state.version,
    )


def volume_dump(facts: VolumeFacts) -> api.VolumeDump:
    """A volume in StorageDomain.dump."""
    return api.VolumeDump(**facts.dumped())


def task_status(found: TaskStatus) -> host_types.TaskStatus:
    """What Task.getStatus answers."""
    return host_types.TaskStatus(
        code=found.code,
        message=found.message,
        task_state=found.state,
        task_result=found.result,
        task_id=found.id,
    )


def task_info(found: TaskInfo) -> host_types.TaskInfo:
    """What Task.getInfo answers."""
    return host_types.TaskInfo(verb=found.verb, id=found.id)


def explanation(found: Explanation) -> api.TaskExplanation:
    """What Task.explain answers."""
    return api.TaskExplanation(
        id=found.id,
        verb=found.kind,
        arguments=found.arguments,
        summary=found.summary,
        done=list(found.done),
        uncertain=list(found.uncertain),
        left=list(found.left),
        next=found.next,
        locks=list(found.locks),
    )


def pool_info(found: PoolInfo) -> api.PoolInfo:
    """What StoragePool.getInfo answers."""
    return api.PoolInfo(
        info=api.PoolFacts(
            name=found.name,
            type=found.type.value,
            version=found.version,
            master_uuid=found.master_id,
            master_ver=found.master_version,
            lver=found.lver,
            spm_id=found.spm_id,
            pool_status="connected",
            domains=",".join(f"{ident}:{domain.status.value}" for ident, domain in found.domains.items()),
            isoprefix=found.iso_prefix,
        ),
        dominfo={ident: _pool_domain(domain) for ident, domain in found.domains.items()},
    )


def _pool_domain(found: DomainInPool) -> api.PoolDomain:
    space = found.space
    return api.PoolDomain(
        status=found.status.value,
        version=found.version,
        diskfree=None if space is None else space.free,
        disktotal=None if space is None else space.total,
        alerts=[],
        isoprefix=found.iso_prefix,
    )


def job(view: JobView) -> host_types.Job:
    """A job, as Host.getJobs and its event show it."""
    return host_types.Job(
        id=view.id,
        job_type=JOB_TYPE,
        status=str(view.status),
        description=view.description,
        progress=view.progress,
        error=None if view.error is None else {"code": view.error.code, "message": view.error.text},
    )


def qemu_image_info(found: Info) -> api.QemuImageInfo:
    """What Volume.getQemuImageInfo answers."""
    return api.QemuImageInfo(
        format=found.format,
        virtualsize=found.virtual_size,
        clustersize=found.cluster_size,
        compat=found.compat,
        backingfile=found.backing,
        bitmaps=[_bitmap(item) for item in found.bitmaps] if found.compat is not None else None,
    )


def _bitmap(found: Bitmap) -> api.Bitmap:
    flags = [name for name, there in (("in-use", found.in_use), ("auto", found.enabled)) if there]
    return api.Bitmap(name=found.name, granularity=found.granularity, flags=flags)


def measure(found: Measured) -> api.VolumeMeasure:
    """What Volume.measure answers."""
    return api.VolumeMeasure(required=found.required, bitmaps=found.bitmaps or None)
