"""One function per call about domains, on an open connection. No deadlines here: connection.py has them.

Which calls ask a domain's QEMU, and so hang while that is frozen, was measured on libvirt 9.0: everything but
listing, XML, STATE and INTERFACE statistics and ``destroy`` (which kills; a frozen process takes it 10 s). Even
CPU_TOTAL asks QEMU (for haltpoll figures), so CPU time is read from /proc instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Literal

import libvirt  # noqa: TID251 - vdsm.system.libvirt is its one place
import libvirt_qemu

from vdsm.base.errors import HypervisorFailed, NotFound
from vdsm.system.libvirt.facts import (
    CheapCounters,
    DiskCounters,
    GuestReply,
    MonitorCounters,
    NicCounters,
    PauseCause,
    Picture,
    RunningDomain,
)

MAX_PICTURE_BYTES: Final = 64 << 20

_CHEAP: Final = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_INTERFACE
_MONITOR: Final = libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_BLOCK
_PAUSED: Final = {
    libvirt.VIR_DOMAIN_PAUSED_USER: PauseCause.USER,
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: PauseCause.IO_ERROR,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: PauseCause.POSTCOPY,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: PauseCause.STARTING,
}
_GUEST_INFO: Final = (
    libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME
    | libvirt.VIR_DOMAIN_GUEST_INFO_OS
    | libvirt.VIR_DOMAIN_GUEST_INFO_TIMEZONE
    | libvirt.VIR_DOMAIN_GUEST_INFO_USERS
    | libvirt.VIR_DOMAIN_GUEST_INFO_INTERFACES
)

_SHUTDOWN: Final = {
    "agent": libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
    "acpi": libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
}
_REBOOT: Final = {
    "agent": libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT,
    "acpi": libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN,
}

Way = Literal["agent", "acpi"]
Order = Literal["shutdown", "reboot"]


# -- what is there


def running(conn: libvirt.virConnect, mark: str) -> list[RunningDomain]:
    """All active domains whose XML contains ``mark``, with their XML."""
    domains = {domain.UUIDString(): domain for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)}
    states = _states(conn, list(domains.values()))
    found = []
    for vm_id, domain in domains.items():
        if vm_id not in states:
            continue  # it has ended meanwhile
        try:
            text = domain.XMLDesc(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                continue
            raise
        if mark in text:
            found.append(RunningDomain(vm_id, domain.name(), states[vm_id], text))
    return found


def _states(conn: libvirt.virConnect, domains: list[libvirt.virDomain]) -> dict[str, PauseCause | None]:
    if not domains:
        return {}
    records = conn.domainListGetStats(domains, libvirt.VIR_DOMAIN_STATS_STATE, 0)
    return {domain.UUIDString(): _paused(values) for domain, values in records}


def _paused(values: Mapping[str, Any]) -> PauseCause | None:
    if values.get("state.state") != libvirt.VIR_DOMAIN_PAUSED:
        return None
    return _PAUSED.get(int(values.get("state.reason", 0)), PauseCause.OTHER)


def xml(conn: libvirt.virConnect, vm_id: str) -> str:
    """The domain's live XML, without secrets."""
    return conn.lookupByUUIDString(vm_id).XMLDesc(0)


# -- life


def create(conn: libvirt.virConnect, text: str, *, paused: bool) -> None:
    """Start a transient domain."""
    conn.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)


def pause(conn: libvirt.virConnect, vm_id: str) -> None:
    """Stop the CPUs."""
    conn.lookupByUUIDString(vm_id).suspend()


def resume(conn: libvirt.virConnect, vm_id: str) -> None:
    """Let the CPUs run."""
    conn.lookupByUUIDString(vm_id).resume()


def reset(conn: libvirt.virConnect, vm_id: str) -> None:
    """Press the reset button."""
    conn.lookupByUUIDString(vm_id).reset(0)


def order(conn: libvirt.virConnect, vm_id: str, order: Order, way: Way) -> None:
    """Ask the guest to end or to start again; whether it obeys is told by events."""
    domain = conn.lookupByUUIDString(vm_id)
    if order == "shutdown":
        domain.shutdownFlags(_SHUTDOWN[way])
    else:
        domain.reboot(_REBOOT[way])


def destroy(conn: libvirt.virConnect, vm_id: str, mark: str) -> None:
    """Kill the domain's QEMU.

    Raises:
        NotFound: the domain of this id does not contain ``mark``: it is another program's.
    """
    domain = conn.lookupByUUIDString(vm_id)
    if mark not in domain.XMLDesc(0):
        raise NotFound("domain", vm_id)
    domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_DEFAULT)


# -- devices


def update_devices(
    conn: libvirt.virConnect, vm_id: str, change: Callable[[str], Iterable[str]], *, force: bool
) -> None:
    """Change live devices: ``change`` makes the XML of the new ones from the domain's. ``force`` opens locked trays."""
    domain = conn.lookupByUUIDString(vm_id)
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | (libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force else 0)
    for device in change(domain.XMLDesc(0)):
        domain.updateDeviceFlags(device, flags)


