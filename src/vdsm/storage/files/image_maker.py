"""Image headers, written by the real qemu-img."""

from __future__ import annotations

import errno
import os
from typing import Final

from vdsm.base.errors import CommandFailed
from vdsm.storage.errors import NoSpace, VolumeNotMade
from vdsm.system import qemu_img


class QemuImageMaker:
    """``file_backend.ImageMaker`` by qemu-img.

    Args:
        timeout_s: seconds that writing one header may take; it is some hundred kilobytes.
    """

    def __init__(self, timeout_s: float = 60.0) -> None:
        self._timeout_s: Final = timeout_s

    def create_qcow2(
        self, path: str, capacity: int, *, compatibility: str, backing: str | None, backing_format: str | None
    ) -> None:
        """See ImageMaker.

        Raises:
            NoSpace: the storage is full.
            VolumeNotMade: qemu-img refused.
            Unfinished: the storage does not answer.
        """
        below = (backing, backing_format or "raw") if backing else None
        try:
            qemu_img.create_qcow2(path, capacity, compatibility=compatibility, backing=below, timeout_s=self._timeout_s)
        except CommandFailed as error:
            # Its messages end with the system's, in the fixed locale that programs are run in.
            full = any(error.stderr.endswith(os.strerror(code)) for code in (errno.ENOSPC, errno.EDQUOT))
            raise (NoSpace if full else VolumeNotMade)(f"making the image {path}", error.stderr) from error
