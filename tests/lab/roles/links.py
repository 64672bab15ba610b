"""Bonds, VLANs and bridges in a node, made by hand: what a host's network looks like before or beside the agent."""

from __future__ import annotations

from collections.abc import Sequence

from lab.node import Node


def bond(node: Node, name: str, slaves: Sequence[str], mode: str = "active-backup") -> None:
    """Bond interfaces; a lost link is noticed within 100 ms."""
    script = [f"ip link add {name} type bond mode {mode} miimon 100"]
    script += [f"ip link set {slave} down && ip link set {slave} master {name}" for slave in slaves]
    node.run(" && ".join([*script, f"ip link set {name} up"]))


def active_slave(node: Node, name: str) -> str:
    """The interface that an active-backup bond sends through."""
    return node.run(["cat", f"/sys/class/net/{name}/bonding/active_slave"]).text.strip()


def vlan(node: Node, device: str, tag: int, address: str | None = None) -> str:
    """Put a VLAN over an interface; its name (``bond1.100``)."""
    name = f"{device}.{tag}"
    script = f"ip link add link {device} name {name} type vlan id {tag} && ip link set {name} up"
    node.run(script + (f" && ip address add {address} dev {name}" if address else ""))
    return name


def bridge(node: Node, name: str, ports: Sequence[str], address: str | None = None) -> None:
    """Bridge interfaces."""
    script = [f"ip link add {name} type bridge stp_state 0 forward_delay 0", f"ip link set {name} up"]
    script += [f"ip link set {port} master {name} up" for port in ports]
    node.run(" && ".join(script) + (f" && ip address add {address} dev {name}" if address else ""))
