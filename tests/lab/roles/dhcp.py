"""DHCP (and IPv6 router advertisements): dnsmasq on one node's interface, dhclient on another's."""

from __future__ import annotations

import re
from ipaddress import IPv4Interface

from lab.node import Node

from . import daemons


class DhcpServer:
    """Gives out the upper half of a network's addresses."""

    def __init__(self, node: Node, interface: str, address: str) -> None:
        """``address``: with prefix length; put on the interface when it is not there."""
        self.node = node
        net = IPv4Interface(address).network
        first, last = net[net.num_addresses // 2], net[-2]
        node.run(["ip", "address", "replace", address, "dev", interface])
        argv = ["dnsmasq", "--no-daemon", "--port=0", f"--interface={interface}", "--bind-interfaces", "--user=root"]
        argv += [
            f"--dhcp-range={first},{last},2m",
            "--dhcp-leasefile=/run/lab-dhcp",
            "--dhcp-authoritative",
            "--no-ping",
        ]
        daemons.start(node, "dnsmasq", argv)

    def stop(self) -> None:
        """End it; leases that were given stay valid."""
        daemons.stop(self.node, "dnsmasq")


def lease(node: Node, interface: str, timeout_s: float = 120.0) -> str:
    """Ask for an address on an interface, and return it.

    Raises:
        CommandFailed: no server gave one.
    """
    said = node.run(["dhclient", "-1", "-v", "-4", interface], timeout_s=timeout_s).output
    found = re.search(r"bound to (\S+)", said)
    return found.group(1) if found else ""
