"""A LOCALFS domain of real files, with images in it, for tests of operations on images."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from storage_domains import NOW_S, file_domain, metadata
from vdsm.operations.journal import FileJournal, JournalStore
from vdsm.operations.kinds import Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.storage import plans
from vdsm.storage.access import FileAccess
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import NoSuchDomain
from vdsm.storage.executor import carry_out
from vdsm.storage.files.file_backend import FileBackend
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef
from vdsm.storage.images.guarded_plan import Guard
from vdsm.storage.images.image_kinds import ImageKinds, image_kinds
from vdsm.storage.images.job_kinds import JobKinds, job_kinds
from vdsm.storage.images.mover import QemuImages
from vdsm.storage.images.volume_tools import QemuTools
from vdsm.storage.kinds import Allocation, StorageType, VolumeFormat
from vdsm.storage.locks.local_lock import LocalLock
from vdsm.storage.plans import NewVolume

MIB = 1 << 20
DOMAIN = DomainId("d0000000-0000-4000-8000-000000000001")


def volume(image: int, number: int) -> VolumeRef:
    """An address that tells what it is: image 1 to 9, volume 1 to 9."""
    end = "0000-4000-8000-00000000000"
    return VolumeRef(DOMAIN, ImageId(f"a0000000-{end}{image}"), VolumeId(f"b000000{image}-{end}{number}"))


@dataclass(frozen=True)
class World:
    """One domain, and what works on it."""

    domain: Domain
    mover: QemuImages
    kinds: ImageKinds
    jobs: JobKinds

    def find(self, domain_id: DomainId) -> Domain:
        if domain_id != self.domain.id:
            raise NoSuchDomain(domain_id)
        return self.domain

    def operations(self, journal: JournalStore, point: object = None) -> Operations:
        points = {} if point is None else {"point": point}
        return Operations(Kinds([*self.kinds, *self.jobs.all()]), journal, Locks(), workers=2, **points)  # type: ignore[arg-type]

    def make(self, ref: VolumeRef, parent: VolumeRef | None = None, **facts: object) -> VolumeRef:
        """Make a volume without a journal."""
        wanted = NewVolume(ref, MIB, NOW_S, parent=parent, format=VolumeFormat.COW, allocation=Allocation.SPARSE)
        images = self.domain.backend.images().images
        for step in plans.create(images, replace(wanted, **facts)):  # type: ignore[arg-type]
            carry_out(step, self.domain.backend, self.mover)
        return ref

    def path(self, ref: VolumeRef) -> Path:
        return Path(self.domain.path, "images", ref.image_id, ref.volume_id)

    def fill(self, ref: VolumeRef, pattern: int, *, offset: int = 0, length: int = MIB // 4) -> VolumeRef:
        """Write into a volume as a VM does."""
        layout = self.domain.backend.volume(ref).format.qemu
        argv = ["qemu-io", "-f", layout, "-c", f"write -P {pattern} {offset} {length}", self.path(ref)]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        return ref


def make_world(base: Path) -> World:
    """Make a domain in a directory, and open it."""
    (base / "mount").mkdir(parents=True)
    file_domain(LocalFiles(), base / "mount", replace(metadata(), domain_id=DOMAIN))
    for name in ("inbox", "outbox"):  # large, and of no use on such a domain
        (base / "mount" / DOMAIN / "dom_md" / name).unlink()
    return open_world(base)


def open_world(base: Path, files: FileAccess | None = None) -> World:
    """Open the domain in a directory."""
    files = files or LocalFiles()
    root = str(base / "mount")
    described = replace(metadata(), domain_id=DOMAIN)
    ids, leases = (f"{root}/{DOMAIN}/dom_md/{name}" for name in ("ids", "leases"))
    domain = Domain(
        DOMAIN,
        StorageType.LOCALFS,
        described.domain_class,
        described.version,
        described.geometry,
        root,
        files,
        FileBackend(files, root, described, QemuImageMaker(), None),
        LocalLock(DOMAIN, ids, leases, described.geometry),
    )

    def find(domain_id: DomainId) -> Domain:
        if domain_id != DOMAIN:
            raise NoSuchDomain(domain_id)
        return domain

    mover = QemuImages(find)
    tools = QemuTools(mover)
    return World(domain, mover, image_kinds(find, mover, tools), job_kinds(Guard(find, mover, lambda _: 1), tools))


def file_journal(base: Path, files: FileAccess | None = None) -> FileJournal:
    """The journal that an SPM has on a domain."""
    (base / "journal").mkdir(exist_ok=True)
    return FileJournal(files or LocalFiles(), str(base / "journal"))
