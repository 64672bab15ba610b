"""The main job of ``make run``: prepare the host, start the agent, show a VM, and stay until Ctrl-C."""

from __future__ import annotations

import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Final

from vds_bootstrap import demo, guest, setup
from vds_bootstrap.api import ApiError
from vds_bootstrap.demo import Demo, DemoFailed
from vds_bootstrap.host import Host, describe, only_one
from vds_bootstrap.hypervisor import NoAccess
from vds_bootstrap.janitor import Janitor
from vds_bootstrap.layout import PROJECT
from vds_bootstrap.processes import NotStarted
from vds_bootstrap.programs import ProgramFailed
from vds_bootstrap.setup import NotPossible
from vds_bootstrap.signals import Signals, Stopped
from vds_bootstrap.teardown import take_down

if TYPE_CHECKING:
    from vds_bootstrap.layout import Layout
    from vds_bootstrap.progress import Progress

WATCH_S: Final = 1.0
FAILURES: Final = (NotPossible, NoAccess, NotStarted, DemoFailed, ApiError, ProgramFailed, LookupError, OSError)


def run(layout: Layout, progress: Progress, *, stay: bool) -> int:
    """Do all of it; returns the exit status.

    Args:
        layout: where things are.
        progress: where to tell about it.
        stay: wait for Ctrl-C; else take everything down once the VM was shown.
    """
    signals = Signals()
    signals.install()
    signals.end_with_make()
    try:
        setup.check(layout, progress)
        setup.tools(progress, dev=False)
        setup.host(layout, progress)
        with only_one(layout):
            setup.run_directories(layout)
            return _run(layout, progress, signals, stay=stay)
    except Stopped:
        progress.note("Stopped before anything was started.")
        return 130
    except FAILURES as error:
        progress.line(f"\nmake run: {error}")
        return 1


def _run(layout: Layout, progress: Progress, signals: Signals, *, stay: bool) -> int:
    status = 0
    with Janitor() as janitor:
        host = Host(layout, progress, signals, janitor)
        try:
            host.start()
            progress.note(describe(host.api))
            shown = _show(layout, progress, host)
            _tell(progress, layout, shown)
            if stay:
                status = _stay(progress, host)
        except Stopped:
            progress.line()
        except FAILURES as error:
            progress.line(f"\nmake run: {error}\n")
            status = 1
        finally:
            signals.finish()
            left = take_down(host.state, progress)
    if left:
        progress.line(f"\nmake run: these could not be ended: {', '.join(left)}")
        return 1
    progress.note("Everything is down; the next make run finds the host prepared.")
    return status


def _show(layout: Layout, progress: Progress, host: Host) -> Demo:
    """Start the VM, and wait until its guest is up and its agent answers."""
    tiny = guest.Guest(kernel=layout.guest_dir / "vmlinux", initrd=layout.guest_dir / "initrd.img")
    with progress.step(f"Storage {demo.STORAGE} with a disk for the VM") as outcome:
        host.remember_files([layout.storage_link])
        image = demo.make_image(host.api, demo.ensure_storage(host.api, layout))
        outcome.say(f"in {layout.storage_dir}")
    with progress.step(f"Starting the VM {demo.NAME}"):
        vm_id = str(uuid.uuid4())  # ours, so that it is known before there is a VM
        host.remember_machine(vm_id)
        host.remember_files([layout.log_dir / "console" / f"{vm_id}.log"])
        host.api.post("/vms", {**demo.description(tiny, image), "vm_id": vm_id})
    with progress.step("Waiting for the guest's console") as outcome:
        console_s = demo.wait_for_console(host.api, layout, vm_id, tiny)
        outcome.say(f'it says "{tiny.marker} {demo.NAME}", {progress.elapsed_s():.1f} s after make run began')
    with progress.step("Waiting for the guest's agent") as outcome:
        stats = demo.wait_for_agent(host.api, vm_id)
        outcome.say(f"it answers{_guest_words(stats)}")
    return Demo(vm_id, demo.NAME, str(layout.console_dir / f"{vm_id}.sock"), console_s)


def _guest_words(stats: dict[str, object]) -> str:
    found = [str(stats[key]) for key in ("guest_os", "guest_ips") if stats.get(key)]
    return f": {', '.join(found)}" if found else ""


def _tell(progress: Progress, layout: Layout, shown: Demo) -> None:
    """Print the VM's table, as vdscli shows it, and what a person may do next."""
    vdscli = PROJECT / ".venv" / "bin" / "vdscli"
    here = ".venv/bin/vdscli" if layout.config is None else f".venv/bin/vdscli --socket {layout.api_socket}"
    progress.line()
    for words in (["vm", "list"], ["vm", "stats", shown.name]):
        done = subprocess.run(
            [vdscli, "--socket", layout.api_socket, *words], capture_output=True, text=True, timeout=30, check=False
        )
        progress.line(done.stdout.rstrip() if done.returncode == 0 else done.stderr.rstrip())
        progress.line()
    progress.line(
        f"""\
The VM {shown.name} runs. In another terminal:

  {here} vm console {shown.name}     its serial console, a root shell
  {here} top                  all VMs, live
  {here} vm --help            what else can be done with VMs
  curl --unix-socket {layout.api_socket} http://localhost/api/v1/vms

REST reference: https://localhost:{layout.port}/docs   (OpenAPI: /api/v1/openapi.json, metrics: /metrics)
Logs: {layout.log_dir}
"""
    )


def _stay(progress: Progress, host: Host) -> int:
    """Wait for Ctrl-C; returns 1 when a daemon ended by itself."""
    progress.line("Press Ctrl-C to stop the VMs and the agent.")
    while True:
        time.sleep(WATCH_S)
        if dead := host.dead():
            progress.line(f"\n{', '.join(dead)} ended unexpectedly.")
            return 1
        try:
            host.watch_machines()
        except ApiError:
            continue  # busy or gone: the next look tells
