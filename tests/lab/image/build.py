"""Builds a full node's image in stages, each cached under the hash of what it is made from.

    kernel package ── vmlinux ┐
                   ── initrd  ┴ boot-HASH/       (with the agent: rebuilt in a second when that changes)
    mmdebstrap + kernel's modules ─ root-HASH/   (the slow one, a minute)
    tools-HASH/                                  (BMC and fence agent for the machine itself)

A stage is made in a directory beside its place and renamed when it is complete, so one that is there is whole.
Needs root (mmdebstrap makes device nodes and owners).
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vds_bootstrap import initramfs, packages, vmlinux
from vds_bootstrap.programs import run

from . import definition

PROJECT: Final = Path(__file__).resolve().parents[3]
CACHE: Final = PROJECT / ".run" / "cache" / "lab"
AGENT: Final = Path(__file__).resolve().parents[1] / "agent"
BUSYBOX: Final = Path("/bin/busybox")
_FASTCLOCK: Final = Path(__file__).with_name("fastclock.c")
_PATIENCE_S: Final = 1200.0
# Without these an old e2fsck or a kernel under emulation is as happy, and mounting is quicker.
_MKE2FS: Final = ("-q", "-t", "ext4", "-O", "^metadata_csum,^64bit", "-E", "lazy_itable_init=1,lazy_journal_init=1")


@dataclass(frozen=True)
class Image:
    """The files a node is started from, and ``key``, which changes when any of them does."""

    kernel: Path
    initrd: Path
    root: Path
    key: str


def build(cache: Path = CACHE, say: Callable[[str], None] = lambda _text: None) -> Image:
    """The image, built as far as it is not there.

    Args:
        cache: where everything is kept; made when absent.
        say: told what is being done, for people.

    Raises:
        ProgramFailed: apt, mmdebstrap or a tool failed.
        LookupError: something the definition names does not exist.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _only_builder(cache):
        boot = stage(cache, "boot", boot_key(), _make_boot, say)
        root = stage(cache, "root", root_key(), _make_root, say)
    return Image(boot / "vmlinux", boot / "initrd.img", root / "root.ext4", f"{boot.name}-{root.name}")


def tools(cache: Path = CACHE, say: Callable[[str], None] = lambda _text: None) -> Path:
    """A directory with the unpacked BMC and fence agent, for programs of this machine.

    Raises:
        ProgramFailed: apt could not deliver them.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _only_builder(cache):
        return stage(cache, "tools", digest(definition.TOOL_PACKAGES), _make_tools, say)


def file_system(content: Path, image: Path, size_mib: int) -> None:
    """Make an ext4 file system with a directory's content, in a sparse file."""
    image.unlink(missing_ok=True)
    run(["mke2fs", *_MKE2FS, "-d", content, image, f"{size_mib}M"], timeout_s=300)


# -- stages


@contextmanager
def _only_builder(cache: Path) -> Iterator[None]:
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stage(cache: Path, name: str, key: str, make: Callable[[Path, Path], None], say: Callable[[str], None]) -> Path:
    """A stage's directory, made when there is none of that key; one of another key goes."""
    place = cache / f"{name}-{key}"
    if place.is_dir():
        return place
    say(f"building {place.name}")
    start = time.monotonic()
    for stale in cache.glob(f"{name}-*"):
        shutil.rmtree(stale)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
    try:
        make(partial, cache)
        partial.chmod(0o755)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"built {place.name} in {time.monotonic() - start:.0f} s")
    return place


