"""Image headers, written by the real qemu-img."""

from __future__ import annotations

from typing import Final

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
            CommandFailed: qemu-img refused.
            Unfinished: the storage does not answer.
        """
        qemu_img.create_qcow2(
            path,
            capacity,
            compatibility=compatibility,
            backing=(backing, backing_format or "raw") if backing else None,
            timeout_s=self._timeout_s,
        )
