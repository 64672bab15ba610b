"""Prepares a machine as a host, step by step; what is there already is found quickly and left as it is."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from vds_bootstrap import account, environment, guest, machine, packages, pki
from vds_bootstrap.layout import PROJECT
from vds_bootstrap.manifest import Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from vds_bootstrap.layout import Layout
    from vds_bootstrap.progress import Progress

# Why each is needed is in docs/dependencies.md.
PACKAGES = (
    "python3-venv",
    "python3-libvirt",
    "libvirt-daemon-system",
    "qemu-system-x86",
    "qemu-utils",
    "busybox-static",
    "openssl",
    "iproute2",
    "gcc",
    "libc6-dev",
    "python3-dev",
    "nfs-common",
)
DEV_PACKAGES = (
    "procps",
    "mmdebstrap",
    "kmod",
    "bindfs",
)


class NotPossible(RuntimeError):
    """The machine cannot be made a host, or not now; the message says what to do."""


def check(layout: Layout, progress: Progress) -> None:
    """Check the machine.

    Raises:
        NotPossible: something is missing that setup cannot provide.
    """
    findings = machine.check(layout)
    with progress.step("Checking this machine") as outcome:
        outcome.say(", ".join(finding.what for finding in findings if finding.level == "ok"))
    for finding in findings:
        if finding.level == "warning":
            progress.line(f"          note: {finding.what} - {finding.remedy}")
    errors = [f"{finding.what}: {finding.remedy}" for finding in findings if finding.level == "error"]
    if errors:
        raise NotPossible("this machine cannot be prepared:\n  " + "\n  ".join(errors))


def tools(progress: Progress, *, dev: bool) -> None:
    """Provide what programs need: packages of the operating system and the virtual environment."""
    with progress.step("Operating system packages") as outcome:
        wanted = packages.missing([*PACKAGES, *(DEV_PACKAGES if dev else ())])
        if wanted:
            progress.note(f"Installing {', '.join(wanted)}")
            packages.update()
            packages.install(wanted)
        outcome.say(f"installed {len(wanted)}" if wanted else "all there")
    with progress.step("Virtual environment .venv") as outcome:
        outcome.say(environment.ensure(PROJECT, dev=dev))


def host(layout: Layout, progress: Progress) -> None:
    """Make what the agent needs on the host: user, directories, certificates and the tiny guest."""
    state_is_new = not layout.state_dir.exists()
    if state_is_new:
        layout.state_dir.mkdir(parents=True, mode=0o755)
    manifest = Manifest(layout.manifest)
    if state_is_new:
        manifest.add("directory", layout.state_dir)
    with progress.step("User and directories") as outcome:
        outcome.say(account.ensure(layout, manifest))
        directories(layout, manifest)
    with progress.step(f"Certificates in {layout.pki_dir}") as outcome:
        outcome.say(pki.ensure(pki.Pki(layout.pki_dir, account.ids(layout)), manifest))
    with progress.step("Tiny guest") as outcome:
        found = guest.is_built(layout.guest_dir)
        guest.build(layout.guest_dir, layout.cache_dir)
        outcome.say("there" if found else f"built in {layout.guest_dir}")


def directories(layout: Layout, manifest: Manifest) -> None:
    """Make the agent's directories where they are absent."""
    agent = account.ids(layout)
    account.directory(layout.state_dir, 0o755, agent, manifest)
    if any(entry.name == str(layout.state_dir) for entry in manifest.made()):
        os.chown(layout.state_dir, *agent)
    # QEMU runs as another user and has to reach disks and consoles by their names.
    account.directory(layout.images_dir, 0o711, agent, manifest)
    account.directory(layout.storage_dir, 0o755, agent, manifest)
    account.directory(layout.guest_dir, 0o755, (0, 0), manifest)
    account.directory(layout.log_dir, 0o750, agent, manifest)
    account.directory(layout.log_dir / "console", 0o711, agent, manifest)
    # Storage is mounted below; supervdsmd makes the same again where it is gone.
    for path in (layout.repository_dir, layout.repository_dir / "mnt", layout.repository_dir / "hsm-tasks"):
        account.directory(path, 0o755, agent, manifest)
    run_directories(layout)


def run_directories(layout: Layout) -> None:
    """Make the directories for sockets, which are gone after a reboot and therefore are on no list."""
    agent = account.ids(layout)
    for path, mode in ((layout.run_dir, 0o755), (layout.console_dir, 0o771)):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        os.chown(path, *agent)


def remember(path: Path, facts: dict[str, object]) -> None:
    """Write a small JSON file in one piece."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    partial.replace(path)
