"""What can be typed after ``vdscli storage`` and ``vdscli op``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdscli.parser import CommandParser


def fill(parser: CommandParser) -> None:
    """Add the commands of storage."""
    parser.command("list", "List the storage domains of this host", _list, "storage_commands:show_all")
    parser.command("show", "Show one storage domain", _one, "storage_commands:show")
    parser.command("create", "Make a storage domain and use it", _create, "storage_commands:create")
    parser.command("attach", "Use a storage domain that is there", _attach, "storage_commands:attach")
    parser.command("remove", "Stop using a storage domain", _remove, "storage_commands:remove")
    parser.command("check", "See that all on a storage domain agrees, and mend it", _check, "storage_commands:check")


def fill_op(parser: CommandParser) -> None:
    """Add the commands of operations."""
    parser.command("list", "List the operations on storage", _nothing, "storage_tasks:show_all")
    parser.command(
        "explain", "Say what an operation did, left, and what will become of it", _op, "storage_tasks:explain"
    )
    parser.command("cancel", "End operations; what they did is taken back", _ops, "storage_tasks:cancel")
    parser.command("clear", "Forget operations that have ended", _ops, "storage_tasks:clear")


def _nothing(parser: CommandParser) -> None:
    del parser


def _one(parser: CommandParser) -> None:
    parser.arg("storage", metavar="STORAGE", complete="storage", help="name, id, or the first characters of the id")


def _list(parser: CommandParser) -> None:
    parser.description = (
        "List the storage domains of this host: its own, and those that a manager has connected. "
        "--quiet prints only the names."
    )
    parser.arg("--full", action="store_true", help="whole ids")


def _create(parser: CommandParser) -> None:
    parser.description = "Make a storage domain on a directory or a mount, and use it from now on."
    parser.arg("name", metavar="NAME", help="letters, digits, '.', '_' and '-'")
    _place(parser)


def _attach(parser: CommandParser) -> None:
    parser.description = "Use a storage domain that is there, with all that is in it."
    parser.arg("name", metavar="NAME", help="how it is to be called here")
    _place(parser)


def _place(parser: CommandParser) -> None:
    parser.arg(
        "path", metavar="PATH", complete="file", help="a directory; nfs: SERVER:/EXPORT; posixfs: what is mounted"
    )
    parser.arg("--type", choices=("localfs", "nfs", "posixfs"), default="localfs", help="what it is (localfs)")
    parser.arg("--vfs-type", default="", metavar="TYPE", help="posixfs: the kernel's name of the file system")
    parser.arg("--mount-options", default="", metavar="OPTIONS", help="more mount options, separated by commas")
    parser.arg("--nfs-version", default="", metavar="N", help="3, 4, 4.1, ... (auto)")


def _remove(parser: CommandParser) -> None:
    parser.description = "Stop using a storage domain. Its content stays, unless --destroy is given."
    _one(parser)
    parser.arg("--destroy", action="store_true", help="also delete the domain with all its images")
    parser.arg("--yes", action="store_true", help="with --destroy: do it")


def _check(parser: CommandParser) -> None:
    parser.description = (
        "See that metadata, chains, qcow2 headers, leases, links, modes and names on a storage domain agree, and name "
        "each difference. The exit code is 0 when there is none, or none any more."
    )
    _one(parser)
    parser.arg("--repair", action="store_true", help="mend what needs no guess; say why the rest is left")
    parser.arg("--data", action="store_true", help="also let qemu-img check the qcow2 volumes not in use (slow)")


def _op(parser: CommandParser) -> None:
    parser.arg("id", metavar="ID", complete="op", help="the operation's id, or its first characters")


def _ops(parser: CommandParser) -> None:
    parser.arg("id", nargs="+", metavar="ID", complete="op", help="the operation's id, or its first characters")
