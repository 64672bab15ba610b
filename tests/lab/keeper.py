"""The process that holds a lab which a person started, until it is told to end (SIGTERM).

    python -m lab.keeper DIRECTORY        reads DIRECTORY/wish.json, writes DIRECTORY/state.json when all are up

What is in state.json is enough for others to reach the members; nobody talks to this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from .hosts import PORT, Host, Hosts, Options
from .lab import Lab
from .node import Node

SHARED: Final = "images"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a lab shall have. Every node has all the disks (shared) and a NIC in each network."""

    hosts: int = 0
    nodes: int = 0
    disks: Sequence[str] = ()
    networks: Sequence[str] = ("lan",)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A host or node, and the ways in.

    Attributes:
        enter: (host) the command line that stands in front of one to be run inside.
        channel: (node) the socket of its agent's port for people.
        console: (node) the socket of its serial console.
        about: lines for people.
    """

    name: str
    kind: str
    enter: Sequence[str] = ()
    channel: str = ""
    console: str = ""
    about: Sequence[str] = field(default=())


@dataclass(frozen=True, kw_only=True)
class State:
    """A lab that is up."""

    pid: int
    members: Sequence[Member]


def read(directory: Path) -> State | None:
    """The lab that is up, or None."""
    try:
        found = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return State(pid=found["pid"], members=[Member(**member) for member in found["members"]])


def keep(directory: Path) -> None:
    """Build what is wished for, and hold it until SIGTERM."""
    wish = Wish(**json.loads((directory / "wish.json").read_text(encoding="utf-8")))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    with ExitStack() as stack:
        stack.callback((directory / "state.json").unlink, missing_ok=True)
        members: list[Member] = []
        hosts = stack.enter_context(Hosts(wish.hosts, Options(shared=(SHARED,)))) if wish.hosts else None
        if hosts:
            members += [_host(hosts, host) for host in hosts]
            _say(f"{len(members)} hosts are up")
        if wish.nodes:
            lab = stack.enter_context(Lab(_say))
            nodes = lab.nodes(wish.nodes, disks=wish.disks, nics=wish.networks)
            if hosts:
                hosts.lan.join(lab.network(wish.networks[0]))
                for node in nodes:
                    node.run(["ip", "address", "add", f"{_in_lan(hosts, node)}/24", "dev", f"{wish.networks[0]}0"])
            members += [_node(node) for node in nodes]
            _say(f"{len(nodes)} nodes are up")
        _write(directory / "state.json", State(pid=os.getpid(), members=members))
        signal.pause()


def _leave(number: int, _frame: object) -> None:
    """Unwind what there is, once."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def _in_lan(hosts: Hosts, node: Node) -> str:
    """An address of the hosts' network, behind those of the hosts."""
    number = 100 + int(node.directory.name.partition("-")[0])
    return f"{hosts[0].address.rpartition('.')[0]}.{number}"


def _host(hosts: Hosts, host: Host) -> Member:
    api = f"https://{host.address}:{PORT} (in the network of process {hosts.lan.pid}: nsenter -t {hosts.lan.pid} -n)"
    about = [f"API {api}", f"API unix:{host.directory}/run/vdsm/vdsm.sock", f"libvirt {host.uri}"]
    return Member(name=host.name, kind="host", enter=host.enter(), about=about)


def _node(node: Node) -> Member:
    nics = [f"{nic.name} {nic.address}" for nic in node.parts.nics]
    disks = [f"{device.path} is the disk {device.disk.name}" for device in node.parts.disks]
    files = {"channel": f"{node.directory}/people", "console": f"{node.directory}/console"}
    return Member(name=node.name, kind="node", about=[*nics, *disks], **files)


def _write(path: Path, state: State) -> None:
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    partial.rename(path)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        keep(Path(sys.argv[1]))
    except Exception:  # noqa: BLE001 - the top of a process: what went wrong is in its log
        traceback.print_exc()
        sys.exit(1)
