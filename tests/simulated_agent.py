"""The whole agent in the test's process: real sockets, services and root helper, simulated VMs."""

from __future__ import annotations

import asyncio
import grp
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvloop

from certificates import Authority, Pair
from vdsm.base import config as configuration
from vdsm.bindings.tls import TlsFiles
from vdsm.virt.simulated import SimulatedHost, SimulatedHypervisor
from vdsm.wiring import Agent, Simulated

T = TypeVar("T")
PATIENCE_S = 20.0

_CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch></cpu></host><guest><os_type>hvm</os_type>
<arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator><machine>pc-q35-7.2</machine><machine>q35</machine>
<machine>pc</machine><domain type='qemu'/></arch></guest></capabilities>"""
_DOMAIN_CAPABILITIES = """<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>qemu</domain><cpu>
<mode name='custom' supported='yes'><model usable='yes'>qemu64</model></mode></cpu></domainCapabilities>"""


class Facts:
    """What the simulated hypervisor says of the host."""

    def capabilities_xml(self) -> str:
        return _CAPABILITIES

    def domain_capabilities_xml(self) -> str:
        return _DOMAIN_CAPABILITIES

    def cpu_models(self) -> tuple[str, ...]:
        return ("qemu64",)

    def versions(self) -> tuple[str, str]:
        return "9.0.0", "7.2.0"


class SimulatedAgent:
    """An agent that runs; made by `simulated_agent`."""

    def __init__(self, directory: Path, authority: Authority, manager: Pair, config: Path) -> None:
        self.directory = directory
        self._authority = authority
        self._manager = manager
        self.host = SimulatedHost()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._agent = self.wait(self._start(config))

    async def _start(self, config: Path) -> Agent:
        agent = Agent(configuration.load(config), Simulated(SimulatedHypervisor(self.host), Facts()))
        agent.start()
        return agent

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the agent's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def stop(self) -> None:
        self.wait(self._agent.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)

    @property
    def port(self) -> int:
        return self._agent.port

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def authority_file(self) -> Path:
        """The CA's certificate."""
        return self._authority.certificate

    @property
    def images(self) -> Path:
        return self.directory / "images"

    def local(self) -> httpx.Client:
        """A client on the unix socket."""
        transport = httpx.HTTPTransport(uds=str(self.directory / "run/vdsm.sock"))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=PATIENCE_S)

    def remote(self, *, certified: bool = True, token: str | None = None) -> httpx.Client:
        """A client on the TLS port, with or without a certificate of its own."""
        context = ssl.create_default_context(cafile=str(self._authority.certificate))
        if certified:
            context.load_cert_chain(self._manager.certificate, self._manager.key)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(verify=context, base_url=self.url, timeout=PATIENCE_S, headers=headers)

    def manager_context(self) -> ssl.SSLContext:
        """What a manager's connections are secured with, as the Engine does it: TLS 1.2, no names compared."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(self._authority.certificate)
        context.load_cert_chain(self._manager.certificate, self._manager.key)
        return context

    def token(self, name: str, role: str) -> str:
        """A new token's secret."""
        with self.local() as client:
            made = client.post("/api/v1/tokens", json={"name": name, "role": role})
        assert made.status_code == 201, made.text
        return made.json()["secret"]


@contextmanager
def simulated_agent(directory: Path, storage: str = "") -> Iterator[SimulatedAgent]:
    """An agent in this directory, with a root helper of its own. ``storage``: more of that section, as TOML."""
    authority = Authority(directory / "ca", "Test CA")
    host, manager = authority.issue("localhost"), authority.issue("engine.example.com")
    files = TlsFiles.below(directory / "pki")
    for source, target in (
        (host.certificate, files.certificate),
        (host.key, files.key),
        (authority.certificate, files.ca),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    for name in ("run", "state", "log", "images", "rhev"):
        (directory / name).mkdir()
    group = grp.getgrgid(os.getgid()).gr_name
    config = directory / "vdsm.toml"
    config.write_text(
        f"[paths]\nrun_dir = '{directory}/run'\nstate_dir = '{directory}/state'\nlog_dir = '{directory}/log'\n"
        f"pki_dir = '{directory}/pki'\n"
        f"[users]\nuser = 'nobody'\n[listen]\naddress = '127.0.0.1'\nport = 0\ngroup = '{group}'\n"
        f"[virt]\ndisk_dirs = ['{directory}/images']\nautostart = false\ndomain_type = 'qemu'\n"
        f"[transfers]\nport = 0\n"
        f"[storage]\nrepository_dir = '{directory}/rhev'\nhealth_check_interval_s = 1.0\n{storage}\n"
    )
    helper = subprocess.Popen([sys.executable, "-m", "vdsm.privileged", "--config", str(config)])
    try:
        until = time.monotonic() + PATIENCE_S
        while not (directory / "run/svdsm.sock").exists():
            assert time.monotonic() < until, "the root helper does not start"
            assert helper.poll() is None, "the root helper ended"
            time.sleep(0.02)
        agent = SimulatedAgent(directory, authority, manager, config)
        try:
            yield agent
        finally:
            agent.stop()
    finally:
        helper.terminate()
        helper.wait(PATIENCE_S)