def screenshot(conn: libvirt.virConnect, vm_id: str) -> Picture:
    """The domain's first display as a picture.

    Raises:
        HypervisorFailed: it is absurdly large.
    """
    stream = conn.newStream(0)
    mime_type = conn.lookupByUUIDString(vm_id).screenshot(stream, 0, 0)
    data = bytearray()

    def take(_stream: libvirt.virStream, chunk: bytes, _opaque: object) -> int:
        data.extend(chunk)
        return -1 if len(data) > MAX_PICTURE_BYTES else 0

    try:
        stream.recvAll(take, None)
    except libvirt.libvirtError as error:
        if len(data) > MAX_PICTURE_BYTES:
            raise HypervisorFailed("screenshot", f"is larger than {MAX_PICTURE_BYTES} bytes") from error
        raise
    stream.finish()
    return Picture(bytes(data), mime_type)


# -- the guest's agent


def ping_agent(conn: libvirt.virConnect, vm_id: str, timeout_s: int) -> None:
    """Ask the guest's agent for nothing; returns when it answered."""
    libvirt_qemu.qemuAgentCommand(conn.lookupByUUIDString(vm_id), json.dumps({"execute": "guest-ping"}), timeout_s, 0)


def guest_info(conn: libvirt.virConnect, vm_id: str, timeout_s: int) -> GuestReply:
    """What the guest's agent can tell of the guest; what it does not support is left out."""
    domain = conn.lookupByUUIDString(vm_id)
    domain.agentSetResponseTimeout(timeout_s, 0)
    return GuestReply(domain.guestInfo(_GUEST_INFO, 0))


# -- statistics


def cheap(conn: libvirt.virConnect, wanted: Collection[str]) -> dict[str, CheapCounters]:
    """State and network counters of the wanted domains that run; asks no QEMU."""
    records = _stats(conn, wanted, _CHEAP, 0)
    return {vm_id: CheapCounters(_paused(values), _nics(values)) for vm_id, values in records.items()}


def monitored(conn: libvirt.virConnect, wanted: Collection[str], *, cpu: bool) -> dict[str, MonitorCounters | None]:
    """Memory and disk counters of the wanted domains that run, and CPU time if ``cpu``.

    None: another call holds the domain, so that its QEMU was not asked. The first call to a frozen QEMU does hang.
    """
    groups = _MONITOR | (libvirt.VIR_DOMAIN_STATS_CPU_TOTAL if cpu else 0)
    records = _stats(conn, wanted, groups, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
    return {vm_id: _monitor_counters(values) for vm_id, values in records.items()}


def _stats(conn: libvirt.virConnect, wanted: Collection[str], groups: int, flags: int) -> dict[str, dict[str, Any]]:
    active = conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    domains = [domain for domain in active if domain.UUIDString() in wanted]
    if not domains:
        return {}
    return {domain.UUIDString(): values for domain, values in conn.domainListGetStats(domains, groups, flags)}


def _monitor_counters(values: Mapping[str, Any]) -> MonitorCounters | None:
    if "balloon.rss" not in values:  # there whenever QEMU could be asked, whatever the balloon
        return None
    prefix = "balloon."
    return MonitorCounters(
        memory={key[len(prefix) :]: int(value) for key, value in values.items() if key.startswith(prefix)},
        disks=_disks(values),
        cpu_user_ns=values.get("cpu.user"),
        cpu_system_ns=values.get("cpu.system"),
    )


def _numbered(values: Mapping[str, Any], group: str) -> list[Callable[[str], int]]:
    """A getter per entry of a counted group: ``get("rx.bytes")`` reads ``net.3.rx.bytes``, absent is 0."""

    def getter(number: int) -> Callable[[str], int]:
        return lambda key: int(values.get(f"{group}.{number}.{key}", 0))

    return [getter(number) for number in range(int(values.get(f"{group}.count", 0)))]


def _nics(values: Mapping[str, Any]) -> tuple[NicCounters, ...]:
    return tuple(
        NicCounters(
            name=name,
            rx_bytes=get("rx.bytes"),
            rx_packets=get("rx.pkts"),
            rx_errors=get("rx.errs"),
            rx_dropped=get("rx.drop"),
            tx_bytes=get("tx.bytes"),
            tx_packets=get("tx.pkts"),
            tx_errors=get("tx.errs"),
            tx_dropped=get("tx.drop"),
        )
        for number, get in enumerate(_numbered(values, "net"))
        if (name := str(values.get(f"net.{number}.name", "")))
    )


def _disks(values: Mapping[str, Any]) -> tuple[DiskCounters, ...]:
    return tuple(
        DiskCounters(
            name=name,
            read_ops=get("rd.reqs"),
            read_bytes=get("rd.bytes"),
            read_ns=get("rd.times"),
            write_ops=get("wr.reqs"),
            write_bytes=get("wr.bytes"),
            write_ns=get("wr.times"),
            flush_ops=get("fl.reqs"),
            flush_ns=get("fl.times"),
            capacity=get("capacity"),
            allocation=get("allocation"),
            physical=get("physical"),
        )
        for number, get in enumerate(_numbered(values, "block"))
        if (name := str(values.get(f"block.{number}.name", "")))
    )
