"""What libvirt tells, typed. Imports nothing of libvirt: twins and tests use these types without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique


@unique
class PauseCause(Enum):
    """Why a domain's CPUs do not run."""

    USER = "user"
    IO_ERROR = "I/O error"
    POSTCOPY = "post-copy"
    STARTING = "starting up"
    OTHER = "other"


@unique
class StopCause(Enum):
    """How a domain ended, as libvirt saw it."""

    SHUTDOWN = "shut down"
    DESTROYED = "destroyed"
    CRASHED = "crashed"
    MIGRATED = "migrated"
    SAVED = "saved"
    FAILED = "its QEMU was lost"
    OTHER = "ended"


@unique
class ShutdownBy(Enum):
    """Who made a domain power down."""

    GUEST = "guest"
    HOST = "host"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RunningDomain:
    """A domain that libvirt runs; ``paused`` is None while its CPUs run."""

    vm_id: str
    name: str
    paused: PauseCause | None
    xml: str


@dataclass(frozen=True, slots=True)
class NicCounters:
    """One tap device, as the host sees it: rx is what the host received from the guest."""

    name: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class DiskCounters:
    """One drive since the domain's start: operations, bytes, ns; sizes in bytes."""

    name: str
    read_ops: int = 0
    read_bytes: int = 0
    read_ns: int = 0
    write_ops: int = 0
    write_bytes: int = 0
    write_ns: int = 0
    flush_ops: int = 0
    flush_ns: int = 0
    capacity: int = 0
    allocation: int = 0
    physical: int = 0


@dataclass(frozen=True, slots=True)
class CheapCounters:
    """What libvirt knows of a domain without asking its QEMU."""

    paused: PauseCause | None
    nics: tuple[NicCounters, ...] = ()


@dataclass(frozen=True, slots=True)
class MonitorCounters:
    """What a domain's QEMU said; ``cpu_ns`` and its parts are None unless asked for."""

    memory: Mapping[str, int]
    disks: tuple[DiskCounters, ...] = ()
    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None


@dataclass(frozen=True, slots=True)
class GuestReply:
    """What a guest's agent said, by libvirt's names ("os.id", "hostname", "if.0.name", ...)."""

    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """A screenshot."""

    data: bytes
    mime_type: str


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the connection to the daemon underneath.

    ``reachable`` is whether there is a connection, ``silent_s`` for how long it has not answered, ``abandoned`` the
    calls given up at their deadline that have not come back.
    """

    reachable: bool
    silent_s: float
    abandoned: int
    reason: str = ""

    @property
    def answers(self) -> bool:
        """Whether calls are worth making."""
        return self.reachable and not self.silent_s


# -- events


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a (new) connection: what happened before is not known."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is lost; it is being tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A call about a domain that had been given up at its deadline has come back."""

    vm_id: str


@dataclass(frozen=True, slots=True)
class Started:
    """A domain began to run, its CPUs maybe not yet."""

    vm_id: str


@dataclass(frozen=True, slots=True)
class Paused:
    """A domain's CPUs stopped."""

    vm_id: str
    cause: PauseCause


@dataclass(frozen=True, slots=True)
class Resumed:
    """A domain's CPUs run again."""

    vm_id: str


@dataclass(frozen=True, slots=True)
class ShuttingDown:
    """A domain powers down; Stopped follows."""

    vm_id: str
    by: ShutdownBy


@dataclass(frozen=True, slots=True)
class Stopped:
    """A domain ended."""

    vm_id: str
    cause: StopCause


@dataclass(frozen=True, slots=True)
class Rebooted:
    """A guest reset itself, or was reset."""

    vm_id: str


@dataclass(frozen=True, slots=True)
class IoError:
    """A drive failed; ``reason`` is QEMU's word ("enospc", "eio", "eperm", "eother"), ``paused`` whether it stopped."""

    vm_id: str
    alias: str
    reason: str
    paused: bool


@dataclass(frozen=True, slots=True)
class ConsoleClient:
    """Somebody opened (or left) a domain's display."""

    vm_id: str
    address: str
    connected: bool


@dataclass(frozen=True, slots=True)
class AgentConnected:
    """The guest's agent opened (or closed) its channel."""

    vm_id: str
    connected: bool


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """A domain's devices or metadata are not as they were."""

    vm_id: str


DomainEvent = (
    Returned
    | Started
    | Paused
    | Resumed
    | ShuttingDown
    | Stopped
    | Rebooted
    | IoError
    | ConsoleClient
    | AgentConnected
    | DevicesChanged
)
Event = Connected | Disconnected | DomainEvent
