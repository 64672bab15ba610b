"""The template: a node that was booted and warmed up once, and is cloned from then on.

Its RAM is a file that clones map privately (they share what they do not write), its disk a qcow2 that clones overlay,
the rest of its state 500 KiB. It is kept beside the image, under the hash of the image, the command line and QEMU.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import acceleration
from .channel import Channel, ChannelClosed
from .deadlines import TooLate, eventually
from .image import definition
from .image.build import CACHE, Image, digest, qemu_version
from .qemu import PROJECT_MIB, Memory, Qemu, command
from .qmp import MonitorError
from .spawning import Spawner

_BOOT_S: Final = 120.0
_KVM_S: Final = 30.0  # with KVM a node is up in two
# Whatever takes long the first time: module loading, udev's queue, lvm's first run.
_WARM: Final = (
    f"modprobe bonding max_bonds=0; modprobe -a {' '.join(definition.WARM_MODULES)};"
    " udevadm settle; lvm version >/dev/null; sync"
)


@dataclass(frozen=True)
class Template:
    """The files that a clone needs."""

    image: Image
    accelerator: str
    ram: Path
    state: Path
    root: Path


def find_or_make(
    image: Image, spawner: Spawner, cache: Path = CACHE, say: Callable[[str], None] = lambda _t: None
) -> Template:
    """The template of an image, booted when there is none yet.

    Raises:
        TooLate: the node did not boot in time.
    """
    with (cache / ".template-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        accelerator = acceleration.choose(cache, lambda: _boots_on_kvm(image, spawner))
        line = command(Path("x"), image, Memory(Path("x")), Path("x"), accelerator)
        place = cache / f"template-{digest(image.key, qemu_version(), _WARM, line)}"
        if not place.is_dir():
            say(f"booting {place.name}")
            for stale in cache.glob("template-*"):
                shutil.rmtree(stale)
            _make(image, spawner, place, accelerator)
    return Template(image, accelerator, place / "ram", place / "state", place / "root.qcow2")


def overlay(path: Path, backing: Path, backing_format: str) -> None:
    """Make an empty qcow2 over another image."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", backing_format, str(path)]
    subprocess.run(argv, check=True, timeout=60)


def blank_project(path: Path) -> Path:
    """An empty disk of the project disk's size: the template has the device, and never reads it."""
    with path.open("wb") as file:
        file.truncate(PROJECT_MIB << 20)
    return path


def _boots_on_kvm(image: Image, spawner: Spawner) -> bool:
    with tempfile.TemporaryDirectory(prefix="vdsm-lab-kvm-") as name:
        work = Path(name)
        overlay(work / "root.qcow2", image.root, "raw")
        argv = command(work, image, Memory(), blank_project(work / "project"), acceleration.KVM)
        try:
            qemu = Qemu(spawner, argv, work)
        except MonitorError:
            return False
        try:
            channel = Channel(work / "test", lambda: qemu.alive)
            try:
                channel.greet(_KVM_S)
            finally:
                channel.close()
        except (TooLate, ChannelClosed):
            return False
        finally:
            qemu.kill()
        return True


def _make(image: Image, spawner: Spawner, place: Path, accelerator: str) -> None:
    # Sockets have short names: not in the cache directory.
    with tempfile.TemporaryDirectory(prefix="vdsm-lab-template-") as name:
        work = Path(name)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
        try:
            # Where it will be found: a qcow2 names its backing file, and clones name this one.
            overlay(work / "root.qcow2", image.root, "raw")
            memory = Memory(partial / "ram", shared=True)
            argv = command(work, image, memory, blank_project(work / "project"), accelerator)
            qemu = Qemu(spawner, argv, work)
            try:
                _warm_up(qemu, work)
                qemu.save(partial / "state")
                qemu.monitor("quit")
                eventually(lambda: not qemu.alive, "QEMU's end", _BOOT_S)
            finally:
                qemu.kill()
            shutil.move(work / "root.qcow2", partial / "root.qcow2")
            partial.chmod(0o755)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _warm_up(qemu: Qemu, work: Path) -> None:
    channel = Channel(work / "test", lambda: qemu.alive)
    try:
        channel.greet(_BOOT_S)
        request = {"op": "run", "argv": ["/bin/sh", "-c", _WARM]}
        channel.request(request, what="warming up", timeout_s=_BOOT_S).wait()
    finally:
        channel.close()
