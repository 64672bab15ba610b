"""The image daemon, ovirt-imageio: started with the first ticket, watched, started anew when it dies.

    <directory>/conf.d/50-vdsm.conf   its configuration, written at each start
    <directory>/control.sock          tickets are added here: this agent's alone
    <directory>/images.sock           transfers of this host's own programs
    <directory>/daemon.json           which process it is

The daemon is a process of its own that goes on when the agent is killed, with its transfers; the next start of the
agent finds it again. Stopping the agent ends it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from vdsm.base import process, threads
from vdsm.base.errors import CommandFailed, VdsmError
from vdsm.base.persist import persist_file, read_file
from vdsm.transfers.errors import NoImageDaemon
from vdsm.transfers.imageio_control import ImageioControl
from vdsm.transfers.kept_process import Identity, KeptProcess, answers_within, remove

log = logging.getLogger(__name__)

_START_S: Final = 20.0
_STOP_S: Final = 5.0
_LOOK_S: Final = 1.0
_BACK_OFF_S: Final = (0.2, 1.0, 3.0, 10.0, 30.0)
# One that lived so long did not die of its start.
_STEADY_S: Final = 60.0
# A client of the Engine waits for the removal of a ticket; the daemon's own 60 s are too long for a worker.
REMOVE_S: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """How the daemon runs.

    Attributes:
        directory: its files, below the agent's run directory.
        address: where it listens; "::" is every address, IPv4 included.
        port: TCP port; 0 lets the kernel choose.
        pki_dir: the host's certificate, key and CA certificate; None: no TLS.
        log_file: where it logs; None: the agent's standard error.
        program: the daemon; None: beside this Python, or in the system's path.
    """

    directory: Path
    address: str = "::"
    port: int = 54322
    pki_dir: Path | None = None
    log_file: Path | None = None
    program: Path | None = None

    @property
    def control_socket(self) -> Path:
        """Where tickets are added."""
        return self.directory / "control.sock"

    @property
    def images_socket(self) -> Path:
        """Where programs of this host transfer."""
        return self.directory / "images.sock"


def configuration(settings: DaemonSettings) -> str:
    """The daemon's configuration file (its format: ovirt-imageio's docs/configuration.md)."""
    certificates = ""
    if settings.pki_dir is not None:
        certificates = (
            f"key_file = {settings.pki_dir}/keys/vdsmkey.pem\n"
            f"cert_file = {settings.pki_dir}/certs/vdsmcert.pem\n"
            f"ca_file = {settings.pki_dir}/certs/cacert.pem\n"
        )
    handler = "stderr" if settings.log_file is None else "logfile"
    log_arguments = "" if settings.log_file is None else f"args = ({str(settings.log_file)!r},)\n"
    return (
        "# Written by vdsmd at each start of the daemon; a file that sorts after this one overrides it.\n"
        "[daemon]\n"
        f"run_dir = {settings.directory}\n"
        "drop_privileges = false\n"
        "systemd_enable = false\n"
        # Seconds that a stop may take: each service looks so often whether it shall end.
        "poll_interval = 0.3\n"
        f"[tls]\nenable = {str(settings.pki_dir is not None).lower()}\n{certificates}"
        f"[remote]\nhost = {settings.address}\nport = {settings.port}\n"
        f"[local]\nenable = true\nsocket = {settings.images_socket}\n"
        f"[control]\nsocket = {settings.control_socket}\nremove_timeout = {REMOVE_S}\n"
        f"[handlers]\nkeys = {handler}\n[logger_root]\nhandlers = {handler}\n"
        f"[handler_logfile]\n{log_arguments}"
    )


class ImageDaemon:
    """One daemon. Safe for several threads.

    Args:
        settings: how it runs.
        restarted: called after it was started anew, before anyone uses it: its tickets are gone.
    """

    def __init__(self, settings: DaemonSettings, restarted: Callable[[], None]) -> None:
        self._settings: Final = settings
        self._restarted = restarted
        self._lock = threading.RLock()
        self._process: KeptProcess | None = None
        self._watch: threads.Thread | None = None
        self._stopping = threading.Event()
        self._recovered = False
        self.control: Final = ImageioControl(settings.control_socket, REMOVE_S)
        """Where its tickets are."""

    def is_running(self) -> bool:
        """Whether there is one."""
        process = self._process
        return process is not None and process.is_alive()

    def recover(self) -> bool:
        """Take over the daemon of an earlier agent, if it lives and serves; whether there is one now."""
        with self._lock:
            if not self._recovered:
                self._recovered = True
                self._take_over()
            return self.is_running()

    def ensure(self) -> None:
        """Start the daemon if there is none; it serves afterwards.

        Raises:
            NoImageDaemon: it is not installed, does not start, or the agent is stopping.
        """
        if self.is_running():
            return
        with self._lock:
            if self.recover():
                return
            if self._stopping.is_set():
                raise NoImageDaemon("the agent is stopping")
            self._keep(self._start())
            self._restarted()

    def stop(self) -> None:
        """End it, and do not start it again; its files go."""
        self._stopping.set()
        with self._lock:
            if self._process is not None:
                try:
                    self._process.stop(_STOP_S)
                except VdsmError as error:
                    log.error("the image daemon stays: %s", error)  # noqa: TRY400 - the message says all
            self._process = None
            self._clean()

    def _take_over(self) -> None:
        identity = self._recorded()
        if identity is None:
            return
        found = KeptProcess(identity)
        if found.is_alive() and self.control.answers():
            log.info("found the image daemon (pid %d) again", identity.pid)
            self._keep(found)
            return
        try:
            found.stop(_STOP_S)
        except VdsmError as error:
            log.error("an old image daemon stays: %s", error)  # noqa: TRY400 - the message says all
        self._clean()

    def _start(self) -> KeptProcess:
        settings = self._settings
        program = settings.program or _program()
        if program is None:
            raise NoImageDaemon("ovirt-imageio is not installed")
        conf = settings.directory / "conf.d"
        conf.mkdir(mode=0o750, parents=True, exist_ok=True)
        (conf / "50-vdsm.conf").write_text(configuration(settings), encoding="utf-8")
        # The control socket tells the world that a daemon serves: one left behind must not.
        remove(settings.control_socket, settings.images_socket)
        try:
            # Its own Python: the script's first line names one that the agent's user may not reach.
            argv = [sys.executable, str(program), "--conf-dir", str(settings.directory)]
            child = process.spawn(argv, stdout=process.DEVNULL, stderr=sys.__stderr__.fileno() if sys.__stderr__ else 2)
            found = KeptProcess.of_child(child)
        except (CommandFailed, ProcessLookupError) as error:
            raise NoImageDaemon(f"{program} does not start: {error}") from error
        if not answers_within(self.control.answers, found, _START_S):
            child.stop(0.0)
            raise NoImageDaemon(f"it does not serve on port {settings.port}: {self._said()}")
        settings.images_socket.chmod(0o660)
        persist_file(settings.directory / "daemon.json", msgspec.json.encode(found.identity), mode=0o640)
        log.info("the image daemon (pid %d) serves on port %d", found.identity.pid, settings.port)
        return found

    def _keep(self, found: KeptProcess) -> None:
        self._process = found
        if self._watch is None:
            self._watch = threads.start("imageio-watch", self._watch_it)

    def _watch_it(self) -> None:
        """Start the daemon anew whenever it dies, not too often."""
        failures = 0
        while not self._stopping.is_set():
            current = self._process
            lived_s = 0.0
            while current is not None and not current.ended_within(_LOOK_S):
                lived_s += _LOOK_S
            if self._stopping.is_set():
                return
            failures = 0 if lived_s >= _STEADY_S else failures
            pause_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
            log.warning("the image daemon ended; it is started anew in %.1f s", pause_s)
            if self._stopping.wait(pause_s):
                return
            failures += 1
            try:
                if current is not None:
                    current.stop(0.0)
                self.ensure()
            except VdsmError as error:
                log.error("the image daemon: %s", error)  # noqa: TRY400 - the message says all

    def _recorded(self) -> Identity | None:
        try:
            content = read_file(self._settings.directory / "daemon.json")
            return None if content is None else msgspec.json.decode(content, type=Identity)
        except (msgspec.MsgspecError, VdsmError, OSError) as error:
            log.warning("which image daemon runs cannot be read: %s", error)
            return None

    def _said(self) -> str:
        """The last thing in its log."""
        if self._settings.log_file is None:
            return "see above"
        try:
            lines = self._settings.log_file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return "it has no log"
        return lines[-1][:500] if lines else "its log is empty"

    def _clean(self) -> None:
        settings = self._settings
        remove(
            settings.control_socket,
            settings.images_socket,
            settings.directory / "daemon.json",
            settings.directory / "conf.d" / "50-vdsm.conf",
        )
        for directory in (settings.directory / "conf.d", settings.directory):
            try:
                directory.rmdir()
            except OSError as error:
                log.debug("%s stays: %s", directory, error)


def _program() -> Path | None:
    beside = Path(sys.executable).parent / "ovirt-imageio"
    return next((path for path in (beside, Path("/usr/bin/ovirt-imageio")) if os.access(path, os.R_OK)), None)
