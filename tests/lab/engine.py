"""An oVirt Engine, as far as a host notices one: its connection, what it reads out of answers, and what it concludes.

    with Engine(Connection(connected_socket, context)) as engine:
        engine.activate("4.7", "ovirtmgmt")         # the sequence by which a host comes Up
        engine.run_vm(vm_id, xml)
        engine.poll()                               # what it does every 15 seconds
        engine.vms[vm_id].status

Reading is strict: see `engine_values`. A report of a VM is used only if it is not older than the last one; a VM that is
missing from one poll is gone.
"""

from __future__ import annotations

import base64
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from .engine_values import Missing, Reader
from .engine_wire import ClassCast, Connection, EngineEvent

STATUSES: Final = {
    "waitforlaunch", "poweringup", "up", "paused", "poweringdown", "rebootinprogress", "migrationsource",
    "migrationdestination", "savingstate", "restoringstate", "down",
}  # fmt: skip
PAUSES: Final = {"NONE", "EOTHER", "EIO", "ENOSPC", "EPERM", "NOERR", "POSTCOPY"}
EXIT_REASONS: Final = range(15)
MACHINES: Final = {
    "4.7": {"pc-q35-4.1", "pc-i440fx-2.12"},
    "4.8": {"pc-q35-rhel9.6.0", "pc-i440fx-rhel7.6.0"},
}
SUBSCRIPTIONS: Final = ("*|virt|VM_status|*", "*|*|VM_migration_status|*", "*|net|host_conn|*")


class NonOperational(Exception):
    """The host does not come Up, for the reason that is named."""


@dataclass
class KnownVm:
    """What the Engine has in its database of a VM on the host."""

    status: str = ""
    time: int = -1
    hash: str = ""
    xml: str = ""
    aliases: set[str] = field(default_factory=set)
    exit: tuple[int, str, int] | None = None
    pause_code: str = ""
    responding: bool = True
    displays: list[tuple[str, str, str]] = field(default_factory=list)
    client_ip: str = ""
    guest: dict[str, object] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)


