"""The host's networks as a manager sees them: networks, NICs, bridges, VLANs and bonds.

Made from the links, addresses and routes that system/netlinks.py read. A host bridge *is* a network
here (bridged, switch type "legacy"), whoever made it; a VLAN or bond below it shows up in its own table.

    NetworkFacts
      networks   name -> Network     one per host bridge
      nics       name -> Nic         devices with hardware behind them, or playing that part in a namespace
      bridges    name -> Bridge
      vlans      name -> Vlan
      bondings   name -> Bonding
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Protocol

from vdsm.system import netlinks, procfs, sysfs
from vdsm.system.netlinks import Link, Route


@dataclass(frozen=True, slots=True)
class IpFacts:
    """Addresses and routes of one device."""

    address: str = ""
    """First global IPv4 address, "" when there is none."""
    netmask: str = ""
    gateway: str = ""
    """IPv4 gateway of the default route that leaves through this device."""
    ipv4_addresses: tuple[str, ...] = ()
    """All IPv4 addresses with prefix length, "192.0.2.1/24"."""
    ipv4_default_route: bool = False
    """The host's own (lowest metric) IPv4 default route leaves through this device."""
    ipv6_addresses: tuple[str, ...] = ()
    """All IPv6 addresses that are not link-local, with prefix length."""
    ipv6_gateway: str = "::"
    dhcpv4: bool = False
    """The IPv4 address has a lifetime: a DHCP client keeps it."""
    dhcpv6: bool = False
    ipv6_autoconf: bool = False
    """The kernel takes addresses from router advertisements on this device."""


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card."""

    name: str
    ip: IpFacts
    mtu: int
    mac: str
    permanent_mac: str = ""
    """The burnt-in address while a bond overrides it, else ""."""
    speed_mbit: int = 0
    """0 when the card does not say (down, virtual)."""
    up: bool = False
    aggregator_id: str = ""
    """Of an LACP bond's slave, else ""."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A Linux bridge with its ports."""

    name: str
    ip: IpFacts
    mtu: int
    mac: str
    ports: tuple[str, ...]
    stp: bool
    options: Mapping[str, str]
    """The bridge's own parameters (forward_delay, ageing_time, ...) as text."""


@dataclass(frozen=True, slots=True)
class Vlan:
    """A tagged interface over a NIC or bond."""

    name: str
    ip: IpFacts
    mtu: int
    mac: str
    base: str
    tag: int


@dataclass(frozen=True, slots=True)
class Bonding:
    """A bond with its slaves."""

    name: str
    ip: IpFacts
    mtu: int
    mac: str
    slaves: tuple[str, ...]
    active_slave: str
    options: Mapping[str, str]
    """As sysfs writes them; ``mode`` is the number ("1"), flags are "0" or "1"."""
    partner_mac: str = ""
    aggregator_id: str = ""
    speed_mbit: int = 0


@dataclass(frozen=True, slots=True)
class Network:
    """A network that VMs can be connected to; here always a host bridge."""

    name: str
    ip: IpFacts
    mtu: int
    iface: str
    ports: tuple[str, ...]
    stp: bool
    bridged: bool = True
    switch: str = "legacy"
    southbound: str = ""
    """The NIC, bond or VLAN that carries it, "" when there is none."""
    vlan_tag: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """Everything that one reading of the links gave."""

    networks: Mapping[str, Network]
    nics: Mapping[str, Nic]
    bridges: Mapping[str, Bridge]
    vlans: Mapping[str, Vlan]
    bondings: Mapping[str, Bonding]
    nameservers: tuple[str, ...]


# iproute2's and sysfs's names of the bonding modes, by the kernel's number
BOND_MODES: Final = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)
# Devices without hardware that still play a NIC's part: in a network namespace they are all there is.
NIC_NAMES: Final = ("eth*", "en*", "dummy_*")
NIC_KINDS: Final = frozenset({"veth", "dummy", "macvlan", "ipvlan"})


