"""The project's tree and its virtual environment as a disk for nodes.

    /opt/vdsm/src, tests, pyproject.toml           as they are in this working tree
    /opt/vdsm/.venv/bin/python, vdsmd, vdscli ...  Debian's Python with the environment's packages

Only what the agent needs at run time, found by its own declared dependencies, and pytest goes along: the development
tools are ten times as large. Python, libvirt's binding and sanlock's come from the node's own Debian.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from .image.build import PROJECT, file_system
from .qemu import PROJECT_MIB

WHERE: Final = "/opt/vdsm"
_TREE: Final = ("src", "tests", "pyproject.toml")
_EXTRA: Final = ("pytest", "pytest-timeout")
_SITE: Final = ".venv/lib/python3.11/site-packages"


def build(image: Path, scratch: Path) -> None:
    """Make the disk's file; ``scratch`` is a directory that does not exist yet, and does not afterwards."""
    try:
        _fill(scratch)
        file_system(scratch, image, PROJECT_MIB)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(tree: Path) -> None:
    tree.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in _TREE:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore, symlinks=True)
        else:
            shutil.copy2(source, tree / name)
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tree / _SITE
    site.mkdir(parents=True)
    for found in _closure([*settings["dependencies"], *_EXTRA]).values():
        _copy(found, site)
    (site / "vdsm.pth").write_text(f"{WHERE}/src\n", encoding="utf-8")
    (tree / ".venv/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n", encoding="utf-8")
    programs = tree / ".venv/bin"
    programs.mkdir()
    for name in ("python", "python3"):
        (programs / name).symlink_to("/usr/bin/python3")
    for name, target in settings["scripts"].items():
        module, function = target.split(":")
        script = f"#!{WHERE}/.venv/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        (programs / name).write_text(script, encoding="utf-8")
        (programs / name).chmod(0o755)


def _closure(wanted: list[str]) -> dict[str, Distribution]:
    """The wanted distributions and what they need on this platform (extras are not followed)."""
    found: dict[str, Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if name in found or "extra ==" in requirement:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # needed on another platform or Python only
        wanted += found[name].requires or []
    return found


def _copy(found: Distribution, site: Path) -> None:
    for file in found.files or []:
        source = Path(str(found.locate_file(file)))
        if ".." in file.parts or file.suffix == ".pyc" or not source.is_file():
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
