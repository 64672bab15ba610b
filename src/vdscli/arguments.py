"""What can be typed. Nothing here does anything: a command is named as ``module:function``."""

from __future__ import annotations

from typing import Final

from vdscli import failures
from vdscli.parser import CommandParser, add_common, count, seconds

EPILOG: Final = f"""\
examples:
  vdscli vm create web1 --memory 1G --vcpus 2 --disk size=10G --nic user
  vdscli vm list
  vdscli vm console web1
  vdscli call VM.getStats '{{"vmID": "..."}}'

A VM, a storage and an image is named by its name, its id, or the first characters (4 or more) of its id.

{failures.EXIT_CODES}"""


def parser() -> CommandParser:
    """The parser of the whole command line."""
    top = CommandParser(
        prog="vdscli", description="Talk to the VDSM agent of this host, or of another one.", epilog=EPILOG
    )
    top.arg("--version", action="store_true", help="print the version and end")
    add_common(top, everywhere=False)
    top.command("vm", "List, create, start, stop and watch virtual machines", _vm)
    top.command("host", "Show the host and its load", _host)
    top.command("storage", "List, make, attach and check storage domains", _storage)
    top.command("image", "List, make, copy, upload and delete disk images", _image)
    top.command("op", "List, explain and end operations on storage", _op)
    top.command("events", "Follow what happens on the host", _events, "event_commands:events")
    top.command("top", "Watch the VMs' load in a live table", _top, "top:top")
    top.command("token", "Create, list and revoke bearer tokens", _token)
    top.command("call", "Call any verb with JSON", _call, "raw_calls:call")
    top.command("completion", "Print the shell's completion script", _completion, "completion:script")
    return top


def _vm(parser: CommandParser) -> None:
    from vdscli import vm_arguments

    vm_arguments.fill(parser)


def _storage(parser: CommandParser) -> None:
    from vdscli import storage_arguments

    storage_arguments.fill(parser)


def _op(parser: CommandParser) -> None:
    from vdscli import storage_arguments

    storage_arguments.fill_op(parser)


def _image(parser: CommandParser) -> None:
    from vdscli import image_arguments

    image_arguments.fill(parser)


def _nothing(parser: CommandParser) -> None:
    del parser


def _host(parser: CommandParser) -> None:
    parser.command("info", "Show what this host is", _nothing, "host_commands:info")
    parser.command("stats", "Show the host's load", _nothing, "host_commands:stats")
    parser.command("capabilities", "Show all that the host has and can do", _nothing, "host_commands:capabilities")


def _events(parser: CommandParser) -> None:
    parser.description = (
        "Follow what happens on the host: one line for each event, or one JSON object per line with --json. "
        "A lost connection is opened again and goes on where it was."
    )
    parser.arg("vm", nargs="*", metavar="VM", complete="vm", help="only events of these VMs")
    parser.arg("-n", "--count", type=count, metavar="N", help="end after N events")
    parser.arg("--for", dest="for_s", type=seconds, metavar="S", help="end after S seconds")
    parser.arg("--since", metavar="ID", help="first what happened after the event of this id")


def _top(parser: CommandParser) -> None:
    parser.description = (
        "Watch the VMs' load in a live table. Keys: q ends, c n m d t sort by CPU, name, memory, disk and network. "
        "Where nobody looks (a pipe), print it once."
    )
    parser.arg("-n", "--count", type=count, metavar="N", help="end after N tables")
    parser.arg("-d", "--delay", type=seconds, default=2.0, metavar="S", help="seconds between tables (2)")
    parser.arg("-s", "--sort", choices=("cpu", "name", "memory", "disk", "network"), default="cpu", help="order (cpu)")


def _token(parser: CommandParser) -> None:
    parser.command("create", "Make a bearer token", _token_create, "token_commands:create")
    parser.command("list", "List the tokens", _nothing, "token_commands:show")
    parser.command("revoke", "Make tokens worthless", _token_revoke, "token_commands:revoke")


def _token_create(parser: CommandParser) -> None:
    parser.description = "Make a bearer token. Its secret is printed on stdout, this once."
    parser.arg("name", metavar="NAME", help="to know it by")
    parser.arg("--role", choices=("viewer", "operator", "admin"), default="viewer", help="what its bearer may (viewer)")
    parser.arg("--days", type=count, metavar="N", help="worthless after N days")


def _token_revoke(parser: CommandParser) -> None:
    parser.arg("name", nargs="+", metavar="NAME", complete="token", help="the token")


def _call(parser: CommandParser) -> None:
    parser.description = (
        "Call any verb and print its result as JSON. An error is printed as JSON on stderr, and the exit code is 1."
    )
    parser.epilog = (
        "Parameters are one JSON object, '-' to read it from stdin, or NAME=VALUE for each: a value is JSON when it "
        "is, else a text.\n'vdscli call VM.create --help' shows a verb's manual; 'vdscli call --list' all verbs."
    )
    parser.arg("verb", nargs="?", metavar="Namespace.verb", complete="verb", help="as in --list")
    parser.arg("params", nargs="*", metavar="PARAMS", complete="params", help="{json} or NAME=VALUE ...")
    parser.arg("--list", dest="list_verbs", action="store_true", help="list all verbs")


def _completion(parser: CommandParser) -> None:
    parser.epilog = "bash: source <(vdscli completion bash)    fish: vdscli completion fish | source"
    parser.arg("shell", choices=("bash", "zsh", "fish"), help="the shell")
