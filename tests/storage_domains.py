"""Domains for tests: a file domain in a directory, and what stands in for sanlock where there is none."""

from __future__ import annotations

import lzma
import tarfile
from functools import partial
from pathlib import Path

from vdsm.storage.access import FileAccess
from vdsm.storage.domains.domain_maker import create_domain
from vdsm.storage.files.file_backend import FileBackend
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats import leases, tree
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.ids import DomainId, new_id
from vdsm.storage.kinds import StorageType

SAMPLE = Path(__file__).parent / "samples" / "storage" / "filedomain-v5.tar.xz"
SAMPLE_ID = DomainId("5da00001-1001-4000-8000-0000000010ca")
NOW_S = 1795341752


class Areas:
    """Makes lease areas of the right length without sanlock, and remembers what was asked for."""

    def __init__(self) -> None:
        self.lockspaces: list[LeaseRecord] = []
        self.resources: list[LeaseRecord] = []

    def write_lockspace(self, lockspace: LeaseRecord) -> None:
        self.lockspaces.append(lockspace)
        self._grow(lockspace)

    def write_resource(self, resource: LeaseRecord) -> None:
        self.resources.append(resource)
        self._grow(resource)

    def _grow(self, record: LeaseRecord) -> None:
        with Path(record.path).open("r+b") as file:
            end = record.offset + record.geometry.alignment
            if file.seek(0, 2) < end:
                file.truncate(end)


def metadata(kind: StorageType = StorageType.LOCALFS, version: int = 5) -> DomainMetadata:
    return DomainMetadata(DomainId(new_id()), kind, version, description="a test", remote_path="/somewhere")


def file_domain(files: FileAccess, root: Path, described: DomainMetadata, areas: Areas | None = None) -> FileBackend:
    """Make a file domain and open it."""
    create_domain(files, str(root), described, partial(format_leases, areas, str(root), described), now_s=NOW_S)
    return FileBackend(files, str(root), described, QemuImageMaker(), areas)


def format_leases(areas: Areas | None, root: str, described: DomainMetadata) -> None:
    """What sanlock does for a new domain on shared storage."""
    if areas is not None:
        shape, dom_md = described.geometry, f"{root}/{described.domain_id}/{tree.DOM_MD}"
        areas.write_lockspace(LeaseRecord(described.domain_id, "", f"{dom_md}/{tree.IDS}", 0, shape))
        areas.write_resource(leases.sdm_lease(described.domain_id, f"{dom_md}/{tree.LEASES}", shape))


def unpack_sample(root: Path) -> None:
    with lzma.open(SAMPLE) as packed, tarfile.open(fileobj=packed) as archive:
        archive.extractall(root)


class Full(LocalFiles):
    """A file system that is full from the n-th change on, until told otherwise."""

    def __init__(self, room: int) -> None:
        self.room = room

    def _take(self) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(28, "No space left on device")

    def create(self, path: str, data: bytes = b"", *, mode: int = 0o644) -> None:
        self._take()
        super().create(path, data, mode=mode)

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        self._take()
        super().mkdir(path, mode=mode)

    def truncate(self, path: str, size: int, *, create: bool = False, mode: int = 0o644) -> None:
        self._take()
        super().truncate(path, size, create=create, mode=mode)

    def replace(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self._take()
        super().replace(path, data, mode=mode)

    def write_at(self, path: str, offset: int, data: bytes, *, direct: bool = False) -> None:
        self._take()
        super().write_at(path, offset, data, direct=direct)
