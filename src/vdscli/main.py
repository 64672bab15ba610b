"""The command line's start and end: parse, run one command, turn what went wrong into one line and an exit code."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

from vdscli import failures
from vdscli.failures import CliError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except CliError as error:
        return _said(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _said("", failures.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.OK
    except UnicodeError:
        return _said("the command line is not UTF-8", failures.USAGE)
    except (KeyError, TypeError, AttributeError) as error:
        if os.environ.get("VDSCLI_TRACEBACK"):
            raise
        return _said(f"the agent's answer is not as expected ({error!r}): is it of another version?", failures.FAILED)
    return code


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--complete"]:
        from vdscli import completion

        return completion.candidates(arguments[1:])
    if arguments[:1] == ["call"] and arguments[-1:] in (["--help"], ["-h"]) and len(arguments) > 2:
        from vdscli import raw_calls

        return raw_calls.manual(arguments[1])
    from vdscli.arguments import parser

    top = parser()
    if not arguments:
        top.print_help()
        return failures.USAGE
    if arguments == ["--version"]:
        return _version()
    args = top.parse_args(arguments)
    from vdscli.session import Session, command

    return command(args.run)(Session(args)) or failures.OK


def _version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"vdscli {version('vdsm')}")
    except PackageNotFoundError:
        print("vdscli, not installed")
    return failures.OK


def _said(message: str, code: int) -> int:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if message:
        shown = " ".join(message.split())
        print(f"vdscli: {shown}", file=sys.stderr)
    return code