class Engine:
    """One Engine and its view of one host."""

    def __init__(self, wire: Connection) -> None:
        self.wire = wire
        self.vms: dict[str, KnownVm] = {}
        self.gone: list[str] = []
        self.capabilities: dict[str, object] = {}
        self.stats: dict[str, object] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def call(self, method: str, **params: Any) -> Any:
        """Call a verb."""
        return self.wire.call(method, params, flow=f"flow-{method}")

    # -- the host

    def activate(self, level: str, network: str) -> None:
        """The sequence "Up"; raises what keeps the host from it."""
        self.refresh_capabilities()
        known = self.capabilities
        if level not in known["levels"]:  # type: ignore[operator]
            raise NonOperational(f"CLUSTER_VERSION_INCOMPATIBLE: {known['levels']}")
        hardware = Reader(self.call("Host.getHardwareInfo"), "Host.getHardwareInfo")
        for key in ("Manufacturer", "ProductName", "Version", "SerialNumber", "UUID", "Family"):
            hardware.text(f"system{key}", needed=True)
        managed = known["networks"].get(network)  # type: ignore[attr-defined]
        if managed is None:
            raise NonOperational(f"NETWORK_UNREACHABLE: {network}")
        if not managed:
            raise NonOperational("VM_NETWORK_IS_BRIDGELESS")
        if not MACHINES[level] & set(known["machines"]):  # type: ignore[call-overload]
            raise NonOperational(f"EMULATED_MACHINES_INCOMPATIBLE: {known['machines']}")
        if not {"random", "urandom"} & set(known["rng"]):  # type: ignore[call-overload]
            raise NonOperational("RNG_SOURCES_INCOMPATIBLE")
        if not known["kvm"]:
            raise NonOperational("KVM_NOT_RUNNING")
        self.refresh_stats()
        flags = set(str(known["flags"]).split(","))
        if not (flags & {"vmx", "svm"} and any(flag.startswith("model_") for flag in flags)):
            raise NonOperational(f"CPU_TYPE_UNSUPPORTED: {known['flags']}")

    def refresh_capabilities(self) -> None:
        """Read Host.getCapabilities."""
        self.capabilities = capabilities(Reader(self.call("Host.getCapabilities"), "Host.getCapabilities"))

    def refresh_stats(self) -> None:
        """Read Host.getStats."""
        self.stats = host_stats(Reader(self.call("Host.getStats"), "Host.getStats"))

    # -- virtual machines

    def run_vm(self, vm_id: str, xml: str) -> None:
        """Create a VM."""
        answer = Reader(self.call("VM.create", vmID=vm_id, vmParams={"vmId": vm_id, "xml": xml}), "VM.create")
        if answer.text("vmId", needed=True) != vm_id or answer.text("status") != "WaitForLaunch":
            raise AssertionError(f"VM.create answered {answer.text('vmId')} {answer.text('status')}")
        self.vms.setdefault(vm_id, KnownVm())
        self._report(answer, answer.long("statusTime", needed=True) or -1)

    def poll(self) -> None:
        """What happens every 15 seconds."""
        self.refresh_stats()
        found = self.call("Host.getAllVmStats")
        if not isinstance(found, list):
            raise ClassCast(f"Host.getAllVmStats: {found!r:.80}")
        seen = set()
        for number, item in enumerate(found):
            report = Reader(item, f"Host.getAllVmStats[{number}]")
            seen.add(report.text("vmId", needed=True))
            self._report(report, _needed_big(report, "statusTime"))
        for vm_id in set(self.vms) - seen:
            del self.vms[vm_id]
            self.gone.append(vm_id)

    def ask_stats(self, vm_id: str) -> None:
        """Read VM.getStats."""
        found = self.call("VM.getStats", vmID=vm_id)
        if not isinstance(found, list) or len(found) != 1:
            raise ClassCast(f"VM.getStats: {found!r:.80}")
        report = Reader(found[0], "VM.getStats")
        self._report(report, _needed_big(report, "statusTime"))

    def listen(self, wait_s: float = 60.0) -> EngineEvent:
        """Take the next event and do what the Engine does about it."""
        event = self.wire.event(wait_s=wait_s)
        if event.matches(SUBSCRIPTIONS[0]):
            for vm_id, item in event.params.items():
                if vm_id != "notify_time":
                    self._report(Reader(item, f"VM_status {vm_id}"), event.notify_time, event_of=vm_id)
        elif event.matches(SUBSCRIPTIONS[2]):
            self.refresh_capabilities()
        return event

    def until(self, vm_id: str, *statuses: str, wait_s: float = 60.0) -> KnownVm:
        """Listen until a VM has one of these states, with no poll in between."""
        end_s = time.monotonic() + wait_s
        while self.vms[vm_id].status not in statuses:
            self.listen(max(0.01, end_s - time.monotonic()))
        return self.vms[vm_id]

    def destroy(self, vm_id: str) -> None:
        """VM.destroy, as for every VM seen Down."""
        self.call("VM.destroy", vmID=vm_id)
        self.vms.pop(vm_id, None)

    def _report(self, report: Reader, at: int, *, event_of: str = "") -> None:
        vm_id = event_of or report.text("vmId", needed=True) or ""
        values = vm_report(report)
        known = self.vms.get(vm_id)
        if known is None:
            return
        if at < known.time:
            return
        known.time = at
        if values["status"] != known.status:
            known.history.append(str(values["status"]))
        for name in ("status", "exit", "pause_code", "responding", "displays", "client_ip"):
            if values.get(name) is not None:
                setattr(known, name, values[name])
        known.guest.update(values["guest"])  # type: ignore[call-overload]
        if values["hash"] and values["hash"] != known.hash:
            known.hash = str(values["hash"])
            self._read_devices(vm_id, known)

    def _read_devices(self, vm_id: str, known: KnownVm) -> None:
        """What a changed hash makes the Engine do."""
        found = Reader(self.call("Host.dumpxmls", vmList=[vm_id]), "Host.dumpxmls")
        known.xml = found.text(vm_id, needed=True) or ""
        for literal in ("<devices>", "</devices>"):
            if literal not in known.xml:
                raise AssertionError(f"no {literal} in {known.xml[:200]}")
        known.aliases = set(re.findall(r"<alias name=['\"](ua-[^'\"]+)", known.xml))
        ET.fromstring(known.xml)


