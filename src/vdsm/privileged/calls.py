"""The closed list of what the root helper does, and nothing else.

``Privileged`` has two implementations: ``local.LocalPrivileged`` does the work (supervdsmd runs it), and
``client.PrivilegedClient`` asks supervdsmd. No call takes a command line, and none writes to a file.

All calls look, but for three that change: ``mount`` and ``unmount``, whose targets, types and options are held down by
``mount_rules``, and ``prepare_repository``. Those say what they found and are fine when it is done already, so that
every call may be repeated at will.
"""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

ImageFormat = Literal["raw", "qcow2"]
PathKind = Literal["file", "block", "char", "fifo", "socket", "directory", "other", "none"]

MountOutcome = Literal["mounted", "already"]
UnmountOutcome = Literal["unmounted", "absent"]

UNKNOWN = "unknown"

MOUNT_CALLS = frozenset({"mount", "unmount", "inspect_access"})
"""The calls that may wait long for a server: they have workers of their own, and longer deadlines."""


class Hardware(Struct, frozen=True, kw_only=True):
    """What the firmware says about the machine; ``"unknown"`` where it says nothing.

    Attributes:
        uuid: the machine's, lower case; where the firmware has none, one derived from the machine id.
        uuid_source: who gave the uuid: the firmware, /etc/machine-id (hashed), or nobody.
    """

    manufacturer: str = UNKNOWN
    product: str = UNKNOWN
    version: str = UNKNOWN
    serial: str = UNKNOWN
    uuid: str = UNKNOWN
    family: str = UNKNOWN
    uuid_source: Literal["firmware", "machine-id", "unknown"] = "unknown"


class PathFacts(Struct, frozen=True, kw_only=True):
    """What a path leads to, symbolic links followed.

    Attributes:
        exists: whether it leads to anything; if not, ``kind`` is "none" and ``real_path`` is as far as it leads.
        real_path: absolute, without symbolic links.
        size: bytes of content: of a file, or of a block device; otherwise 0.
        allocated: bytes that a file takes on its file system; of a block device its size.
        writable_fs: whether its file system (for a device: the device) takes writes.
    """

    exists: bool
    kind: PathKind
    real_path: str
    size: int = 0
    allocated: int = 0
    writable_fs: bool = False


class ImageFacts(Struct, frozen=True, kw_only=True):
    """What a disk image is.

    Attributes:
        format: as it was asked for: the content of a raw image is the guest's business and never looked at.
        virtual_size: bytes that a guest sees.
        backing: the files underneath, the nearest first, relative names made absolute. A name that is not a plain path
            ("nbd://...", "json:...") is given as it stands and ends the list.
        data_file: the external data file that a qcow2 image names; None without one. Such an image was not opened.
    """

    format: ImageFormat
    virtual_size: int
    backing: tuple[str, ...] = ()
    data_file: str | None = None


class KvmFacts(Struct, frozen=True, kw_only=True):
    """Whether a guest really runs with KVM, and why not."""

    works: bool
    reason: str


class RepositoryAccess(Struct, frozen=True, kw_only=True):
    """Who may use a directory for storage domains.

    Attributes:
        is_directory: vdsmd's user finds a directory there.
        agent: that user may read, write and search it.
        qemu: the user of virtual machines may read and search it.
    """

    is_directory: bool
    agent: bool
    qemu: bool


class Privileged(Protocol):
    """What vdsmd may ask root to do."""

    def hardware(self) -> Hardware:
        """The machine's identity; the serial number and the UUID are for root's eyes in sysfs."""
        ...

    def initiator_name(self) -> str:
        """The host's iSCSI qualified name; empty without open-iscsi."""
        ...

    def lock_manager(self) -> str:
        """Who takes VMs' leases for libvirt, by its qemu.conf ("sanlock"); empty is nobody."""
        ...

    def inspect_path(self, path: str) -> PathFacts:
        """Look at an absolute path.

        Raises:
            BadParameter: ``path`` is not absolute, or is no path at all.
            Unfinished: the file system under it does not answer.
        """
        ...

    def inspect_image(self, path: str, format: ImageFormat) -> ImageFacts:  # noqa: A002 - the domain's word
        """Look into a disk image and the chain beneath it; may be hostile.

        Raises:
            BadParameter: ``path`` is not a file or block device, or not an image of ``format``; or the chain is too
                long, a loop, or has a format that is not supported.
            Unfinished: the storage does not answer.
        """
        ...

    def probe_kvm(self, kernel: str, initrd: str) -> KvmFacts:
        """Boot a tiny guest with KVM and wait for its word on the serial console. Takes seconds where KVM is broken.

        Raises:
            BadParameter: ``kernel`` or ``initrd`` is not a file.
        """
        ...

    def inspect_access(self, path: str) -> RepositoryAccess:
        """Look at an absolute path with the eyes of vdsmd's user and of virtual machines' user.

        Raises:
            BadParameter: ``path`` is not absolute, or is no path at all.
            Unfinished: the file system under it does not answer.
        """
        ...

    def prepare_repository(self) -> None:
        """Make the root of the repository, its mnt and hsm-tasks, and give them to vdsmd's user; twice is once.

        Raises:
            Failed: something else is in the way.
        """
        ...

    def mount(self, source: str, target: str, vfs_type: str, options: str) -> MountOutcome:
        """Mount storage on a directory below the repository's mnt; nothing when something is mounted there already.

        Args:
            source: as for mount(8).
            target: an existing directory, one level below <repository>/mnt or <repository>/mnt/glusterSD.
            vfs_type: as for mount's -t; see ``mount_rules``.
            options: as for mount's -o; nosuid and nodev are added.

        Raises:
            BadParameter: an argument is not allowed; nothing was done.
            CommandFailed: it cannot be mounted.
            Unfinished: the server does not answer; it may still be mounted.
        """
        ...

    def unmount(self, target: str, force: bool, lazy: bool) -> UnmountOutcome:  # noqa: FBT001 - it has names on the wire
        """Unmount all that is mounted on such a target; see umount(8) for ``force`` and ``lazy``.

        Raises:
            BadParameter: the target is not allowed; nothing was done.
            CommandFailed: it is in use.
            Unfinished: it takes longer; it may still happen.
        """
        ...

    def abandoned(self) -> int:
        """How many programs of the root helper wait in the kernel and could not be killed."""
        ...
