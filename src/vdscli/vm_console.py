"""A VM's serial console: the terminal, or a script's stdin and stdout, joined with the console's unix socket."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
import termios
import time
import tty
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli import inventory
from vdscli.failures import FAILED, NOT_ALLOWED, USAGE, WRONG_STATE, CliError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdscli.client import Client
    from vdscli.inventory import Vm
    from vdscli.session import Session

ESCAPE: Final = b"\x1d"  # Ctrl-]
LOG_DIR: Final = Path("/var/log/vdsm/console")
_CHUNK: Final = 65536
_MAX_TYPED: Final = 65536
_SILENCE_S: Final = 1.0
_LOG_FILE: Final = re.compile(r"""<serial\b.*?<log\s[^>]*file=['"]([^'"]+)['"]""", re.DOTALL)


def console(session: Session) -> int:
    """``vm console``."""
    args, client = session.args, session.client
    if not client.is_local:
        raise CliError(f"the console is a socket of the VM's host: run 'vdscli vm console' on {client.place}", USAGE)
    vm = inventory.find(client, args.vm)
    if args.log:
        return _print_log(client, vm)
    if not vm.live or vm.is_down:
        raise CliError(f"{vm.name}: cannot open the console while Down", WRONG_STATE)
    path = client.get(vm.path).get("console")
    if not path:
        raise CliError(f"{vm.name} has no serial console that is a socket", WRONG_STATE)
    with _opened(vm, path) as line:
        bridge = Bridge(line, until=args.until, for_s=args.for_s)
        if not sys.stdin.isatty():
            return bridge.copy()
        session.out.note(f"console of {vm.name}; leave with Ctrl-] ; press Enter if nothing shows")
        with _raw_terminal():
            code = bridge.copy()
        session.out.note("" if bridge.left else "\nthe console was closed: the VM ended")
        return code


@contextmanager
def _opened(vm: Vm, path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(5.0)
        try:
            line.connect(path)
        except PermissionError as error:
            raise CliError(f"not allowed to use {vm.name}'s console: be root", NOT_ALLOWED) from error
        except OSError as error:
            raise CliError(f"cannot open {vm.name}'s console {path}: {error.strerror or error}", FAILED) from error
        line.settimeout(0)
        yield line


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest; the terminal is given back as it was, whatever ends us."""
    before = termios.tcgetattr(sys.stdin)

    def ended(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Bridge:
    """Copies both ways until the escape key, the end of the VM, a text, or a time."""

    def __init__(self, line: socket.socket, *, until: str | None, for_s: float | None) -> None:
        self._line = line
        self._until = until.encode() if until else None
        self._deadline_s = None if for_s is None else time.monotonic() + for_s
        self._interactive = sys.stdin.isatty()
        self._typing = True
        self._typed = b""
        self._tail = b""
        self.left = False

    def copy(self) -> int:
        """Copy; the exit code."""
        stdin = sys.stdin.fileno()
        while True:
            wait_s = self._wait_s()
            if wait_s is not None and wait_s <= 0:
                return self._time_is_over()
            readable, writable, _ = select.select(
                [self._line, *([stdin] if self._typing and len(self._typed) < _MAX_TYPED else [])],
                [self._line] if self._typed else [],
                [],
                wait_s,
            )
            if not readable and not writable:
                return self._time_is_over()
            if stdin in readable and not self._read_typed(stdin):
                self.left = True
                return 0
            if self._line in writable:
                self._send()
            if self._line in readable and self._show():
                return self._ended()

    def _wait_s(self) -> float | None:
        left_s = None if self._deadline_s is None else self._deadline_s - time.monotonic()
        # A script's input has ended: what the guest still says is waited for, unless we were told how long.
        if not self._typing and self._until is None and left_s is None:
            return _SILENCE_S
        return left_s

    def _read_typed(self, stdin: int) -> bool:
        """Take what was typed; False: leave."""
        typed = os.read(stdin, _CHUNK)
        if not typed:
            self._typing = False
            return not self._interactive
        if self._interactive and ESCAPE in typed:
            return False
        self._typed += typed
        return True

    def _send(self) -> None:
        try:
            self._typed = self._typed[self._line.send(self._typed) :]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._typed = b""  # the read that follows tells of the end

    def _show(self) -> bool:
        """Show what came; True: this is the end."""
        try:
            shown = self._line.recv(_CHUNK)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        if not shown:
            return True
        view = memoryview(shown)
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
        return self._is_said(shown)

    def _is_said(self, shown: bytes) -> bool:
        if self._until is None:
            return False
        self._tail += shown
        if self._until in self._tail:
            self.left = True
            return True
        self._tail = self._tail[-len(self._until) :]
        return False

    def _ended(self) -> int:
        if self._until is not None and not self.left:
            raise CliError(f"the console was closed before it showed {self._until.decode()!r}", FAILED)
        return 0

    def _time_is_over(self) -> int:
        self.left = True
        if self._until is not None:
            raise CliError(f"the console did not show {self._until.decode()!r} in time", FAILED)
        return 0


def _print_log(client: Client, vm: Vm) -> int:
    path = _log_path(client, vm)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sys.stdout.buffer.write(chunk)
    except PermissionError as error:
        raise CliError(f"not allowed to read {path}: be root", NOT_ALLOWED) from error
    except OSError as error:
        raise CliError(f"cannot read {vm.name}'s console log {path}: {error.strerror}", FAILED) from error
    sys.stdout.flush()
    return 0


def _log_path(client: Client, vm: Vm) -> Path:
    """The log's file: from the domain's XML while it runs, else where the agent puts them."""
    documents: dict[str, Any] = client.get("/vm-xml", vm_list=vm.vm_id) if vm.live and not vm.is_down else {}
    found = _LOG_FILE.search(documents.get(vm.vm_id, ""))
    return Path(found[1]) if found else LOG_DIR / f"{vm.vm_id}.log"