def _needed_big(report: Reader, key: str) -> int:
    value = report.big(key, needed=True)
    if value is None:
        raise Missing(key)
    return value


# -- what is read out of answers


def capabilities(found: Reader) -> dict[str, object]:
    """Host.getCapabilities; every field that the Engine looks at."""
    packages = dict(found.each("packages2", needed=True))
    for package in packages.values():
        package.text("version", needed=True)
        package.text("release", needed=True)
        package.long("buildtime")
    if not re.match(r"4\.50\.", packages["vdsm"].text("version") or ""):
        raise NonOperational("VDSM_VERSION_INCOMPATIBLE")
    for package in ("qemu-kvm", "libvirt", "kernel"):
        if package not in packages:
            raise Missing(f"packages2.{package}")
    _inventory(found)
    _topology(found)
    _plain_capabilities(found)
    return {
        "levels": found.list("clusterLevels", needed=True),
        "engines": found.list("supportedENGINEs", needed=True),
        "kvm": found.bool("kvmEnabled", needed=True),
        "machines": found.list("emulatedMachines", needed=True),
        "flags": found.text("cpuFlags", needed=True),
        "rng": found.list("rngSources", needed=True),
        "networks": _networks(found),
        "memory": found.int("memSize", needed=True),
        "cores": found.int("cpuCores", needed=True),
        "threads": found.int("cpuThreads", needed=True),
        "sockets": found.int("cpuSockets", needed=True),
        "model": found.text("cpuModel"),
        "online": found.text("onlineCpus"),
        "fips": found.bool("fipsEnabled", needed=True),
        "boot": found.long("bootTime"),
        "os": {key: found.object("operatingSystem").text(key) for key in ("name", "version", "release", "pretty_name")},  # type: ignore[union-attr]
        "packages": {name: item.text("version") for name, item in packages.items()},
        "domain_versions": found.list("domain_versions", int, needed=True),
        "arguments": found.text("kernelArgs"),
        "boot_id": found.text("boot_uuid"),
    }


def _inventory(found: Reader) -> None:
    inventory = found.object("HBAInventory", needed=True)
    if inventory is None:
        raise Missing("HBAInventory")
    for kind in ("iSCSI", "FC"):
        for port in inventory.items(kind):
            for key in port.names():
                port.text(key)


def _topology(found: Reader) -> None:
    for place in found.items("cpuTopology"):
        for key in ("numa_cell_id", "socket_id", "core_id", "cpu_id"):
            place.int(key, needed=True)
    nodes = dict(found.each("numaNodes"))
    distances = found.object("numaNodeDistance")
    for name, node in nodes.items():
        node.list("cpus", int, needed=True)
        node.long("totalMemory", needed=True)
        if distances is not None and len(distances.list(name, int)) != len(nodes):
            raise ClassCast(f"numaNodeDistance[{name}]")


def _plain_capabilities(found: Reader) -> None:
    found.ints("reservedMem", "guestOverhead", "autoNumaBalancing", "kdumpStatus")
    found.doubles("cpuSpeed")
    found.texts("software_version", "version_name", "build_name", "ISCSIInitiatorName", "tscFrequency")
    found.bools(
        "netConfigDirty", "tscScaling", "hostdevPassthrough", "hostedEngineDeployed", "vncEncrypted", "ovnConfigured",
        "backupEnabled", "coldBackupEnabled", "clearBitmapsEnabled", "cd_change_pdiv",
    )  # fmt: skip
    found.list("nameservers")
    found.list("additionalFeatures")
    found.list("vdsmToCpusAffinity", int)
    dict(found.each("hooks"))
    dict(found.each("connector_info"))
    features = found.object("kernelFeatures")
    if features is not None:
        features.ints(*features.names())
    if (sizes := found.object("supported_block_size")) is not None:
        for kind in sizes.names():
            sizes.list(kind, int)
    if (selinux := found.object("selinux")) is not None:
        selinux.text("mode", needed=True)


