"""The agent as a process of its own, in a directory of its own; on libvirt or on the simulated hypervisor."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

from bench.client import Connection, Pki, eventually_ask

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ROOT / "tests"
GUEST: Final = ROOT / ".run/cache/guest/out"
"""The tiny guest, where one has been built."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
_PATIENCE_S: Final = 60.0

if str(TESTS) not in sys.path:  # the light host and the certificates are shared with the tests
    sys.path.insert(0, str(TESTS))

from certificates import Authority  # noqa: E402 - see above


@dataclass(frozen=True)
class Place:
    """A directory with all that an agent needs: configuration, certificates, state."""

    directory: Path
    port: int
    pki: Pki
    libvirt_uri: str
    intervals: dict[str, float] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.directory / "vdsm.toml"

    @property
    def instance(self) -> str:
        return (self.directory / "state/instance").read_text().strip()

    @property
    def unix_socket(self) -> Path:
        return self.directory / "run/vdsm.sock"


@contextmanager
def place(libvirt_uri: str = "test:///default") -> Iterator[Place]:
    """Make a place; it is removed in the end."""
    with TemporaryDirectory(prefix="vdsm-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the root helper looks at storage with the rights of the agent's user
        for part in ("run/console", "state", "log/console", "pki/certs", "pki/keys", "images", "rhev"):
            (directory / part).mkdir(parents=True)
        (directory / "state/instance").write_text(f"{uuid.uuid4()}\n")
        yield Place(directory, _configure(directory, libvirt_uri), _certify(directory), libvirt_uri)


def _configure(directory: Path, libvirt_uri: str) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "vdsm.toml").write_text(
        f"""
[paths]
run_dir = "{directory}/run"
state_dir = "{directory}/state"
log_dir = "{directory}/log"
pki_dir = "{directory}/pki"
[listen]
address = "127.0.0.1"
port = {port}
[libvirt]
uri = "{libvirt_uri}"
[virt]
disk_dirs = ["{directory}/images", "{GUEST}"]
domain_type = "qemu"
[transfers]
port = 0
[storage]
repository_dir = "{directory}/rhev"
"""
    )
    return port


def _certify(directory: Path) -> Pki:
    authority = Authority(directory / "own", "Bench CA")
    host, manager = authority.issue("localhost"), authority.issue("engine.example.com")
    shutil.copy(authority.certificate, directory / "pki/certs/cacert.pem")
    shutil.copy(host.certificate, directory / "pki/certs/vdsmcert.pem")
    shutil.copy(host.key, directory / "pki/keys/vdsmkey.pem")
    return Pki(authority.certificate, manager.certificate, manager.key)


class Process:
    """A daemon that ends with the ``with`` block."""

    def __init__(self, *argv: str, log: Path) -> None:
        # As an installed agent runs: with compiled modules.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPATH"] = str(ROOT)
        self.began_s = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *argv],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(_PATIENCE_S)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What it uses.

    def cpu_s(self) -> float:
        """Seconds of CPU so far, the kernel's included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mib(self) -> float:
        return self._status("VmRSS") / 1024

    def private_mib(self) -> float:
        return self._status("RssAnon") / 1024

    def threads(self) -> int:
        return self._status("Threads")

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
        raise LookupError(key)


class Agent(Process):
    """vdsmd; ``simulated`` VMs run already when it starts, on a hypervisor of its own process; None: on libvirt."""

    def __init__(self, where: Place, simulated: int | None = None, launch_s: float = 0.0) -> None:
        twin = ["-m", "bench.twin", str(simulated), str(launch_s)]
        what = ["-m", "vdsm", "--config"] if simulated is None else twin
        super().__init__(*what, str(where.config), log=where.directory / "vdsmd.out")
        self.place = where
        self.port_s = 0.0
        """Seconds from the process's start to a connection being accepted."""
        self.ping_s = 0.0
        """... to an answer to Host.ping, TLS handshake included."""
        self.ready_s = 0.0
        """... to an answer to Host.getStats and Host.getVMList, when all VMs are known."""
        self.ready_cpu_s = 0.0
        """Seconds of CPU until then, whatever else runs on the machine."""
        self.capabilities_s = 0.0
        """... to an answer to Host.getCapabilities, for which libvirt is asked."""

    def wait_ready(self) -> Self:
        """Wait until it serves, and note how long that took."""
        until = self.began_s + _PATIENCE_S
        while True:
            self.check()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.place.port), timeout=5).close()
                break
            if time.monotonic() > until:
                raise TimeoutError("the agent does not listen")
            time.sleep(0.005)
        self.port_s = time.monotonic() - self.began_s
        connection = self.connect()
        connection.ask("Host.ping")
        self.ping_s = time.monotonic() - self.began_s
        eventually_ask(connection, "Host.getVMList", until)
        self.ready_s = eventually_ask(connection, "Host.getStats", until) - self.began_s
        self.ready_cpu_s = self.cpu_s()
        connection.ask("Host.getCapabilities")
        self.capabilities_s = time.monotonic() - self.began_s
        connection.close()
        return self

    def connect(self, *, events: bool = False) -> Connection:
        return Connection(self.place.port, self.place.pki, events=events)


class Helper(Process):
    """supervdsmd."""

    def __init__(self, where: Place) -> None:
        super().__init__("-m", "vdsm.privileged", "--config", str(where.config), log=where.directory / "supervdsmd.out")
        path = where.directory / "run/svdsm.sock"
        until = self.began_s + _PATIENCE_S
        while not path.exists():
            self.check()
            if time.monotonic() > until:
                raise TimeoutError("supervdsmd does not listen")
            time.sleep(0.01)
