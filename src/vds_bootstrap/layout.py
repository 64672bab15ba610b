"""Where things are on this host, read from the agent's own configuration file.

Only the few options that the bootstrap needs are read; the agent checks the whole file when it starts. The same
options have the same defaults as in the agent (a test holds them together).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

DEFAULT_CONFIG = Path("/etc/vdsm/vdsm.toml")
PROJECT = Path(__file__).resolve().parents[2]


T = TypeVar("T", str, int)


class BadConfig(ValueError):
    """The configuration file cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Directories, the agent's user and its addresses."""

    config: Path | None = None
    run_dir: Path = Path("/run/vdsm")
    state_dir: Path = Path("/var/lib/vdsm")
    log_dir: Path = Path("/var/log/vdsm")
    pki_dir: Path = Path("/etc/pki/vdsm")
    user: str = "vdsm"
    group: str = "vdsm"
    port: int = 54321
    libvirt_uri: str = "qemu:///system"
    repository_dir: Path = Path("/rhev/data-center")

    @property
    def images_dir(self) -> Path:
        """Where disks lie that are given by path."""
        return self.state_dir / "images"

    @property
    def storage_dir(self) -> Path:
        """Where the storage domain lies that "make run" makes."""
        return self.state_dir / "storage"

    @property
    def storage_link(self) -> Path:
        """What the agent calls that directory in its repository: all hosts make such names in the same way."""
        return self.repository_dir / "mnt" / str(self.storage_dir).replace("_", "__").replace("/", "_")

    @property
    def guest_dir(self) -> Path:
        """Where the tiny guest lies."""
        return self.state_dir / "guest"

    @property
    def cache_dir(self) -> Path:
        """Where downloaded packages are kept: with the project, so that tests and every set-up share them."""
        return PROJECT / ".run" / "cache" / "guest" if (PROJECT / "Makefile").exists() else self.state_dir / "cache"

    @property
    def console_dir(self) -> Path:
        """Where the sockets of serial consoles are."""
        return self.run_dir / "console"

    @property
    def manifest(self) -> Path:
        """The list of what setup made on this host."""
        return self.state_dir / "setup-manifest.json"

    @property
    def api_socket(self) -> Path:
        """The unix socket that vdsmd serves."""
        return self.run_dir / "vdsm.sock"

    @property
    def supervdsm_socket(self) -> Path:
        """The unix socket that supervdsmd serves."""
        return self.run_dir / "svdsm.sock"


def read(config: Path | None) -> Layout:
    """The layout that a configuration file describes; without one, the defaults.

    Args:
        config: the file; None takes /etc/vdsm/vdsm.toml when it exists.

    Raises:
        BadConfig: the file is not there or is not TOML, or one of the options is of a wrong type.
    """
    path = config
    if path is None:
        if not DEFAULT_CONFIG.exists():
            return Layout()
        path = DEFAULT_CONFIG
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadConfig(f"{path}: {error}") from error
    defaults = Layout()
    return Layout(
        config=path.resolve(),
        run_dir=Path(_option(raw, "paths", "run_dir", str(defaults.run_dir))),
        state_dir=Path(_option(raw, "paths", "state_dir", str(defaults.state_dir))),
        log_dir=Path(_option(raw, "paths", "log_dir", str(defaults.log_dir))),
        pki_dir=Path(_option(raw, "paths", "pki_dir", str(defaults.pki_dir))),
        user=_option(raw, "users", "user", defaults.user),
        group=_option(raw, "users", "group", defaults.group),
        port=_option(raw, "listen", "port", defaults.port),
        libvirt_uri=_option(raw, "libvirt", "uri", defaults.libvirt_uri),
        repository_dir=Path(_option(raw, "storage", "repository_dir", str(defaults.repository_dir))),
    )


def _option(raw: dict[str, Any], section: str, name: str, default: T) -> T:
    value = raw.get(section, {}).get(name, default)
    if type(value) is not type(default):
        raise BadConfig(f"{section}.{name} must be {type(default).__name__}, is {type(value).__name__}")
    return value
