"""What uploads and downloads share."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 - a program of its own
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdscli.failures import CliError
from vdscli.transfer.bar import Bar
from vdscli.transfer.undo import Undo
from vdscli.transfer.wire import Address
from vdscli.transport import split_host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vdscli.session import Session
    from vdscli.transfer.pieces import Piece

AGAIN: Final = "the same command again goes on where this one ended"
_CONNECTIONS: Final = 8
_CA: Final = "/etc/pki/vdsm/certs/cacert.pem"


def address(session: Session) -> Address:
    """Where the image daemon of the session's agent is."""
    args = session.args
    if args.host is None:
        return Address(str(Path(args.socket).parent / "imageio" / "images.sock"))
    authority = args.ca or (_CA if Path(_CA).is_file() else "")
    return Address("", split_host(args.host)[0], ca=authority)


def swept(session: Session) -> Undo:
    """What notes open things; those of commands that were killed are closed."""
    undo = Undo(session.client, state_dir())
    undo.sweep()
    return undo


def connections(session: Session) -> int:
    """How many; a daemon gives one image no more than 8."""
    return int(min(_CONNECTIONS, session.args.connections))


def bar_of(session: Session, words: str, every: Sequence[Piece], left: Sequence[Piece]) -> Bar:
    """The progress of a transfer of which this is left."""
    total = sum(piece.length for piece in every)
    return Bar(session.out, words, total, total - sum(piece.length for piece in left))


def both(ours: Callable[[], str], theirs: Callable[[], str]) -> tuple[str, str]:
    """What two slow functions return, at the same time.

    Raises:
        Exception: what one of them raised.
    """
    found: list[str] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            found.append(ours())
        except Exception as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)  # noqa: TID251 - a program of its own
    thread.start()
    other = theirs()
    thread.join()
    if errors:
        raise errors[0]
    return found[0], other


def state_dir() -> Path:
    """Where this user's unfinished transfers are noted (XDG base directories)."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "vdscli"


def convert(raw: Path, target: Path) -> None:
    """Make a qcow2 image of a raw one.

    Raises:
        CliError: qemu-img failed.
    """
    made = target.with_name(f".{target.name}.qcow2")
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-T", "none", "-t", "none", str(raw), str(made)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CliError(f"qemu-img: {done.stderr.strip()}")
        made.replace(target)
    except FileNotFoundError as error:
        raise CliError("qemu-img is not installed: download with --format raw") from error
    finally:
        made.unlink(missing_ok=True)
