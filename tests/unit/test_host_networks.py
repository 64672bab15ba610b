"""Links and routes as ``ip -json`` of iproute2 6.1 prints them, and the networks made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from vdsm.base.errors import Failed
from vdsm.host import networks
from vdsm.host.capabilities import outline
from vdsm.host.networks import NetworkFacts
from vdsm.system import netlinks
from vdsm.system.netlinks import Link, Route

FOREVER = 4294967295


def link(index: int, name: str, *addresses: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One device; everything that these tests do not look at is as on a real host."""
    return {
        "ifindex": index,
        "ifname": name,
        "flags": ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"],
        "mtu": 1500,
        "qdisc": "mq",
        "operstate": "UP",
        "group": "default",
        "txqlen": 1000,
        "link_type": "ether",
        "address": f"52:54:00:00:00:{index:02x}",
        "broadcast": "ff:ff:ff:ff:ff:ff",
        "promiscuity": 0,
        "num_tx_queues": 1,
        "addr_info": list(addresses),
        **more,
    }


def inet(local: str, prefix: int, **more: Any) -> dict[str, Any]:
    return {
        "family": "inet6" if ":" in local else "inet",
        "local": local,
        "prefixlen": prefix,
        "scope": "link" if local.startswith("fe80") else "global",
        "valid_life_time": FOREVER,
        "preferred_life_time": FOREVER,
        **more,
    }


def kind(name: str, **data: Any) -> dict[str, Any]:
    return {"linkinfo": {"info_kind": name, "info_data": data}}


def bond_slave(permanent: str, **more: Any) -> dict[str, Any]:
    return {
        "master": "bond0",
        "linkinfo": {
            "info_slave_kind": "bond",
            "info_slave_data": {
                "state": "ACTIVE",
                "mii_status": "UP",
                "link_failure_count": 0,
                "perm_hwaddr": permanent,
                "queue_id": 0,
                **more,
            },
        },
    }


LO = link(
    1,
    "lo",
    inet("127.0.0.1", 8, scope="host"),
    link_type="loopback",
    address="00:00:00:00:00:00",
    operstate="UNKNOWN",
    flags=["LOOPBACK", "UP", "LOWER_UP"],
)

# A bond of two cards carries VLAN 100, that carries the management bridge; a third card has an address by DHCP.
HOST = [
    LO,
    link(2, "eno1", **bond_slave("52:54:00:00:00:02", ad_aggregator_id=7), parentbus="pci", parentdev="0000:01:00.0"),
    link(3, "eno2", **(bond_slave("52:54:00:00:00:03", ad_aggregator_id=7) | {"address": "52:54:00:00:00:02"})),
    link(
        4,
        "bond0",
        address="52:54:00:00:00:02",
        **kind(
            "bond",
            mode="802.3ad",
            miimon=100,
            updelay=0,
            use_carrier=1,
            arp_all_targets="any",
            xmit_hash_policy="layer2+3",
            ad_lacp_active="on",
            ad_lacp_rate="slow",
            ad_info={
                "aggregator": 7,
                "num_ports": 2,
                "actor_key": 15,
                "partner_key": 33,
                "partner_mac": "44:38:39:ff:00:01",
            },
            tlb_dynamic_lb=1,
        ),
    ),
    link(
        5,
        "bond0.100",
        link="bond0",
        master="ovirtmgmt",
        **kind("vlan", protocol="802.1Q", id=100, flags=["REORDER_HDR"]),
    ),
    link(
        6,
        "ovirtmgmt",
        inet("192.0.2.10", 24, noprefixroute=True),
        inet("192.0.2.11", 24, secondary=True),
        inet("2001:db8::10", 64),
        inet("fe80::1", 64),
        mtu=9000,
        **kind(
            "bridge",
            forward_delay=1500,
            stp_state=1,
            vlan_filtering=0,
            hello_timer=0.35,
            group_addr="01:80:c2:00:00:00",
        ),
    ),
    link(7, "vnet0", master="ovirtmgmt", **kind("tun", type="tap", persist=False)),
    link(
        8,
        "ens5",
        inet("198.51.100.7", 25, dynamic=True, valid_life_time=3600),
        inet("2001:db8:1::7", 128, dynamic=True, noprefixroute=True, valid_life_time=3600),
        operstate="DOWN",
    ),
    link(9, "veth12", **kind("veth")),
    link(10, "eth9", **kind("veth")),
    link(11, "wg0", link_type="none", **kind("wireguard")),
    {},
]