def digest(*parts: object) -> str:
    """A short hash of texts, tuples and the content of files."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else repr(part).encode()
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()[:12]


def boot_key() -> str:
    """The hash of what boot-HASH is made from."""
    sources = [
        Path(initramfs.__file__),
        Path(vmlinux.__file__),
        _FASTCLOCK,
        *sorted(p for p in AGENT.iterdir() if p.is_file()),
    ]
    return digest(definition.KERNEL_PACKAGE, definition.INITRAMFS_MODULES, *sources)


def root_key() -> str:
    """The hash of what root-HASH is made from."""
    names = (definition.PACKAGES, definition.UNPACKED, definition.WITHOUT, definition.ROOT_SIZE_MIB)
    return digest(definition.SUITE, definition.KERNEL_PACKAGE, *names, *_MKE2FS)


def _kernel(cache: Path) -> Path:
    """The unpacked kernel package: one version for all stages, asked for once."""
    pinned = cache / "kernel-package"
    if not pinned.exists():
        pinned.write_text(packages.real_name(definition.KERNEL_PACKAGE), encoding="utf-8")
    return packages.unpacked(pinned.read_text(encoding="utf-8"), cache)


def _make_boot(place: Path, cache: Path) -> None:
    kernel = _kernel(cache)
    (image,) = (kernel / "boot").glob("vmlinuz-*")
    (place / "vmlinux").write_bytes(vmlinux.extract(image.read_bytes()))
    clock = place / "fastclock.so"
    run(["gcc", "-O2", "-shared", "-fPIC", "-o", clock, _FASTCLOCK])
    (folder,) = (kernel / "lib" / "modules").iterdir()
    archive = initramfs.Archive()
    for name in ("dev", "proc", "root", "bin", "modules", "lab"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", BUSYBOX.read_bytes())
    archive.file("init", (AGENT / "initramfs_init").read_bytes())
    modules = initramfs.module_order(folder, definition.INITRAMFS_MODULES)
    for module in modules:
        archive.file(f"modules/{module.name}", module.read_bytes(), 0o644)
    archive.file("modules/list", "\n".join(module.name for module in modules).encode(), 0o644)
    for source in (AGENT / "init", AGENT / "agent.py", clock):
        archive.file(f"lab/{source.name}", source.read_bytes())
    (place / "initrd.img").write_bytes(archive.finished())


def _make_root(place: Path, cache: Path) -> None:
    root = place / "tree"
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", '--aptopt=APT::Sandbox::User "root"']
    argv += [f"--include={','.join(definition.PACKAGES)}"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in definition.WITHOUT]
    run([*argv, definition.SUITE, root], timeout_s=_PATIENCE_S)
    for name in definition.UNPACKED:
        # Unpacked over a merged /usr by hand: dpkg-deb would replace the link /sbin by a directory.
        shutil.copytree(packages.unpacked(name, cache) / "usr", root / "usr", symlinks=True, dirs_exist_ok=True)
    (folder,) = (_kernel(cache) / "lib" / "modules").iterdir()
    shutil.copytree(folder, root / "usr/lib/modules" / folder.name, symlinks=True)
    run(["depmod", "-b", root, folder.name])
    for name in ("lab", "opt/vdsm", "etc/iscsi", "export", "mnt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    file_system(root, place / "root.ext4", definition.ROOT_SIZE_MIB)
    _remove(root)


def _remove(tree: Path) -> None:
    # mmdebstrap unmounts what it mounted; should it not have, nothing of the machine must go with the tree.
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    if any(place.startswith(f"{tree}/") for place in mounted):
        raise OSError(f"something is still mounted in {tree}")
    shutil.rmtree(tree)


def _make_tools(place: Path, cache: Path) -> None:
    for name in definition.TOOL_PACKAGES:
        source = packages.unpacked(name, cache)
        for part in ("usr", "lib"):
            if (source / part).is_dir():
                shutil.copytree(source / part, place / part, symlinks=True, dirs_exist_ok=True)
    # fencing.py imports it for other agents than the one used here; the real one needs half of the network stack.
    (place / "usr/lib/python3/dist-packages/pycurl.py").write_text('"""Absent."""\n', encoding="utf-8")


def tools_environment(place: Path) -> dict[str, str]:
    """The variables with which the unpacked programs find their own parts."""
    python = place / "usr/lib/python3/dist-packages"
    return {
        "PATH": f"{place}/usr/sbin:{place}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": f"{python}:{place}/usr/share/fence",
        "LD_LIBRARY_PATH": f"{place}/usr/lib/x86_64-linux-gnu",
    }


def qemu_version() -> str:
    """QEMU's version line: a saved state belongs to one version."""
    text = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True, timeout=60).stdout
    return text.decode().splitlines()[0]
