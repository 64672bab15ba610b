"""What tests of storage domains have in common: mounts, doors to files, locks on paper, a mount that can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from storage_domains import Areas
from vdsm.storage.access import FileAccess
from vdsm.storage.clusterlock import LeaseState, Membership
from vdsm.storage.domains.domain_maker import NewDomain
from vdsm.storage.domains.domain_opener import DomainTools, FileDoors
from vdsm.storage.domains.domains import Domains
from vdsm.storage.errors import HostIdFailed
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats import leases
from vdsm.storage.formats.leases import Geometry, LeaseRecord
from vdsm.storage.ids import DomainId, new_id
from vdsm.storage.kinds import StorageType


@dataclass(frozen=True)
class Place:
    """A connection that is there."""

    path: str
    type: StorageType = StorageType.LOCALFS
    spec: str = ""

    @staticmethod
    def of(path: Path, kind: StorageType = StorageType.LOCALFS, spec: str = "") -> Place:
        path.mkdir(exist_ok=True)
        return Place(str(path), kind, spec or (str(path) if kind is StorageType.LOCALFS else f"server:{path}"))


@dataclass
class LocalDoors:
    """All files in this process."""

    files: FileAccess = field(default_factory=LocalFiles)
    closed: list[str] = field(default_factory=list)

    def of(self, _: str) -> FileAccess:
        return self.files

    def close(self, domain_key: str) -> None:
        self.closed.append(domain_key)


@dataclass
class PaperLock:
    """A lock that lets itself be formatted and joined; ``fails`` is what joining raises."""

    domain_id: DomainId
    ids: str
    leases: str
    shape: Geometry
    areas: Areas | None = None
    formatted: int = 0
    joined: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    left: list[int] = field(default_factory=list)
    may_leave: threading.Event = field(default_factory=threading.Event)
    fails: str = ""

    def __post_init__(self) -> None:
        self.may_leave.set()

    def format(self) -> None:
        self.formatted += 1
        if self.areas is not None:
            self.areas.write_lockspace(LeaseRecord(self.domain_id, "", self.ids, 0, self.shape))
            self.areas.write_resource(self.sdm)

    def join(self, host_id: int, *, wait_s: float | None) -> None:
        if self.fails:
            raise HostIdFailed("joining", self.fails)
        (self.begun if wait_s is None else self.joined).add(host_id)

    def leave(self, host_id: int) -> None:
        self.joined.discard(host_id)
        self.begun.discard(host_id)
        self.left.append(host_id)
        assert self.may_leave.wait(60)

    def membership(self, host_id: int) -> Membership:
        if host_id in self.joined:
            return Membership.YES
        return Membership.JOINING if host_id in self.begun else Membership.NO

    @property
    def sdm(self) -> LeaseRecord:
        return leases.sdm_lease(self.domain_id, self.leases, self.shape)

    def acquire(self, lease: LeaseRecord, host_id: int, *, value: bool = False) -> None:
        raise NotImplementedError

    def release(self, lease: LeaseRecord) -> None:
        raise NotImplementedError

    def holds(self, lease: LeaseRecord) -> bool:
        return False

    def valid_for_s(self, host_id: int) -> float:
        return inf

    def inspect(self, lease: LeaseRecord) -> LeaseState:
        return LeaseState()

    def read_value(self, lease: LeaseRecord) -> bytes:
        raise NotImplementedError

    def write_value(self, lease: LeaseRecord, value: bytes) -> None:
        raise NotImplementedError


@dataclass
class PaperLocks:
    """Makes them, and remembers those made."""

    made: dict[DomainId, PaperLock] = field(default_factory=dict)
    areas: Areas = field(default_factory=Areas)

    def __call__(
        self, domain_id: DomainId, kind: StorageType, ids_path: str, leases_path: str, geometry: Geometry
    ) -> PaperLock:
        areas = self.areas if kind.is_shared else None
        self.made[domain_id] = PaperLock(domain_id, ids_path, leases_path, geometry, areas)
        return self.made[domain_id]


def registry(
    places: Sequence[Place], doors: FileDoors | None = None, locks: PaperLocks | None = None, timeout_s: float = 60.0
) -> Domains:
    """A registry of what is in these places; they may change later."""
    locks = locks or PaperLocks()
    tools = DomainTools(doors or LocalDoors(), locks, QemuImageMaker(), locks.areas)
    return Domains(lambda: places, tools, timeout_s=timeout_s)


def request(place: Place, **facts: object) -> NewDomain:
    """A request for a domain in a place."""
    return NewDomain(DomainId(new_id()), place.type, place.spec, **facts)  # type: ignore[arg-type]


@dataclass
class Bound:
    """A directory that is seen through a FUSE file system, which can be stopped."""

    mount: Path
    server: subprocess.Popen[bytes]

    def freeze(self) -> None:
        self.server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.server.send_signal(signal.SIGCONT)


@contextmanager
def bound(real: Path, mount: Path) -> Iterator[Bound]:
    """Show one directory in another's place."""
    real.mkdir(exist_ok=True)
    mount.mkdir(exist_ok=True)
    server = subprocess.Popen(["bindfs", "-f", real, mount])
    try:
        eventually(lambda: os.path.ismount(mount))
        yield Bound(mount, server)
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", mount], check=False, timeout=20)
        server.terminate()
        server.wait(20)


@contextmanager
def mounted(mount: Path, *arguments: str) -> Iterator[None]:
    """Mount something for as long as the block lasts."""
    mount.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(mount)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True, timeout=30)


def eventually(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds; generous, as machines are busy."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
