"""The data of images, changed and copied by qemu-img: ``executor.DataMover`` on prepared paths.

What may take hours tells its progress, can be stopped at any time, and gives up when nothing moves any more. Before
QEMU opens a chain, ``inspection`` has accepted every header in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum, unique
from functools import partial
from typing import Final, TypeAlias, TypeVar

from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.base.errors import BadParameter, CommandFailed
from vdsm.storage import guard
from vdsm.storage.access import DIRECT_BYTES
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged, NoSpace, StorageFailed
from vdsm.storage.executor import Watch
from vdsm.storage.files.files import told
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import DomainId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.images.image_errors import CopyFailed, ImageRefused
from vdsm.storage.images.inspection import Inspector, read_header
from vdsm.storage.kinds import Allocation, VolumeFormat
from vdsm.storage.steps import Backing
from vdsm.system.qemu_img import Header, changes, questions, work
from vdsm.system.qemu_nbd import Layer

T = TypeVar("T")

# What qemu-img says of an image that is locked; how long a process that was killed takes to be gone; between two tries.
_IN_USE: Final = "another process using the image"
_LET_GO_S: Final = 10.0
_LOOK_S: Final = 0.1

FindDomain: TypeAlias = Callable[[DomainId], Domain]


@unique
class Target(Enum):
    """What is in the target of a copy."""

    FRESH = "fresh"  # just made: it reads as zeros, or as what it stands on
    USED = "used"  # anything: it is made empty first; nobody else has it open
    SAME = "same"  # an earlier copy of the same, or nothing; it may be open for reading


class Unwatched:
    """``executor.Watch`` for work that nobody follows and nobody stops."""

    def progress(self, fraction: float) -> None:
        """See Watch."""

    def check(self) -> None:
        """See Watch."""

    def on_stop(self, function: Callable[[], object]) -> AbstractContextManager[None]:  # noqa: ARG002 - nobody stops it
        """See Watch."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that qemu-img gets.

    Attributes:
        silence_s: for long work without any progress, I/O or computing, after which it is given up; a server that is
            away for a minute is waited for.
        change_s: for writing a header.
        question_s: for looking through all tables of an image.
    """

    silence_s: float = 120.0
    change_s: float = 60.0
    question_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A volume that is ready to be opened: its headers were accepted.

    Attributes:
        domain: where it is.
        metadata: what it says of itself.
        parent_format: of what it stands on.
        path: where its data is.
        cache: whether it can be reached past the page cache.
    """

    domain: Domain
    metadata: VolumeMetadata
    parent_format: VolumeFormat | None
    path: str
    cache: work.Cache

    @property
    def format(self) -> questions.Format:
        """QEMU's word for its format."""
        return "qcow2" if self.metadata.format is VolumeFormat.COW else "raw"

    @property
    def backing(self) -> tuple[str, str] | None:
        """The name and format that its header has to tell of what it stands on."""
        if self.metadata.parent is None or self.parent_format is None:
            return None
        return self.metadata.parent, self.parent_format.qemu


