"""The real agent for tests: vdsmd and supervdsmd as processes, on a private libvirtd, with certificates of their own.

    with LightHost(directory / "host") as host, AgentHost(directory / "agent", host) as agent:
        agent.create("web", memory_mib=64)

Everything is below one directory and goes with it. The API is reached over the unix socket (`call`, `rpc`) and, with
TLS, on `agent.port`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from certificates import Certificates, make
from lab.light import LightHost, eventually
from vds_bootstrap import transfers

PATIENCE_S: Final = 60.0
_BIN: Final = Path(__file__).resolve().parents[2] / ".venv" / "bin"
# /sys shows the network of who mounted it. None of these forks, so the daemon has the process id of the first.
_OWN_SYSFS: Final = ("unshare", "-m", "sh", "-c", 'mount -t sysfs sys /sys; exec "$@"', "sh")


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's: the kernel takes 107 characters."""
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp", ignore_cleanup_errors=True) as place:
        Path(place).chmod(0o755)
        yield Path(place)


class Problem(Exception):
    """An error answer of REST."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status}: {body.get('detail')}")
        self.status = status
        self.body = body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class AgentHost:
    """One agent; a context manager.

    ``options``: more of [virt], then other sections, as TOML. ``storage``: more of [storage]. ``inside``: it sees the
    network of the host as its own.
    """

    def __init__(
        self, directory: Path, host: LightHost, options: str = "", *, storage: str = "", inside: bool = False
    ) -> None:
        self.directory = directory
        self.host = host
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"
        self.log_dir = directory / "log"
        self.images = directory / "images"
        self.repository = directory / "rhev"
        self.socket = self.run_dir / "vdsm.sock"
        self.config = directory / "vdsm.toml"
        self.certificates: Certificates
        self._options = options
        self._storage = storage
        self._prefix = ["nsenter", "-t", str(host.pid), "-n", *_OWN_SYSFS] if inside else []
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for place in (self.run_dir / "console", self.state_dir, self.log_dir / "console", self.images, self.repository):
            place.mkdir(parents=True, exist_ok=True)
        self.certificates = make(self.directory / "certificates")
        self._install_certificates()
        self.config.write_text(self._toml())
        try:
            self.start("supervdsmd")
            self.start("vdsmd")
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _install_certificates(self) -> None:
        pki = self.directory / "pki"
        for part in ("certs", "keys"):
            (pki / part).mkdir(parents=True)
        pair = self.certificates.host
        (pki / "certs/vdsmcert.pem").write_bytes(pair.certificate.read_bytes())
        (pki / "keys/vdsmkey.pem").write_bytes(pair.key.read_bytes())
        (pki / "certs/cacert.pem").write_bytes(self.certificates.authority.certificate.read_bytes())

    def _toml(self) -> str:
        return f"""
