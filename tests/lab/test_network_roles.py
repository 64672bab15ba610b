"""Networks between nodes: VLAN over bond, DHCP."""

from __future__ import annotations

import re

import pytest

from .deadlines import eventually
from .lab import Plug
from .roles import dhcp, links

pytestmark = pytest.mark.node


def test_vlan_over_bond_survives_the_loss_of_a_link(nodes) -> None:
    host, peer = nodes(2, nics=[Plug("lan", address=False), Plug("lan", address=False)])
    links.bond(host, "bond1", ["lan0", "lan1"])
    links.vlan(host, "bond1", 100, "192.168.100.1/24")
    links.vlan(peer, "lan0", 100, "192.168.100.2/24")
    active = links.active_slave(host, "bond1")
    pinging = host.start("ping -i 0.2 -c 40 -W 5 192.168.100.2")
    eventually(lambda: host.run(["ping", "-c1", "-W5", "192.168.100.2"], check=False).code == 0, "the VLAN's traffic")
    host.qemu.monitor("set_link", name=host.nic(active).device, up=False)
    eventually(lambda: links.active_slave(host, "bond1") != active, "the bond's other leg", 20)
    sent, received = re.search(r"(\d+) packets transmitted, (\d+) received", pinging.wait(60).text).groups()
    assert int(received) >= int(sent) - 8
    # Without the tag the peer is out of reach: it was the VLAN that carried it.
    peer.run("ip link del lan0.100; ip address add 192.168.100.2/24 dev lan0")
    assert host.run(["ping", "-c1", "-W2", "192.168.100.2"], check=False).code == 1


def test_dhcp_server_gives_an_address_over_a_bridge(nodes) -> None:
    server, client = nodes(2, nics=[Plug("lan", address=False)])
    dhcp.DhcpServer(server, "lan0", "192.168.7.1/24")
    links.bridge(client, "ovirtmgmt", ["lan0"])
    address = dhcp.lease(client, "ovirtmgmt")
    assert address.startswith("192.168.7.")
    assert address in client.run(["ip", "address", "show", "ovirtmgmt"]).text
    client.run(["ping", "-c1", "-W5", "192.168.7.1"])