class QemuImages:
    """``executor.DataMover`` by qemu-img, and everything else that it does to and says of volumes.

    Args:
        find: the handle on a domain.
        watch: who follows the work.
        patience: how long it may take.
    """

    def __init__(self, find: FindDomain, watch: Watch | None = None, *, patience: Patience | None = None) -> None:
        self._find: Final = find
        self._watch: Final[Watch] = watch or Unwatched()
        self._patience: Final = patience or Patience()

    def watched(self, watch: Watch) -> QemuImages:
        """See DataMover."""
        return QemuImages(self._find, watch, patience=self._patience)

    # Changes of chains: see DataMover.

    def commit(self, top: VolumeRef, base: VolumeRef) -> None:
        """See DataMover. The top stays as it is. Clusters that an interrupted attempt has leaked are given back.

        Raises:
            CopyFailed: qemu-img refused; the image still has its content.
        """
        with self.opened(top) as above, self.prepared(top.image) as paths:
            if above.backing is None or above.metadata.parent != base.volume_id:
                raise CopyFailed(f"merging {top.volume_id}", f"it does not stand on {base.volume_id}")
            with self._working(f"merging {top.volume_id}"):
                _let_go(partial(work.commit, above.path, base.volume_id, self._follower(), cache=above.cache))
            if above.backing[1] == "qcow2":
                # At the end: a cluster that was counted and not written yet lies behind the end of the file until now.
                self._check(paths[base.volume_id], repair_leaks=True)
            self._make_durable(above.domain, paths[base.volume_id])

    def rebase(self, volume: VolumeRef, backing: Backing) -> None:
        """See DataMover."""
        domain = self._find(volume.domain_id)
        with self.prepared(volume.image) as paths:
            path = paths[volume.volume_id]
            header = self._header(domain, volume, path)
            if (header.backing, header.backing_format) == (backing.volume_id, backing.format.qemu):
                return
            with changing(f"rebasing {volume.volume_id}"):
                below = (backing.volume_id, backing.format.qemu)
                _let_go(partial(changes.rebase, path, below, timeout_s=self._patience.change_s))
            self._make_durable(domain, path)

    def resize(self, volume: VolumeRef, capacity: int) -> None:
        """See DataMover."""
        domain = self._find(volume.domain_id)
        with self.prepared(volume.image) as paths:
            path = paths[volume.volume_id]
            if self._header(domain, volume, path).virtual_size >= capacity:
                return
            with changing(f"resizing {volume.volume_id}"):
                _let_go(partial(changes.resize, path, "qcow2", capacity, timeout_s=self._patience.change_s))
            self._make_durable(domain, path)

    # Copies.

    def copy(self, source: VolumeRef, target: VolumeRef, state: Target, *, bitmaps: bool = False) -> None:
        """Copy a volume's data into an existing volume of any format and domain, durably.

        A target that stands on nothing gets all that a guest sees of the source. One that stands on a volume gets the
        source's own clusters: what it stands on must read as what the source stands on. Clusters that an interrupted
        attempt has leaked are given back.

        Args:
            source: from where; it and what it stands on does not change meanwhile.
            target: to where.
            state: what is in it.
            bitmaps: also copy its persistent bitmaps, between qcow2 images.

        Raises:
            ImageRefused: a header was not accepted.
            NoSpace: the target's domain is full.
            CopyFailed: qemu-img refused.
            Unfinished: a storage does not answer; a last write may still arrive at the target.
        """
        what = f"copying {source.volume_id} to {target.volume_id} in {target.domain_id}"
        with self.opened(source) as origin:
            if state is Target.USED:
                self._empty(target)
            with self.opened(target) as goal, self._working(what):
                what_to_do = work.Copy(
                    source=origin.path,
                    source_format=origin.format,
                    target=goal.path,
                    target_format=goal.format,
                    backing=goal.backing,
                    blank=state is Target.FRESH and _reads_as_zeros(goal),
                    bitmaps=bitmaps and goal.format == origin.format == "qcow2",
                    unordered=goal.format == "raw" and goal.domain.kind.is_block,
                    source_cache=origin.cache,
                    target_cache=goal.cache,
                )
                _let_go(partial(work.convert, what_to_do, self._follower()))
                if state is Target.SAME and goal.format == "qcow2":
                    self._check(goal.path, repair_leaks=True)  # at the end, as in ``commit``
            self._settle(goal, state)

    # Questions.

    def info(self, volume: VolumeRef) -> questions.Info:
        """What QEMU makes of a volume.

        Raises:
            ImageRefused: its header was not accepted.
            Damaged: QEMU would not open it.
        """
        with self.opened(volume) as opened, judged(opened.path):
            return questions.info(opened.path, opened.format, timeout_s=self._patience.change_s)

    def measure(self, volume: VolumeRef, target_format: VolumeFormat, *, chain: bool = True) -> questions.Measured:
        """How large a copy of a volume would be, with or without what it stands on.

        Raises:
            ImageRefused: a header was not accepted.
            Damaged: QEMU cannot open it.
        """
        wanted: questions.Format = "qcow2" if target_format is VolumeFormat.COW else "raw"
        with self.opened(volume) as opened, judged(opened.path):
            return questions.measure(
                opened.path, opened.format, wanted, chain=chain, timeout_s=self._patience.question_s
            )

    def check(self, volume: VolumeRef, *, repair_leaks: bool = False) -> questions.Checked:
        """What is wrong with the structure of a qcow2 volume that nobody writes.

        Raises:
            ImageRefused: a header was not accepted.
            Damaged: QEMU cannot open it.
        """
        with self.opened(volume) as opened:
            return self._check(opened.path, repair_leaks=repair_leaks)

    def verify_untrusted(self, volume: VolumeRef) -> None:
        """See that what was uploaded into a volume is what was to be uploaded, and harmless.

        Raises:
            ImageRefused: it is not.
            Unfinished: QEMU took too long over it, or the storage does not answer.
        """
        domain = self._find(volume.domain_id)
        with self.prepared(volume.image) as paths:
            image = domain.backend.image(volume.image_id)
            self._inspector(domain).verify_untrusted(image, volume.volume_id, paths[volume.volume_id])

    # What all need.

    @contextmanager
    def prepared(self, image: ImageRef) -> Iterator[Mapping[VolumeId, str]]:
        """The paths of an image's volumes while the block runs."""
        backend = self._find(image.domain_id).backend
        paths = backend.prepare(image.image_id)
        try:
            yield paths
        finally:
            backend.teardown(image.image_id)

    def chain(self, volume: VolumeRef) -> Sequence[VolumeId]:
        """A volume's chain, the template included, base first, when all its headers were accepted."""
        domain = self._find(volume.domain_id)
        with self.prepared(volume.image) as paths:
            image = domain.backend.image(volume.image_id)
            return self._inspector(domain).accept(image, volume.volume_id, paths)

    @contextmanager
    def layers(self, volume: VolumeRef) -> Iterator[tuple[Sequence[Layer], bool]]:
        """The files of a volume's chain, itself first, for the block; and whether they can be read past the cache.

        Raises:
            ImageRefused: a header was not accepted.
        """
        domain = self._find(volume.domain_id)
        with self.prepared(volume.image) as paths:
            image = domain.backend.image(volume.image_id)
            chain = self._inspector(domain).accept(image, volume.volume_id, paths)
            volumes = [(ident, image.below(ident)) for ident in reversed(chain)]
            layers = [Layer(paths[ident], found.format.qemu, domain.kind.is_block) for ident, found in volumes if found]
            yield layers, _cache(domain, paths[volume.volume_id]) == "none"

    @contextmanager
    def opened(self, volume: VolumeRef) -> Iterator[Opened]:
        """A volume whose chain's headers were accepted, for the block.

        Raises:
            ImageRefused: one was not.
        """
        domain = self._find(volume.domain_id)
        with self.prepared(volume.image) as paths:
            image = domain.backend.image(volume.image_id)
            self._inspector(domain).accept(image, volume.volume_id, paths)
            metadata = image.below(volume.volume_id) or image.volume(volume.volume_id)
            below = image.below(metadata.parent) if metadata.parent else None
            path = paths[volume.volume_id]
            yield Opened(domain, metadata, below.format if below else None, path, _cache(domain, path))

    def _inspector(self, domain: Domain) -> Inspector:
        return Inspector(domain.files, direct=domain.kind.is_shared, timeout_s=self._patience.change_s)

    def _header(self, domain: Domain, volume: VolumeRef, path: str) -> Header:
        try:
            header = read_header(domain.files, path, direct=domain.kind.is_shared)
        except BadParameter as error:
            raise ImageRefused(volume.volume_id, error.reason) from error
        if header is None or header.data_file is not None:
            raise ImageRefused(volume.volume_id, "it is no qcow2 image, or one with an external data file")
        return header

    def _check(self, path: str, *, repair_leaks: bool) -> questions.Checked:
        with judged(path):
            return _let_go(
                partial(questions.check, path, timeout_s=self._patience.question_s, repair_leaks=repair_leaks)
            )

    def _empty(self, target: VolumeRef) -> None:
        """Take everything out of a volume."""
        with self.opened(target) as goal, changing(f"emptying {target.volume_id}"):
            if goal.format == "qcow2":
                again = partial(
                    changes.create_qcow2,
                    goal.path,
                    goal.metadata.capacity,
                    compatibility="1.1" if goal.domain.version >= 4 else "0.10",
                    backing=goal.backing,
                    timeout_s=self._patience.change_s,
                )
                _let_go(again)

    def _settle(self, goal: Opened, state: Target) -> None:
        """Make a copy durable, and take the space again that emptying a preallocated target gave back."""
        size = goal.metadata.capacity
        again = state is not Target.FRESH and goal.metadata.allocation is Allocation.PREALLOCATED
        if again and not goal.domain.kind.is_block:
            with told(f"allocating {goal.path}"):
                goal.domain.files.allocate(goal.path, 0, size)
        self._make_durable(goal.domain, goal.path)

    def _make_durable(self, domain: Domain, path: str) -> None:
        with told(f"writing {path}"):
            domain.files.fsync(path)

    def _follower(self) -> work.Follower:
        return work.Follower(self._watch.progress, self._watch.on_stop, self._patience.silence_s)

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        self._watch.check()
        # What qemu-img writes does not go through the domain's files, which ask this at each change.
        guard.check()
        try:
            with changing(what):
                yield
        except work.Stopped as error:
            self._watch.check()
            raise CopyFailed(what, "it was stopped") from error


