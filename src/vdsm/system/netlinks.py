"""Network links, their addresses and routes, as ``ip -json`` (iproute2) tells them.

Why a program and not a netlink library: pyroute2 costs 24 MiB of memory and 0.2 s at import, which is half of what the
agent may take in all; three runs of ``ip`` cost 8 ms once in a while, never on a caller's path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, Final

from vdsm.base import process
from vdsm.base.errors import Failed

FOREVER: Final = 2**32 - 1
NO_MAC: Final = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Address:
    """One IP address of a link."""

    family: int
    """4 or 6."""
    local: str
    prefix: int
    scope: str
    """global, link, host, site."""
    dynamic: bool
    """It has a lifetime: given by DHCP or taken from router advertisements."""
    autoconfigured: bool
    """Made by the kernel from a router advertisement."""
    secondary: bool

    @property
    def cidr(self) -> str:
        """Address with prefix length."""
        return f"{self.local}/{self.prefix}"

    @property
    def netmask(self) -> str:
        """Dotted mask of an IPv4 address, "" for IPv6."""
        return str(IPv4Network((0, self.prefix)).netmask) if self.family == 4 else ""


@dataclass(frozen=True, slots=True)
class Link:
    """One network device."""

    index: int
    name: str
    mtu: int
    mac: str
    permanent_mac: str
    """Where it differs from ``mac``, else ""."""
    layer: str
    """ether, loopback, infiniband, none, ..."""
    kind: str
    """bridge, vlan, bond, veth, tun, ... ; "" for hardware."""
    up: bool
    """It can carry packets."""
    master: str
    """The bridge or bond that it is a port of, else ""."""
    lower: str
    """The device that it sits on (VLAN) or is paired with (veth), else ""."""
    data: Mapping[str, Any]
    """Parameters of its kind, as iproute2 names them."""
    port_data: Mapping[str, Any]
    """Parameters as a port of its master."""
    addresses: tuple[Address, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Route:
    """One default route."""

    family: int
    gateway: str
    device: str
    metric: int


def _address(item: Mapping[str, Any]) -> Address:
    lifetime = item.get("valid_life_time", FOREVER)
    return Address(
        family=4 if item["family"] == "inet" else 6,
        local=item["local"],
        prefix=item["prefixlen"],
        scope=str(item.get("scope", "global")),
        dynamic=bool(item.get("dynamic")) or lifetime != FOREVER,
        autoconfigured=bool(item.get("mngtmpaddr") or item.get("temporary") or item.get("protocol") == "kernel_ra"),
        secondary=bool(item.get("secondary")),
    )


def _is_up(item: Mapping[str, Any]) -> bool:
    state = item.get("operstate")
    return state == "UP" or (state == "UNKNOWN" and "LOWER_UP" in item.get("flags", ()))


def _link(item: Mapping[str, Any]) -> Link:
    info = item.get("linkinfo") or {}
    port = info.get("info_slave_data") or {}
    mac = item.get("address", "") if item.get("link_type") != "loopback" else NO_MAC
    permanent = port.get("perm_hwaddr") or item.get("permaddr") or ""
    return Link(
        index=item["ifindex"],
        name=item["ifname"],
        mtu=item.get("mtu", 0),
        mac=mac,
        permanent_mac="" if permanent == mac else permanent,
        layer=item.get("link_type", "none"),
        kind=info.get("info_kind", ""),
        up=_is_up(item),
        master=item.get("master", ""),
        lower=item.get("link") or "",
        data=info.get("info_data") or {},
        port_data=port,
        addresses=tuple(
            _address(entry)
            for entry in item.get("addr_info", ())
            if entry.get("family") in {"inet", "inet6"} and "local" in entry
        ),
    )


def _loaded(what: str, text: bytes) -> list[dict[str, Any]]:
    try:
        items = json.loads(text or b"[]")
    except ValueError as error:
        raise Failed(what=what, reason=f"its answer is not JSON: {error}") from error
    # some versions print an empty object for a device that vanished meanwhile
    return [item for item in items if item]


def parse_links(text: bytes) -> tuple[Link, ...]:
    """Parse ``ip -json -details address show``.

    Raises:
        Failed: the text is not what ``ip`` prints.
    """
    try:
        return tuple(_link(item) for item in _loaded("ip address", text))
    except (KeyError, TypeError, AttributeError) as error:
        raise Failed(what="ip address", reason=f"its answer lacks {error}") from error


def _gateway(item: Mapping[str, Any]) -> str:
    via = item.get("via")
    return str(item.get("gateway") or (via.get("host", "") if isinstance(via, Mapping) else ""))


def parse_default_routes(text: bytes, family: int) -> tuple[Route, ...]:
    """Parse ``ip -json route show default``; a multipath route counts once per next hop.

    Raises:
        Failed: the text is not what ``ip`` prints.
    """
    routes = []
    for item in _loaded("ip route", text):
        hops: Sequence[Mapping[str, Any]] = item.get("nexthops") or (item,)
        for hop in hops:
            if "dev" in hop:
                routes.append(Route(family, _gateway(hop), str(hop["dev"]), int(item.get("metric", 0))))
    return tuple(routes)


def read_links(*, timeout_s: float = 5.0) -> tuple[Link, ...]:
    """All links of this network namespace with their addresses.

    Raises:
        CommandFailed: ``ip`` refused.
        Unfinished: it did not answer in time.
        Failed: its answer cannot be understood.
    """
    done = process.run(["ip", "-json", "-details", "address", "show"], timeout_s=timeout_s)
    return parse_links(done.stdout)


def read_default_routes(*, timeout_s: float = 5.0) -> tuple[Route, ...]:
    """The default routes of both families in the main table; errors as of ``read_links``."""
    routes: list[Route] = []
    for family in (4, 6):
        # a kernel without IPv6 makes ip fail: then there are no such routes
        ok = (0,) if family == 4 else (0, 1, 2)
        argv = ["ip", f"-{family}", "-json", "route", "show", "default"]
        done = process.run(argv, timeout_s=timeout_s, ok=ok)
        routes.extend(parse_default_routes(done.stdout, family))
    return tuple(routes)
