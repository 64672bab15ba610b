"""argparse with commands that are filled when they are typed, and that completion can walk."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vdscli.failures import USAGE

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_SOCKET: Final = "/run/vdsm/vdsm.sock"
DEFAULT_TIMEOUT_S: Final = 30.0
MAX_TIMEOUT_S: Final = 86_400.0


class Argument:
    """One argument as completion sees it; ``complete`` names the kind of thing that it is."""

    __slots__ = ("action", "complete")

    def __init__(self, action: argparse.Action, complete: str) -> None:
        self.action = action
        self.complete = complete


class CommandParser(argparse.ArgumentParser):
    """A parser of one command; its arguments are added when it is used first."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)
        self.known: list[Argument] = []
        self.commands: dict[str, CommandParser] = {}
        self._fill: Callable[[CommandParser], None] | None = None
        self._group: Any = None

    def arg(self, *flags: str, complete: str = "", **options: Any) -> None:
        """Add an argument that completion knows."""
        self.known.append(Argument(self.add_argument(*flags, **options), complete))

    def command(self, name: str, summary: str, fill: Callable[[CommandParser], None], run: str = "") -> None:
        """Add a command. ``fill`` adds its arguments; ``run`` is ``module:function`` below this package."""
        if self._group is None:
            self._group = self.add_subparsers(
                title="commands", metavar="COMMAND", prog=self.prog, required=True, dest=argparse.SUPPRESS
            )
        parser: CommandParser = self._group.add_parser(name, help=summary, description=summary + ".")
        parser.fill_with(fill)
        if run:
            parser.set_defaults(run=run)
        self.commands[name] = parser

    def fill_with(self, fill: Callable[[CommandParser], None]) -> None:
        """Let ``fill`` add the arguments when they are needed."""
        self._fill = fill

    def filled(self) -> CommandParser:
        """The parser with its arguments."""
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
            add_common(self, everywhere=True)
        return self

    # argparse declares overloads that differ in what the namespace is; here all of them are one.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fill, then parse."""
        self.filled()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, and where help is."""
        if message.startswith("the following arguments are required: ") and self.commands:
            message = f"which command? one of {', '.join(self.commands)}"
        print(f"vdscli: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE)


def seconds(text: str) -> float:
    """A duration in seconds.

    Raises:
        argparse.ArgumentTypeError: it is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to {MAX_TIMEOUT_S:.0f}")
    return value


def count(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is not one.
    """
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _common() -> list[tuple[tuple[str, ...], dict[str, Any], bool]]:
    """Flags, options, and whether each command's own help shows it too."""
    environ = os.environ
    off = {"action": "store_true", "default": False}
    file = {"metavar": "FILE", "complete": "file", "default": None}
    socket = environ.get("VDSM_SOCKET") or DEFAULT_SOCKET
    rows: list[tuple[str, dict[str, Any], str]] = [
        ("--json", off, "print the result as one JSON document"),
        ("-q --quiet", off, "print nothing that is not asked for"),
        (
            "--no-color --no-colour",
            {**off, "dest": "no_colour"},
            "no colours; NO_COLOR in the environment does the same",
        ),
        (
            "--timeout",
            {"type": seconds, "metavar": "S", "default": DEFAULT_TIMEOUT_S},
            "seconds to wait for each answer of the agent (30)",
        ),
        (
            "--socket",
            {"metavar": "PATH", "complete": "file", "default": socket},
            f"the agent's socket on this host (VDSM_SOCKET, or {DEFAULT_SOCKET})",
        ),
        (
            "--host",
            {"metavar": "NAME[:PORT]", "default": environ.get("VDSM_HOST") or None},
            "an agent elsewhere, over TLS (VDSM_HOST)",
        ),
        ("--cert", file, "with --host: the client certificate"),
        ("--key", file, "with --host: the certificate's key"),
        ("--ca", file, "with --host: the CA that signed the host's certificate"),
        ("--token-file", file, "with --host: a bearer token is in this file, instead of a certificate (or VDSM_TOKEN)"),
    ]
    always = {"--json", "-q --quiet"}
    return [(tuple(flags.split()), {**options, "help": words}, flags in always) for flags, options, words in rows]


def add_common(parser: CommandParser, *, everywhere: bool) -> None:
    """Add the options that every command has.

    ``everywhere``: the parser is a command's: an option that is not typed there leaves what was typed before it, and
    how to connect is explained in the main help only.
    """
    taken = {flag for known in parser.known for flag in known.action.option_strings}
    group = parser.add_argument_group("common options" if everywhere else "options of every command")
    for flags, given, shown in _common():
        if taken.intersection(flags):
            continue
        options = dict(given)
        complete = options.pop("complete", "")
        if everywhere:
            options["default"] = argparse.SUPPRESS
            options["help"] = options["help"] if shown else argparse.SUPPRESS
        parser.known.append(Argument(group.add_argument(*flags, **options), complete))
