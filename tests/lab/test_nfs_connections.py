"""Connections to real NFS servers: versions, options, squashed root, and a server that answers to nothing.

A node is the host, with supervdsmd as root and what vdsmd does as user 36; it also has a server of its own. The server
that dies is another node: the kernel's client knows a server again by other addresses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from .channel import Running
from .deadlines import eventually
from .lab import Lab
from .node import Node
from .roles.nfs import NfsServer

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

GOOD: Final = "127.0.0.2"
DEADLINE_S: Final = 10
MNT: Final = "/rhev/data-center/mnt"
CONFIG: Final = f"""[storage]
mount_deadline_s = {DEADLINE_S}
[supervdsm]
call_deadline_s = 60
"""
# Version 3 needs rpcbind; versions are chosen while no server runs.
VERSIONS: Final = """set -e
rpcbind -w 2>/dev/null || rpcbind
pkill -x rpc.mountd; rpc.mountd >/dev/null 2>&1 </dev/null
rpc.nfsd 0
rpc.nfsd -V 3 -V 4 -L 10 -G 10 4
echo Y > /proc/fs/nfsd/v4_end_grace || true
"""
HOST: Final = """set -e
getent group vdsm >/dev/null || groupadd -g 36 vdsm
getent passwd vdsm >/dev/null || useradd -u 36 -g vdsm -M -s /bin/false vdsm
mkdir -p /etc/vdsm /var/log/vdsm
install -d -o 36 -g 36 /run/vdsm
setsid -f /opt/vdsm/.venv/bin/supervdsmd >/var/log/supervdsmd.out 2>&1 </dev/null
setsid -f setpriv --reuid 36 --regid 36 --clear-groups /opt/vdsm/.venv/bin/python /run/agent.py DEADLINE_S \
  >/var/log/agent.log 2>&1 </dev/null
""".replace("DEADLINE_S", str(DEADLINE_S))
AGENT: Final = """
import json, socketserver, sys, time
from vdsm.privileged.client import PrivilegedClient
from vdsm.storage.connection.connections import Connection, Connections
from vdsm.storage.kinds import StorageType
from vdsm.storage.connection.repository import Repository

DEADLINE_S = float(sys.argv[1])

def answer(asked):
    # As a new process has it: nothing is remembered.
    privileged = PrivilegedClient("/run/vdsm/svdsm.sock", 60, mount_deadline_s=DEADLINE_S)
    if asked["verb"] == "prepare":
        privileged.prepare_repository()
    connections = Connections(Repository(), privileged, mount_deadline_s=DEADLINE_S)
    requests = [Connection(type=StorageType.NFS, **fields) for fields in asked["connections"]]
    start = time.monotonic()
    found = []
    if asked["verb"] in ("connect", "connect twice"):
        found = connections.connect(requests)
    if asked["verb"] == "connect twice":
        assert connections.connect(requests) == found
    if asked["verb"] == "disconnect":
        found = connections.disconnect(requests)
    codes = {status.id: status.code for status in found}
    listed = {item.path: [item.type.value, item.spec] for item in connections.mounts()}
    seconds = time.monotonic() - start
    return {"codes": codes, "mounts": listed, "seconds": seconds, "abandoned": privileged.abandoned()}

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(json.dumps(answer(json.loads(self.rfile.readline()))).encode())

class Server(socketserver.ThreadingUnixStreamServer):
    pass

Server("/run/vdsm/agent.sock", Handler).serve_forever()
"""


class Host:
    """The node, with an agent of user 36 that remembers nothing from one question to the next."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.push("/run/agent.py", AGENT)
        node.push("/etc/vdsm/vdsm.toml", CONFIG)
        node.run(HOST, timeout_s=120)
        for socket in ("svdsm", "agent"):
            ready = f"test -S /run/vdsm/{socket}.sock"
            eventually(lambda ready=ready: node.run(ready, check=False).code == 0, "the daemons", 120)
        self.ask("prepare")

    def ask(self, verb: str, *connections: dict[str, Any]) -> dict[str, Any]:
        return self.finish(self.begin(verb, *connections))

    def begin(self, verb: str, *connections: dict[str, Any]) -> Running:
        return self.node.start_call(_ask, json.dumps({"verb": verb, "connections": connections}), timeout_s=240)

    def finish(self, running: Running) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.node.result(running))
        return found

    def options(self, target: str) -> set[str]:
        text = self.node.run(["findmnt", "-rno", "OPTIONS", "--mountpoint", target]).text
        return set(text.strip().split(","))


def _ask(line: str) -> str:
    """In a node: one question to the agent."""
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(200)
        connection.connect("/run/vdsm/agent.sock")
        connection.sendall(line.encode() + b"\n")
        return connection.makefile().read()


def nfs(spec: str, ident: str = "c", **fields: Any) -> dict[str, Any]:
    return {"id": ident, "spec": spec, **fields}


def place(spec: str) -> str:
    return f"{MNT}/{spec.replace('_', '__').replace('/', '_')}"


