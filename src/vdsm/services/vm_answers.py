"""The VM domain's pictures as the contract shows them. Pure, but for the kept answers of `StatsAnswers`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vdsm.api import vm_types as api
from vdsm.base.clock import monotonic_s, notify_time_ms
from vdsm.virt.domxml import DomainFacts
from vdsm.virt.domxml.facts import DiskFacts, GraphicsFacts
from vdsm.virt.lifecycle import Status
from vdsm.virt.view import DiskSample, GuestInfo, MemorySample, NicSample, PauseCode, VmSample, VmView

_NO_PORT = -1
_SILENT = -1
_NIC_SPEED_MBIT = 1000  # what a manager divides a virtual card's counters by


class StatsAnswers:
    """The stats of each VM, made once per picture and kept as long as the picture is."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[VmView, api.VmStats]] = {}

    def of(self, view: VmView) -> api.VmStats:
        """The stats of a picture; the same object while the picture is the same."""
        kept = self._of.get(view.vm_id)
        if kept is not None and kept[0] is view:
            return kept[1]
        answer = stats(view)
        self._of[view.vm_id] = (view, answer)
        return answer

    def forget_all_but(self, views: Collection[VmView]) -> None:
        """Drop what is kept of VMs that are gone."""
        if len(self._of) > len(views):
            there = {view.vm_id for view in views}
            for vm_id in [vm_id for vm_id in self._of if vm_id not in there]:
                self._of.pop(vm_id, None)


def state(view: VmView) -> api.VmState:
    """A VM's state."""
    return api.VmState(
        vm_id=view.vm_id,
        status=view.status.value,
        vm_name=view.name,
        status_time=notify_time_ms(),
    )


def stats(view: VmView) -> api.VmStats:
    """Everything known of a VM from its last samples."""
    sample = view.sample
    facts = view.facts
    guest = view.guest
    taken_s = sample.taken_s if sample is not None else view.status_time_s
    running = view.status is not Status.DOWN
    return api.VmStats(
        vm_id=view.vm_id,
        status=view.status.value,
        vm_name=view.name,
        hash=facts.devices_hash,
        stats_age=taken_s,
        responding=view.responding,
        monitor_response=0 if view.responding else _SILENT,
        exit_code=None if view.exit is None else int(view.exit.code),
        exit_message=None if view.exit is None else view.exit.message,
        exit_reason=None if view.exit is None else int(view.exit.reason),
        pause_code=view.pause_code.value if view.status is Status.PAUSED else PauseCode.USER.value,
        elapsed_time=max(0, int(monotonic_s() - view.started_s)) if running else 0,
        time_offset=str(facts.clock_offset_s),
        client_ip=view.client_address,
        acpi_enable=facts.acpi,
        kvm_enable=facts.domain_type == "kvm",
        guest_agent=view.agent_connected,
        cpu_user=sample.cpu_user_percent if sample else 0.0,
        cpu_sys=sample.cpu_system_percent if sample else 0.0,
        cpu_usage=sample.cpu_ns if sample else 0,
        vcpu_count=facts.vcpus,
        mem_usage=sample.memory_used_percent if sample else 0,
        memory_stats=_memory(sample.memory) if sample and sample.memory else None,
        balloon_info=_balloon(facts, sample) if facts.balloon else None,
        display_info=[display(item) for item in facts.graphics] if running else [],
        network=_network(facts, sample),
        disks=_disks(facts, sample),
        cdrom=next((disk.path for disk in facts.disks if disk.device == "cdrom"), ""),
        **_guest(guest),
    )


def display(facts: GraphicsFacts) -> api.DisplayInfo:
    """Where a display is reached."""
    return api.DisplayInfo(
        type=facts.kind,
        port=facts.port if facts.port is not None else _NO_PORT,
        tls_port=facts.tls_port if facts.tls_port is not None else _NO_PORT,
        ip_address=facts.address,
    )


def _memory(memory: MemorySample) -> api.MemoryStats | None:
    if memory.available_kib is None:
        return None
    return api.MemoryStats(
        mem_total=memory.available_kib,
        mem_free=memory.usable_kib if memory.usable_kib is not None else memory.unused_kib,
        mem_unused=memory.unused_kib,
        mem_cached=memory.cached_kib,
    )


