"""File domains with images in them, for tests: made by qemu-img, filled by qemu-io, compared by what a guest sees."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from storage_domains import NOW_S, Areas, file_domain, metadata
from vdsm.storage.access import FileAccess
from vdsm.storage.clusterlock import ClusterLock
from vdsm.storage.domains.domain import Domain
from vdsm.storage.executor import carry_out
from vdsm.storage.files.file_backend import FileBackend
from vdsm.storage.files.files import FileDomainReader, find_domain
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.mover import QemuImages
from vdsm.storage.kinds import Allocation, DomainClass, StorageType, VolumeFormat
from vdsm.storage.plans import NewVolume, create

MIB = 1 << 20
RAW, COW = VolumeFormat.RAW, VolumeFormat.COW


def open_domain(
    root: Path, described: DomainMetadata | None = None, files: FileAccess | None = None, mount: Path | None = None
) -> Domain:
    """Make a domain below ``root``, seen at ``mount``."""
    described = described or metadata()
    files = files or LocalFiles()
    root.mkdir(exist_ok=True)
    shared = described.storage_type is not StorageType.LOCALFS
    backend = file_domain(files, mount or root, described, Areas() if shared else None)
    return _domain(described, files, backend, mount or root)


def reopen(root: Path) -> Domain:
    """Open the LOCALFS domain that is below ``root``."""
    files = LocalFiles()
    ident = find_domain(files, str(root))
    assert ident
    described = FileDomainReader(files, str(root), ident, direct=False).read_domain()
    backend = FileBackend(files, str(root), described, QemuImageMaker(), None)
    return _domain(described, files, backend, root)


def _domain(described: DomainMetadata, files: FileAccess, backend: FileBackend, mount: Path) -> Domain:
    return Domain(
        id=described.domain_id,
        kind=described.storage_type,
        domain_class=DomainClass.DATA,
        version=described.version,
        geometry=described.geometry,
        mount=str(mount),
        files=files,
        backend=backend,
        lock=cast(ClusterLock, None),  # nothing here takes it
    )


class Storage:
    """Some domains, and what is done to their images."""

    def __init__(self, *domains: Domain) -> None:
        self.domains = {domain.id: domain for domain in domains}
        self.images = QemuImages(self.find)

    def find(self, domain_id: DomainId) -> Domain:
        return self.domains[domain_id]

    def add(self, volume: VolumeRef, **how: object) -> VolumeRef:
        """Make a volume: ``parent``, ``format``, ``capacity``, ``allocation``, ..."""
        backend = self.find(volume.domain_id).backend
        new = NewVolume(volume, **{"capacity": 8 * MIB, "created_s": NOW_S, **how})  # type: ignore[arg-type]
        for step in create(backend.images().images, new):
            carry_out(step, backend, self.images)
        return volume

    def chain(self, domain: Domain, *formats: VolumeFormat) -> list[VolumeRef]:
        """An image of one volume per format, each with data of its own and zeros over what is below."""
        image = ImageId(new_id())
        found: list[VolumeRef] = []
        for number, layout in enumerate(formats, 1):
            volume = VolumeRef(domain.id, image, VolumeId(new_id()))
            parent = found[-1] if found else None
            self.add(volume, parent=parent, format=layout)
            self.write(volume, f"write -P {number} {number}M 1M", f"write -P {10 + number} 512k 64k")
            if number > 1:
                self.write(volume, f"write -z {number - 1}M 256k")
            found.append(volume)
        return found

    def path(self, volume: VolumeRef) -> str:
        domain = self.find(volume.domain_id)
        return f"{domain.path}/images/{volume.image_id}/{volume.volume_id}"

    def format(self, volume: VolumeRef) -> str:
        return self.find(volume.domain_id).backend.volume(volume).format.qemu

    def write(self, volume: VolumeRef, *commands: str) -> None:
        words = [word for command in commands for word in ("-c", command)]
        run("qemu-io", "-f", self.format(volume), *words, self.path(volume))

    def digest(self, volume: VolumeRef) -> str:
        """Of what a guest sees."""
        return digest(self.path(volume), self.format(volume))

    def is_sound(self, volume: VolumeRef) -> bool:
        """qemu-img finds nothing wrong, leaks included."""
        if self.format(volume) == "raw":
            return True
        argv = ["qemu-img", "check", "-q", "-f", "qcow2", self.path(volume)]
        return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0


def digest(path: str, layout: str) -> str:
    with tempfile.NamedTemporaryFile() as flat:
        run("qemu-img", "convert", "-f", layout, "-O", "raw", path, flat.name)
        return hashlib.file_digest(flat, "sha256").hexdigest()


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


def refs(domain: Domain, image: str, volumes: Sequence[VolumeRef]) -> list[VolumeRef]:
    """The same volumes in another domain or image."""
    return [VolumeRef(domain.id, ImageId(image), volume.volume_id) for volume in volumes]


__all__ = ["COW", "MIB", "RAW", "Allocation", "Storage", "digest", "open_domain", "refs", "reopen", "run"]
