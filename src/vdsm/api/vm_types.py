"""What goes in and out of the VM verbs. Sizes say their unit; wire names are what the Engine parses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from vdsm.api.contract import Age, BoolText, CachedReply, Decimal, Now, Reply, Request, Text, Wire

Name = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="1 to 64 of A-Z a-z 0-9 . _ -"),
]
FilePath = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern="^/", description="an absolute path")]


StorageId = Annotated[
    str,
    msgspec.Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", description="a UUID"),
]


class DiskImage(Request, frozen=True, kw_only=True):
    """A volume in a storage domain."""

    domain_id: StorageId
    image_id: StorageId
    volume_id: StorageId
    """The leaf of the image's chain."""
    pool_id: StorageId
    """The storage pool that this host is connected to."""
    lease: bool = False
    """Hold the volume's lease while the VM runs, so that no other host runs it, too; needs libvirt-sanlock."""


class DiskDescription(Request, frozen=True, kw_only=True):
    """One disk, CD or floppy of a VM: a path on this host, or an image of a storage domain."""

    path: FilePath | None = None
    """An image file or a block device in one of the allowed directories."""
    image: DiskImage | None = None
    """Instead of a path: it is prepared before the start and given back after the end. Neither: an empty drive."""
    format: Literal["raw", "qcow2"] = "raw"
    """The image's format; it is never guessed from the content."""
    device: Literal["disk", "cdrom", "floppy"] = "disk"
    bus: Literal["virtio", "sata", "scsi", "ide", "fdc"] | None = None
    """None: virtio for disks, sata for CDs, fdc for floppies."""
    readonly: bool = False
    serial: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,36}$")] | None = None


