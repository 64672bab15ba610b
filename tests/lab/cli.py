"""A lab for people: ``python -m tests.lab up --hosts 3 --nodes 2`` and what goes with it.

One lab at a time, kept by a process in the background (keeper.py); it and all in it end with ``down``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from . import keeper
from .channel import Channel
from .image import build
from .image.build import PROJECT

# One lab per working tree; a test that must not meet a person's says another place.
PLACE: Final = Path(os.environ.get("VDSM_LAB_PLACE") or PROJECT / ".run" / "lab" / "up")
ESCAPE: Final = b"\x1d"  # Ctrl-]
_UP_S: Final = 900.0  # with the building of the image
_DOWN_S: Final = 120.0
_RUN_S: Final = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="A laboratory of hosts on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=function)
        return made

    command("build", _build, "build the nodes' image, as far as it is not there")
    up = command("up", _up, "start a lab and keep it")
    up.add_argument("--hosts", type=int, default=0, help="light hosts: namespaces, each with libvirtd and vdsmd")
    up.add_argument("--nodes", type=int, default=0, help="full nodes: machines under QEMU with a kernel of their own")
    up.add_argument("--disk", action="append", default=[], help="a 2 GiB disk that all nodes share; may be repeated")
    up.add_argument("--network", action="append", default=[], help="a network of the nodes (lan); may be repeated")
    command("list", _list, "who is there and how to reach them")
    shell = command("shell", _shell, "a shell on a host, or a node's console (Ctrl-] leaves it)")
    shell.add_argument("name")
    run = command("run", _run, "run a command: run NAME -- COMMAND ...")
    run.add_argument("name")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    command("down", _down, "end the lab and remove all of it")
    return parser


# -- commands


def _build(_options: argparse.Namespace) -> int:
    build.build(say=print)
    build.tools(say=print)
    return 0


def _up(options: argparse.Namespace) -> int:
    if os.geteuid():
        return _fail("the lab needs root")
    if _state():
        return _fail("a lab is up; `down` ends it")
    if not options.hosts and not options.nodes:
        return _fail("nothing to start: --hosts N, --nodes N")
    wish = keeper.Wish(
        hosts=options.hosts, nodes=options.nodes, disks=options.disk, networks=options.network or ["lan"]
    )
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    (PLACE / "wish.json").write_text(json.dumps(asdict(wish)), encoding="utf-8")
    with (PLACE / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.keeper", str(PLACE)],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        return _await(process)
    except KeyboardInterrupt:
        _end(process.pid)
        return 130


def _await(process: subprocess.Popen[bytes]) -> int:
    """Wait for the keeper, and show what it says."""
    shown = 0
    end = time.monotonic() + _UP_S
    while time.monotonic() < end:
        said = (PLACE / "log").read_bytes()
        sys.stdout.write(said[shown:].decode(errors="replace"))
        sys.stdout.flush()
        shown = len(said)
        if _state():
            return _list(argparse.Namespace())
        if process.poll() is not None:
            return _fail("the lab did not come up")
        time.sleep(0.1)
    _end(process.pid)
    return _fail(f"the lab did not come up in {_UP_S:.0f} s; see {PLACE / 'log'}")


def _list(_options: argparse.Namespace) -> int:
    state = _state()
    if not state:
        return _fail("no lab is up")
    for member in state.members:
        print(f"{member.name} ({member.kind})")
        for line in (f"python -m tests.lab shell {member.name}", *member.about):
            print(f"    {line}")
    return 0


def _shell(options: argparse.Namespace) -> int:
    member = _member(options.name)
    if member is None:
        return 1
    if member.enter:
        return subprocess.call([*member.enter, "bash", "-l"])
    print("Ctrl-] leaves the console.", end="\r\n", flush=True)
    return _console(Path(member.console))


def _run(options: argparse.Namespace) -> int:
    member = _member(options.name)
    if member is None:
        return 1
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if member.enter:
        return subprocess.call([*member.enter, *argv])
    channel = Channel(Path(member.channel), lambda: True)
    try:
        request = {"op": "run", "argv": argv}
        answer = channel.request(request, what="run", timeout_s=_RUN_S).wait(check=False)
    finally:
        channel.close()
    sys.stdout.buffer.write(answer.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(answer.stderr)
    return 128 if answer.code is None else answer.code if answer.code >= 0 else 128 - answer.code


def _down(_options: argparse.Namespace) -> int:
    state = _state()
    if state:
        _end(state.pid)
    shutil.rmtree(PLACE, ignore_errors=True)
    return 0


# -- parts


def _state() -> keeper.State | None:
    """The lab that is up; one whose keeper was killed is not."""
    state = keeper.read(PLACE)
    return state if state and _is_keeper(state.pid) else None


def _is_keeper(pid: int) -> bool:
    try:
        return b"lab.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _member(name: str) -> keeper.Member | None:
    state = _state()
    found = [member for member in (state.members if state else ()) if member.name == name]
    if not found:
        _fail(f"there is no {name}; `list` says who is there")
        return None
    return found[0]


def _end(pid: int) -> None:
    """Tell the keeper to end; kill it when it does not."""
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _DOWN_S
    while _is_keeper(pid):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)  # its nodes and hosts go with it
            return
        time.sleep(0.05)


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


def _console(path: Path) -> int:
    """Join the terminal to a serial console."""
    with socket.socket(socket.AF_UNIX) as console, _raw_terminal():
        console.connect(str(path))
        console.sendall(b"\n")
        while True:
            ready, _, _ = select.select([console, sys.stdin], [], [])
            if console in ready:
                data = console.recv(65536)
                if not data:
                    return 0
                os.write(sys.stdout.fileno(), data)
            if sys.stdin in ready:
                data = os.read(sys.stdin.fileno(), 4096)
                if not data or ESCAPE in data:
                    return 0
                console.sendall(data)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
