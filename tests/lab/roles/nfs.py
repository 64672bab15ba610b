"""NFS: the kernel's server on one node (version 4 only, no rpcbind), mounts on others.

Lease and grace are 10 s, the shortest the kernel takes; with nfsdcld and no clients from before, grace ends at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lab.node import Node

HARD: Final = "vers=4.2,hard,nosharecache"
SOFT: Final = "vers=4.2,soft,timeo=50,retrans=1,nosharecache"
_START: Final = """set -e
modprobe -a nfsd
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
mkdir -p /run/rpc_pipefs /var/lib/nfs/v4recovery /export
mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs rpc /run/rpc_pipefs
mountpoint -q /export || mount -t tmpfs -o mode=755 export /export
pgrep -x nfsdcld >/dev/null || setsid -f nfsdcld >/dev/null 2>&1 </dev/null
pgrep -x rpc.mountd >/dev/null || rpc.mountd -N 2 -N 3 >/dev/null 2>&1 </dev/null
exportfs -ra
rpc.nfsd -N 3 -V 4 -L 10 -G 10 4
echo Y > /proc/fs/nfsd/v4_end_grace || true
"""
# Answers to nothing, says nothing: what a client sees of a server that has gone.
_AWAY: Final = "table inet lab_away { chain i { type filter hook input priority -300; tcp dport 2049 drop; }; }"


class NfsServer:
    """Exports directories of a node, in its memory (or of a file system that was mounted there before)."""

    def __init__(self, node: Node, ip: str) -> None:
        """``ip``: the address by which clients reach it."""
        self.node = node
        self.ip = ip
        self._exports: list[str] = []
        node.run(_START, timeout_s=120)

    def export(self, name: str, options: str = "rw,no_root_squash,no_subtree_check,sync") -> str:
        """Export /export/NAME and return what a client mounts (address:path)."""
        path = f"/export/{name}"
        self._exports.append(f"{path} *({options},fsid={len(self._exports) + 1})")
        self.node.run(["mkdir", "-p", "-m", "777", path])
        self.node.push("/etc/exports", "\n".join(self._exports) + "\n")
        self.node.run(["exportfs", "-ra"])
        return f"{self.ip}:{path}"

    @contextmanager
    def away(self) -> Iterator[None]:
        """The server is not there for a while: packets to it vanish; everything else of the node goes on."""
        self.node.run(["nft", _AWAY])
        try:
            yield
        finally:
            self.node.run(["nft", "delete table inet lab_away"])


def mount(node: Node, source: str, where: str, options: str = HARD) -> None:
    """Mount an export.

    Raises:
        CommandFailed: it cannot be mounted.
    """
    node.run(["mkdir", "-p", where])
    node.run(["mount", "-t", "nfs", "-o", options, source, where], timeout_s=120)
