"""The VMs' load as a live table."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vdscli import terminal, units, vm_views
from vdscli.failures import CliError
from vdscli.terminal import Cell, Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vdscli.client import Client
    from vdscli.session import Session

MIB: Final = 1 << 20
KEYS: Final = {"c": "cpu", "n": "name", "m": "memory", "d": "disk", "t": "network"}
_COLUMNS: Final = (
    Column("NAME"),
    Column("STATUS"),
    Column("CPU", right=True),
    Column("MEMORY", right=True),
    Column("USED", right=True),
    Column("READ", right=True),
    Column("WRITE", right=True),
    Column("RECEIVE", right=True),
    Column("SEND", right=True),
    Column("UPTIME", right=True),
    Column("AGENT"),
)
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"


class Load(NamedTuple):
    """One VM's line; rates in bytes per second, ``receive`` and ``send`` None until there are two samples."""

    stats: dict[str, Any]
    disk_read: float
    disk_write: float
    receive: float | None
    send: float | None


class Sampler:
    """Asks the agent, and makes rates of the counters that it gives."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._before: dict[tuple[str, str], dict[str, Any]] = {}
        self._rates: dict[tuple[str, str], tuple[float, float]] = {}

    def sample(self) -> tuple[dict[str, Any], list[Load]]:
        """The host's stats, and each VM's load."""
        host = self._client.get("/host/stats")
        return host, [self._load(stats) for stats in self._client.get("/vm-stats")]

    def _load(self, stats: dict[str, Any]) -> Load:
        disks = stats.get("disks", {}).values()
        rates = [self._rate(stats["vm_id"], name, nic) for name, nic in stats.get("network", {}).items()]
        known = [rate for rate in rates if rate is not None]
        return Load(
            stats,
            sum(disk["read_rate"] for disk in disks),
            sum(disk["write_rate"] for disk in disks),
            sum(rate[0] for rate in known) if known else None,
            sum(rate[1] for rate in known) if known else None,
        )

    def _rate(self, vm_id: str, name: str, nic: dict[str, Any]) -> tuple[float, float] | None:
        key = (vm_id, name)
        before = self._before.get(key)
        if before is None or before["sample_time"] < nic["sample_time"]:
            self._before[key] = nic
            if before is not None:
                span_s = nic["sample_time"] - before["sample_time"]
                rx, tx = nic["rx"] - before["rx"], nic["tx"] - before["tx"]
                self._rates[key] = (max(0.0, rx / span_s), max(0.0, tx / span_s))
        return self._rates.get(key)


_ORDERS: Final[dict[str, Callable[[Load], Any]]] = {
    "cpu": lambda load: -vm_views.cpu(load.stats),
    "name": lambda load: load.stats["vm_name"],
    "memory": lambda load: -vm_views.memory_bytes(load.stats),
    "disk": lambda load: -(load.disk_read + load.disk_write),
    "network": lambda load: -((load.receive or 0.0) + (load.send or 0.0)),
}


def top(session: Session) -> None:
    """``top``."""
    args = session.args
    live = sys.stdout.isatty() and sys.stdin.isatty() and not session.out.as_json
    sampler = Sampler(session.client)
    if live:
        _live(session, sampler)
        return
    for turn in range(args.count or 1):
        if turn:
            time.sleep(args.delay)
        host, loads = sampler.sample()
        if session.out.as_json:
            print(json.dumps({"host": host, "vms": [load.stats for load in loads]}, ensure_ascii=False), flush=True)
        else:
            print("\n".join(_lines(host, loads, args.sort, colour=False)), flush=True)


def _live(session: Session, sampler: Sampler) -> None:
    args = session.args
    order: str = args.sort
    left, frame = args.count, ["asking the agent ..."]
    with _screen():
        while True:
            try:
                host, loads = sampler.sample()
                frame = _lines(host, loads, order, colour=session.out.colour)
            except CliError as error:
                frame = [terminal.painted(f"{error}", "red" if session.out.colour else ""), *frame[1:]]
            _draw(frame)
            if left is not None:
                left -= 1
                if left <= 0:
                    return
            for key in _keys(args.delay):
                if key in "qQ":
                    return
                order = KEYS.get(key.lower(), order)


def _lines(host: dict[str, Any], loads: list[Load], order: str, *, colour: bool) -> list[str]:
    head = (
        f"{time.strftime('%H:%M:%S')}  {host['vm_active']} of {host['vm_count']} VMs running   "
        f"CPU {units.percent(host['cpu_user'] + host['cpu_sys'])}, load {host['cpu_load']:.2f}   "
        f"memory {host['mem_used']}% used, {units.size(host['mem_available'] * MIB)} available"
    )
    loads = sorted(loads, key=lambda load: (_ORDERS[order](load), load.stats["vm_name"]))
    return [head, "", *terminal.table(_COLUMNS, [_row(load) for load in loads], colour=colour)]


def _row(load: Load) -> list[str | Cell]:
    stats = load.stats
    if stats["status"] == "Down":
        return [stats["vm_name"], vm_views.status_cell(stats), *["-"] * (len(_COLUMNS) - 2)]
    memory = vm_views.memory_bytes(stats)
    used = int(stats.get("mem_usage", 0))
    return [
        stats["vm_name"],
        vm_views.status_cell(stats),
        units.percent(vm_views.cpu(stats)),
        units.size(memory) if memory else "-",
        f"{used}%" if used else "-",
        units.rate(load.disk_read),
        units.rate(load.disk_write),
        "-" if load.receive is None else units.rate(load.receive),
        "-" if load.send is None else units.rate(load.send),
        units.duration(stats.get("elapsed_time", 0)),
        "yes" if stats.get("guest_agent") else "no",
    ]


@contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other screen, keys at once; given back as it was."""
    before = termios.tcgetattr(sys.stdin)

    def ended(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    handler = signal.signal(signal.SIGTERM, ended)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, handler)


def _draw(lines: list[str]) -> None:
    size = shutil.get_terminal_size()
    shown = [_cut(line, size.columns) for line in lines[: size.lines - 2]]
    keys = "q quit   sort: c CPU  n name  m memory  d disk  t network"
    sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in shown) + f"\x1b[J{_cut(keys, size.columns)}")
    sys.stdout.flush()


def _cut(line: str, columns: int) -> str:
    """A line that may hold colours, cut to what fits."""
    if "\x1b" not in line:
        return terminal.shortened(line, columns)
    kept, space = "", columns
    for index, part in enumerate(line.split("\x1b[")):
        if index:
            code, _, part = part.partition("m")  # noqa: PLW2901 - the text after the colour's code
            kept += f"\x1b[{code}m"
        shown = terminal.shortened(part, space)
        kept += shown
        space -= terminal.width(shown)
    return kept


def _keys(wait_s: float) -> str:
    """The keys that are pressed within a time; a closed terminal and a lone escape are as ``q``."""
    readable, _, _ = select.select([sys.stdin], [], [], wait_s)
    if not readable:
        return ""
    typed = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
    if typed in {"", "\x1b"}:
        return "q"
    # The sequences of arrow keys and the like mean nothing here.
    return "" if typed.startswith("\x1b") else typed
