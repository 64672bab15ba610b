"""Small changes of one volume: its header's version, its bitmaps, its zeros. ``job_kinds`` has their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.ids import VolumeRef
from vdsm.storage.images.content import sparsify
from vdsm.storage.images.mover import Opened, Patience, QemuImages, changing, judged
from vdsm.storage.kinds import VolumeFormat
from vdsm.system.qemu_img import changes, questions
from vdsm.system.qemu_img.questions import Bitmap

# What a manager's bitmaps have, and QEMU's default for usual clusters.
_GRANULARITY: Final = 64 << 10


class QemuTools:
    """``job_kinds.VolumeTools`` and ``volume_kinds.BitmapTools``.

    Args:
        images: who opens images.
        patience: how long it may take.
    """

    def __init__(self, images: QemuImages, patience: Patience | None = None) -> None:
        self._images: Final = images
        self._patience: Final = patience or Patience()

    def amend(self, volume: VolumeRef, compatibility: str) -> None:
        """See VolumeTools."""
        with self._images.opened(volume) as opened, changing(f"amending {volume.volume_id}"):
            changes.amend(opened.path, compatibility=compatibility, timeout_s=self._patience.question_s)

    def sparsify(self, volume: VolumeRef) -> None:
        """See VolumeTools; ``content.sparsify`` says what it does and does not do."""
        sparsify(self._images, volume, silence_s=self._patience.silence_s)

    def add_bitmap(self, volume: VolumeRef, bitmap: str) -> None:
        """See VolumeTools."""
        for ident in self._images.chain(volume):
            layer = VolumeRef(volume.domain_id, volume.image_id, ident)
            with self._images.opened(layer) as opened:
                if bitmap in self._bitmaps(opened):
                    raise UnsupportedOperation(f"volume {ident} has a bitmap {bitmap} already")
        with self._images.opened(volume) as opened, changing(f"adding bitmap {bitmap} to {volume.volume_id}"):
            changes.add_bitmap(
                opened.path, bitmap, granularity=_GRANULARITY, enabled=True, timeout_s=self._patience.change_s
            )

    def inherit_bitmaps(self, source: VolumeRef, target: VolumeRef) -> None:
        """See BitmapTools."""
        with self._images.opened(source) as above, self._images.opened(target) as below:
            known = self._bitmaps(below)
            for bitmap in self._bitmaps(above).values():
                if bitmap.in_use or not bitmap.enabled or bitmap.name in known:
                    continue
                with changing(f"adding bitmap {bitmap.name} to {target.volume_id}"):
                    changes.add_bitmap(
                        below.path,
                        bitmap.name,
                        granularity=bitmap.granularity,
                        enabled=True,
                        timeout_s=self._patience.change_s,
                    )

    def remove_bitmap(self, volume: VolumeRef, bitmap: str) -> None:
        """See VolumeTools."""
        with self._images.opened(volume) as opened, changing(f"removing bitmap {bitmap} of {volume.volume_id}"):
            if bitmap in self._bitmaps(opened):
                changes.remove_bitmap(opened.path, bitmap, timeout_s=self._patience.change_s)

    def clear_bitmaps(self, volume: VolumeRef) -> None:
        """See VolumeTools."""
        with self._images.opened(volume) as opened, changing(f"removing the bitmaps of {volume.volume_id}"):
            for bitmap in self._bitmaps(opened):
                changes.remove_bitmap(opened.path, bitmap, timeout_s=self._patience.change_s)

    def merge_bitmaps(self, top: VolumeRef, base: VolumeRef) -> None:
        """See VolumeTools. What was not closed well is left out: QEMU cannot use it."""
        with self._images.opened(top) as above, self._images.opened(base) as below:
            known = self._bitmaps(below)
            for bitmap in self._bitmaps(above).values():
                if bitmap.in_use:
                    continue
                with changing(f"merging bitmap {bitmap.name} into {base.volume_id}"):
                    if bitmap.name not in known:
                        changes.add_bitmap(
                            below.path,
                            bitmap.name,
                            granularity=bitmap.granularity,
                            enabled=bitmap.enabled,
                            timeout_s=self._patience.change_s,
                        )
                    changes.merge_bitmap(below.path, bitmap.name, above.path, timeout_s=self._patience.question_s)

    def _bitmaps(self, opened: Opened) -> Mapping[str, Bitmap]:
        if opened.metadata.format is not VolumeFormat.COW:
            return {}
        with judged(opened.path):
            found = questions.info(opened.path, opened.format, timeout_s=self._patience.change_s)
        return {bitmap.name: bitmap for bitmap in found.bitmaps}
