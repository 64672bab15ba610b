"""Whether guests run with KVM here: tried once with a tiny guest, because /dev/kvm is there on hosts where guests hang.

The answer is kept in ``kvm.json`` of the state directory, with the kernel that it is about: ``{"works": bool, "reason":
text, "kernel": release}``. Another kernel is tried anew.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from vdsm.base.errors import VdsmError
from vdsm.base.persist import persist_file, read_file
from vdsm.privileged.calls import Privileged

log = logging.getLogger(__name__)

_DEVICE: Final = Path("/dev/kvm")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether KVM works with this kernel, and why not."""

    works: bool
    reason: str
    kernel: str


class Acceleration:
    """Knows, or finds out, whether KVM works."""

    def __init__(self, privileged: Privileged, state_dir: Path, wanted: str) -> None:
        """``wanted`` is the configuration's word: "kvm" and "qemu" are believed, "auto" is tried."""
        self._privileged = privileged
        self._place = state_dir / "kvm.json"
        self._guest = state_dir / "guest"
        self._wanted = wanted
        self._lock = threading.Lock()
        self._verdict: Verdict | None = None

    def works(self) -> bool:
        """Whether guests run with KVM; the first call may take the seconds that trying takes."""
        return self.verdict().works

    def known_to_work(self) -> bool:
        """Whether KVM is known to work by now; does not wait."""
        return self._verdict is not None and self._verdict.works

    def verdict(self) -> Verdict:
        """The verdict; the first call may take the seconds that trying takes."""
        verdict = self._verdict
        if verdict is None:
            with self._lock:
                verdict = self._verdict or self._find()
                self._verdict = verdict
        return verdict

    def _find(self) -> Verdict:
        kernel = os.uname().release
        if self._wanted != "auto":
            return Verdict(works=self._wanted == "kvm", reason="as configured", kernel=kernel)
        kept = self._kept()
        if kept is not None and kept.kernel == kernel:
            return kept
        verdict, final = self._try(kernel)
        log.info("KVM %s: %s", "is used" if verdict.works else "is not used, guests run emulated", verdict.reason)
        if final:
            persist_file(self._place, msgspec.json.encode(verdict), mode=0o644)
        return verdict

    def _kept(self) -> Verdict | None:
        text = read_file(self._place)
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=Verdict)
        except msgspec.DecodeError as error:
            log.warning("%s is not used: %s", self._place, error)
            return None

    def _try(self, kernel: str) -> tuple[Verdict, bool]:
        image, initrd = self._guest / "vmlinux", self._guest / "initrd.img"
        if not _DEVICE.exists():
            return Verdict(works=False, reason=f"there is no {_DEVICE}", kernel=kernel), False
        if not (image.exists() and initrd.exists()):
            reason = f"not tried, there is no guest to try it with in {self._guest}"
            return Verdict(works=False, reason=reason, kernel=kernel), False
        try:
            facts = self._privileged.probe_kvm(str(image), str(initrd))
        except VdsmError as error:
            return Verdict(works=False, reason=f"not tried: {error}", kernel=kernel), False
        return Verdict(works=facts.works, reason=facts.reason, kernel=kernel), True
