"""sanlock on a shared disk, with its clock run faster, so that a dead holder's lease is free in seconds.

    0      lockspace (one delta lease per host)
    1 MiB  first resource, 2 MiB second ...          (512-byte sectors: 1 MiB each)

A host counts as dead after 8 * io_timeout + 60 s of sanlock's own clock (the 60 is compiled in); ``fast`` divides that.
Every daemon on one disk must have the same ``fast``. Real disk timeouts stay as they are.
"""

from __future__ import annotations

from typing import Final

from lab.channel import Answer, Running
from lab.deadlines import eventually
from lab.node import Node

LOCKSPACE: Final = "LAB"
_MIB: Final = 1 << 20
_LIFE: Final = "9{:06}"


class Sanlock:
    """A node's sanlock daemon, without a watchdog."""

    def __init__(self, node: Node, device: str, *, fast: int = 10, io_timeout_s: int = 5) -> None:
        """``device``: the shared disk. ``io_timeout_s`` in sanlock's own clock."""
        self.node = node
        self.device = device
        self._io_timeout_s = io_timeout_s
        self._fast = fast
        clock = {"LD_PRELOAD": "/lab/fastclock.so", "FASTCLOCK": str(fast)} if fast > 1 else None
        daemon = "sanlock daemon -w 0 -U root -G root -h 0 -l 0"
        node.run(f"mkdir -p /run/sanlock; {daemon} -e {node.name} >/dev/null 2>&1 </dev/null", env=clock)
        eventually(lambda: self._client("status").code == 0, "sanlock's daemon")

    @property
    def dead_after_s(self) -> float:
        """How long after its last renewal a host counts as dead, in real seconds."""
        return (8 * self._io_timeout_s + 60) / self._fast

    def initialize(self, resources: int = 1) -> None:
        """Write an empty lockspace and the resources R1, R2 ...; once, on one node."""
        self._client("init", "-s", f"{LOCKSPACE}:0:{self.device}:0", "-o", str(self._io_timeout_s)).checked("init")
        for number in range(1, resources + 1):
            self._client("init", "-r", self._resource(number)).checked("init")

    def join(self, host_id: int) -> None:
        """Take a host id: comes back when it is ours."""
        lockspace = f"{LOCKSPACE}:{host_id}:{self.device}:0"
        self._client("add_lockspace", "-s", lockspace, "-o", str(self._io_timeout_s), timeout_s=300).checked("join")

    def hold(self, number: int = 1) -> Running:
        """Begin to take a resource for a process that does nothing else; ``holds`` says whether it has it.

        sanlock refuses at once while the holder is alive (status not 0), and waits while it may be dying.
        """
        argv = ["sanlock", "client", "command", "-r", self._resource(number), "-c", "/bin/sleep", _LIFE.format(number)]
        return self.node.start(argv, timeout_s=900)

    def holds(self, number: int = 1) -> bool:
        """Whether a process of this node has the resource."""
        # sanlock's client becomes that program when it has the lease.
        return not self.node.run(["pgrep", "-f", f"^/bin/sleep {_LIFE.format(number)}$"], check=False).code

    def _resource(self, number: int) -> str:
        return f"{LOCKSPACE}:R{number}:{self.device}:{number * _MIB}"

    def _client(self, *argv: str, timeout_s: float = 60.0) -> Answer:
        return self.node.run(["sanlock", "client", *argv], timeout_s=timeout_s, check=False)
