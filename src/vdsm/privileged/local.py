"""``Privileged`` done by this process, which must be root's for true answers. supervdsmd runs it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

import msgspec

from vdsm.base import process
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import BadParameter, Unfinished
from vdsm.privileged.calls import (
    Hardware,
    ImageFacts,
    ImageFormat,
    KvmFacts,
    MountOutcome,
    PathFacts,
    RepositoryAccess,
    UnmountOutcome,
)
from vdsm.privileged.mount_rules import MountRules
from vdsm.privileged.mounting import Mounting, Person
from vdsm.system import dmi, iscsi, lock_driver, paths, qemu_img, qemu_probe

# Longer chains are nobody's; libvirt stops at 200.
_MAX_CHAIN: Final = 64
_SECTOR: Final = 512
# What hosts that share storage agree on; used where nothing else is said.
_REPOSITORY: Final = "/rhev/data-center"
_AGENT: Final = Person(36, 36)
_QEMU: Final = Person(107, 107, (36,))
_MOUNT_S: Final = 60.0


class LocalPrivileged:
    """Does the calls with the modules of ``system``.

    Args:
        call_deadline_s: seconds that one look at a path or an image chain may take.
        kvm_probe_s: seconds that the tiny guest gets to come up.
        kvm_marker: the word that the tiny guest says on its serial console when it is up.
        mounting: does the calls about mounts; None is one with the repository's usual place and users.
    """

    def __init__(
        self,
        *,
        call_deadline_s: float,
        kvm_probe_s: float,
        kvm_marker: str = "TINY-UP",
        mounting: Mounting | None = None,
    ) -> None:
        self._deadline_s: Final = call_deadline_s
        self._kvm_probe_s: Final = kvm_probe_s
        self._kvm_marker: Final = kvm_marker
        self._mounting: Final = mounting or Mounting(
            MountRules(_REPOSITORY), _AGENT, _QEMU, mount_deadline_s=_MOUNT_S, look_deadline_s=call_deadline_s
        )

    def hardware(self) -> Hardware:
        """See ``Privileged.hardware``."""
        return msgspec.convert(dmi.read(), Hardware, from_attributes=True)

    def initiator_name(self) -> str:
        """See ``Privileged.initiator_name``."""
        return iscsi.initiator_name()

    def lock_manager(self) -> str:
        """See ``Privileged.lock_manager``."""
        return lock_driver.lock_manager()

    def inspect_path(self, path: str) -> PathFacts:
        """See ``Privileged.inspect_path``."""
        found = paths.inspect(path, timeout_s=self._deadline_s)
        return msgspec.convert(found, PathFacts, from_attributes=True)

    def inspect_image(self, path: str, format: ImageFormat) -> ImageFacts:  # noqa: A002 - the domain's word
        """See ``Privileged.inspect_image``."""
        deadline = _Deadline(f"looking at {path}", self._deadline_s)
        facts = self._layer(path, deadline)
        if format == "raw":
            return ImageFacts(format="raw", virtual_size=-(-facts.size // _SECTOR) * _SECTOR)
        header = self._qcow2(path, deadline)
        if header.data_file is not None:
            return ImageFacts(format="qcow2", virtual_size=header.virtual_size, data_file=header.data_file)
        return ImageFacts(format="qcow2", virtual_size=header.virtual_size, backing=self._chain(path, header, deadline))

    def probe_kvm(self, kernel: str, initrd: str) -> KvmFacts:
        """See ``Privileged.probe_kvm``."""
        for field, path in (("kernel", kernel), ("initrd", initrd)):
            paths.check(path, field)
            if self.inspect_path(path).kind != "file":
                raise BadParameter(field, f"{path} is not a file")
        outcome = qemu_probe.boot(
            kernel, initrd, accelerator="kvm", marker=self._kvm_marker, timeout_s=self._kvm_probe_s
        )
        return KvmFacts(works=outcome.works, reason=outcome.reason)

    def inspect_access(self, path: str) -> RepositoryAccess:
        """See ``Privileged.inspect_access``."""
        return self._mounting.inspect_access(path)

    def prepare_repository(self) -> None:
        """See ``Privileged.prepare_repository``."""
        self._mounting.prepare_repository()

    def mount(self, source: str, target: str, vfs_type: str, options: str) -> MountOutcome:
        """See ``Privileged.mount``."""
        return self._mounting.mount(source, target, vfs_type, options)

    def unmount(self, target: str, force: bool, lazy: bool) -> UnmountOutcome:  # noqa: FBT001 - it has names on the wire
        """See ``Privileged.unmount``."""
        return self._mounting.unmount(target, force=force, lazy=lazy)

    def abandoned(self) -> int:
        """See ``Privileged.abandoned``."""
        return process.abandoned()

    def _layer(self, path: str, deadline: _Deadline) -> paths.Found:
        found = paths.inspect(path, timeout_s=deadline.left_s())
        if found.kind not in {"file", "block"}:
            what = "does not exist" if not found.exists else f"is a {found.kind}, not a file or a block device"
            raise BadParameter("path", f"{path} {what}")
        return found

    def _qcow2(self, path: str, deadline: _Deadline) -> qemu_img.Header:
        header = qemu_img.read_header(path, timeout_s=deadline.left_s())
        if header is None:
            raise BadParameter("format", f"{path} is not a qcow2 image")
        if header.data_file is None:
            # QEMU must be willing to open it, too.
            qemu_img.info(path, timeout_s=deadline.left_s())
        return header

    def _chain(self, top: str, header: qemu_img.Header, deadline: _Deadline) -> tuple[str, ...]:
        """Follow the backing files; every layer is checked as the image itself is."""
        chain: list[str] = []
        path = top
        while header.backing is not None:
            if _has_protocol(header.backing):
                return (*chain, header.backing)
            path = str(PurePosixPath(path).parent / header.backing)
            if len(chain) >= _MAX_CHAIN or path in chain or path == top:
                raise BadParameter("path", f"the chain of {top} is a loop or longer than {_MAX_CHAIN} images")
            chain.append(path)
            self._layer(path, deadline)
            if header.backing_format == "raw":
                break
            header = self._backing(path, header.backing_format, deadline)
            if header.data_file is not None:
                raise BadParameter("path", f"{path}, in the chain of {top}, has an external data file")
        return tuple(chain)

    def _backing(self, path: str, layer_format: str | None, deadline: _Deadline) -> qemu_img.Header:
        if layer_format == "qcow2":
            return self._qcow2(path, deadline)
        if layer_format is not None:
            raise BadParameter("path", f"the backing file {path} has the format {layer_format!r:.40}")
        # Without a format QEMU would guess from content, which a guest may have written.
        if qemu_img.read_header(path, timeout_s=deadline.left_s()) is not None:
            raise BadParameter("path", f"the image above {path} does not say which format that has")
        return qemu_img.Header(virtual_size=0, backing=None, backing_format=None, data_file=None)


class _Deadline:
    """One deadline for the steps of a call."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._seconds = seconds
        self._until_s = monotonic_s() + seconds

    def left_s(self) -> float:
        """Seconds for the next step; raises Unfinished when there are none."""
        left = self._until_s - monotonic_s()
        if left <= 0:
            raise Unfinished(self._what, self._seconds)
        return left


def _has_protocol(name: str) -> bool:
    """Whether QEMU takes the name for more than a path: a colon before the first slash ("nbd:", "json:")."""
    return ":" in name.split("/", 1)[0]
