"""Two nodes that share storage domains by NFS: sanlock, supervdsmd and vdsmd in each, and the server in the second.

    pair = StoragePair(one, two)
    pair.begin(Clock())                        # fresh daemons
    engine = EngineStorage(pair.first, pair.first)
    engine.add_domain("NFS", pair.export().spec)
    pair.first.call("Volume.getInfo", ...)     # as an Engine's connection

vdsmd runs as user 36, as does sanlock; supervdsmd is root. Their logs are in /var/log/vdsm and /run/lab.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from .channel import CommandFailed
from .deadlines import eventually
from .engine_wire import VdsError
from .node import Node
from .roles.nfs import NfsServer

PYTHON: Final = "/opt/vdsm/.venv/bin/python"
_START_S: Final = 180.0
# Below this sanlock counts a host as dead: 8 io_timeouts and 60 s.
_DEAD_IO_TIMEOUTS: Final = 8
_DEAD_MORE_S: Final = 60
AS_VDSM: Final = "setpriv --reuid 36 --regid 36 --clear-groups"
_USER: Final = """set -e
getent group vdsm >/dev/null || groupadd -g 36 vdsm
getent passwd vdsm >/dev/null || useradd -u 36 -g vdsm -M -s /bin/false vdsm
mkdir -p /etc/vdsm /run/lab
install -d -o 36 -g 36 /var/log/vdsm /var/lib/vdsm /run/vdsm /run/sanlock
install -d -o 36 -g 36 /rhev/data-center /rhev/data-center/mnt /rhev/data-center/hsm-tasks
"""
_END: Final = """
for name in vdsmd supervdsmd sanlock; do
  test -f /run/lab/$name.pid && kill -CONT $(cat /run/lab/$name.pid) 2>/dev/null && kill -9 $(cat /run/lab/$name.pid)
  rm -f /run/lab/$name.pid
