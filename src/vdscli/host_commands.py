"""The host shown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from vdscli import units
from vdscli.failures import CliError
from vdscli.terminal import Cell

if TYPE_CHECKING:
    from vdscli.session import Session

MIB: Final = 1 << 20
_LONG: Final = 100
_CPU_KINDS: Final = (("user", "user"), ("sys", "system"), ("idle", "idle"))

Facts = list[tuple[str, str | Cell | list[str]]]


def info(session: Session) -> None:
    """``host info``."""
    client = session.client
    capabilities = client.get("/host/capabilities")
    try:
        hardware = client.get("/host/hardware")
    except CliError:
        hardware = {}  # a machine whose firmware says nothing is a host all the same
    stats = client.get("/host/stats")
    if session.out.as_json:
        session.out.value({"capabilities": capabilities, "hardware": hardware, "stats": stats})
        return
    session.out.card(_info_facts(capabilities, hardware, stats))


def _info_facts(caps: dict[str, Any], hardware: dict[str, Any], stats: dict[str, Any]) -> Facts:
    packages = caps["packages"]
    machine = [hardware.get("system_manufacturer"), hardware.get("system_product_name")]
    kvm = Cell("works", "green") if caps["kvm_enabled"] else Cell("does not work: guests are emulated", "yellow")
    versions = [f"{name} {item['version']}" for name, item in packages.items() if name in {"libvirt", "qemu-kvm"}]
    return [
        ("Agent", f"{caps['software_version']} ({caps['version_name']})"),
        ("Host id", caps["uuid"]),
        ("System", caps["operating_system"]["pretty_name"]),
        ("Kernel", packages.get("kernel", {}).get("version", "")),
        ("Hypervisor", ", ".join(versions)),
        ("KVM", kvm),
        ("Machine", " ".join(str(word) for word in machine if word not in {None, "", "unknown"})),
        ("CPU", f"{caps['cpu_model']}, {caps['cpu_threads']} threads of {caps['cpu_cores']} cores"),
        ("Memory", f"{units.size(caps['mem_size'] * MIB)}, {units.size(stats['mem_available'] * MIB)} available"),
        ("Networks", _networks(caps)),
        ("VMs", f"{stats['vm_active']} of {stats['vm_count']} running"),
        ("Up", units.duration(max(0.0, _wall_s() - caps["boot_time"]))),
    ]


def _wall_s() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


def _networks(caps: dict[str, Any]) -> list[str]:
    lines = []
    for kind in ("networks", "nics", "bondings", "vlans", "bridges"):
        for name, item in caps[kind].items():
            addresses = [*item.get("ipv4_addrs", []), *item.get("ipv6_addrs", [])]
            if addresses or kind in {"networks", "nics"}:
                lines.append(f"{name}  {' '.join(addresses) or 'no address'}  ({kind.removesuffix('s')})")
    return lines


def stats(session: Session) -> None:
    """``host stats``."""
    found = session.client.get("/host/stats")
    if session.out.as_json:
        session.out.value(found)
        return
    session.out.card(_load_facts(found))


def _load_facts(found: dict[str, Any]) -> Facts:
    cpu = [f"{units.percent(found[f'cpu_{kind}'])} {word}" for kind, word in _CPU_KINDS]
    memory = f"{units.size(found['mem_available'] * MIB)} available, {units.size(found['mem_free'] * MIB)} free"
    swap = f"{units.size((found['swap_total'] - found['swap_free']) * MIB)} of {units.size(found['swap_total'] * MIB)}"
    space = [(path, units.size(item["free"] * MIB)) for path, item in found["disk_stats"].items()]
    storage = [(ident, "valid" if item["valid"] else "not valid") for ident, item in found["storage_domains"].items()]
    return [
        ("Sampled", f"{found['stats_age']:.1f} s ago"),
        ("CPU", ", ".join(cpu)),
        ("Load", f"{found['cpu_load']:.2f}"),
        ("Memory", f"{found['mem_used']}% used, {memory}"),
        ("Swap", f"{swap} used" if found["swap_total"] else "none"),
        ("KSM", f"on, {found['ksm_pages']} pages per wake-up" if found["ksm_state"] else "off"),
        ("VMs", f"{found['vm_active']} of {found['vm_count']} running"),
        ("Agent", f"{units.percent(found['cpu_user_vdsmd'] + found['cpu_sys_vdsmd'])} of one CPU"),
        ("Networks", [_device(item) for item in found["network"].values()]),
        (
            "Disk space",
            [f"{path}  {free} free" for path, free in space],
        ),
        ("Storage", [f"{ident}  {words}" for ident, words in storage]),
    ]


def _device(item: dict[str, Any]) -> str:
    lost = sum(item[key] for key in ("rx_errors", "tx_errors", "rx_dropped", "tx_dropped"))
    moved = f"received {units.size(item['rx'])}, sent {units.size(item['tx'])}"
    return f"{item['name']}  {item['state']}, {moved}, {lost} errors and drops"


def capabilities(session: Session) -> None:
    """``host capabilities``: all of them, one line each where they are short."""
    found = session.client.get("/host/capabilities")
    if session.out.as_json:
        session.out.value(found)
        return
    session.out.card([(key, lines(value) or "-") for key, value in sorted(found.items())])


def lines(value: Any) -> str | list[str]:
    """A JSON value as people read it: texts plain, one line for each entry of what is nested."""
    if isinstance(value, dict):
        return [f"{key}: {_inline(item)}" for key, item in value.items()]
    if isinstance(value, list):
        texts = [_inline(item) for item in value]
        joined = ", ".join(texts)
        return joined if len(joined) <= _LONG else texts
    return _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_inline(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    if isinstance(value, list):
        return " ".join(_inline(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)
