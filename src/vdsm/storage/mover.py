"""The data of images, changed and copied by qemu-img: ``executor.DataMover`` on prepared paths.

What may take hours tells its progress, can be stopped at any time, and gives up when nothing moves any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, TypeAlias

from vdsm.storage.domain import Domain
from vdsm.storage.executor import Watch
from vdsm.storage.ids import DomainId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.steps import Backing

FindDomain: TypeAlias = Callable[[DomainId], Domain]


class Unwatched:
    """``executor.Watch`` for work that nobody follows and nobody stops."""

    def progress(self, fraction: float) -> None:
        """See Watch."""

    def check(self) -> None:
        """See Watch."""

    def on_stop(self, function: Callable[[], object]) -> AbstractContextManager[None]:  # noqa: ARG002 - nobody stops it
        """See Watch."""
        return nullcontext()


class QemuImages:
    """``executor.DataMover`` by qemu-img.

    Args:
        find: the handle on a domain.
        watch: who follows the work.
        silence_s: seconds without any progress, I/O and computing after which the work is given up.
    """

    def __init__(self, find: FindDomain, watch: Watch | None = None, *, silence_s: float = 60.0) -> None:
        self._find: Final = find
        self._watch: Final[Watch] = watch or Unwatched()
        self._silence_s: Final = silence_s

    def watched(self, watch: Watch) -> QemuImages:
        """See DataMover."""
        return QemuImages(self._find, watch, silence_s=self._silence_s)

    def commit(self, top: VolumeRef, base: VolumeRef) -> None:
        """See DataMover."""
        raise NotImplementedError

    def rebase(self, volume: VolumeRef, backing: Backing) -> None:
        """See DataMover."""
        raise NotImplementedError

    @contextmanager
    def prepared(self, image: ImageRef) -> Iterator[Mapping[VolumeId, str]]:
        """The paths of an image's volumes while the block runs."""
        backend = self._find(image.domain_id).backend
        paths = backend.prepare(image.image_id)
        try:
            yield paths
        finally:
            backend.teardown(image.image_id)
