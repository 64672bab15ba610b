"""A domain in memory whose volumes have content: for tests of operations on images without storage."""

from __future__ import annotations

from image_model import Blocks
from storage_domains import metadata
from vdsm.operations.journal import JournalStore, MemoryJournal
from vdsm.operations.kinds import Kinds
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import OperationView, Phase
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import NoSuchDomain
from vdsm.storage.executor import Watch
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef
from vdsm.storage.images.guarded_plan import Guard
from vdsm.storage.images.image_kinds import image_kinds
from vdsm.storage.images.job_kinds import job_kinds
from vdsm.storage.images.volume_kinds import CreateVolume
from vdsm.storage.kinds import StorageType, VolumeFormat
from vdsm.storage.locks.lock_twin import SharedDisk, TwinHost, TwinLock
from vdsm.storage.memory import MemoryBackend
from vdsm.storage.steps import Backing

MIB = 1 << 20


class ContentMover:
    """``executor.DataMover`` on dictionaries; also ``headers.Headers`` and ``job_kinds.VolumeTools``."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.backend = backend
        self.blocks: dict[VolumeId, Blocks] = {}
        self.rebased: dict[VolumeId, VolumeId] = {}
        self.sizes: dict[VolumeId, int] = {}
        self.fails: Exception | None = None
        self.called: list[tuple[object, ...]] = []

    def watched(self, watch: Watch) -> ContentMover:
        watch.check()
        return self

    def commit(self, top: VolumeRef, base: VolumeRef) -> None:
        self._fail()
        self.blocks[base.volume_id] = self.blocks.get(base.volume_id, {}) | self.blocks.get(top.volume_id, {})

    def rebase(self, volume: VolumeRef, backing: Backing) -> None:
        self._fail()
        self.rebased[volume.volume_id] = backing.volume_id

    def resize(self, volume: VolumeRef, capacity: int) -> None:
        self._fail()
        self.sizes[volume.volume_id] = capacity

    def amend(self, volume: VolumeRef, compatibility: str) -> None:
        self._call("amend", volume, compatibility)

    def sparsify(self, volume: VolumeRef) -> None:
        self._call("sparsify", volume)

    def inherit_bitmaps(self, source: VolumeRef, target: VolumeRef) -> None:
        self._call("inherit", source, target)

    def add_bitmap(self, volume: VolumeRef, bitmap: str) -> None:
        self._call("add", volume, bitmap)

    def remove_bitmap(self, volume: VolumeRef, bitmap: str) -> None:
        self._call("remove", volume, bitmap)

    def clear_bitmaps(self, volume: VolumeRef) -> None:
        self._call("clear", volume)

    def merge_bitmaps(self, top: VolumeRef, base: VolumeRef) -> None:
        self._call("merge", top, base)

    def virtual_size(self, domain: Domain, volume: VolumeRef, path: str, volume_format: VolumeFormat) -> int:
        return self.sizes.get(volume.volume_id, 0)

    def backing(self, domain: Domain, volume: VolumeRef, path: str) -> VolumeId | None:
        return self.rebased.get(volume.volume_id) or self.backend.volume(volume).parent

    def _call(self, *call: object) -> None:
        self._fail()
        self.called.append(call)

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails


class MemoryWorld:
    """One domain in memory, with leases if it is of a shared kind, and what works on it."""

    def __init__(self, kind: StorageType = StorageType.LOCALFS, total: int = 1 << 40, host: TwinHost | None = None):
        described = metadata(kind)
        self.backend = MemoryBackend(described, total)
        self.host = host or TwinHost(SharedDisk())
        paths = (f"/memory/{described.domain_id}/ids", f"/memory/{described.domain_id}/leases")
        self.lock = TwinLock(self.host, described.domain_id, paths, described.geometry)
        self.domain = Domain(
            described.domain_id,
            kind,
            described.domain_class,
            described.version,
            described.geometry,
            "/memory",
            LocalFiles(),
            self.backend,
            self.lock,
        )
        self.mover = ContentMover(self.backend)
        self.kinds = image_kinds(self.find, self.mover, self.mover)
        self.jobs = job_kinds(Guard(self.find, self.mover, lambda _: 1), self.mover)
        self.locks = Locks()

    def find(self, domain_id: DomainId) -> Domain:
        if domain_id != self.domain.id:
            raise NoSuchDomain(domain_id)
        return self.domain

    def operations(self, journal: JournalStore | None = None) -> Operations:
        running = Operations(Kinds([*self.kinds, *self.jobs.all()]), journal or MemoryJournal(), self.locks, workers=4)
        running.resume()
        return running

    def ref(self, image: int, number: int) -> VolumeRef:
        end = "0000-4000-8000-00000000000"
        return VolumeRef(self.domain.id, ImageId(f"a0000000-{end}{image}"), VolumeId(f"b000000{image}-{end}{number}"))

    # image_model.Bench

    def write(self, ref: VolumeRef, block: int, value: int) -> None:
        self.mover.blocks.setdefault(ref.volume_id, {})[block] = value

    def see(self, ref: VolumeRef) -> Blocks:
        """As QEMU would: by what headers name, not by what metadata says."""
        image = self.backend.image(ref.image_id)
        volumes = {**image.volumes, **image.shared}
        found: Blocks = {}
        ident: VolumeId | None = ref.volume_id
        while ident is not None:
            found = self.mover.blocks.get(ident, {}) | found
            ident = self.mover.rebased.get(ident) or volumes[ident].parent
        return found


def new(ref: VolumeRef, parent: VolumeRef | None = None, **facts: object) -> CreateVolume:
    on = {} if parent is None else {"parent_image_id": parent.image_id, "parent_id": parent.volume_id}
    ids = {"domain_id": ref.domain_id, "image_id": ref.image_id, "volume_id": ref.volume_id}
    return CreateVolume(**{"capacity": MIB, **ids, **on, **facts})


def run(world: MemoryWorld, kind: object, arguments: object) -> OperationView:
    operations = world.operations()
    try:
        return operations.wait(operations.submit(kind, arguments).id, 30)  # type: ignore[type-var,arg-type]
    finally:
        assert operations.stop(30)


def create(world: MemoryWorld, ref: VolumeRef, parent: VolumeRef | None = None, **facts: object) -> VolumeRef:
    view = run(world, world.kinds.create_volume, new(ref, parent, **facts))
    assert view.phase is Phase.DONE, view.fault
    return ref


def chain(world: MemoryWorld, length: int) -> list[VolumeRef]:
    refs = [create(world, world.ref(1, 1))]
    for number in range(2, length + 1):
        refs.append(create(world, world.ref(1, number), refs[-1]))
    return refs
