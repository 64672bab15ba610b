"""Storage domains in a file system, made and taken away: the stages of both, each of which can be done twice.

    making      directories > special files > index of external leases > metadata > images (ISO: the image of the files)
                > lockspace and SDM lease
    formatting  metadata, so that it is nobody's domain any more > everything else

The order of making is the original's (storage format, section 1.4). What a crash leaves of a making is, until the
metadata is written, a ``dom_md`` without metadata: no host takes that for a domain. Who makes the domain of that id
again takes it away first, and formatting the id takes it away. From then on it is a domain that nobody has used yet,
which is formatted like any other. An interrupted formatting leaves a directory without metadata, likewise.

``create_domain`` and ``remove_domain`` do all stages; ``domain_kinds`` does them as journaled operations.
"""

from __future__ import annotations

import errno
import glob
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from msgspec import Struct

from vdsm.base.undo import Undo
from vdsm.storage.access import FileAccess, FileKind
from vdsm.storage.domains.domain_errors import LongDescription, NoAccess
from vdsm.storage.errors import DomainExists, InvalidParameter, UnsupportedVersion, WrongBlockSize
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree, xleases
from vdsm.storage.formats.domain import CURRENT, ISO_VERSIONS, MAX_DESCRIPTION, VERSIONS, DomainMetadata, encode_domain
from vdsm.storage.formats.leases import Geometry, geometry
from vdsm.storage.formats.mounts import normalize
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import DomainClass, StorageType

AUTOMATIC: Final = 0
"""The block size that stands for "what the storage has"."""
_UNKNOWN: Final = 1  # what the probe says of a file system that takes any length
_FIXED_SECTORS: Final = frozenset({StorageType.NFS, StorageType.POSIXFS})
_DEPTH: Final = 16  # of directories in a domain; the format needs 5


class NewDomain(Struct, frozen=True):
    """A request for a domain.

    Attributes:
        id: the id that it is to get.
        kind: what it lies on.
        spec: the connection that it is to lie in ("server:/path", or a local directory).
        name: for people, at most 50 characters.
        domain_class: what it is for.
        version: of the format, 3 to 5.
        block_size: 512 or 4096 bytes; 0 for what the storage has.
        max_hosts: how many hosts it must have room for.
    """

    id: DomainId
    kind: StorageType
    spec: str
    name: str = ""
    domain_class: DomainClass = DomainClass.DATA
    version: int = CURRENT
    block_size: int = 512
    max_hosts: int = 250


@dataclass(frozen=True, slots=True)
class Stage:
    """One idempotent part of the work; ``undo`` may find it done, half done or not begun."""

    name: str
    do: Callable[[], None]
    undo: Callable[[], None]


def parse_version(text: str | int | None) -> int:
    """The version of the format that a request asks for; none is the present one.

    Raises:
        InvalidParameter: it is no number.
        UnsupportedVersion: no new domain can be of it.
    """
    if text is None or text == "":
        return CURRENT
    try:
        version = int(text)
    except ValueError as error:
        raise InvalidParameter("domVersion", f"must be a number, is {text!r:.40}") from error
    if version not in ISO_VERSIONS:
        raise UnsupportedVersion(str(version))
    return version


def described(files: FileAccess, root: str, request: NewDomain) -> DomainMetadata:
    """What a new domain is to say of itself; refuses what cannot be made, and changes nothing.

    Raises:
        DomainExists: there is a domain in the file system already, or something in its place.
        LongDescription, UnsupportedVersion, InvalidParameter: the request is wrong in itself.
        NoAccess: this agent may not write there.
        WrongBlockSize: the storage has other sectors, or does not take direct I/O.
        StorageFailed, Unfinished, NotResponding: the storage does not let itself be looked at.
    """
    _check_request(request)
    with told(f"looking at {root}"):
        if not files.access(root, read=True, write=True, execute=True):
            raise NoAccess(root)
    check_place(files, root, request.id)
    size = _sectors(files, root, request)
    metadata = metadata_of(request, geometry(size, request.max_hosts) if request.version >= 5 else Geometry())
    encode_domain(metadata)  # refuses a name that is more than one line
    return metadata


def metadata_of(request: NewDomain, shape: Geometry) -> DomainMetadata:
    """What a new domain says of itself, once the storage's sectors are known."""
    return DomainMetadata(
        domain_id=request.id,
        storage_type=request.kind,
        version=request.version,
        domain_class=request.domain_class,
        description=request.name,
        remote_path=normalize(request.spec),
        geometry=shape,
    )