done
for place in $(findmnt -rno TARGET -t nfs,nfs4); do umount -f -l "$place"; done
rm -rf /var/lib/vdsm/* /run/vdsm/* /run/sanlock/* /rhev/data-center/*
true
"""
_BEGIN: Final = f"""set -e
# With its pid, which the process that was started keeps.
begin() {{ name=$1; shift; setsid -f sh -c 'echo $$ >/run/lab/'$name'.pid; exec "$@"' sh "$@" \\
  >>/run/lab/$name.log 2>&1 </dev/null; }}
begin sanlock env $CLOCK sanlock daemon -D -w 0 -U vdsm -G vdsm -h 0 -l 0 -e $HOST
begin supervdsmd /opt/vdsm/.venv/bin/supervdsmd
begin vdsmd {AS_VDSM} {PYTHON} -P /opt/vdsm/tests/lab/roles/storage_agent.py $RATE
"""
_BEGIN_AGENT: Final = _BEGIN.replace("begin sanlock env", ": ").replace("begin supervdsmd", ": ")


@dataclass(frozen=True)
class Clock:
    """sanlock's: how much faster than the machine's it is, and the seconds for an I/O by it."""

    fast: int = 5
    io_timeout_s: int = 5

    @property
    def dead_after_s(self) -> float:
        """How long after its last renewal a host counts as dead, in real seconds."""
        return (_DEAD_IO_TIMEOUTS * self.io_timeout_s + _DEAD_MORE_S) / self.fast


class StorageHost:
    """A node with sanlock, supervdsmd and vdsmd. It is what an ``EngineStorage`` calls: see ``call``."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def begin(self, clock: Clock) -> None:
        """End the daemons and their mounts, and start all anew; comes back when the agent answers.

        Raises:
            TooLate: it does not.
        """
        self.node.run(_END + _USER, timeout_s=120)
        self.node.push("/etc/vdsm/vdsm.toml", _toml(clock))
        self.node.run(_BEGIN, env=self._environment(clock), timeout_s=120)
        self.wait_ready()

    def restart_agent(self, clock: Clock) -> None:
        """Start vdsmd, which has ended."""
        self.node.run(_BEGIN_AGENT, env=self._environment(clock), timeout_s=120)
        self.wait_ready()

    def _environment(self, clock: Clock) -> dict[str, str]:
        fast = f"LD_PRELOAD=/lab/fastclock.so FASTCLOCK={clock.fast}" if clock.fast > 1 else ""
        return {"CLOCK": fast, "RATE": str(clock.fast), "HOST": self.node.name}

    def wait_ready(self) -> None:
        """Wait until the agent answers."""
        try:
            eventually(self._answers, f"vdsmd of {self.node.name}", _START_S, 0.3)
        except AssertionError as error:
            raise AssertionError(self.log()) from error

    def _answers(self) -> bool:
        return "result" in self.rpc("Host.getVMList")

    def rpc(self, method: str, timeout_s: float = 60.0, **params: object) -> dict[str, Any]:
        """Call a verb over the unix socket; the whole answer."""
        try:
            found: dict[str, Any] = self.node.call(_ask, method, params, timeout_s, timeout_s=timeout_s + 30)
        except CommandFailed as error:
            return {"lost": str(error)}
        return found

    def call(self, method: str, params: Mapping[str, Any] | None = None, **_: object) -> Any:
        """Call a verb as the Engine's connection does: its result.

        Raises:
            VdsError: it answered with an error.
        """
        answer = self.rpc(method, **(params or {}))
        if "error" in answer:
            raise VdsError(answer["error"]["code"], answer["error"]["message"])
        assert "result" in answer, f"{method}: {answer}"
        return answer["result"]

    def is_running(self, name: str = "vdsmd") -> bool:
        """Whether a daemon is there."""
        return self.node.run(f"kill -0 $(cat /run/lab/{name}.pid)", check=False).code == 0

    def pid(self, name: str = "vdsmd") -> int:
        """A daemon's process in the node."""
        return int(self.node.run(["cat", f"/run/lab/{name}.pid"]).text)

    def reason(self) -> str:
        """Why the agent has ended, by its own account or sanlock's."""
        script = "(grep CRITICAL /var/log/vdsm/vdsm.log; grep -w kill /run/lab/sanlock.log) | tail -n 2"
        return self.node.run(script, check=False).text.strip()

    def log(self, lines: int = 60) -> str:
        """The end of what the agent said."""
        script = f"tail -n {lines} /var/log/vdsm/vdsm.log /run/lab/vdsmd.log /run/lab/sanlock.log"
        return self.node.run(script, check=False).output


@dataclass(frozen=True)
class Export:
    """What clients mount, and where it is on the server."""

    spec: str
    place: str


class StoragePair:
    """Two storage hosts; the second one is the NFS server, too, from a disk ``store``."""

    def __init__(self, first: Node, second: Node) -> None:
        self.first, self.second = StorageHost(first), StorageHost(second)
        store = second.disk("store")
        second.run(f"mkfs.ext4 -q {store} && mkdir -p /export && mount {store} /export", timeout_s=120)
        self.server = NfsServer(second, second.nic("lan0").ip)
        self._count = 0

    def begin(self, clock: Clock) -> None:
        """Start all daemons of both anew."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda host: host.begin(clock), (self.first, self.second)))

    def export(self) -> Export:
        """A new, empty export."""
        self._count += 1
        name = f"data{self._count}"
        spec = self.server.export(name)
        place = f"/export/{name}"
        self.second.node.run(f"chown 36:36 {place} && chmod 755 {place}")
        return Export(spec, place)

    def on_server(self, script: str) -> str:
        """What a script says where the files really are."""
        return self.second.node.run(script, timeout_s=120).text


class Files:
    """The files of a domain, looked at where they really are."""

    def __init__(self, pair: StoragePair, root: str) -> None:
        self.pair = pair
        self.root = root

    def content(self, ident: str) -> str:
        """The hash of what the server has of a volume."""
        return self.pair.on_server(f"sha256sum <{self.root}/images/{ident}/{ident}")

    def images(self) -> list[str]:
        """The images' directories on the server, whatever they are called."""
        return sorted(self.pair.on_server(f"ls -A {self.root}/images").split())

    def journal(self) -> str:
        """What is left in the SPM's journals."""
        return self.pair.on_server(f"cd {self.root}/master && ls -A operations tasks vms | grep -v : | xargs").strip()

    def snapshot(self) -> dict[str, str]:
        """Every file and directory of the domain with its metadata's content, but for what sanlock writes."""
        script = f"""cd {self.root} && find . -printf '%p %y %m %s %T@\\n' &&
            find . -type f -size -64k ! -name ids ! -name leases -exec sha256sum {{}} +"""
        found = {}
        for line in self.pair.on_server(script).splitlines():
            words = line.split()
            key, value = (words[0], line) if words[0].startswith(".") else (f"content {words[1]}", words[0])
            found[key] = value
        return {key: value for key, value in found.items() if key not in {"./dom_md/ids", "./dom_md/leases"}}

    def check(self) -> None:
        """Every volume on the server has its metadata and lease, and is sound."""
        script = f"""cd {self.root}/images && for meta in */*.meta; do
            volume=${{meta%.meta}}
            test -f $volume.lease || echo "$volume has no lease"
            grep -q LEGALITY=LEGAL $meta || echo "$volume is not legal"
            if grep -q FORMAT=COW $meta; then qemu-img check -q $volume 2>&1 || echo "$volume is unsound"; fi
        done; ls -d */* | while read f; do v=${{f%.meta}}; test -f ${{v%.lease}}.meta || echo "$f is a leftover"; done
        ls -d * | while read d; do test -n "$(ls $d)" || echo "$d is empty"; done"""
        assert self.pair.on_server(script) == ""


def _toml(clock: Clock) -> str:
    return f"""[listen]
address = ""
[virt]
domain_type = "qemu"
[supervdsm]
call_deadline_s = 60
[storage]
nfs_version = "4"
sanlock_io_timeout_s = {clock.io_timeout_s}
health_check_interval_s = 5
"""


def _ask(method: str, params: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """In a node: one JSON-RPC request."""
    import http.client
    import json
    import socket

    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout_s)
    try:
        connection.sock.connect("/run/vdsm/vdsm.sock")
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
        connection.request("POST", "/api/v1/jsonrpc", body, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException) as error:
        return {"lost": f"{type(error).__name__}: {error}"}