def _networks(found: Reader) -> dict[str, bool]:
    """All devices; the networks and whether each is bridged."""
    bases = {name for part in ("nics", "bondings") for name, _ in found.each(part)}
    for _, nic in found.each("nics", needed=True):
        _addresses(nic)
        nic.text("hwaddr", needed=True)
        if (speed := nic.raw("speed")) != nic.int("speed") or isinstance(speed, str):
            raise ClassCast(f"{nic.where}.speed {speed!r}")
        nic.texts("permhwaddr", "ad_aggregator_id")
    for _, bridge in found.each("bridges", needed=True):
        _addresses(bridge)
        bridge.list("ports", needed=True)
    for name, vlan in found.each("vlans"):
        _addresses(vlan)
        if vlan.text("iface", needed=True) not in bases:
            raise NonOperational(f"the VLAN {name} is on nothing")
        if isinstance(vlan.raw("vlanid"), str):
            raise ClassCast(f"{vlan.where}.vlanid")
        vlan.int("vlanid", needed=True)
    for _, bond in found.each("bondings"):
        _addresses(bond)
        bond.texts("hwaddr", "active_slave", "ad_partner_mac")
        bond.list("slaves", needed=True)
        options = bond.object("opts", needed=True)
        if options is not None:
            options.texts(*options.names())
    bridged = {}
    for name, network in found.each("networks", needed=True):
        _addresses(network)
        if network.text("switch", needed=True) not in {"legacy", "ovs"}:
            raise ClassCast(f"{network.where}.switch")
        network.text("iface", needed=True)
        network.list("ports")
        network.texts("stp", "southbound")
        bridged[name] = network.bool("bridged", needed=True)
    return bridged


def _addresses(device: Reader) -> None:
    device.texts("addr", "netmask", "gateway", "ipv6gateway")
    device.list("ipv6addrs", needed=True)
    device.bools("ipv4defaultroute", "dhcpv4", "dhcpv6", "ipv6autoconf")
    device.int("mtu", needed=True)


def host_stats(found: Reader) -> dict[str, object]:
    """Host.getStats; every field that the Engine looks at."""
    for _, device in found.each("network", needed=True):
        _device_stats(device)
        if device.text("state") not in {"up", "down"}:
            raise ClassCast(f"{device.where}.state")
    for _, domain in found.each("storageDomains"):
        domain.int("code", needed=True)
        domain.texts("lastCheck", "delay")
        domain.bools("valid", "acquired", "actual")
    cpus = dict(found.each("cpuStatistics"))
    for cpu in cpus.values():
        cpu.int("nodeIndex", needed=True)
        for key in ("cpuUser", "cpuSys", "cpuIdle"):
            cpu.double(key, needed=True)
    for _, node in found.each("numaNodeMemFree"):
        node.long("memFree", needed=True)
        node.int("memPercent", needed=True)
        for _, pages in node.each("hugepages"):
            pages.ints("freePages")
    for _, pages in found.each("hugepages"):
        pages.ints("vm.free_hugepages", "nr_hugepages")
    if (state := found.text("thpState", needed=True)) not in {"never", "madvise", "always"}:
        raise ClassCast(f"thpState {state!r}")
    if (agent := found.object("haStats")) is not None:
        agent.int("score", needed=True)
        agent.bools("configured", "active", "globalMaintenance", "localMaintenance")
    found.ints("ksmCpu", "vmMigrating", "incomingVmMigrations", "outgoingVmMigrations", "anonHugePages")
    found.longs("memShared", "ksmPages")
    found.bools("ksmState", "netConfigDirty")
    dict(found.each("multipathHealth"))
    return {
        "cpu": [found.double(key, needed=True) for key in ("cpuSys", "cpuUser", "cpuIdle", "cpuLoad")],
        "cpus": len(cpus),
        "free": found.long("memFree", needed=True),
        "swap": (found.long("swapTotal", needed=True), found.long("swapFree", needed=True)),
        "boot": found.long("bootTime", needed=True),
        "count": found.int("vmCount", needed=True),
        "active": found.int("vmActive", needed=True),
        "time": found.text("dateTime", needed=True),
        "disks": {path: disk.long("free", needed=True) for path, disk in found.each("diskStats", needed=True)},
        "devices": [name for name, _ in found.each("network")],
    }


