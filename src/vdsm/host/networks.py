"""The host's networks as a manager sees them: networks, NICs, bridges, VLANs and bonds.

Pure: made from the links, addresses and routes that system/netlinks.py read. A host bridge *is* a network
here (bridged, switch type "legacy"), whoever made it; a VLAN or bond below it shows up in its own table.

    NetworkFacts
      networks   name -> Network     one per host bridge
      nics       name -> Nic         devices with hardware behind them, or playing that part in a namespace
      bridges    name -> Bridge
      vlans      name -> Vlan
      bondings   name -> Bonding
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