class LinkSource(Protocol):
    """Where links come from: the kernel of this host, or samples in a test."""

    def links(self) -> tuple[Link, ...]:
        """All links of the network namespace with their addresses."""
        ...

    def default_routes(self) -> tuple[Route, ...]:
        """The default routes of the main table."""
        ...

    def speed_mbit(self, device: str) -> int:
        """A device's speed, 0 when unknown."""
        ...

    def ipv6_autoconf(self, device: str) -> bool:
        """Whether the kernel takes addresses from router advertisements on this device."""
        ...

    def nameservers(self) -> tuple[str, ...]:
        """The resolver's name servers."""
        ...


class KernelLinks:
    """The real LinkSource: this process's network namespace."""

    def links(self) -> tuple[Link, ...]:
        """As netlinks.read_links, with its errors."""
        return netlinks.read_links()

    def default_routes(self) -> tuple[Route, ...]:
        """As netlinks.read_default_routes, with its errors."""
        return netlinks.read_default_routes()

    def speed_mbit(self, device: str) -> int:
        """Of /sys/class/net."""
        return sysfs.net_speed_mbit(device)

    def ipv6_autoconf(self, device: str) -> bool:
        """From the device's sysctls: a forwarding device accepts advertisements only when told so (2)."""
        conf = f"sys/net/ipv6/conf/{device}"
        if procfs.read_int(f"{conf}/disable_ipv6") != 0 or procfs.read_int(f"{conf}/autoconf") != 1:
            return False
        accept = procfs.read_int(f"{conf}/accept_ra")
        return accept == 2 or (accept == 1 and procfs.read_int(f"{conf}/forwarding") == 0)

    def nameservers(self) -> tuple[str, ...]:
        """Of /etc/resolv.conf; empty when it is not there."""
        try:
            text = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ()
        return parse_nameservers(text)


