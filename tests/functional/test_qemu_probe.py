"""The probe of an accelerator, with a real guest under TCG (KVM's answer is the machine's own: test_supervdsm.py)."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from needs import needs
from vdsm.base import process
from vdsm.system import qemu_probe

if TYPE_CHECKING:
    from pathlib import Path

    from vds_bootstrap.guest import Guest

pytestmark = needs("qemu")


def of_this_test(tmp_path: Path) -> list[str]:
    done = subprocess.run(["pgrep", "-af", str(tmp_path)], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "qemu-system" in line]


def test_guest_that_says_its_word_proves_the_accelerator(tiny_guest: Guest, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.symlink_to(tiny_guest.kernel)
    outcome = qemu_probe.boot(
        str(kernel), str(tiny_guest.initrd), accelerator="tcg", marker=tiny_guest.marker, timeout_s=60
    )
    assert outcome.works, outcome.reason
    assert of_this_test(tmp_path) == []


def test_guest_that_hangs_is_given_up_at_the_deadline_and_leaves_nothing(tiny_guest: Guest, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.symlink_to(tiny_guest.kernel)
    outcome = qemu_probe.boot(
        str(kernel), str(tiny_guest.initrd), accelerator="tcg", marker="NEVER-SAID", timeout_s=0.5
    )
    assert not outcome.works
    assert "did not come up within" in outcome.reason
    assert of_this_test(tmp_path) == []
    assert process.abandoned() == 0


def test_qemu_that_ends_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_text("no kernel")
    outcome = qemu_probe.boot(str(kernel), str(kernel), accelerator="tcg", marker="X", timeout_s=60)
    assert not outcome.works
    assert "ended with" in outcome.reason
    assert len(outcome.reason) < 500
