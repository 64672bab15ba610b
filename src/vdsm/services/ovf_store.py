"""Volumes written and read in one piece over HTTP: what an Engine keeps its OVF files in.

    PUT   body -> spool file of this host -> volume     a task of the SPM, downloadImageFromStream
    GET   volume -> spool file -> body                  a task of the SPM, uploadImageToStream

The spool lies on the host's own disk, so a client that is slow or gone holds no storage, and storage that hangs holds
no client longer than the deadline. The volume is touched only when all of a body has arrived.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from vdsm.base import process
from vdsm.base.clock import now_utc
from vdsm.base.errors import CommandFailed, VdsmError
from vdsm.operations.kinds import Kind, Policy, Run, Step
from vdsm.operations.locks import Mode, Wants
from vdsm.operations.records import ENDED, Phase
from vdsm.services.served_volumes import DomainVolumes
from vdsm.services.storage_spm import SpmDoor
from vdsm.storage import wants
from vdsm.storage.errors import InvalidParameter, SharedVolume, StorageFailed
from vdsm.storage.ids import (
    DomainId,
    ImageId,
    VolumeId,
    VolumeRef,
    parse_domain_id,
    parse_image_id,
    parse_pool_id,
    parse_volume_id,
)
from vdsm.storage.pool.pool_errors import error_of

log = logging.getLogger(__name__)

# The Engine waits 180 s for an answer.
_DEADLINE_S: Final = 150.0
_COPY_S: Final = 120.0
# A body takes minutes at most.
_STALE_S: Final = 86_400.0
_MODE: Final = 0o600


class StreamCopy(msgspec.Struct, frozen=True):
    """One copy between a spool file and the beginning of a volume."""

    domain_id: DomainId
    image_id: ImageId
    volume_id: VolumeId
    spool: str
    size: int

    @property
    def volume(self) -> VolumeRef:
        """The volume's address."""
        return VolumeRef(self.domain_id, self.image_id, self.volume_id)


@dataclass(frozen=True, slots=True)
class StreamKinds:
    """The two kinds of tasks; iterating gives both."""

    receive: Kind[StreamCopy]
    send: Kind[StreamCopy]

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter((self.receive, self.send))


def stream_kinds(volumes: DomainVolumes) -> StreamKinds:
    """Make the kinds.

    Args:
        volumes: finds the files of volumes.
    """

    def exclusive(copy: StreamCopy) -> Wants:
        return wants.of_volume(copy.volume)

    def shared(copy: StreamCopy) -> Wants:
        return wants.of_volume(copy.volume, Mode.SHARED)

    def receive(copy: StreamCopy) -> list[Step]:
        def write(_: Run) -> None:
            served = volumes.paths(copy.domain_id, copy.image_id, copy.volume_id)
            if served.shared:
                raise SharedVolume(copy.volume_id)
            _copy(copy.spool, served.chain[0].path, copy.size, "conv=notrunc,fsync")

        def clean(_: Run) -> None:
            Path(copy.spool).unlink(missing_ok=True)

        return [Step("write the volume", write), Step("remove the spool file", clean, recorded=False)]

    def send(copy: StreamCopy) -> list[Step]:
        def read(_: Run) -> None:
            served = volumes.paths(copy.domain_id, copy.image_id, copy.volume_id)
            _copy(served.chain[0].path, copy.spool, copy.size, "conv=notrunc")

        return [Step("read the volume", read)]

    return StreamKinds(
        Kind("downloadImageFromStream", 1, StreamCopy, receive, exclusive, policy=Policy.RESUME),
        Kind("uploadImageToStream", 1, StreamCopy, send, shared),
    )


class OvfStore:
    """What the way in over HTTP needs.

    Args:
        kinds: the tasks; the pools know them, too.
        door: leads to the SPM.
        volumes: finds the files of volumes.
        spool_dir: where bodies lie meanwhile; it is made when needed.
    """

    def __init__(self, kinds: StreamKinds, door: SpmDoor, volumes: DomainVolumes, spool_dir: Path) -> None:
        self._kinds: Final = kinds
        self._door: Final = door
        self._volumes: Final = volumes
        self._spool_dir: Final = spool_dir

    def check(self, ids: tuple[str, str, str, str], size: int) -> None:
        """See that a body of ``size`` bytes can be written or read.

        Args:
            ids: of the pool, the domain, the image and the volume.
            size: bytes.

        Raises:
            InvalidParameter: an id is none, or the volume is smaller.
            NotSpm: this host does not manage the pool.
            NoSuchDomain, NoSuchImage, NoSuchVolume: it is not there.
        """
        pool, domain, image, volume = ids
        self._door.spm(parse_pool_id(pool))
        room = self._volumes.size(domain, image, volume)
        if size > room:
            raise InvalidParameter("size", f"{size} bytes are more than the volume has ({room})")

    def spool(self) -> Path:
        """A fresh spool file; who asks for it removes it."""
        self._spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        path = self._spool_dir / str(uuid.uuid4())
        path.touch(_MODE)
        return path

    def _sweep(self) -> None:
        """Remove what an agent that was killed left behind."""
        for path in self._spool_dir.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if now_utc().timestamp() - path.stat().st_mtime > _STALE_S:
                    path.unlink()

    def receive(self, ids: tuple[str, str, str, str], spool: Path, size: int) -> str:
        """Write a spooled body into a volume; the id of the task, which has ended.

        Raises:
            VdsmError: it was not written.
        """
        return self._perform(self._kinds.receive, ids, spool, size)

    def send(self, ids: tuple[str, str, str, str], spool: Path, size: int) -> str:
        """Read the beginning of a volume into a spool file; the id of the task, which has ended.

        Raises:
            VdsmError: it was not read.
        """
        return self._perform(self._kinds.send, ids, spool, size)

    def _perform(self, kind: Kind[StreamCopy], ids: tuple[str, str, str, str], spool: Path, size: int) -> str:
        pool, domain, image, volume = ids
        copy = StreamCopy(
            domain_id=parse_domain_id(domain),
            image_id=parse_image_id(image),
            volume_id=parse_volume_id(volume),
            spool=str(spool),
            size=size,
        )
        spm = self._door.spm(parse_pool_id(pool))
        task_id = spm.submit(kind, copy)
        view = spm.operations.wait(task_id, _DEADLINE_S)
        if view.phase is not Phase.DONE:
            if view.phase in ENDED:
                self._forget(spm.operations.clear, task_id)
            if view.fault is not None:
                raise error_of(view.fault, kind.name)
            raise StorageFailed(kind.name, view.stalled or "it was stopped")
        return task_id

    def _forget(self, clear: Any, task_id: str) -> None:
        try:
            clear(task_id)
        except VdsmError as error:
            log.warning("task %s stays: %s", task_id, error)


def _copy(source: str, target: str, size: int, conversion: str) -> None:
    argv = ["dd", f"if={source}", f"of={target}", "bs=1M", f"count={size}", "iflag=count_bytes,fullblock", conversion]
    try:
        process.run([*argv, "status=none"], timeout_s=_COPY_S)
    except CommandFailed as error:
        raise StorageFailed(f"copying {source} to {target}", error.stderr or str(error)) from error
