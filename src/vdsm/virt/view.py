"""What others see of a VM: frozen pictures, replaced as a whole when something changed.

A picture is taken without asking anybody: the state is as of the last event, the sample as of ``VmSample.taken_s``.
Whoever derives something costly from a picture may key it by identity: the same object means the same content.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import Enum, Flag, IntEnum, auto, unique

from vdsm.base.ids import VmId
from vdsm.virt.domxml import DomainFacts
from vdsm.virt.lifecycle import Status


@unique
class ExitCode(IntEnum):
    """Whether a VM ended as it should."""

    NORMAL = 0
    ERROR = 1


@unique
class ExitReason(IntEnum):
    """Why a VM ended: the original's published numbers."""

    SUCCESS = 0
    GENERIC_ERROR = 1
    LOST_QEMU = 2
    START_FAILED = 3
    MIGRATION_SUCCEEDED = 4
    SAVED = 5
    ADMIN_SHUTDOWN = 6
    USER_SHUTDOWN = 7
    MIGRATION_FAILED = 8
    DOMAIN_MISSING = 9
    DESTROYED_ON_STARTUP = 10
    HOST_SHUTDOWN = 11


@dataclass(frozen=True, slots=True)
class Exit:
    """How a VM ended; the message is for people."""

    code: ExitCode
    reason: ExitReason
    message: str


@unique
class PauseCode(Enum):
    """Why a VM is paused, in the protocol's words."""

    NONE = "NONE"
    USER = "NOERR"
    EIO = "EIO"
    ENOSPC = "ENOSPC"
    EPERM = "EPERM"
    OTHER = "EOTHER"
    POSTCOPY = "POSTCOPY"


@dataclass(frozen=True, slots=True)
class DiskSample:
    """One drive since the VM's start: operations, bytes, ns; rates per second, latencies in ns per operation."""

    target: str
    read_ops: int = 0
    read_bytes: int = 0
    read_ns: int = 0
    write_ops: int = 0
    write_bytes: int = 0
    write_ns: int = 0
    flush_ops: int = 0
    flush_ns: int = 0
    read_rate: float = 0.0
    write_rate: float = 0.0
    read_latency_ns: int = 0
    write_latency_ns: int = 0
    flush_latency_ns: int = 0
    capacity: int = 0
    allocation: int = 0
    physical: int = 0


@dataclass(frozen=True, slots=True)
class NicSample:
    """One network card since the VM's start, as the guest sees it: rx is what the guest received."""

    target: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory in KiB. What the guest's balloon driver does not tell is None."""

    balloon_current_kib: int
    balloon_maximum_kib: int
    rss_kib: int | None = None
    available_kib: int | None = None
    unused_kib: int | None = None
    usable_kib: int | None = None
    cached_kib: int | None = None


@dataclass(frozen=True, slots=True)
class VmSample:
    """One sample; a new object each time one was taken.

    ``taken_s`` is the monotonic time of its cheap part (state, CPU, network), ``monitor_taken_s`` of what QEMU itself
    had to be asked for (disks, memory; None: not yet). CPU is percent of one CPU since the sample before, cpu_ns since
    the VM's start.
    """

    taken_s: float
    monitor_taken_s: float | None = None
    cpu_user_percent: float = 0.0
    cpu_system_percent: float = 0.0
    cpu_ns: int = 0
    memory: MemorySample | None = None
    disks: tuple[DiskSample, ...] = ()
    nics: tuple[NicSample, ...] = ()

    @property
    def memory_used_percent(self) -> int:
        """Percent of its memory that the guest uses; 0 when it does not say."""
        memory = self.memory
        if memory is None or not memory.available_kib:
            return 0
        free = memory.usable_kib if memory.usable_kib is not None else memory.unused_kib
        return 0 if free is None else min(100, max(0, 100 - 100 * free // memory.available_kib))


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """One network interface inside the guest."""

    name: str
    mac: str
    ipv4: tuple[str, ...]
    ipv6: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestInfo:
    """What the guest's agent said at the monotonic time ``answered_s``; "" where it did not."""

    answered_s: float
    host_name: str = ""
    os_id: str = ""
    os_name: str = ""
    os_version: str = ""
    kernel: str = ""
    architecture: str = ""
    timezone: str = ""
    timezone_offset_s: int = 0
    users: tuple[str, ...] = ()
    interfaces: tuple[GuestAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Screenshot:
    """A picture of a VM's display."""

    data: bytes
    mime_type: str


@dataclass(frozen=True, slots=True)
class VmView:
    """One VM. Times are monotonic seconds.

    ``started_s`` is when it was created, ``not_responding_since_s`` is set while its QEMU does not answer,
    ``packed_xml`` the zlib-compressed domain XML.
    """

    vm_id: VmId
    name: str
    status: Status
    status_time_s: float
    started_s: float
    facts: DomainFacts
    packed_xml: bytes
    exit: Exit | None = None
    pause_code: PauseCode = PauseCode.NONE
    sample: VmSample | None = None
    guest: GuestInfo | None = None
    agent_connected: bool = False
    client_address: str = ""
    not_responding_since_s: float | None = None

    @property
    def responding(self) -> bool:
        """Whether the VM's QEMU answers."""
        return self.not_responding_since_s is None

    @property
    def xml(self) -> str:
        """The domain XML: live as of the last change of devices, or as sent for a VM that has not run yet."""
        return unpack(self.packed_xml)


def pack(xml: str) -> bytes:
    """Compress a domain XML: hundreds of them are kept in memory."""
    return zlib.compress(xml.encode(), 6)


def unpack(packed: bytes) -> str:
    """The XML that was packed."""
    return zlib.decompress(packed).decode()


class What(Flag):
    """What changed in a view."""

    CREATED = auto()
    STATUS = auto()
    DEVICES = auto()
    CONSOLE = auto()
    AGENT = auto()
    GUEST = auto()
    RESPONDING = auto()
    REMOVED = auto()


@dataclass(frozen=True, slots=True)
class VmChange:
    """A VM's new picture and what is different in it; samples are not announced."""

    view: VmView
    what: What
