"""Takes back what setup made on this host, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vds_bootstrap import account, demo, hypervisor, pki
from vds_bootstrap.manifest import Made, Manifest
from vds_bootstrap.setup import NotPossible

if TYPE_CHECKING:
    from vds_bootstrap.layout import Layout
    from vds_bootstrap.progress import Progress

OWN_MARK = "urn:vdsm:agent:1"


def clean(layout: Layout, progress: Progress, *, images: bool = False) -> None:
    """Undo setup: certificates, directories with what the agent kept in them, user and group. Packages stay.

    Args:
        layout: where things are.
        progress: where to tell about it.
        images: also remove disk images that people put into the images directory.

    Raises:
        NotPossible: the agent or one of its VMs runs, or there are disk images; nothing was changed.
    """
    _refuse_running(layout)
    if not images:
        _refuse_images(layout)
    manifest = Manifest(layout.manifest)
    made = manifest.made()
    if not made:
        progress.note(f"There is no {layout.manifest}: nothing was set up by make run, or it is taken back already.")
        return
    kept = _manager_files(layout)
    with progress.step("Taking back what was set up") as outcome:
        later: list[Made] = []
        for entry in reversed(made):
            if entry.kind == "directory":
                later.append(entry)
                continue
            if Path(entry.name) not in kept:
                _take_back(entry)
            manifest.remove(entry)
        for entry in later:
            _remove_directory(Path(entry.name), layout)
        for folder in (layout.console_dir, layout.run_dir):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        outcome.say(f"{len(made)} things; packages stay" + (", certificates of a manager stay" if kept else ""))


def _refuse_running(layout: Layout) -> None:
    if hypervisor.answers(layout.api_socket):
        raise NotPossible("the agent runs: stop it first (Ctrl-C in its make run, or systemctl stop vdsmd supervdsmd)")
    own = [path.stem for path in hypervisor.QEMU_RUN.glob("*.xml") if OWN_MARK in path.read_text(errors="replace")]
    running = sorted(machine.name for machine in hypervisor.machines() if machine.name in own)
    if running:
        raise NotPossible(f"VMs of the agent still run: {', '.join(running)}. Start the agent and destroy them first")


def _refuse_images(layout: Layout) -> None:
    images = sorted(path.name for path in layout.images_dir.glob("*")) + _stored_images(layout)
    if images:
        raise NotPossible(
            f"there are disk images in {layout.state_dir} ({', '.join(images[:5])}): move or delete them, "
            'or say that they may go: make clean-host ARGS="--images"'
        )


def _stored_images(layout: Layout) -> list[str]:
    """Images in the storage domain that "make run" keeps, but for the one of its own VM."""
    found = []
    for image in layout.storage_dir.glob("*/images/*"):
        own, _ = demo.ids({"domain_id": image.parent.parent.name})
        if image.name != own:
            found.append(str(image.relative_to(layout.state_dir)))
    return sorted(found)


def _manager_files(layout: Layout) -> set[Path]:
    """The certificate files that a manager has put in the place of ours meanwhile."""
    place = pki.Pki(layout.pki_dir, (0, 0))
    return {place.ca_cert, place.host_cert, place.host_key} if pki.is_foreign(place) else set()


def _take_back(entry: Made) -> None:
    match entry.kind:
        case "user":
            account.remove_user(entry.name)
        case "group":
            account.remove_group(entry.name)
        case "member":
            user, _, group = entry.name.partition(" ")
            account.remove_member(user, group)
        case "file":
            for path in (Path(entry.name), pki.partial_of(Path(entry.name))):
                path.unlink(missing_ok=True)
        case "directory":
            Path(entry.name).rmdir()


def _remove_directory(path: Path, layout: Layout) -> None:
    """Remove a directory that setup made: with its content where only the agent writes, else when it is empty."""
    own = (layout.state_dir, layout.log_dir)
    if not path.is_dir():
        return
    if any(path == folder or folder in path.parents for folder in own):
        shutil.rmtree(path)
    elif not any(path.iterdir()):
        path.rmdir()