def check_place(files: FileAccess, root: str, domain_id: DomainId) -> None:
    """See that a file system has no domain, and nothing where the new one is to be.

    What is left of making this domain before is no hindrance.

    Raises:
        DomainExists: it has.
    """
    with told(f"looking for a domain in {root}"):
        for path in files.glob(f"{glob.escape(root)}/*/{tree.DOM_MD}"):
            name = path.rsplit("/", 2)[1]
            if name != domain_id or not _is_half_made(files, f"{root}/{name}"):
                raise DomainExists(root, name)
        with suppress(FileNotFoundError):
            if files.stat(f"{root}/{domain_id}").kind is not FileKind.DIRECTORY or (
                files.listdir(f"{root}/{domain_id}") not in ([], [tree.DOM_MD])
            ):
                raise DomainExists(root, domain_id)


def making(
    files: FileAccess, root: str, metadata: DomainMetadata, format_leases: Callable[[], None], now_s: int
) -> Sequence[Stage]:
    """The stages in which a domain is made; nobody else makes one there meanwhile.

    Args:
        files: how its files are reached.
        root: where the file system is mounted.
        metadata: what it is to say of itself.
        format_leases: writes the lockspace and the SPM's lease into the files made for them; may be done twice.
        now_s: whole seconds since the epoch, for the index of external leases.
    """
    maker = _Maker(files, f"{root}/{metadata.domain_id}", metadata, now_s)
    return [
        _stage("make the domain's directories", maker.path, maker.make_directories, maker.remove_directories),
        _stage("make the special files", maker.path, maker.make_files, maker.remove_files),
        _stage("format the index of external leases", maker.path, maker.format_index),
        _stage("write the metadata", maker.path, maker.write_metadata, maker.remove_metadata),
        _stage("make the images' directory", maker.path, maker.make_images, maker.remove_images),
        _stage("format the leases", maker.path, format_leases),
    ]


def create_domain(
    files: FileAccess, root: str, metadata: DomainMetadata, format_leases: Callable[[], None], *, now_s: int
) -> None:
    """Make a domain, without a journal: what fails is undone, what is killed is left as the module says.

    Raises:
        DomainExists: there is one, or something in its place.
        NoSpace, StorageFailed, LeaseFailed: it could not be made; what was begun is gone again.
    """
    check_place(files, root, metadata.domain_id)
    with Undo() as undo:
        for stage in making(files, root, metadata, format_leases, now_s):
            undo.add(stage.undo)
            stage.do()


def remove_domain(files: FileAccess, root: str, domain_id: DomainId) -> None:
    """Take away a domain with all that is in it, also one half made or half removed; nothing if it is not there.

    Raises:
        StorageFailed: the storage refused; what is left is no domain, and this can be done again.
    """
    for stage in removing(files, root, domain_id):
        stage.do()


def removing(files: FileAccess, root: str, domain_id: DomainId) -> Sequence[Stage]:
    """The stages in which a domain is taken away; there is no way back from the first."""
    path = f"{root}/{domain_id}"

    def remove_metadata() -> None:
        # What is a link and no directory leads out of the domain, and goes as a link below.
        if _is_directory(files, path) and _is_directory(files, f"{path}/{tree.DOM_MD}"):
            for name in (tree.METADATA, f"{tree.METADATA}.new"):
                _unlink(files, f"{path}/{tree.DOM_MD}/{name}")

    def remove_rest() -> None:
        # dom_md goes last: what is left is found by it.
        if _is_directory(files, path):
            for name in (tree.IMAGES, tree.MASTER, tree.DOM_MD):
                _remove_tree(files, f"{path}/{name}", _DEPTH)
        _remove_tree(files, path, _DEPTH)

    return [
        _stage("take away the metadata", path, remove_metadata),
        _stage("take away the files", path, remove_rest),
    ]


@dataclass(frozen=True, slots=True)
class _Maker:
    files: FileAccess
    path: str
    metadata: DomainMetadata
    now_s: int

    @property
    def _dom_md(self) -> str:
        return f"{self.path}/{tree.DOM_MD}"

    def make_directories(self) -> None:
        # What an interrupted making left: it has been looked at.
        _remove_tree(self.files, self.path, _DEPTH)
        for path in (self.path, self._dom_md):
            self.files.mkdir(path, mode=tree.DIRECTORY_MODE)

    def remove_directories(self) -> None:
        for path in (self._dom_md, self.path):
            with suppress(FileNotFoundError):
                self.files.rmdir(path)

    def make_files(self) -> None:
        for special in self._special():
            path = f"{self._dom_md}/{special.name}"
            _unlink(self.files, path)
            self.files.create(path, mode=special.mode)
            if special.fresh_size:
                self.files.truncate(path, special.fresh_size)

    def remove_files(self) -> None:
        for special in self._special():
            _unlink(self.files, f"{self._dom_md}/{special.name}")

    def format_index(self) -> None:
        if not any(special.name == tree.XLEASES for special in self._special()):
            return
        path, start = f"{self._dom_md}/{tree.XLEASES}", xleases.index_offset(self.metadata.geometry)
        updating = xleases.format_index(self.metadata.domain_id, self.now_s, updating=True)
        self.files.write_at(path, start, updating)
        ready = xleases.format_index(self.metadata.domain_id, self.now_s)
        self.files.write_at(path, start, ready[: self.metadata.geometry.block_size])

    def write_metadata(self) -> None:
        text = encode_domain(self.metadata)
        self.files.replace(f"{self._dom_md}/{tree.METADATA}", text, mode=tree.METADATA_MODE)

    def remove_metadata(self) -> None:
        for name in (tree.METADATA, f"{tree.METADATA}.new"):
            _unlink(self.files, f"{self._dom_md}/{name}")

    def make_images(self) -> None:
        for path in self._image_directories():
            with suppress(FileExistsError):
                self.files.mkdir(path, mode=tree.DIRECTORY_MODE)

    def remove_images(self) -> None:
        for path in reversed(self._image_directories()):
            with suppress(FileNotFoundError):
                self.files.rmdir(path)

    def _special(self) -> Sequence[tree.SpecialFile]:
        return tree.special_files(self.metadata.storage_type, self.metadata.version, self.metadata.geometry)

    def _image_directories(self) -> list[str]:
        images = f"{self.path}/{tree.IMAGES}"
        is_iso = self.metadata.domain_class is DomainClass.ISO
        return [images, *([f"{images}/{tree.ISO_IMAGE}"] if is_iso else [])]