def parse_nameservers(text: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf(5), in order."""
    lines = (line.split() for line in text.splitlines())
    return tuple(words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")


def is_nic(link: Link) -> bool:
    """Whether a link is a network card, or stands for one (``NIC_NAMES``, ``NIC_KINDS``)."""
    if link.layer not in {"ether", "infiniband"}:
        return False
    if not link.kind:
        return True
    return link.kind in NIC_KINDS and is_nic_name(link.name)


def is_nic_name(name: str) -> bool:
    """Whether a device without hardware is taken for a NIC by its name."""
    return any(fnmatchcase(name, pattern) for pattern in NIC_NAMES)


def _ip_facts(link: Link, routes: tuple[Route, ...], *, autoconf: bool) -> IpFacts:
    ipv4 = [item for item in link.addresses if item.family == 4]
    ipv6 = [item for item in link.addresses if item.family == 6 and item.scope != "link"]
    first = next((item for item in ipv4 if not item.secondary), None)
    own = [route for route in routes if route.device == link.name]
    best = min((route.metric for route in routes if route.family == 4), default=0)
    return IpFacts(
        address=first.local if first else "",
        netmask=first.netmask if first else "",
        gateway=_gateway(own, 4, ""),
        ipv4_addresses=tuple(item.cidr for item in ipv4),
        ipv4_default_route=any(route.family == 4 and route.metric == best for route in own),
        ipv6_addresses=tuple(item.cidr for item in ipv6),
        ipv6_gateway=_gateway(own, 6, "::"),
        dhcpv4=any(item.dynamic for item in ipv4),
        dhcpv6=any(item.dynamic and not item.autoconfigured for item in ipv6),
        ipv6_autoconf=autoconf,
    )


def _gateway(routes: list[Route], family: int, none: str) -> str:
    mine = [route for route in routes if route.family == family and route.gateway]
    return min(mine, key=lambda route: route.metric).gateway if mine else none


def _option_text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)


def _scalars(data: Mapping[str, Any]) -> dict[str, str]:
    return {name: _option_text(value) for name, value in data.items() if isinstance(value, str | int)}


def _bond_options(data: Mapping[str, Any]) -> dict[str, str]:
    options = _scalars(data)
    mode = options.get("mode", "")
    options["mode"] = str(BOND_MODES.index(mode)) if mode in BOND_MODES else mode
    options.pop("active_slave", None)
    return options


class _Assembly:
    """Makes the tables of one reading."""

    def __init__(self, source: LinkSource) -> None:
        self._source = source
        self._links = {link.name: link for link in source.links()}
        self._routes = source.default_routes()
        self._ports: dict[str, list[str]] = {}
        for link in self._links.values():
            if link.master:
                self._ports.setdefault(link.master, []).append(link.name)

    def facts(self) -> NetworkFacts:
        nics, bridges, vlans, bondings = {}, {}, {}, {}
        for name, link in self._links.items():
            if link.kind == "bridge":
                bridges[name] = self._bridge(link)
            elif link.kind == "bond":
                bondings[name] = self._bonding(link)
            elif is_nic(link):
                nics[name] = self._nic(link)
        for name, link in self._links.items():
            # a VLAN over anything else (a bridge, a team) has no place in the protocol: its base must be known
            if link.kind == "vlan" and (link.lower in nics or link.lower in bondings):
                vlans[name] = self._vlan(link)
        southbound = {*nics, *bondings, *vlans}
        return NetworkFacts(
            networks={name: self._network(bridge, southbound) for name, bridge in bridges.items()},
            nics=nics,
            bridges=bridges,
            vlans=vlans,
            bondings=bondings,
            nameservers=self._source.nameservers(),
        )

    def _ip(self, link: Link) -> IpFacts:
        return _ip_facts(link, self._routes, autoconf=self._source.ipv6_autoconf(link.name))

    def _ports_of(self, link: Link) -> tuple[str, ...]:
        return tuple(sorted(self._ports.get(link.name, ())))

    def _nic(self, link: Link) -> Nic:
        return Nic(
            name=link.name,
            ip=self._ip(link),
            mtu=link.mtu,
            mac=link.mac,
            permanent_mac=link.permanent_mac,
            speed_mbit=self._source.speed_mbit(link.name),
            up=link.up,
            aggregator_id=_option_text(link.port_data.get("ad_aggregator_id", "")),
        )

    def _bridge(self, link: Link) -> Bridge:
        options = _scalars(link.data)
        return Bridge(
            name=link.name,
            ip=self._ip(link),
            mtu=link.mtu,
            mac=link.mac,
            ports=self._ports_of(link),
            # 2: user space runs the protocol
            stp=options.get("stp_state", "0") != "0",
            options=options,
        )

    def _vlan(self, link: Link) -> Vlan:
        return Vlan(
            name=link.name,
            ip=self._ip(link),
            mtu=link.mtu,
            mac=link.mac,
            base=link.lower,
            tag=int(link.data.get("id", 0)),
        )

    def _bonding(self, link: Link) -> Bonding:
        lacp = link.data.get("ad_info") or {}
        return Bonding(
            name=link.name,
            ip=self._ip(link),
            mtu=link.mtu,
            mac=link.mac,
            slaves=self._ports_of(link),
            active_slave=str(link.data.get("active_slave", "")),
            options=_bond_options(link.data),
            partner_mac=str(lacp.get("partner_mac", "")),
            aggregator_id=_option_text(lacp.get("aggregator", "")),
            speed_mbit=self._source.speed_mbit(link.name),
        )

    def _network(self, bridge: Bridge, southbound: Set[str]) -> Network:
        below = next((port for port in bridge.ports if port in southbound), "")
        link = self._links.get(below)
        return Network(
            name=bridge.name,
            ip=bridge.ip,
            mtu=bridge.mtu,
            iface=bridge.name,
            ports=bridge.ports,
            stp=bridge.stp,
            southbound=below,
            vlan_tag=int(link.data["id"]) if link and link.kind == "vlan" and "id" in link.data else None,
        )


def gather(source: LinkSource) -> NetworkFacts:
    """The network facts of one moment.

    Raises:
        CommandFailed, Unfinished, Failed: as the source does.
    """
    return _Assembly(source).facts()
