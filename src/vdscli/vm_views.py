"""VMs shown: the list, one VM's card, the load."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from vdscli import inventory, units
from vdscli.terminal import Cell, Column

if TYPE_CHECKING:
    from vdscli.client import Client
    from vdscli.session import Session

KIB: Final = 1024
MIB: Final = 1 << 20
_STATUS_COLOURS: Final = {
    "Up": "green",
    "Down": "grey",
    "Paused": "yellow",
    "Powering up": "blue",
    "Powering down": "yellow",
    "RebootInProgress": "blue",
    "WaitForLaunch": "blue",
}
_COLUMNS: Final = (
    Column("NAME"),
    Column("ID"),
    Column("STATUS"),
    Column("CPU", right=True),
    Column("MEMORY", right=True),
    Column("UPTIME", right=True),
    Column("DISPLAY"),
    Column("AGENT"),
)

Facts = list[tuple[str, str | Cell | list[str]]]


def show_all(session: Session) -> None:
    """``vm list``."""
    vms = listed(session.client)
    if session.args.running:
        vms = [vm for vm in vms if vm["status"] != "Down"]
    if session.out.as_json:
        session.out.value(vms)
    elif session.args.quiet:
        for vm in vms:
            session.out.line(vm["name"])
    else:
        session.out.table(_COLUMNS, [_row(vm, full=session.args.full) for vm in vms])
        if not vms and sys.stdout.isatty():
            session.out.note("no VMs yet: 'vdscli vm create --help' tells how to make one")


def listed(client: Client) -> list[dict[str, Any]]:
    """All VMs by name: their stats, with ``name``, ``defined`` and ``autostart``; a stopped one has its description."""
    definitions = {item["vm_id"]: item for item in client.get("/definitions")}
    found = []
    for stats in client.get("/vm-stats"):
        definition = definitions.pop(stats["vm_id"], None)
        found.append(_merged(stats, definition))
    for vm_id, definition in definitions.items():
        blank = {"vm_id": vm_id, "vm_name": definition["name"], "status": "Down"}
        found.append(_merged(blank, definition))
    return sorted(found, key=lambda vm: (vm["name"], vm["vm_id"]))


def _merged(stats: dict[str, Any], definition: dict[str, Any] | None) -> dict[str, Any]:
    merged = {"name": stats["vm_name"], **stats, "defined": definition is not None}
    if definition is not None:
        merged |= {"autostart": definition["autostart"], "description": definition["description"]}
    return merged


def _row(vm: dict[str, Any], *, full: bool) -> list[str | Cell]:
    down = vm["status"] == "Down"
    return [
        vm["name"],
        vm["vm_id"] if full else vm["vm_id"][: inventory.SHORT_ID],
        status_cell(vm),
        "-" if down else units.percent(cpu(vm)),
        units.size(memory_bytes(vm)) if memory_bytes(vm) else "-",
        "-" if down else units.duration(vm.get("elapsed_time", 0)),
        "-" if down else display(vm),
        "-" if down else ("yes" if vm.get("guest_agent") else "no"),
    ]


def status_cell(vm: dict[str, Any]) -> Cell:
    """The status; red when the VM does not respond or ended badly."""
    status = str(vm["status"])
    if status != "Down" and not vm.get("responding", True):
        return Cell(f"{status} (not responding)", "red")
    if status == "Down" and vm.get("exit_code"):
        return Cell("Down (failed)", "red")
    return Cell(status, _STATUS_COLOURS.get(status, ""))


def cpu(vm: dict[str, Any]) -> float:
    """Percent of one CPU that a VM uses."""
    return float(vm.get("cpu_user", 0.0)) + float(vm.get("cpu_sys", 0.0))


def memory_bytes(vm: dict[str, Any]) -> int:
    """The memory that a VM has, in bytes; 0 when that is not known."""
    balloon = vm.get("balloon_info") or {}
    if balloon.get("balloon_cur"):
        return int(balloon["balloon_cur"]) * KIB
    return int((vm.get("description") or {}).get("memory_mib", 0)) * MIB


def display(vm: dict[str, Any]) -> str:
    """Where the displays are, in short."""
    return ", ".join(_display(item) for item in vm.get("display_info") or []) or "-"


def _display(item: dict[str, Any]) -> str:
    ports = [str(port) for port in (item.get("port", -1), item.get("tls_port", -1)) if int(port) > 0]
    address = str(item.get("ip_address") or "")
    if ":" in address:
        address = f"[{address}]"
    return f"{item['type']} {address}:{'/'.join(ports)}" if ports else str(item["type"])


def show(session: Session) -> None:
    """``vm show``."""
    client = session.client
    vm = inventory.find(client, session.args.vm)
    stats = inventory.stats_of(client, vm)
    info = client.get(vm.path) if vm.live else None
    definition = client.get(vm.definition_path) if vm.defined else None
    if session.out.as_json:
        session.out.value({**_merged(stats, definition), **(info or {})})
        return
    facts = _state_facts(vm, stats, definition)
    facts += _hardware_facts(info) if info else _defined_facts(definition or {})
    facts += _guest_facts(stats)
    session.out.card(facts)


def _state_facts(vm: inventory.Vm, stats: dict[str, Any], definition: dict[str, Any] | None) -> Facts:
    status = status_cell(stats)
    running = stats["status"] != "Down"
    if running and not stats.get("responding", True):
        age = units.duration(stats.get("stats_age", 0))
        status = Cell(f"{stats['status']}, not responding (last sample {age} ago)", "red")
    elif running:
        status = Cell(f"{status.text} for {units.duration(stats.get('elapsed_time', 0))}", status.colour)
    stored = "no" if definition is None else ("yes, starts with the agent" if definition["autostart"] else "yes")
    return [
        ("Name", Cell(vm.name, "bold")),
        ("Id", vm.vm_id),
        ("Status", status),
        ("Ended", str(stats.get("exit_message") or "") if not running else ""),
        ("Paused by", _pause_reason(stats)),
        ("Defined here", stored),
    ]


def _pause_reason(stats: dict[str, Any]) -> str:
    reason = str(stats.get("pause_code") or "")
    return "" if stats["status"] != "Paused" or reason == "NOERR" else reason


def _hardware_facts(info: dict[str, Any]) -> Facts:
    accelerated = "KVM" if info["kvm_enable"] else "emulated (no KVM)"
    return [
        ("CPUs", f"{info['vcpus']}, {accelerated}"),
        ("Memory", units.size(info["memory_mib"] * MIB)),
        ("Disks", [_disk(disk) for disk in info["disks"]]),
        ("Networks", [_nic(nic) for nic in info["nics"]]),
        ("Display", "" if info["status"] == "Down" else display(info)),
        ("Console", "" if info["status"] == "Down" else str(info.get("console") or "")),
        ("Guest agent", "" if info["status"] == "Down" else ("connected" if info["guest_agent"] else "not connected")),
    ]


def _defined_facts(definition: dict[str, Any]) -> Facts:
    shape = definition.get("description", {})
    return [
        ("CPUs", str(shape.get("vcpus", ""))),
        ("Memory", units.size(shape.get("memory_mib", 0) * MIB)),
        ("Disks", [_disk(disk) for disk in shape.get("disks", [])]),
        ("Networks", [_nic(nic) for nic in shape.get("nics", [])]),
    ]


def _disk(disk: dict[str, Any]) -> str:
    notes = [
        disk.get("device", "disk"),
        disk.get("bus"),
        disk.get("format"),
        "readonly" if disk.get("readonly") else "",
    ]
    start = f"{disk['name']}  " if disk.get("name") else ""
    return f"{start}{disk.get('path') or '(empty)'}  ({', '.join(filter(None, notes))})"


def _nic(nic: dict[str, Any]) -> str:
    start = f"{nic['name']}  " if nic.get("name") else ""
    mac = nic.get("mac_addr") or nic.get("mac") or ""
    return f"{start}{mac}  ({', '.join(filter(None, [nic.get('network') or 'user', nic.get('model')]))})".strip()


def _guest_facts(stats: dict[str, Any]) -> Facts:
    system = stats.get("guest_os_info") or {}
    words = [system.get("distribution"), system.get("version"), system.get("kernel")]
    return [
        ("Guest name", str(stats.get("guest_name") or "")),
        ("Guest system", " ".join(str(word) for word in words if word)),
        ("Guest addresses", str(stats.get("guest_ips") or "")),
    ]


def stats(session: Session) -> None:
    """``vm stats``."""
    client = session.client
    if session.args.vm:
        vms = inventory.inventory(client)
        found = [inventory.stats_of(client, inventory.choose(vms, text)) for text in session.args.vm]
    else:
        found = client.get("/vm-stats")
    if session.out.as_json:
        session.out.value(found[0] if len(session.args.vm) == 1 else found)
        return
    for index, item in enumerate(found):
        if index:
            session.out.line("")
        session.out.card(_load_facts(item))


def _load_facts(vm: dict[str, Any]) -> Facts:
    if vm["status"] == "Down":
        ended = str(vm.get("exit_message") or "")
        return [("Name", Cell(vm["vm_name"], "bold")), ("Status", status_cell(vm)), ("Ended", ended)]
    used = int(vm.get("mem_usage", 0))
    memory = units.size(memory_bytes(vm)) + (f", {used}% used by the guest" if used else "")
    return [
        ("Name", Cell(vm["vm_name"], "bold")),
        ("Status", status_cell(vm)),
        ("Sampled", f"{vm['stats_age']:.1f} s ago"),
        ("Uptime", units.duration(vm["elapsed_time"])),
        ("CPU", f"{units.percent(cpu(vm))} of one CPU, {vm['vcpu_count']} given"),
        ("CPU time", f"{vm['cpu_usage'] / 1e9:.1f} s"),
        ("Memory", memory),
        ("Disks", [_disk_load(name, disk) for name, disk in vm.get("disks", {}).items()]),
        ("Networks", [_nic_load(name, nic) for name, nic in vm.get("network", {}).items()]),
    ]


def _disk_load(name: str, disk: dict[str, Any]) -> str:
    return (
        f"{name}  read {units.rate(disk['read_rate'])} ({units.size(disk['read_bytes'])}), "
        f"write {units.rate(disk['write_rate'])} ({units.size(disk['written_bytes'])}), "
        f"latency {units.nanoseconds(disk['read_latency'])} / {units.nanoseconds(disk['write_latency'])}"
    )


def _nic_load(name: str, nic: dict[str, Any]) -> str:
    lost = sum(nic[key] for key in ("rx_errors", "tx_errors", "rx_dropped", "tx_dropped"))
    return f"{name}  received {units.size(nic['rx'])}, sent {units.size(nic['tx'])}, {lost} errors and drops"