@pytest.fixture(scope="module")
def parts(lab: Lab) -> Iterator[tuple[Host, NfsServer, NfsServer]]:
    """The host, its own server, and the one that is another node's."""
    node, away = lab.nodes(2, nics=["lan"])
    with ThreadPoolExecutor() as pool:
        ours = pool.submit(NfsServer, node, GOOD)
        other = pool.submit(NfsServer, away, away.nic("lan0").ip)
        found = Host(node), ours.result(), other.result()
    node.run(VERSIONS, timeout_s=120)
    yield found
    lab.end_nodes()


def test_versions_options_and_squashed_root(parts: tuple[Host, NfsServer, NfsServer]) -> None:
    host, server, _ = parts
    node = host.node
    specs = {}
    for name, owner, mode in (
        ("good", "36:36", "755"),
        ("of_root", "0:0", "755"),
        ("closed", "36:36", "700"),
        ("group", "36:36", "770"),
    ):
        specs[name] = server.export(name, "rw,root_squash,no_subtree_check,sync")
        node.run(f"chown {owner} /export/{name} && chmod {mode} /export/{name}")
    good = specs["good"]
    versions = {"3": "vers=3", "auto": "vers=4.2"}
    for version, shown in versions.items():
        connection = nfs(f"{good}//", protocol_version=version)
        answer = host.ask("connect twice", connection)
        assert (answer["codes"], answer["mounts"]) == ({"c": 0}, {place(good): ["NFS", good]}), version
        options = host.options(place(good))
        wanted = {"soft", "nosharecache", "timeo=100", "retrans=3", "nosuid", "nodev", shown}
        assert wanted <= options, (version, options)
        node.run(["setpriv", "--reuid", "36", "--regid", "36", "--clear-groups", "touch", f"{place(good)}/{version}x"])
        gone = host.ask("disconnect", connection, connection)
        assert (gone["codes"], gone["mounts"]) == ({"c": 0}, {})
    assert node.run(["ls", MNT]).text == ""
    answer = host.ask(
        "connect",
        nfs(specs["of_root"], "of root"),
        nfs(specs["closed"], "closed", protocol_version="4"),
        nfs(specs["group"], "group", protocol_version="4", timeout=200, retrans=5, options="noatime"),
        nfs(f"{GOOD}:/absent", "absent", protocol_version="4"),
        nfs(good, "version", protocol_version="5"),
    )
    assert answer["codes"] == {"of root": 469, "closed": 469, "group": 0, "absent": 477, "version": 1000}
    assert list(answer["mounts"]) == [place(specs["group"])]
    assert {"timeo=200", "retrans=5", "noatime"} <= host.options(place(specs["group"]))


def test_dead_server_hinders_nobody_and_is_forgotten_by_force(parts: tuple[Host, NfsServer, NfsServer]) -> None:
    host, *servers = parts
    node, away = host.node, servers[1].node
    host.ask("disconnect", *(nfs(found[1]) for found in host.ask("look")["mounts"].values()))
    good, late, dead, other = (
        nfs(server.export(name), f"{name} of {server.ip}", protocol_version="4")
        for server in servers
        for name in ("one", "two")
    )
    for owner in (node, away):
        owner.run("chown 36:36 /export/*")
    # Another version has another session: the dead one is met anew, not through what is mounted.
    other["protocol_version"] = "4.1"
    assert host.ask("connect", other)["codes"] == {other["id"]: 0}
    with servers[1].away():
        waiting = host.begin("connect", dead, good)
        eventually(lambda: node.run(["findmnt", "--mountpoint", place(good["spec"])], check=False).code == 0, "a mount")
        # Others go on: what is mounted already is not looked into, and what is not waits for nobody.
        answer = host.ask("connect", late, other)
        assert answer["codes"] == {late["id"]: 0, other["id"]: 0}
        assert answer["seconds"] < DEADLINE_S
        assert set(answer["mounts"]) == {place(spec["spec"]) for spec in (good, late, other)}
        first = host.finish(waiting)
        assert first["codes"] == {dead["id"]: 477, good["id"]: 0}
        assert first["seconds"] > DEADLINE_S - 1
        assert first["abandoned"] == 0
        assert node.run("pgrep -x 'mount.nfs|mount'", check=False).text == ""
        answer = host.ask("disconnect", other)
        assert answer["codes"] == {other["id"]: 0}
        assert set(answer["mounts"]) == {place(spec["spec"]) for spec in (good, late)}
    # Back again: nothing came up by itself, and what is asked for does.
    assert set(host.ask("look")["mounts"]) == {place(spec["spec"]) for spec in (good, late)}
    assert host.ask("connect", dead, other)["codes"] == {dead["id"]: 0, other["id"]: 0}
    gone = host.ask("disconnect", dead, other, good, late)
    assert (set(gone["codes"].values()), gone["mounts"]) == ({0}, {})
    assert node.run(["ls", MNT]).text == ""