class NicDescription(Request, frozen=True, kw_only=True):
    """One network card of a VM."""

    network: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,15}$")] | None = None
    """The host bridge to join; None: user-mode networking (outgoing only, nothing on the host changes)."""
    mac: Annotated[str, msgspec.Meta(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$")] | None = None
    """None: a locally administered one that stays the same for this VM."""
    model: Literal["virtio", "e1000", "e1000e", "rtl8139"] = "virtio"


class BootDescription(Request, frozen=True, kw_only=True):
    """What a VM boots from."""

    order: tuple[Literal["disk", "cdrom", "network"], ...] = ("disk", "cdrom")
    kernel: FilePath | None = None
    """A kernel on this host, booted directly; inside the allowed directories."""
    initrd: FilePath | None = None
    cmdline: Annotated[str, msgspec.Meta(max_length=2048)] | None = None


class VmShape(Request, frozen=True, kw_only=True):
    """A VM's virtual hardware, without its name."""

    memory_mib: Annotated[int, msgspec.Meta(ge=16)] = 512
    vcpus: Annotated[int, msgspec.Meta(ge=1)] = 1
    disks: tuple[DiskDescription, ...] = ()
    nics: tuple[NicDescription, ...] = ()
    boot: BootDescription = BootDescription()
    graphics: Literal["vnc", "none"] = "vnc"
    serial_console: bool = True
    guest_agent: bool = True
    machine: Literal["q35", "pc"] = "q35"
    cpu_model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """A libvirt CPU model; None: what fits this host best."""


class VmDescription(VmShape, frozen=True, kw_only=True):
    """A whole VM as people and scripts describe it; the libvirt XML is built from it."""

    name: Name


class DefinitionRequest(VmDescription, frozen=True, kw_only=True):
    """A VM to remember on this host."""

    vm_id: str | None = None
    autostart: bool = False
    """Start it when the agent starts."""


class VmParams(VmShape, frozen=True, kw_only=True):
    """A VM to start: either ``xml``, as a manager sends it, or ``name`` and the typed description.

    Fields of a resumed or migrated VM that this version does not know how to use are refused by name.
    """

    vm_id: str | None = None
    """A UUID; a fresh one when left out."""
    name: Name | None = None
    xml: str | None = None
    """A whole libvirt domain XML with the Engine's metadata."""
    memory_dump_volume: Any = None
    memory_conf_volume: Any = None
    nvram_data: Annotated[Any, Wire("_X_nvramdata")] = None
    tpm_data: Annotated[Any, Wire("_X_tpmdata")] = None


class PathDrive(Request, frozen=True, kw_only=True):
    """A medium for a CD or floppy drive, in the form the Engine uses for CDs on data domains."""

    path: str = ""
    iface: str | None = None
    index: Annotated[int | str | None, Wire("index")] = None


class VmState(Reply, frozen=True, kw_only=True):
    """A VM's state after a request."""

    vm_id: str
    status: str
    vm_name: str
    status_time: Text
    """Milliseconds, on the clock that orders events and answers of this host."""


class DisplayInfo(Reply, frozen=True, kw_only=True):
    """Where a VM's display is reached; a port is "-1" when there is none."""

    type: str
    port: Text
    tls_port: Text
    ip_address: str


class BalloonInfo(Reply, frozen=True, kw_only=True):
    """The memory balloon, in KiB."""

    balloon_max: Annotated[Text, Wire("balloon_max")]
    balloon_min: Annotated[Text, Wire("balloon_min")]
    balloon_cur: Annotated[Text, Wire("balloon_cur")]
    balloon_target: Annotated[Text, Wire("balloon_target")]


class MemoryStats(Reply, frozen=True, kw_only=True):
    """The guest's own view of its memory, in KiB, from its balloon driver."""

    mem_total: Annotated[Text | None, Wire("mem_total")] = None
    mem_free: Annotated[Text | None, Wire("mem_free")] = None
    mem_unused: Annotated[Text | None, Wire("mem_unused")] = None
    mem_cached: Annotated[Text | None, Wire("mem_cached")] = None
    mem_buffers: Annotated[Text | None, Wire("mem_buffers")] = None


class NicStats(Reply, frozen=True, kw_only=True):
    """Counters of one network card since the VM's start; ``sample_time`` is monotonic seconds."""

    name: str
    mac_addr: str
    rx: Text
    tx: Text
    rx_errors: Text
    tx_errors: Text
    rx_dropped: Text
    tx_dropped: Text
    speed: Text
    state: str
    sample_time: float


class DiskStats(Reply, frozen=True, kw_only=True):
    """One disk: rates in bytes per second, latencies in ns, sizes and counters in bytes and operations."""

    image_id: Annotated[str | None, Wire("imageID")] = None
    read_rate: Decimal = 0.0
    write_rate: Decimal = 0.0
    read_ops: Text = 0
    write_ops: Text = 0
    read_bytes: Text = 0
    written_bytes: Text = 0
    read_latency: Text = 0
    write_latency: Text = 0
    flush_latency: Text = 0
    truesize: Text = 0
    apparentsize: Text = 0


class GuestOsInfo(Reply, frozen=True, kw_only=True):
    """The guest's operating system, as its agent says."""

    type: str = ""
    arch: str = ""
    kernel: str = ""
    distribution: str = ""
    version: str = ""
    codename: str = ""


class GuestInterface(Reply, frozen=True, kw_only=True):
    """One network interface inside the guest."""

    name: str
    hw: str
    inet: list[str]
    inet6: list[str]


class VmStats(CachedReply, frozen=True, kw_only=True, eq=False, weakref=True):
    """Everything known of a running or stopped VM, from the last samples; nothing is asked while the caller waits."""

    vm_id: str
    status: str
    status_time: Now = 0
    """When this was asked for, in milliseconds on the clock that orders answers and events of this host."""
    vm_name: str
    hash: str
    """Changes when the VM's devices or metadata change."""
    stats_age: Annotated[Age, Wire("statsAge")]
    """Seconds since the last sample."""
    responding: Annotated[bool, Wire("responding")] = True
    monitor_response: Annotated[Text, Wire("monitorResponse")] = 0
    """0, or -1 while the VM's QEMU does not answer."""
    exit_code: int | None = None
    exit_message: str | None = None
    exit_reason: int | None = None
    pause_code: str | None = None
    elapsed_time: Text = 0
    time_offset: str = "0"
    client_ip: Annotated[str, Wire("clientIp")] = ""
    acpi_enable: BoolText = True
    kvm_enable: BoolText = False
    guest_agent: Annotated[bool, Wire("guestAgent")] = False
    """Whether the guest's agent is connected."""
    cpu_user: Decimal = 0.0
    """Percent of one CPU."""
    cpu_sys: Decimal = 0.0
    cpu_usage: Text = 0
    """CPU time since the start, in ns."""
    vcpu_count: Annotated[int, Wire("vcpuCount")] = 1
    mem_usage: Text = 0
    """Percent of the VM's memory that its guest uses; 0 when the guest does not say."""
    memory_stats: MemoryStats | None = None
    balloon_info: BalloonInfo | None = None
    display_info: list[DisplayInfo] = []
    network: dict[str, NicStats] = {}
    disks: dict[str, DiskStats] = {}
    vm_jobs: dict[str, Any] = {}
    cdrom: str = ""
    guest_name: str | None = None
    guest_fqdn: Annotated[str | None, Wire("guestFQDN")] = None
    guest_ips: Annotated[str | None, Wire("guestIPs")] = None
    guest_os: str | None = None
    guest_os_info: GuestOsInfo | None = None
    net_ifaces: list[GuestInterface] | None = None
    username: str | None = None
    apps_list: list[str] = []


class DiskInfo(Reply, frozen=True, kw_only=True):
    """One disk as it is attached now."""

    name: str
    device: str
    bus: str
    path: str
    format: str
    readonly: bool = False
    image_id: Annotated[str | None, Wire("imageID")] = None


class NicInfo(Reply, frozen=True, kw_only=True):
    """One network card as it is attached now."""

    name: str
    mac_addr: str
    model: str
    network: str


class VmInfo(Reply, frozen=True, kw_only=True):
    """A VM and its devices."""

    vm_id: str
    vm_name: str
    status: str
    status_time: Text
    memory_mib: Annotated[int, Wire("memSize")]
    vcpus: Annotated[Text, Wire("smp")]
    kvm_enable: BoolText
    display_info: list[DisplayInfo]
    disks: list[DiskInfo]
    nics: list[NicInfo]
    console: str | None = None
    """The unix socket of the serial console on this host."""
    guest_agent: bool = False
    exit_message: str | None = None


class Screenshot(Reply, frozen=True, kw_only=True):
    """A picture of the VM's display."""

    data: str
    """Base64."""
    encoding: str
    mime_type: Annotated[str, Wire("mime_type")]


class IoTune(Reply, frozen=True, kw_only=True):
    """A VM's I/O limits as asked for and as they are."""

    policy: list[Any]
    current_values: Annotated[list[Any], Wire("current_values")]


class Definition(Reply, frozen=True, kw_only=True):
    """A VM that this host remembers."""

    name: str
    vm_id: str
    autostart: bool
    status: str
    """The running VM's status, or "Down"."""
    description: VmDescription