def _check_request(request: NewDomain) -> None:
    if len(request.name) > MAX_DESCRIPTION:
        raise LongDescription(len(request.name), MAX_DESCRIPTION)
    if request.version not in (ISO_VERSIONS if request.domain_class is DomainClass.ISO else VERSIONS):
        raise UnsupportedVersion(str(request.version))
    if request.kind.is_block:
        raise InvalidParameter("domainType", f"must be of a file system, is {request.kind.value}")
    allowed = {512} if request.kind in _FIXED_SECTORS or request.version < 5 else {AUTOMATIC, 512, 4096}
    if request.block_size not in allowed:
        raise InvalidParameter("block_size", f"must be one of {sorted(allowed)}, is {request.block_size}")
    geometry(request.block_size or 512, request.max_hosts)


def _sectors(files: FileAccess, root: str, request: NewDomain) -> int:
    with told(f"probing the sectors of {root}"):
        found = probe(files, root, shared=request.kind.is_shared)
    wanted = request.block_size or (512 if found == _UNKNOWN else found)
    if found not in {_UNKNOWN, wanted}:
        raise WrongBlockSize(f"the storage has {found}, the domain is to have {wanted}")
    return wanted


def probe(files: FileAccess, root: str, *, shared: bool) -> int:
    """The sectors that a file system takes, 512 or 4096 bytes; 1 when it does not tell.

    A file system that is full or cannot be written does not tell. Nor does a local one without direct I/O: there,
    nothing of ours needs it.

    Raises:
        WrongBlockSize: the storage is shared and does not take direct I/O.
        OSError: it cannot be probed.
    """
    try:
        return files.probe_block_size(root)
    except OSError as error:
        if error.errno in {errno.EROFS, errno.ENOSPC, errno.EDQUOT}:
            return _UNKNOWN
        if error.errno != errno.EINVAL:
            raise
        if shared:
            raise WrongBlockSize(f"{root} does not take direct I/O") from error
        return _UNKNOWN


def _is_half_made(files: FileAccess, path: str) -> bool:
    """Whether a domain's directory is what an interrupted making leaves before there is metadata."""
    return files.listdir(path) == [tree.DOM_MD] and tree.METADATA not in files.listdir(f"{path}/{tree.DOM_MD}")


def _remove_tree(files: FileAccess, path: str, depth: int) -> None:
    """Remove a directory and all in it; links are removed and not followed. Others may be doing the same."""
    if not _is_directory(files, path):
        _unlink(files, path)
        return
    try:
        entries = files.scan(path)
    except FileNotFoundError:
        return
    if depth == 0:
        raise OSError(errno.ELOOP, "directories too deep", path)
    for entry in entries:
        name = f"{path}/{entry.name}"
        if entry.stat.kind is FileKind.DIRECTORY:
            _remove_tree(files, name, depth - 1)
        else:
            _unlink(files, name)
    with suppress(FileNotFoundError):
        files.rmdir(path)


def _is_directory(files: FileAccess, path: str) -> bool:
    """Whether there is a directory, and not a link to one."""
    try:
        return files.stat(path).kind is FileKind.DIRECTORY
    except FileNotFoundError:
        return False


def _unlink(files: FileAccess, path: str) -> None:
    with suppress(FileNotFoundError):
        files.unlink(path)


def _nothing() -> None:
    """There is nothing to take back: it goes with the files."""


def _stage(name: str, path: str, do: Callable[[], None], undo: Callable[[], None] = _nothing) -> Stage:
    """A stage whose errors are the repository's."""

    def done(function: Callable[[], None], what: str) -> None:
        with told(f"{what} ({path})"):
            function()

    return Stage(name, partial(done, do, name), partial(done, undo, f"undo: {name}"))