ROUTES4 = [
    {"dst": "default", "gateway": "198.51.100.1", "dev": "ens5", "protocol": "dhcp", "metric": 600, "flags": []},
    {"dst": "default", "gateway": "192.0.2.1", "dev": "ovirtmgmt", "metric": 100, "flags": []},
]
ROUTES6 = [{"dst": "default", "gateway": "fe80::ff", "dev": "ovirtmgmt", "metric": 1024, "pref": "medium"}]


@dataclass
class Sample:
    """A LinkSource from sample texts, through the real parsers."""

    host: list[dict[str, Any]] = field(default_factory=lambda: HOST)
    speeds: dict[str, int] = field(default_factory=dict)

    def links(self) -> tuple[Link, ...]:
        return netlinks.parse_links(json.dumps(self.host).encode())

    def default_routes(self) -> tuple[Route, ...]:
        return (
            *netlinks.parse_default_routes(json.dumps(ROUTES4).encode(), 4),
            *netlinks.parse_default_routes(json.dumps(ROUTES6).encode(), 6),
        )

    def speed_mbit(self, device: str) -> int:
        return self.speeds.get(device, 0)

    def ipv6_autoconf(self, device: str) -> bool:
        return device == "ens5"

    def nameservers(self) -> tuple[str, ...]:
        return ("192.0.2.53",)


@pytest.fixture
def facts() -> NetworkFacts:
    return networks.gather(Sample(speeds={"eno1": 10_000, "bond0": 20_000}))


def test_cards_are_told_from_other_devices(facts: NetworkFacts) -> None:
    assert set(facts.nics) == {"eno1", "eno2", "ens5", "eth9"}
    assert facts.nics["eno1"].speed_mbit == 10_000
    assert not facts.nics["ens5"].up


def test_a_slave_keeps_its_own_address_in_sight(facts: NetworkFacts) -> None:
    assert facts.nics["eno1"].permanent_mac == ""
    assert facts.nics["eno2"].mac == "52:54:00:00:00:02"
    assert facts.nics["eno2"].permanent_mac == "52:54:00:00:00:03"
    assert facts.nics["eno2"].aggregator_id == "7"
    assert facts.nics["ens5"].aggregator_id == ""


def test_a_bond_has_its_options_as_sysfs_writes_them(facts: NetworkFacts) -> None:
    bond = facts.bondings["bond0"]
    assert bond.slaves == ("eno1", "eno2")
    assert bond.options["mode"] == "4"
    assert bond.options["miimon"] == "100"
    assert bond.options["xmit_hash_policy"] == "layer2+3"
    assert all(type(value) is str for value in bond.options.values())
    assert (bond.partner_mac, bond.aggregator_id, bond.speed_mbit) == ("44:38:39:ff:00:01", "7", 20_000)


def test_the_active_slave_is_no_option() -> None:
    bond = link(4, "bond0", **kind("bond", mode="active-backup", active_slave="eno1", fail_over_mac="none"))
    facts = networks.gather(Sample([LO, bond]))
    assert facts.bondings["bond0"].active_slave == "eno1"
    assert facts.bondings["bond0"].options == {"mode": "1", "fail_over_mac": "none"}


def test_a_vlan_names_its_base_and_tag(facts: NetworkFacts) -> None:
    vlan = facts.vlans["bond0.100"]
    assert (vlan.base, vlan.tag) == ("bond0", 100)


def test_a_vlan_without_a_known_base_is_left_out() -> None:
    stray = link(5, "br0.7", link="br0", **kind("vlan", id=7))
    assert networks.gather(Sample([LO, link(6, "br0", **kind("bridge")), stray])).vlans == {}


def test_a_bridge_is_a_network_over_what_carries_it(facts: NetworkFacts) -> None:
    network = facts.networks["ovirtmgmt"]
    assert set(facts.networks) == set(facts.bridges) == {"ovirtmgmt"}
    assert network.bridged
    assert network.switch == "legacy"
    assert network.stp
    assert network.mtu == 9000
    assert network.ports == ("bond0.100", "vnet0")
    assert (network.southbound, network.vlan_tag) == ("bond0.100", 100)


