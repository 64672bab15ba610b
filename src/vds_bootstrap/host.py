"""The host while "make run" is on: libvirt, the daemon pair, and everything that has to go again with them."""

from __future__ import annotations

import fcntl
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from vds_bootstrap import account, hypervisor, ports, processes
from vds_bootstrap.api import Api, ApiError
from vds_bootstrap.devices import open_kvm
from vds_bootstrap.layout import PROJECT
from vds_bootstrap.processes import Daemon, Identity
from vds_bootstrap.programs import run
from vds_bootstrap.setup import NotPossible
from vds_bootstrap.teardown import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vds_bootstrap.hypervisor import Started
    from vds_bootstrap.janitor import Janitor
    from vds_bootstrap.layout import Layout
    from vds_bootstrap.processes import Process
    from vds_bootstrap.progress import Progress
    from vds_bootstrap.signals import Signals

READY_S: Final = 60.0


@contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Keep a second "make run" out, and refuse to start beside a running agent or on a taken port.

    Raises:
        NotPossible: says what is in the way.
    """
    with (layout.state_dir / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NotPossible("another make run is on already on this host: end it there with Ctrl-C") from error
        if hypervisor.answers(layout.api_socket):
            raise NotPossible(
                f"an agent runs on this host already (it answers on {layout.api_socket}): use it with "
                ".venv/bin/vdscli, or stop it first (systemctl stop vdsmd supervdsmd)"
            )
        if layout.port and (holder := ports.holder(layout.port)):
            raise NotPossible(f"TCP port {layout.port} is taken by {holder}: stop it, or set listen.port in a CONFIG")
        yield


class Host:
    """Starts things, and keeps the list of them in step with the janitor's."""

    def __init__(self, layout: Layout, progress: Progress, signals: Signals, janitor: Janitor) -> None:
        self._layout = layout
        self._progress = progress
        self._signals = signals
        self._janitor = janitor
        self.state = State(api_socket=str(layout.api_socket))
        self.api = Api(layout.api_socket)
        self._before: set[str] = set()

    def start(self) -> None:
        """Bring up libvirt, supervdsmd and vdsmd, and wait until the agent is ready.

        Raises:
            NoAccess: the machine's libvirt does not let the agent in.
            NotStarted: something did not come up.
        """
        run_files = [self._layout.run_dir, self._layout.console_dir, self._layout.run_dir / "libvirt"]
        self.remember_files([*run_files, self._layout.supervdsm_socket, self._layout.api_socket])
        if node := open_kvm():
            self.state.nodes.append(node)
        with self._progress.step("libvirt") as outcome:
            access = hypervisor.ensure(self._layout, self._remember_libvirt)
            outcome.say(access.words)
        config = self._config(access.uri)
        with self._progress.step("Starting supervdsmd and vdsmd"):
            supervdsmd = self._daemon("supervdsmd", "vdsm.privileged", config, None)
            helper = self._start(supervdsmd)
            processes.wait_ready(supervdsmd, helper, lambda: hypervisor.answers(self._layout.supervdsm_socket), READY_S)
            vdsmd = self._daemon("vdsmd", "vdsm", config, self._identity())
            agent = self._start(vdsmd)
            processes.wait_ready(vdsmd, agent, self.api.is_ready, READY_S)
        self._before = self._present()

    def remember_files(self, paths: list[Path]) -> None:
        """These files (and directories, when they are empty then) go when everything goes."""
        self.state.files += [str(path) for path in paths]
        self._janitor.remember(self.state)

    def watch_machines(self) -> None:
        """Note the VMs that were started since: they go, too."""
        self.state.machines = sorted(self._present() - self._before)
        self._janitor.remember(self.state)

    def remember_machine(self, vm_id: str) -> None:
        """This VM goes when everything goes."""
        self.state.machines.append(vm_id)
        self._janitor.remember(self.state)

    def dead(self) -> list[str]:
        """The names of daemons that ended by themselves."""
        return [process.name for process in [*self.state.libvirt, *self.state.daemons] if not process.is_alive()]

    def _present(self) -> set[str]:
        return {str(item["vm_id"] if isinstance(item, dict) else item) for item in self.api.get("/vms")}

    def _start(self, daemon: Daemon) -> Process:
        with self._signals.deferred():
            process = processes.start(daemon)
            self.state.daemons.append(process)
            self._janitor.remember(self.state)
        return process

    def _remember_libvirt(self, started: Started) -> None:
        self.state.libvirt += started.processes
        self.state.units += started.units
        self.remember_files(list(started.files))

    def _identity(self) -> Identity:
        uid, gid = account.ids(self._layout)
        return Identity(uid, gid, tuple(account.supplementary(self._layout)))

    def _config(self, uri: str) -> Path | None:
        """The configuration file for the daemons: the one given, or a copy of it with another way to libvirt."""
        if uri == self._layout.libvirt_uri:
            return self._layout.config
        words = ["--config", str(self._layout.config)] if self._layout.config else []
        shown = run([PROJECT / ".venv/bin/supervdsmd", *words, "--show-config"])
        path = self._layout.run_dir / "vdsm.toml"
        path.write_text(re.sub(r"(?m)^uri = .*$", f"uri = {json.dumps(uri)}", shown), encoding="utf-8")
        self.remember_files([path])
        return path

    def _daemon(self, name: str, module: str, config: Path | None, identity: Identity | None) -> Daemon:
        place = PROJECT
        visible = None
        if identity and not is_reachable(PROJECT):
            place = self._layout.run_dir / "project"
            place.mkdir(exist_ok=True)
            self.remember_files([place])
            visible = (PROJECT, place)
        words = ["--config", str(config)] if config else []
        return Daemon(
            name,
            [str(place / ".venv/bin/python"), "-m", module, *words],
            self._layout.log_dir / f"{name}.out",
            identity=identity,
            env={"PYTHONPATH": str(place / "src")},
            visible_project=visible,
        )


def is_reachable(path: Path) -> bool:
    """Whether any user may walk down to a directory and read it."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def describe(api: Api) -> str:
    """How VMs are accelerated on this host, as the agent found out."""
    try:
        facts = api.get("/host/capabilities")
    except ApiError as error:
        return f"not known yet ({error})"
    if facts.get("kvm_enabled"):
        return "VMs run with KVM"
    return "KVM does not run guests here: VMs are emulated (TCG), which is slower but works"
