"""The host's facts as the contract shows them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from vdsm.api import host_types as api
from vdsm.host import networks
from vdsm.host.capabilities import Capabilities
from vdsm.host.networks import IpFacts
from vdsm.host.numa import NumaNode
from vdsm.host.packages import Package
from vdsm.host.statistics import DeviceStatistics, HostStatistics, HugePages, MemoryStatistics, Reading
from vdsm.privileged.calls import Hardware
from vdsm.storage.formats.domain import VERSIONS

_VIRTUALIZATION: Final = frozenset({"vmx", "svm"})


@dataclass(frozen=True, slots=True)
class VmCounts:
    """How many VMs there are: all, running ones, and those on the move."""

    total: int
    active: int
    incoming: int
    outgoing: int


def capabilities(facts: Capabilities, *, kvm_enabled: bool, host_uuid: str) -> api.Capabilities:
    """What Host.getCapabilities answers."""
    return api.Capabilities(
        kvm_enabled=kvm_enabled,
        uuid=host_uuid,
        **_processors(facts, virtual=kvm_enabled and not facts.kvm),
        **_devices(facts),
        **_system(facts),
        **_agent(facts),
    )


def _processors(facts: Capabilities, *, virtual: bool) -> dict[str, Any]:
    """``virtual``: KVM is claimed though it does not work."""
    cpu = facts.cpu
    # Every CPU type that a manager knows has one of these; emulated guests have models of Intel's for the first.
    claimed = ("vmx",) if virtual and not _VIRTUALIZATION & set(cpu.flags) else ()
    return {
        "cpu_flags": ",".join((*cpu.flags, *claimed)),
        "cpu_model": cpu.model,
        "cpu_speed": cpu.speed_mhz,
        "cpu_cores": cpu.cores,
        "cpu_threads": cpu.threads,
        "cpu_sockets": cpu.sockets,
        "online_cpus": ",".join(map(str, cpu.online)),
        "cpu_topology": [
            api.CpuPlace(
                cpu_id=place.cpu_id,
                core_id=place.core_id,
                die_id=place.die_id,
                socket_id=place.socket_id,
                numa_cell_id=place.numa_cell_id,
            )
            for place in cpu.places
        ],
        "numa_nodes": {str(node.index): _numa_node(node) for node in facts.numa_nodes},
        "numa_node_distance": {str(node.index): list(node.distances) for node in facts.numa_nodes},
        "vdsm_to_cpus_affinity": list(cpu.affinity),
        "tsc_frequency": None if cpu.tsc_frequency_hz is None else str(cpu.tsc_frequency_hz),
        "tsc_scaling": cpu.tsc_scaling,
    }


def _devices(facts: Capabilities) -> dict[str, Any]:
    initiator, network = facts.hba.initiator_name, facts.network
    ports = facts.hba.fibre_channel
    return {
        "hba_inventory": api.HbaInventory(
            iscsi=[api.Initiator(initiator_name=initiator)] if initiator else [],
            fc=[api.FibreChannelPort(wwpn=port.wwpn, wwnn=port.wwnn, model=port.model) for port in ports],
        ),
        "iscsi_initiator_name": initiator or None,
        "networks": {name: _network(item) for name, item in network.networks.items()},
        "nics": {name: _nic(item) for name, item in network.nics.items()},
        "bridges": {name: _bridge(item) for name, item in network.bridges.items()},
        "vlans": {name: _vlan(item) for name, item in network.vlans.items()},
        "bondings": {name: _bonding(item) for name, item in network.bondings.items()},
        "nameservers": list(network.nameservers),
    }


def _system(facts: Capabilities) -> dict[str, Any]:
    system = facts.system
    return {
        "auto_numa_balancing": system.auto_numa_balancing,
        "rng_sources": list(system.rng_sources),
        "mem_size": system.memory_mib,
        "operating_system": api.OperatingSystem(
            name=system.operating_system.name,
            version=system.operating_system.version,
            release=system.operating_system.release,
            pretty_name=system.operating_system.pretty_name,
        ),
        "packages": {package.name: _package(package) for package in facts.packages},
        "kernel_features": dict(system.kernel_features),
        "kernel_args": system.kernel_args,
        "boot_uuid": system.boot_id,
        "boot_time": system.boot_time_s,
        "selinux": api.Selinux(mode=str(system.selinux_mode)),
        "kdump_status": system.kdump,
        "fips_enabled": system.fips,
        "hostdev_passthrough": system.iommu,
    }


def _agent(facts: Capabilities) -> dict[str, Any]:
    agent = facts.agent
    return {
        "cluster_levels": list(facts.cluster_levels),
        "supported_engines": list(facts.supported_engines),
        "emulated_machines": list(facts.emulated_machines),
        "software_version": facts.software_version,
        "software_revision": facts.software_revision,
        "version_name": facts.version_name,
        "reserved_mem": agent.reserved_memory_mib,
        "guest_overhead": agent.guest_overhead_mib,
        "net_config_dirty": agent.net_config_dirty,
        "domain_versions": list(VERSIONS),
        "supported_block_size": {kind: list(sizes) for kind, sizes in facts.supported_block_sizes.items()},
        "hooks": {point: dict(programs) for point, programs in facts.hooks.items()},
        "additional_features": list(agent.additional_features),
        "openstack_binding_host_ids": dict(facts.openstack_binding_host_ids),
        "hosted_engine_deployed": agent.hosted_engine,
        "vnc_encrypted": agent.vnc_encrypted,
        "ovn_configured": agent.ovn_configured,
        "backup_enabled": agent.backup,
        "cold_backup_enabled": agent.cold_backup,
        "clear_bitmaps_enabled": agent.clear_bitmaps,
        "cd_change_pdiv": agent.cd_change_pdiv,
        "live_snapshot": False,
        "live_merge": False,
    }


def hardware(facts: Hardware) -> api.HardwareInfo:
    """What Host.getHardwareInfo answers."""
    return api.HardwareInfo(
        system_manufacturer=facts.manufacturer,
        system_product_name=facts.product,
        system_version=facts.version,
        system_serial_number=facts.serial,
        system_uuid=facts.uuid,
        system_family=facts.family,
    )


def _package(package: Package) -> api.Package:
    built = package.build_time_s
    return api.Package(
        version=package.version, release=package.release, buildtime=None if built is None else str(built)
    )


def _numa_node(node: NumaNode) -> api.NumaNode:
    return api.NumaNode(
        cpus=list(node.cpus),
        total_memory=node.memory_mib,
        hugepages={str(size): {"totalPages": count} for size, count in node.huge_pages.items()},
    )


def _addresses(ip: IpFacts) -> dict[str, Any]:
    return {
        "addr": ip.address,
        "netmask": ip.netmask,
        "gateway": ip.gateway,
        "ipv4_addrs": list(ip.ipv4_addresses),
        "ipv6_addrs": list(ip.ipv6_addresses),
        "ipv6_gateway": ip.ipv6_gateway,
        "ipv4_default_route": ip.ipv4_default_route,
        "dhcpv4": ip.dhcpv4,
        "dhcpv6": ip.dhcpv6,
        "ipv6_autoconf": ip.ipv6_autoconf,
    }


def _nic(nic: networks.Nic) -> api.Nic:
    return api.Nic(
        **_addresses(nic.ip),
        mtu=nic.mtu,
        hwaddr=nic.mac,
        permhwaddr=nic.permanent_mac or None,
        ad_aggregator_id=nic.aggregator_id or None,
        speed=nic.speed_mbit,
    )


def _bridge(bridge: networks.Bridge) -> api.Bridge:
    return api.Bridge(
        **_addresses(bridge.ip),
        mtu=bridge.mtu,
        ports=list(bridge.ports),
        stp="on" if bridge.stp else "off",
    )


def _vlan(vlan: networks.Vlan) -> api.Vlan:
    return api.Vlan(
        **_addresses(vlan.ip),
        mtu=vlan.mtu,
        iface=vlan.base,
        vlanid=vlan.tag,
    )


def _bonding(bond: networks.Bonding) -> api.Bonding:
    return api.Bonding(
        **_addresses(bond.ip),
        mtu=bond.mtu,
        hwaddr=bond.mac,
        speed=bond.speed_mbit,
        ports=list(bond.slaves),
        opts=dict(bond.options),
        active_port=bond.active_slave,
        ad_partner_mac=bond.partner_mac,
    )


def _network(network: networks.Network) -> api.Network:
    return api.Network(
        **_addresses(network.ip),
        mtu=network.mtu,
        iface=network.iface,
        bridged=network.bridged,
        switch=network.switch,
        ports=list(network.ports),
        stp="on" if network.stp else "off",
        southbound=network.southbound,
        vlanid=network.vlan_tag,
    )


def statistics(reading: Reading, vms: VmCounts, storage: dict[str, api.StorageDomainHealth]) -> api.HostStats:
    """What Host.getStats answers."""
    facts = reading.statistics
    return api.HostStats(
        stats_age=facts.taken_monotonic_s,
        cpu_user=facts.cpu.user,
        cpu_sys=facts.cpu.system,
        cpu_idle=facts.cpu.idle,
        cpu_load=facts.cpu_load,
        cpu_statistics=_cpus(facts),
        cpu_user_vdsmd=facts.agent.cpu_user_percent,
        cpu_sys_vdsmd=facts.agent.cpu_system_percent,
        elapsed_time=int(reading.elapsed_s),
        **_memory(facts.memory),
        ksm_state=facts.ksm.running,
        ksm_pages=facts.ksm.pages_to_scan,
        ksm_cpu=facts.ksm.cpu_percent,
        thp_state=facts.thp_state,
        vm_count=vms.total,
        vm_active=vms.active,
        vm_migrating=vms.incoming + vms.outgoing,
        incoming_vm_migrations=vms.incoming,
        outgoing_vm_migrations=vms.outgoing,
        boot_time=facts.boot_time_s,
        date_time=reading.date_time,
        net_config_dirty=False,
        network={name: _device(item) for name, item in facts.network.items()},
        storage_domains=storage,
        numa_node_mem_free=_numa_memory(facts),
        disk_stats={path: api.FreeSpace(free=free) for path, free in facts.disk_free_mib.items()},
        hugepages={str(size): _huge_pages(pages) for size, pages in facts.huge_pages.items()},
        ha_stats=api.HostedEngineStats(),
        multipath_health={},
    )


def _memory(memory: MemoryStatistics) -> dict[str, Any]:
    return {
        "mem_used": memory.used_percent,
        "mem_free": memory.free,
        "mem_available": memory.free,
        "mem_committed": memory.committed,
        "mem_shared": memory.shared,
        "swap_total": memory.swap_total,
        "swap_free": memory.swap_free,
        "anon_huge_pages": memory.anon_huge,
    }


def _cpus(facts: HostStatistics) -> dict[str, api.CpuStats]:
    return {
        str(index): api.CpuStats(
            node_index=cpu.node_index, cpu_user=cpu.use.user, cpu_sys=cpu.use.system, cpu_idle=cpu.use.idle
        )
        for index, cpu in facts.cpus.items()
    }


def _numa_memory(facts: HostStatistics) -> dict[str, api.NodeMemory]:
    return {
        str(index): api.NodeMemory(
            mem_free=node.free_mib,
            mem_percent=node.used_percent,
            hugepages={str(size): {"freePages": pages} for size, pages in node.huge_pages_free.items()},
        )
        for index, node in facts.numa_nodes.items()
    }


def _huge_pages(pages: HugePages) -> dict[str, int]:
    return {
        "nr_hugepages": pages.total,
        "vm.free_hugepages": pages.free,
        "resv_hugepages": pages.reserved,
        "surplus_hugepages": pages.surplus,
        "nr_overcommit_hugepages": pages.overcommit,
    }


def _device(device: DeviceStatistics) -> api.DeviceStats:
    return api.DeviceStats(
        name=device.name,
        mac_addr=device.mac,
        state="up" if device.up else "down",
        speed=device.speed_mbit,
        rx=device.rx_bytes,
        tx=device.tx_bytes,
        rx_errors=device.rx_errors,
        tx_errors=device.tx_errors,
        rx_dropped=device.rx_dropped,
        tx_dropped=device.tx_dropped,
        sample_time=device.sample_time_s,
    )
