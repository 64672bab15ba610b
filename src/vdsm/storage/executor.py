"""Steps, carried out on a back end: the metadata's part of every plan.

A journal calls this for one step after the other; a step that may have been carried out already is carried out again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from vdsm.storage.backend import Backend
from vdsm.storage.ids import VolumeRef
from vdsm.storage.steps import (
    Backing,
    Change,
    Commit,
    Delete,
    GrowData,
    MakeData,
    Publish,
    PurgeImage,
    Rebase,
    RemoveImage,
    Resize,
    ShareTemplate,
    Step,
    UnshareTemplate,
)


class Watch(Protocol):
    """Who follows long work and can stop it; ``operations.kinds.Run`` is one."""

    def progress(self, fraction: float) -> None:
        """Be told how much is done, 0 to 1."""

    def check(self) -> None:
        """Raise what stops the work, if it is to stop."""

    def on_stop(self, function: Callable[[], object]) -> AbstractContextManager[None]:
        """Call ``function``, in another thread, if the work is to stop while the block runs."""


class DataMover(Protocol):
    """Who changes what is in images: qemu-img, on prepared paths, with progress and cancel."""

    def watched(self, watch: Watch) -> DataMover:
        """The same, telling its progress to and being stopped by ``watch``: the ``Run`` of an operation's step."""

    def commit(self, top: VolumeRef, base: VolumeRef) -> None:
        """Write a volume's data into its parent's; made again after a crash, it ends the same."""

    def rebase(self, volume: VolumeRef, backing: Backing) -> None:
        """Let a header name another parent, without looking at any data."""

    def resize(self, volume: VolumeRef, capacity: int) -> None:
        """Let a qcow2 header tell a larger virtual size, in bytes; nothing when it is that large already."""


def carry_out(step: Step, backend: Backend, mover: DataMover) -> None:
    """Do one step.

    Raises:
        VdsmError: what the back end or the mover raised.
    """
    match step:
        case Commit(top, base):
            mover.commit(top, base)
        case Rebase(volume, backing):
            mover.rebase(volume, backing)
        case Resize(volume, capacity):
            mover.resize(volume, capacity)
        case UnshareTemplate(template, image):
            backend.unshare(template, image.image_id)
        case RemoveImage(image):
            backend.remove_image(image.image_id)
        case PurgeImage(image):
            backend.purge_image(image.image_id)
        case _:
            _on_volume(step, backend)


def change(step: Change, backend: Backend) -> None:
    """Rewrite some of a volume's metadata in one write, or in none when it is so already.

    Raises:
        VdsmError: what the back end raised.
    """
    before = backend.volume(step.volume)
    after = step.changed(before)
    if after != before:
        backend.rewrite(step.volume, after)


def _on_volume(step: ShareTemplate | MakeData | Publish | Change | GrowData | Delete, backend: Backend) -> None:
    match step:
        case ShareTemplate(template, image):
            backend.share(template, image.image_id)
        case MakeData(volume, data):
            backend.make_data(volume, data)
        case Publish(volume, metadata):
            backend.publish(volume, metadata)
        case Change():
            change(step, backend)
        case GrowData(volume, capacity):
            backend.grow(volume, capacity)
        case Delete(volume):
            backend.delete(volume)
