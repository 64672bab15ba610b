"""The lab of one process: its nodes, networks and disks. Everything in it ends with it, and with the process.

with Lab() as lab:
    one, two = lab.nodes(2, disks=["lun"], nics=["san", "lan"])
    one.run(["pvcreate", one.disk("lun")])
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from . import project, slots
from .channel import ChannelClosed, CommandFailed
from .fabric import Fabric, Network, OutsidePort, SocketPort
from .image import build
from .node import Disk, Node
from .spawning import Spawner
from .template import Template, find_or_make

GIB: Final = 1 << 30
_PREFIX: Final = "vdsm-lab-"
_PLACE: Final = Path(tempfile.gettempdir())
_LOG_S: Final = 10.0
# What is asked of a node for a failed test, beside its console.
_INQUEST: Final = (
    "dmesg | tail -n 200; echo; ps -eo pid,ppid,stat,wchan:24,args; echo; ip -br address; ip route; echo;"
    " cat /proc/mounts; echo; dmsetup table; echo; tail -n 100 /var/log/*.log /run/lab/*.log 2>/dev/null"
)


@dataclass(frozen=True)
class DiskSpec:
    """A disk for ``Lab.nodes``: all nodes get the same one. ``journal`` for the power cut, one node only."""

    name: str
    size: int = 2 * GIB
    journal: bool = False


@dataclass(frozen=True)
class Plug:
    """A NIC for ``Lab.nodes``. ``address``: whether it gets one of its network's addresses."""

    network: str
    address: bool = True


class Lab:
    """A context manager; one is enough for a process."""

    OUTSIDE: Final = "10.0.2.2"

    def __init__(self, say: Callable[[str], None] = lambda _text: None) -> None:
        self._say = say
        self.running: list[Node] = []
        self._slots: dict[Node, IO[bytes]] = {}
        self._template: Template | None = None
        self._project: Path | None = None

    def __enter__(self) -> Self:
        sweep()
        # Under its real name only when it is locked: another process sweeps away what is not.
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=_PLACE))
        self._lock = (made / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.directory = made.rename(made.with_name(made.name.removeprefix(".")))
        self.spawner = Spawner()
        self.fabric = Fabric(self.directory / "net")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end_nodes()
        self.fabric.close()
        self.spawner.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._lock.close()

    def nodes(
        self,
        count: int,
        *,
        disks: Sequence[str | DiskSpec | Disk] = (),
        nics: Sequence[str | Plug] = (),
        names: Sequence[str] = (),
    ) -> list[Node]:
        """Start nodes. All get the same disks (shared raw disks) and a NIC in each named network.

        A NIC is called after its network with a number (``lan0``; a second one in the same network ``lan1``); networks
        named here are 10.20.0.0/24, 10.21.0.0/24 ... in the order of their first use, a node's last number is its own.

        Raises:
            ValueError: more than run at once.
            TooLate: a node did not come up.
        """
        held = slots.take(count)
        template = self.template()
        made: list[Node] = []
        for index in range(count):
            number = len(self.running) + 1
            name = names[index] if names else f"node{number}"
            node = Node(name, self.directory / f"{number}-{name}", template, self._project_disk(), self.spawner)
            self.running.append(node)
            self._slots[node] = held[index]
            node.clone()
            made.append(node)
        shared = [disk if isinstance(disk, Disk) else self.disk(disk) for disk in disks]
        cards = [nic if isinstance(nic, Plug) else Plug(nic) for nic in nics]
        with ThreadPoolExecutor(max(1, count)) as pool:
            list(pool.map(lambda node: self._furnish(node, cards, shared), made))
        return made

    def _furnish(self, node: Node, cards: list[Plug], disks: list[Disk]) -> None:
        node.join()
        self.plug(node, cards, disks)

    def plug(self, node: Node, cards: Sequence[Plug] = (), disks: Sequence[Disk] = ()) -> None:
        """Plug NICs and disks into a running node."""
        seen = [nic.port.network.name for nic in node.parts.nics if isinstance(nic.port, SocketPort)]
        nics: list[tuple[SocketPort, str, str | None]] = []
        for card in cards:
            network = self.network(card.network)
            name = f"{card.network}{seen.count(card.network)}"
            seen.append(card.network)
            nics.append((network.plug(f"{node.name}.{name}"), name, self._address(node, network, card)))
        node.plug(nics, disks)

    def plug_outside(self, node: Node) -> None:
        """Give a node a NIC ``outside`` through which it reaches this machine's 127.0.0.1 as ``OUTSIDE``."""
        node.plug([(OutsidePort(), "outside", "10.0.2.15/24")])

    def _address(self, node: Node, network: Network, card: Plug) -> str | None:
        return f"10.{20 + network.index}.0.{10 + self._number(node)}/24" if card.address else None

    @staticmethod
    def _number(node: Node) -> int:
        return int(node.directory.name.partition("-")[0])

    def network(self, name: str) -> Network:
        """The network of that name, made at the first call."""
        return self.fabric.network(name)

    def disk(self, spec: str | DiskSpec) -> Disk:
        """A new disk, for ``plug`` or to look at."""
        if isinstance(spec, str):
            spec = DiskSpec(spec)
        folder = Path(tempfile.mkdtemp(prefix="disk-", dir=self.directory))
        path, journal = folder / f"{spec.name}.raw", folder / f"{spec.name}.journal"
        for file in (path, journal) if spec.journal else (path,):
            with file.open("wb") as handle:
                handle.truncate(spec.size if file is path else 0)
        return Disk(spec.name, path, spec.size, journal if spec.journal else None)

    def end_nodes(self) -> None:
        """Power off all nodes for good; their disks and networks go, too, and their slots are free then."""
        for node in self.running:
            node.power_off()
            self._slots.pop(node).close()
            shutil.rmtree(node.directory, ignore_errors=True)
        self.running.clear()
        for folder in self.directory.glob("disk-*"):
            shutil.rmtree(folder)
        self.fabric.clear()

    def template(self) -> Template:
        """The template; image and template are built when they are not there."""
        if self._template is None:
            self._template = find_or_make(build.build(say=self._say), self.spawner, say=self._say)
        return self._template

    def _project_disk(self) -> Path:
        if self._project is None:
            self._project = self.directory / "project.ext4"
            project.build(self._project, self.directory / "project")
        return self._project

    def keep_logs(self, target: Path) -> None:
        """Copy every node's console and QEMU log to a directory, and what the node itself can still say."""
        for node in self.running:
            folder = target / node.name
            folder.mkdir(parents=True, exist_ok=True)
            for path in node.directory.glob("*.log"):
                shutil.copy2(path, folder / path.name)
            try:
                said = node.start(_INQUEST, timeout_s=_LOG_S).wait(_LOG_S, check=False).output
            except (ChannelClosed, CommandFailed) as error:
                said = f"{error}\n"
            (folder / "inquest.txt").write_text(said, encoding="utf-8")


def sweep() -> None:
    """Remove the directories of labs whose process was killed."""
    for place in _PLACE.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (place / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
