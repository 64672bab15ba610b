"""What goes out of the Host verbs. Wire names and kinds are what the Engine parses."""

from __future__ import annotations

from typing import Annotated, Any

from vdsm.api.contract import Age, BoolText, BoolWord, CachedReply, Decimal, Reply, Small, Text, Wire


class Package(Reply, frozen=True, kw_only=True):
    """A package of the operating system."""

    version: str
    release: str
    buildtime: str | None = None


class OperatingSystem(Reply, frozen=True, kw_only=True):
    """What /etc/os-release says."""

    name: str
    version: str
    release: str
    pretty_name: Annotated[str, Wire("pretty_name")]


class CpuPlace(Reply, frozen=True, kw_only=True):
    """Where one logical CPU sits."""

    cpu_id: Annotated[int, Wire("cpu_id")]
    core_id: Annotated[int, Wire("core_id")]
    die_id: Annotated[int, Wire("die_id")]
    socket_id: Annotated[int, Wire("socket_id")]
    numa_cell_id: Annotated[int, Wire("numa_cell_id")]


class NumaNode(Reply, frozen=True, kw_only=True):
    """One NUMA node; memory in MiB."""

    cpus: list[int]
    total_memory: Text
    hugepages: dict[str, dict[str, int]]


class Addresses(Reply, frozen=True, kw_only=True):
    """How a device or network is addressed."""

    addr: str
    netmask: str
    gateway: str
    ipv4_addrs: Annotated[list[str], Wire("ipv4addrs")]
    ipv6_addrs: Annotated[list[str], Wire("ipv6addrs")]
    ipv6_gateway: Annotated[str, Wire("ipv6gateway")]
    ipv4_default_route: Annotated[bool, Wire("ipv4defaultroute")]
    dhcpv4: bool
    dhcpv6: bool
    ipv6_autoconf: Annotated[bool, Wire("ipv6autoconf")]
    mtu: int


class Nic(Addresses, frozen=True, kw_only=True):
    """A network card; speed in Mbit/s, 0 when there is no link."""

    hwaddr: str
    permhwaddr: str | None = None
    ad_aggregator_id: Annotated[str | None, Wire("ad_aggregator_id")] = None
    speed: int


class Bridge(Addresses, frozen=True, kw_only=True):
    """A bridge and its ports."""

    ports: list[str]
    stp: str


class Vlan(Addresses, frozen=True, kw_only=True):
    """A VLAN device on another device."""

    iface: str
    vlanid: int


class Bonding(Addresses, frozen=True, kw_only=True):
    """A bond; the options are texts as the kernel shows them."""

    hwaddr: str
    speed: int
    ports: Annotated[list[str], Wire("slaves")]
    opts: dict[str, str]
    active_port: Annotated[str, Wire("active_slave")]
    ad_partner_mac: Annotated[str, Wire("ad_partner_mac")]


class Network(Addresses, frozen=True, kw_only=True):
    """A host network that VMs can join: a bridge with its southbound device."""

    iface: str
    bridged: bool
    switch: str
    ports: list[str]
    stp: str
    southbound: str = ""
    vlanid: int | None = None


class Selinux(Reply, frozen=True, kw_only=True):
    """SELinux: "1" enforcing, "0" permissive, "-1" disabled."""

    mode: str


class Initiator(Reply, frozen=True, kw_only=True):
    """The iSCSI initiator's name."""

    initiator_name: Annotated[str, Wire("InitiatorName")]


class FibreChannelPort(Reply, frozen=True, kw_only=True):
    """A Fibre Channel host port."""

    wwpn: str
    wwnn: str
    model: str


class HbaInventory(Reply, frozen=True, kw_only=True):
    """The host's storage adapters."""

    iscsi: Annotated[list[Initiator], Wire("iSCSI")]
    fc: Annotated[list[FibreChannelPort], Wire("FC")]