@contextmanager
def changing(what: str) -> Iterator[None]:
    """Turn what qemu-img says into the repository's errors; ``what`` names what was being done.

    Raises:
        NoSpace: the storage is full.
        CopyFailed: anything else.
    """
    try:
        yield
    except CommandFailed as error:
        # Its messages end with the system's, in the fixed locale that programs are run in.
        full = any(error.stderr.endswith(os.strerror(code)) for code in (errno.ENOSPC, errno.EDQUOT))
        reason = error.stderr.splitlines()[-1] if error.stderr else f"qemu-img ended with {error.status_code}"
        raise (NoSpace if full else CopyFailed)(what, reason) from error


@contextmanager
def judged(path: str) -> Iterator[None]:
    """Name what QEMU would not open: an image of the domain's."""
    try:
        yield
    except BadParameter as error:
        raise Damaged(path, error.reason) from error


def _let_go(act: Callable[[], T]) -> T:
    """Do what needs an image for itself; one that was killed a moment ago, with an agent, may not have let go of it."""
    until = monotonic_s() + _LET_GO_S
    while True:
        try:
            return act()
        except (BadParameter, CommandFailed) as error:
            if _IN_USE not in str(error) or monotonic_s() > until:
                raise
        sleep_s(_LOOK_S)


def _reads_as_zeros(goal: Opened) -> bool:
    """Whether a volume that was just made does: logical volumes have what was there before."""
    return goal.format == "qcow2" or not goal.domain.kind.is_block


def _cache(domain: Domain, path: str) -> work.Cache:
    """Past the page cache wherever that works; only file systems that one host uses may be without direct I/O."""
    if domain.kind.is_shared:
        return "none"
    try:
        domain.files.read(path, size=DIRECT_BYTES, direct=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise StorageFailed(f"reading {path}", error.strerror or str(error)) from error
        return "writeback"
    return "none"
