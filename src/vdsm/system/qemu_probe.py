"""Does an accelerator really run guests? Boots one and waits for its word on the serial console.

/dev/kvm may be there, openable, and answer every ioctl, and still no guest gets anywhere (nested virtualization, broken
firmware, a hypervisor's quirk): only a guest that has come up proves that it works.
"""

from __future__ import annotations

import logging
import selectors
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vdsm.base import process
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import CommandFailed

log = logging.getLogger(__name__)

KVM: Final = Path("/dev/kvm")

_QEMU: Final = "qemu-system-x86_64"
_MEMORY_MIB: Final = 128
_CMDLINE: Final = "console=ttyS0 panic=-1 quiet"
# Serial output that is kept to explain a failure, bytes.
_KEPT: Final = 65536
_LINE: Final = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the guest's word was seen, in words, and after how many seconds."""

    works: bool
    reason: str
    seconds: float


def boot(
    kernel: str,
    initrd: str,
    *,
    accelerator: Literal["kvm", "tcg"],
    marker: str,
    timeout_s: float,
    cmdline: str = _CMDLINE,
) -> Outcome:
    """Boot ``kernel`` and ``initrd`` and look for ``marker`` on the serial console.

    Returns within ``timeout_s`` seconds (and a moment to kill QEMU) and leaves no process behind.
    """
    if accelerator == "kvm" and not KVM.exists():
        return Outcome(works=False, reason=f"there is no {KVM}", seconds=0.0)
    began = monotonic_s()
    argv = _command(kernel, initrd, accelerator, cmdline)
    limits = process.Limits(cpu_s=int(2 * timeout_s) + 5, dies_with_caller=True, keep_capabilities=())
    try:
        child = process.spawn(argv, stderr=process.STDOUT, limits=limits)
    except CommandFailed as error:
        return Outcome(works=False, reason=error.stderr, seconds=0.0)
    try:
        seen, output = _watch(child, marker.encode(), began + timeout_s)
        code = child.poll()
    finally:
        child.stop(0.0)
    seconds = monotonic_s() - began
    log.info("booted a guest with %s: marker %s after %.1f s", accelerator, "seen" if seen else "not seen", seconds)
    if seen:
        return Outcome(works=True, reason=f"a guest came up with {accelerator} in {seconds:.1f} s", seconds=seconds)
    return Outcome(works=False, reason=_explain(accelerator, code, output, seconds), seconds=seconds)


def _command(kernel: str, initrd: str, accelerator: str, cmdline: str) -> list[str]:
    return [
        _QEMU,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", f"q35,accel={accelerator}", "-cpu", "host" if accelerator == "kvm" else "max"),
        *("-m", str(_MEMORY_MIB), "-smp", "1"),
        *("-chardev", "stdio,id=word,signal=off", "-serial", "chardev:word"),
        *("-kernel", kernel, "-initrd", initrd, "-append", cmdline),
    ]


def _watch(child: process.Child, marker: bytes, until_s: float) -> tuple[bool, bytes]:
    """Read until the marker, the end of the output or the deadline."""
    output = b""
    stream = child.stdout
    if stream is None:
        return False, output
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, until_s - monotonic_s())):
            data = stream.read(4096)
            if not data:
                # End of output means that it is ending; its status is needed to explain.
                child.ended_within(max(0.0, until_s - monotonic_s()))
                return False, output
            output = (output + data)[-_KEPT:]
            if marker in output:
                return True, output
    return False, output


def _explain(accelerator: str, code: int | None, output: bytes, seconds: float) -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    last = f"; its last words: {lines[-1]:.{_LINE}}" if lines else "; it said nothing"
    if code is not None:
        return f"QEMU with {accelerator} ended with {code} after {seconds:.1f} s{last}"
    return f"a guest with {accelerator} did not come up within {seconds:.1f} s{last}"