def _device_stats(device: Reader) -> None:
    device.text("name", needed=True)
    device.texts("macAddr", "state")
    for key in ("rx", "tx", "rxDropped", "txDropped"):
        device.big(key, needed=True)
    device.double("sampleTime", needed=True)
    device.int("speed", needed=True)


def vm_report(found: Reader) -> dict[str, object]:
    """What is read out of stats, a VM_status event and VM.create's answer alike."""
    status = found.text("status", needed=True) or ""
    if status.replace(" ", "").lower() not in STATUSES:
        raise ClassCast(f"{found.where}.status {status!r}")
    found.texts("timeOffset", "acpiEnable", "session", "vmName", "cdrom", "guestFQDN", "guestName", "username")
    found.doubles("cpuUser", "cpuSys", "elapsedTime")
    found.longs("memUsage", "migrationProgress")
    found.ints("guestCPUCount")
    found.list("appsList")
    if (balloon := found.object("balloonInfo")) is not None and len(balloon.names()) >= 4:
        for key in ("balloon_cur", "balloon_max", "balloon_min", "balloon_target"):
            balloon.long(key, needed=True)
    if (memory := found.object("memoryStats")) is not None:
        memory.longs("mem_free", "mem_cached", "mem_buffers", "mem_unused")
    for _, device in found.each("network"):
        _device_stats(device)
    for _, disk in found.each("disks"):
        _disk_stats(disk)
    for _, job in found.each("vmJobs"):
        job.text("id", needed=True)
    for key in ("guestOsInfo", "guestTimezone"):
        if (guest := found.object(key)) is not None:
            guest.texts(*[name for name in guest.names() if name != "offset"])
    for card in found.items("netIfaces"):
        card.texts("name", "hw")
        card.list("inet")
        card.list("inet6")
    silent = found.long("monitorResponse")
    return {
        "status": status,
        "hash": found.text("hash"),
        "exit": _exit(found) if status == "Down" else None,
        "pause_code": _pause(found),
        "responding": None if silent is None else silent >= 0,
        "displays": _displays(found) if "displayInfo" in found else None,
        "client_ip": found.text("clientIp"),
        "guest": {key: found.text(key) for key in ("guestName", "guestFQDN") if key in found},
    }


def _exit(found: Reader) -> tuple[int, str, int]:
    code, reason = found.int("exitCode", needed=True), found.int("exitReason", needed=True)
    message = found.text("exitMessage", needed=True)
    if code not in {0, 1} or reason not in EXIT_REASONS or not message:
        raise ClassCast(f"{found.where}: exit {code} {reason} {message!r}")
    return int(code), message, int(reason)  # type: ignore[arg-type]


def _pause(found: Reader) -> str | None:
    code = found.text("pauseCode")
    if code is not None and code not in PAUSES:
        raise ClassCast(f"{found.where}.pauseCode {code!r}")
    return code


def _displays(found: Reader) -> list[tuple[str, str, str]]:
    displays = []
    for display in found.items("displayInfo"):
        kind, address = display.text("type", needed=True), display.text("ipAddress", needed=True)
        if kind not in {"vnc", "spice"}:
            raise ClassCast(f"{display.where}.type {kind!r}")
        port = display.text("port", needed=True)
        display.text("tlsPort", needed=True)
        displays.append((str(kind), str(port), str(address)))
    return displays


def _disk_stats(disk: Reader) -> None:
    disk.texts("imageID", "lunGUID")
    disk.ints("readRate", "writeRate")
    for key in ("readOps", "writeOps", "truesize", "apparentsize"):
        disk.big(key)
    disk.doubles("readLatency", "writeLatency", "flushLatency")


def picture(answer: Mapping[str, object]) -> bytes:
    """The picture of a VM.screenshot."""
    found = Reader(answer, "VM.screenshot")
    found.texts("encoding", "mime_type")
    return base64.b64decode(found.text("data", needed=True) or "", validate=True)