[paths]
run_dir = "{self.run_dir}"
state_dir = "{self.state_dir}"
log_dir = "{self.log_dir}"
pki_dir = "{self.directory}/pki"
[listen]
address = "127.0.0.1"
port = 0
[libvirt]
uri = "{self.host.uri}"
[storage]
repository_dir = "{self.repository}"
{self._storage}
[virt]
disk_dirs = ["{self.images}"]
domain_type = "qemu"
{self._options}
"""

    # -- processes

    def start(self, program: str) -> None:
        """Start a daemon; it dies with the test process."""
        log = (self.log_dir / f"{program}.out").open("ab")
        self._daemons[program] = subprocess.Popen(
            [*self._prefix, _BIN / program, "--config", self.config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - tests' main thread only
        )

    def pid(self, program: str = "vdsmd") -> int:
        """A daemon's process."""
        return self._daemons[program].pid

    def kill(self, program: str = "vdsmd") -> None:
        """End a daemon as by a crash."""
        self._daemons[program].kill()
        self._daemons[program].wait(timeout=PATIENCE_S)

    def restart(self, program: str = "vdsmd") -> None:
        """Crash a daemon and start it anew."""
        self.kill(program)
        self.start(program)
        self.wait_ready()

    def stop(self, program: str = "vdsmd") -> int:
        """End a daemon in order; returns its exit status."""
        self._daemons[program].terminate()
        return self._daemons[program].wait(timeout=PATIENCE_S)

    def close(self) -> None:
        """End all daemons."""
        for daemon in reversed(self._daemons.values()):
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGCONT)
                daemon.kill()
            daemon.wait(timeout=PATIENCE_S)
        self._daemons.clear()
        transfers.stop(self.run_dir, PATIENCE_S)  # a killed agent leaves them to the next one

    def threads(self, program: str = "vdsmd") -> int:
        """How many threads a daemon has."""
        status = Path(f"/proc/{self.pid(program)}/status").read_text()
        return int(status.split("Threads:")[1].split()[0])

    def wait_ready(self) -> None:
        """Wait until the agent knows its VMs."""
        eventually(self._answers, f"the agent is ready; see {self.log_dir}", PATIENCE_S)

    def _answers(self) -> bool:
        if self._daemons["vdsmd"].poll() is not None:
            raise AssertionError(f"vdsmd has ended: {self.log()}")
        try:
            self.call("GET", "/vms")
        except (OSError, http.client.HTTPException, Problem):
            return False
        return True

    def log(self) -> str:
        """What vdsmd said."""
        with contextlib.suppress(FileNotFoundError):
            return (self.log_dir / "vdsm.log").read_text() + (self.log_dir / "vdsmd.out").read_text()
        return (self.log_dir / "vdsmd.out").read_text()

    @property
    def port(self) -> int:
        """The TCP port that was taken last."""
        return int(re.findall(r"listening on 127.0.0.1 port (\d+)", self.log())[-1])

    # -- the API

    def call(
        self, method: str, path: str, body: object = None, *, timeout_s: float = PATIENCE_S, **headers: str
    ) -> Any:
        """Call REST over the unix socket.

        Raises:
            Problem: it answered with an error.
        """
        connection = _UnixConnection(self.socket, timeout_s)
        try:
            payload = None if body is None else json.dumps(body)
            fields = {"Content-Type": "application/json", **headers} if payload is not None else headers
            connection.request(method, f"/api/v1{path}", payload, fields)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        decoded = json.loads(text) if text else None
        if answer.status >= 400:
            raise Problem(answer.status, decoded)
        return decoded

    def rpc(self, method: str, params: Mapping[str, object] | None = None, *, timeout_s: float = PATIENCE_S) -> Any:
        """Call JSON-RPC over the unix socket; returns the whole answer."""
        request = {"jsonrpc": "2.0", "method": method, "params": params or {}, "id": "1"}
        return self.call("POST", "/jsonrpc", request, timeout_s=timeout_s)

    def create(self, name: str, **description: Any) -> str:
        """Start a VM from a description and wait until it runs; returns its id."""
        made = self.call("POST", "/vms", {"name": name, "memory_mib": 32, "graphics": "none", **description})
        self.reaches(made["vm_id"], "Powering up", "Up")
        return str(made["vm_id"])

    def stats(self, vm_id: str) -> dict[str, Any]:
        """A VM's stats."""
        found: dict[str, Any] = self.call("GET", f"/vms/{vm_id}/stats")
        return found

    def reaches(self, vm_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until a VM has one of these states."""

        def arrived() -> bool:
            stats = self.stats(vm_id)
            if stats["status"] == "Down" and "Down" not in statuses:
                raise AssertionError(f"{vm_id} is Down: {stats.get('exit_message')}")
            return stats["status"] in statuses

        eventually(arrived, f"{vm_id} is {statuses}", PATIENCE_S)
        return self.stats(vm_id)


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: what a killed test started must not stay.
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)