class Capabilities(Reply, frozen=True, kw_only=True):
    """What the host has and can do. Memory in MiB, frequencies as their names say."""

    cluster_levels: list[str]
    supported_engines: Annotated[list[str], Wire("supportedENGINEs")]
    packages: Annotated[dict[str, Package], Wire("packages2")]
    kvm_enabled: BoolText
    emulated_machines: list[str]
    cpu_flags: str
    cpu_model: str
    cpu_speed: Decimal
    cpu_cores: Text
    cpu_threads: Text
    cpu_sockets: Text
    online_cpus: str
    cpu_topology: list[CpuPlace]
    numa_nodes: dict[str, NumaNode]
    numa_node_distance: dict[str, list[int]]
    auto_numa_balancing: int
    vdsm_to_cpus_affinity: list[int]
    rng_sources: list[str]
    mem_size: Text
    reserved_mem: Text
    guest_overhead: Text
    hba_inventory: Annotated[HbaInventory, Wire("HBAInventory")]
    iscsi_initiator_name: Annotated[str | None, Wire("ISCSIInitiatorName")]
    networks: dict[str, Network]
    nics: dict[str, Nic]
    bridges: dict[str, Bridge]
    vlans: dict[str, Vlan]
    bondings: dict[str, Bonding]
    nameservers: list[str]
    net_config_dirty: BoolWord
    domain_versions: Annotated[list[int], Wire("domain_versions")]
    supported_block_size: Annotated[dict[str, list[int]], Wire("supported_block_size")]
    operating_system: OperatingSystem
    software_version: Annotated[str, Wire("software_version")]
    software_revision: Annotated[str, Wire("software_revision")]
    version_name: Annotated[str, Wire("version_name")]
    hooks: dict[str, Any]
    kernel_features: dict[str, int]
    kernel_args: str
    additional_features: list[str]
    openstack_binding_host_ids: Annotated[dict[str, str], Wire("openstack_binding_host_ids")]
    boot_uuid: Annotated[str, Wire("boot_uuid")]
    boot_time: Text
    tsc_frequency: str | None
    tsc_scaling: bool
    selinux: Selinux
    kdump_status: int
    fips_enabled: bool
    hostdev_passthrough: BoolText
    hosted_engine_deployed: bool
    vnc_encrypted: bool
    ovn_configured: bool
    backup_enabled: bool
    cold_backup_enabled: bool
    clear_bitmaps_enabled: bool
    cd_change_pdiv: Annotated[bool, Wire("cd_change_pdiv")]
    live_snapshot: BoolText
    live_merge: BoolText
    uuid: str
    management_ip: Annotated[str, Wire("management_ip")] = ""


class HardwareInfo(Reply, frozen=True, kw_only=True):
    """What the firmware says of the machine."""

    system_manufacturer: str
    system_product_name: str
    system_version: str
    system_serial_number: str
    system_uuid: Annotated[str, Wire("systemUUID")]
    system_family: str


class DeviceStats(Reply, frozen=True, kw_only=True):
    """Counters of one network device since boot; ``sample_time`` is monotonic seconds, speed in Mbit/s."""

    name: str
    mac_addr: str
    state: str
    speed: Text
    rx: Text
    tx: Text
    rx_errors: Text
    tx_errors: Text
    rx_dropped: Text
    tx_dropped: Text
    sample_time: float


class StorageDomainHealth(Reply, frozen=True, kw_only=True):
    """How a storage domain answered last."""

    code: int
    last_check: Decimal
    delay: Small
    valid: bool
    version: int
    acquired: bool
    actual: bool


class CpuStats(Reply, frozen=True, kw_only=True):
    """Percent of one logical CPU."""

    node_index: int
    cpu_user: Decimal
    cpu_sys: Decimal
    cpu_idle: Decimal


class NodeMemory(Reply, frozen=True, kw_only=True):
    """A NUMA node's memory; MiB and percent used."""

    mem_free: Text
    mem_percent: int
    hugepages: dict[str, dict[str, int]] | None = None


class FreeSpace(Reply, frozen=True, kw_only=True):
    """Free space of a directory's file system, in MiB."""

    free: Text


class HostedEngineStats(Reply, frozen=True, kw_only=True):
    """The hosted engine's state on this host."""

    score: int = 0
    configured: bool = False
    active: bool = False
    global_maintenance: bool = False
    local_maintenance: bool = False


class HostStats(CachedReply, frozen=True, kw_only=True, eq=False, weakref=True):
    """The host's load from the last sample. CPU in percent, memory in MiB."""

    stats_age: Annotated[Age, Wire("statsAge")]
    cpu_user: Decimal
    cpu_sys: Decimal
    cpu_idle: Decimal
    cpu_load: Decimal
    cpu_statistics: dict[str, CpuStats]
    cpu_user_vdsmd: Decimal
    cpu_sys_vdsmd: Decimal
    elapsed_time: Text
    mem_used: Text
    mem_free: int
    mem_available: int
    mem_committed: int
    mem_shared: int
    swap_total: int
    swap_free: int
    ksm_state: bool
    ksm_pages: int
    ksm_cpu: int
    thp_state: str
    anon_huge_pages: Text
    vm_count: int
    vm_active: int
    vm_migrating: int
    incoming_vm_migrations: int
    outgoing_vm_migrations: int
    boot_time: Text
    date_time: str
    net_config_dirty: BoolWord
    network: dict[str, DeviceStats]
    storage_domains: dict[str, StorageDomainHealth]
    numa_node_mem_free: dict[str, NodeMemory]
    disk_stats: dict[str, FreeSpace]
    hugepages: dict[str, dict[str, int]]
    ha_stats: HostedEngineStats
    multipath_health: dict[str, Any]
    v2v_jobs: Annotated[dict[str, Any], Wire("v2vJobs")] = {}
    mom_status: str = "inactive"


class Job(Reply, frozen=True, kw_only=True):
    """Long-running work of this host. ``progress`` in percent."""

    id: str
    job_type: Annotated[str, Wire("job_type")]
    status: str
    description: str
    progress: float | None = None
    error: dict[str, Any] | None = None


class TaskInfo(Reply, frozen=True, kw_only=True):
    """What a storage task does."""

    verb: str
    id: str


class TaskStatus(Reply, frozen=True, kw_only=True):
    """How far a storage task is."""

    code: int
    message: str
    task_state: str
    task_result: str
    task_id: Annotated[str, Wire("taskID")]
