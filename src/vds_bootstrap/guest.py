"""Builds the tiny guest: a Linux that boots in about two seconds, made of Debian packages and nothing else.

    vmlinux      the ELF kernel out of Debian's cloud kernel package (started by QEMU through its PVH entry)
    initrd.img   BusyBox, the virtio modules, the real qemu-guest-agent with its libraries, and guest_files/
    recipe.json  what the two were made from; equal to what would be made now means that there is nothing to do

It prints ``TINY-UP <name>`` on its serial console, offers a root shell there, asks DHCP for an address, answers the
guest agent's protocol and obeys the power button. It needs 96 MiB of memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vds_bootstrap import initramfs, packages, vmlinux
from vds_bootstrap.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER: Final = "TINY-UP"
KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
AGENT_PACKAGE: Final = "qemu-guest-agent"
HOST_PACKAGES: Final = ("busybox-static",)
BUSYBOX: Final = Path("/bin/busybox")
FILES: Final = Path(__file__).with_name("guest_files")
CMDLINE: Final = (
    "console=ttyS0 quiet loglevel=3 mitigations=off nokaslr tsc=reliable no_timer_check cryptomgr.notests audit=0 "
    "random.trust_cpu=on net.ifnames=0 panic=-1"
)
# Modules that are always loaded, so that devices of these kinds may also be plugged in later.
ALWAYS: Final = (
    "virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "virtio_balloon", "virtio_rng", "button", "evdev",
)  # fmt: skip
SCSI: Final = ("virtio_scsi", "sd_mod", "sr_mod", "isofs")


@dataclass(frozen=True)
class Guest:
    """A guest that is ready to boot: ``kernel`` and ``initrd`` are files, ``cmdline`` the kernel's command line.

    ``marker`` begins the line on the serial console that says that the guest is up; after it comes its name.
    """

    kernel: Path
    initrd: Path
    marker: str = MARKER
    cmdline: str = CMDLINE

    def cmdline_for(self, name: str) -> str:
        """The kernel's command line for a guest that calls itself ``name``."""
        return f"{self.cmdline} tiny.name={name}"


def build(out: Path, cache: Path) -> Guest:
    """Build the guest into ``out``, or return the one that is there when it is what would be built now.

    Args:
        out: the directory for vmlinux and initrd.img; made when absent.
        cache: the directory for downloaded and unpacked packages; made when absent.

    Raises:
        ProgramFailed: apt or dpkg-deb could not deliver a package.
        LookupError: BusyBox is not installed, or a package does not have what it should have.
    """
    if not BUSYBOX.exists():
        raise LookupError(f"{BUSYBOX} is absent: install the package {HOST_PACKAGES[0]}")
    out.mkdir(parents=True, exist_ok=True)
    guest = Guest(kernel=out / "vmlinux", initrd=out / "initrd.img")
    with _only_builder(out):
        recipe = _recipe()
        if not _is_current(guest, recipe):
            _write(guest, cache)
            _stamp(guest).write_text(json.dumps({**recipe, **_sizes(guest)}, indent=1), encoding="utf-8")
    return guest


def is_built(out: Path) -> bool:
    """Whether ``build`` would find everything done."""
    guest = Guest(kernel=out / "vmlinux", initrd=out / "initrd.img")
    return BUSYBOX.exists() and _is_current(guest, _recipe())


@contextmanager
def _only_builder(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(guest: Guest, cache: Path) -> None:
    kernel = packages.unpacked(packages.real_name(KERNEL_PACKAGE), cache)
    image = next(iter(sorted((kernel / "boot").glob("vmlinuz-*"))))
    _replace(guest.kernel, vmlinux.extract(image.read_bytes()))
    _replace(guest.initrd, _initrd(kernel, cache))


def _initrd(kernel: Path, cache: Path) -> bytes:
    archive = initramfs.Archive()
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "etc", "modules", "var"):
        archive.directory(folder)
    archive.link("var/run", "/run")
    archive.link("usr", ".")
    archive.link("sbin", "bin")
    archive.character_device("dev/console", 5, 1)
    _add_busybox(archive)
    _add_files(archive)
    _add_modules(archive, kernel)
    _add_agent(archive, cache)
    return archive.finished()


def _add_busybox(archive: initramfs.Archive) -> None:
    archive.file("bin/busybox", BUSYBOX.read_bytes())
    for applet in run([BUSYBOX, "--list"]).split():
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")


def _add_files(archive: initramfs.Archive) -> None:
    places = {
        "init": "init",
        "shutdown": "bin/shutdown",
        "udhcpc.script": "etc/udhcpc.script",
        "profile": "etc/profile",
        "os-release": "etc/os-release",
    }
    for name, place in places.items():
        archive.file(place, (FILES / name).read_bytes())
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n", 0o644)
    archive.file("etc/group", b"root:x:0:\n", 0o644)
    # BusyBox acpid looks for a file named after the event: the power button.
    archive.link("etc/acpi/PWRF/00000080", "/bin/shutdown")


def _add_modules(archive: initramfs.Archive, kernel: Path) -> None:
    (folder,) = (kernel / "lib" / "modules").iterdir()
    always = initramfs.module_order(folder, ALWAYS)
    scsi = [path for path in initramfs.module_order(folder, SCSI) if path not in always]
    for name, paths in (("always", always), ("scsi", scsi)):
        archive.file(f"modules/{name}.list", "\n".join(path.name for path in paths).encode(), 0o644)
        for path in paths:
            archive.file(f"modules/{path.name}", path.read_bytes(), 0o644)


def _add_agent(archive: initramfs.Archive, cache: Path) -> None:
    roots = [packages.unpacked(AGENT_PACKAGE, cache)]
    file = next(iter((cache / "packages").glob(f"{AGENT_PACKAGE}_*.deb")), None)
    wanted = packages.dependencies(file) if file else []
    roots += [packages.unpacked(name, cache) for name in packages.missing(wanted)]
    agent = roots[0] / "usr/sbin/qemu-ga"
    archive.file("bin/qemu-ga", agent.read_bytes())
    for library in _libraries(agent, roots):
        place = str(library)
        for root in roots:
            place = place.removeprefix(str(root))
        archive.file(place, library.resolve().read_bytes())


def _libraries(binary: Path, roots: list[Path]) -> list[Path]:
    """The shared libraries of a binary, found on the host and in the unpacked packages."""
    folders = [str(root / tail) for root in roots for tail in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")]
    answer = run(["ldd", binary], env={"LD_LIBRARY_PATH": ":".join(folders)})
    if absent := re.findall(r"(\S+) => not found", answer):
        raise LookupError(f"{binary.name} needs libraries that are nowhere here: {', '.join(absent)}")
    return [Path(word) for word in answer.split() if word.startswith("/")]


def _recipe() -> dict[str, str]:
    """What decides how the guest comes out: this program, its files and the host's BusyBox."""
    digest = hashlib.sha256()
    sources = [Path(__file__), Path(initramfs.__file__), Path(vmlinux.__file__), *sorted(FILES.iterdir()), BUSYBOX]
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return {"made_from": digest.hexdigest()}


def _sizes(guest: Guest) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (guest.kernel, guest.initrd)}


def _is_current(guest: Guest, recipe: dict[str, str]) -> bool:
    try:
        found = json.loads(_stamp(guest).read_text(encoding="utf-8"))
        return bool(found == {**recipe, **_sizes(guest)})
    except (OSError, ValueError):
        return False


def _stamp(guest: Guest) -> Path:
    return guest.kernel.with_name("recipe.json")


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.chmod(0o644)
    partial.replace(path)