def _balloon(facts: DomainFacts, sample: VmSample | None) -> api.BalloonInfo:
    memory = sample.memory if sample else None
    return api.BalloonInfo(
        balloon_max=memory.balloon_maximum_kib if memory else facts.memory_kib,
        balloon_min=facts.min_memory_kib or facts.memory_kib,
        balloon_cur=memory.balloon_current_kib if memory else facts.current_memory_kib,
        balloon_target=facts.current_memory_kib,
    )


def _network(facts: DomainFacts, sample: VmSample | None) -> dict[str, api.NicStats]:
    if sample is None:
        return {}
    nics = {nic.target: nic for nic in facts.nics if nic.target}
    return {
        item.target: _nic(item, nics[item.target].mac if item.target in nics else "", sample.taken_s)
        for item in sample.nics
    }


def _nic(item: NicSample, mac: str, taken_s: float) -> api.NicStats:
    return api.NicStats(
        name=item.target,
        mac_addr=mac,
        rx=item.rx_bytes,
        tx=item.tx_bytes,
        rx_errors=item.rx_errors,
        tx_errors=item.tx_errors,
        rx_dropped=item.rx_dropped,
        tx_dropped=item.tx_dropped,
        speed=_NIC_SPEED_MBIT,
        state="unknown",
        sample_time=taken_s,
    )


def _disks(facts: DomainFacts, sample: VmSample | None) -> dict[str, api.DiskStats]:
    known = {disk.target: disk for disk in facts.disks}
    if sample is None or not sample.disks:
        return {target: api.DiskStats(image_id=disk.image_id or None) for target, disk in known.items()}
    return {item.target: _disk(item, known.get(item.target)) for item in sample.disks}


def _disk(item: DiskSample, facts: DiskFacts | None) -> api.DiskStats:
    return api.DiskStats(
        image_id=(facts.image_id or None) if facts else None,
        read_rate=item.read_rate,
        write_rate=item.write_rate,
        read_ops=item.read_ops,
        write_ops=item.write_ops,
        read_bytes=item.read_bytes,
        written_bytes=item.write_bytes,
        read_latency=item.read_latency_ns,
        write_latency=item.write_latency_ns,
        flush_latency=item.flush_latency_ns,
        # QEMU's "physical" is what the image takes on its file system. A raw image looks as large as its disk; others
        # as far as they are written.
        truesize=item.physical,
        apparentsize=max(item.physical, item.capacity if facts and facts.format == "raw" else item.allocation),
    )


def _guest(guest: GuestInfo | None) -> dict[str, Any]:
    if guest is None:
        return {}
    addresses = [address for card in guest.interfaces for address in card.ipv4 if not address.startswith("127.")]
    return {
        "guest_name": guest.host_name or None,
        "guest_fqdn": guest.host_name or None,
        "guest_ips": " ".join(addresses) or None,
        "guest_os": guest.kernel or None,
        "guest_os_info": api.GuestOsInfo(
            type="linux" if guest.os_id != "mswindows" else "windows",
            arch=guest.architecture,
            kernel=guest.kernel,
            distribution=guest.os_name,
            version=guest.os_version,
        ),
        "net_ifaces": [
            api.GuestInterface(name=card.name, hw=card.mac, inet=list(card.ipv4), inet6=list(card.ipv6))
            for card in guest.interfaces
        ],
        "username": guest.users[0] if guest.users else None,
    }


def info(view: VmView) -> api.VmInfo:
    """A VM and its devices."""
    facts = view.facts
    return api.VmInfo(
        vm_id=view.vm_id,
        vm_name=view.name,
        status=view.status.value,
        status_time=notify_time_ms(),
        memory_mib=facts.memory_kib // 1024,
        vcpus=facts.vcpus,
        kvm_enable=facts.domain_type == "kvm",
        display_info=[display(item) for item in facts.graphics],
        disks=[
            api.DiskInfo(
                name=disk.target,
                device=disk.device,
                bus=disk.bus,
                path=disk.path,
                format=disk.format,
                readonly=disk.readonly,
                image_id=disk.image_id or None,
            )
            for disk in facts.disks
        ],
        nics=[
            api.NicInfo(name=nic.target, mac_addr=nic.mac, model=nic.model, network=nic.network) for nic in facts.nics
        ],
        console=facts.console.path if facts.console and facts.console.kind == "unix" else None,
        guest_agent=view.agent_connected,
        exit_message=None if view.exit is None else view.exit.message,
    )
