"""qemu-nbd: serves the content of an image, its backing chain included, on a unix socket.

The chain is given file by file, each with its format, so that no name that stands in an image's header is opened:
images come from outside.

    qemu-nbd --persistent --shared=8 --socket=PATH --export-name= --cache=none --aio=native json:{...}
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vdsm.base import process

# So many connections share a server: what the image daemon's clients use at most.
_CONNECTIONS: Final = 8
_CONNECT_S: Final = 2.0
_MODE: Final = 0o660
_GREETING: Final = b"NBDMAGIC"


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a chain: absolute path, format ("raw", "qcow2"), and whether it is a block device."""

    path: str
    format: str
    is_block: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is served, and how.

    Attributes:
        chain: the leaf first, then what it stands on; the leaf alone hides what is underneath.
        readonly: nothing is written.
        discard: discarded data gives space back.
        detect_zeroes: written zeros are noticed; with ``discard`` they give space back.
        bitmap: the dirty bitmap of the leaf that clients see.
    """

    chain: tuple[Layer, ...]
    readonly: bool = False
    discard: bool = False
    detect_zeroes: bool = False
    bitmap: str | None = None


def command(export: Export, address: Path, *, direct: bool) -> list[str]:
    """The command line; ``direct`` goes past the page cache, which some file systems cannot."""
    cache = ["--cache=none", "--aio=native"] if direct else ["--cache=writeback", "--aio=threads"]
    options = []
    if export.readonly:
        options.append("--read-only")
    elif export.discard:
        options.append("--discard=unmap")
    if export.detect_zeroes and not export.readonly:
        options.append(f"--detect-zeroes={'unmap' if export.discard else 'on'}")
    if export.bitmap is not None:
        options.append(f"--bitmap={export.bitmap}")
    return [
        "qemu-nbd",
        f"--socket={address}",
        "--persistent",
        f"--shared={_CONNECTIONS}",
        # The default export, so that the url is the socket's path alone.
        "--export-name=",
        *cache,
        *options,
        "json:" + json.dumps(_node(export.chain)),
    ]


def start(export: Export, address: Path, *, direct: bool, log_to: int) -> process.Child:
    """Start a server; it serves once `serves` says so. It lives on when the agent ends.

    Args:
        export: what is served.
        address: the socket's path.
        direct: past the page cache.
        log_to: the file descriptor that gets its complaints.

    Raises:
        CommandFailed: there is no qemu-nbd.
    """
    return process.spawn(command(export, address, direct=direct), stdout=process.DEVNULL, stderr=log_to)


def serves(address: Path) -> bool:
    """Whether a server answers there; its socket is open for the group then.

    It listens before it has opened the image, so only its greeting tells.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_S)
            probe.connect(str(address))
            if probe.recv(len(_GREETING)) != _GREETING:
                return False
        address.chmod(_MODE)
    except OSError:
        return False
    return True


def url(address: Path) -> str:
    """How a ticket names a server."""
    return f"nbd:unix:{address}"


def _node(chain: Sequence[Layer]) -> dict[str, Any]:
    leaf, *below = chain
    driver = "host_device" if leaf.is_block else "file"
    node: dict[str, Any] = {"driver": leaf.format, "file": {"driver": driver, "filename": leaf.path}}
    if leaf.format == "qcow2":
        # An image without a backing node is opened without the one that its header names.
        node["backing"] = _node(below) if below else None
    return node