def test_addresses_and_gateways(facts: NetworkFacts) -> None:
    ip = facts.networks["ovirtmgmt"].ip
    assert (ip.address, ip.netmask, ip.gateway) == ("192.0.2.10", "255.255.255.0", "192.0.2.1")
    assert ip.ipv4_addresses == ("192.0.2.10/24", "192.0.2.11/24")
    assert ip.ipv6_addresses == ("2001:db8::10/64",)
    assert ip.ipv6_gateway == "fe80::ff"
    assert not ip.dhcpv4
    assert not ip.dhcpv6


def test_only_the_route_of_the_lowest_metric_is_the_default_one(facts: NetworkFacts) -> None:
    assert facts.networks["ovirtmgmt"].ip.ipv4_default_route
    assert facts.nics["ens5"].ip.gateway == "198.51.100.1"
    assert not facts.nics["ens5"].ip.ipv4_default_route


def test_addresses_with_a_lifetime_are_dhcp(facts: NetworkFacts) -> None:
    ip = facts.nics["ens5"].ip
    assert (ip.netmask, ip.dhcpv4, ip.dhcpv6, ip.ipv6_autoconf) == ("255.255.255.128", True, True, True)


def test_an_address_of_a_router_advertisement_is_not_dhcp() -> None:
    ra = inet("2001:db8::aa", 64, dynamic=True, mngtmpaddr=True, valid_life_time=86_399)
    nic = networks.gather(Sample([link(2, "eno1", ra)])).nics["eno1"]
    assert nic.ip.ipv6_addresses == ("2001:db8::aa/64",)
    assert not nic.ip.dhcpv6


def test_a_device_without_addresses_has_the_words_for_that(facts: NetworkFacts) -> None:
    ip = facts.nics["eno1"].ip
    assert (ip.address, ip.netmask, ip.gateway, ip.ipv6_gateway) == ("", "", "", "::")
    assert not ip.ipv4_default_route


def test_multipath_and_ipv6_next_hops() -> None:
    routes = [
        {
            "dst": "default",
            "nexthops": [
                {"gateway": "192.0.2.1", "dev": "eno1", "weight": 1},
                {"via": {"family": "inet6", "host": "fe80::1"}, "dev": "eno2", "weight": 1},
            ],
        },
        {"dst": "default", "dev": "ppp0", "scope": "link"},
    ]
    assert netlinks.parse_default_routes(json.dumps(routes).encode(), 4) == (
        Route(4, "192.0.2.1", "eno1", 0),
        Route(4, "fe80::1", "eno2", 0),
        Route(4, "", "ppp0", 0),
    )


@pytest.mark.parametrize("text", [b"Cannot open netlink socket", b'[{"ifindex": 1}]', b'["eth0"]', b"{"])
def test_an_answer_that_is_not_ips_is_refused(text: bytes) -> None:
    with pytest.raises(Failed, match="ip address"):
        netlinks.parse_links(text)


def test_no_answer_means_no_links() -> None:
    assert netlinks.parse_links(b"") == ()
    assert netlinks.parse_default_routes(b"", 6) == ()


def test_nameservers_are_taken_in_order() -> None:
    text = "# nameserver 192.0.2.1\nsearch example.org\nnameserver 192.0.2.2\nnameserver\nnameserver fe80::1%eth0\n"
    assert networks.parse_nameservers(text) == ("192.0.2.2", "fe80::1%eth0")


def test_a_vms_tap_does_not_count_as_a_change_but_an_address_does() -> None:
    before = outline(networks.gather(Sample()))
    without_tap = [item for item in HOST if item.get("ifname") != "vnet0"]
    assert outline(networks.gather(Sample(without_tap))) == before
    moved = [item | {"addr_info": []} if item.get("ifname") == "ens5" else item for item in HOST]
    assert outline(networks.gather(Sample(moved))) != before
    down = [item | {"operstate": "DOWN"} if item.get("ifname") == "eno1" else item for item in HOST]
    assert outline(networks.gather(Sample(down))) != before
