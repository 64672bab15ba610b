"""What a command works with: its arguments, where it writes, and the agent."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli.failures import USAGE, CliError
from vdscli.terminal import Output

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from vdscli.client import Client
    from vdscli.transport import Place

PKI_DIR: Final = Path("/etc/pki/vdsm")
_CERTIFICATES: Final = {"ca": "certs/cacert.pem", "cert": "clients/vdscli.pem", "key": "clients/vdscli.key"}


class Session:
    """One run of a command."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.out = Output(as_json=args.json, quiet=args.quiet, no_colour=args.no_colour)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The agent.

        Raises:
            CliError: how to reach it is not said rightly.
        """
        if self._client is None:
            from vdscli.client import Client

            self._client = Client(place(self.args), self.args.timeout)
        return self._client

    def each(self, names: list[str], act: Callable[[str], None]) -> int:
        """Do something for each name; one that fails does not stop the others. The first failure's exit code."""
        import sys

        if len(names) == 1:
            act(names[0])
            return 0
        code = 0
        with self.out.gathering():
            for name in names:
                try:
                    act(name)
                except CliError as error:
                    self.out.clear_progress()
                    print(f"vdscli: {' '.join(str(error).split())}", file=sys.stderr)
                    code = code or error.exit_code
        return code


def command(where: str) -> Callable[[Session], int | None]:
    """The function of a command, ``module:function`` below this package."""
    module, _, function = where.partition(":")
    found: Callable[[Session], int | None] = getattr(import_module(f"vdscli.{module}"), function)
    return found


def place(args: Namespace) -> Place:
    """Where the agent is, from the options and the environment.

    Raises:
        CliError: a token file cannot be read, or there is nothing to prove who we are with.
    """
    from vdscli.transport import Place

    if args.host is None:
        return Place(args.socket)
    token = _token(args)
    found: dict[str, str] = {}
    for option, default in _CERTIFICATES.items():
        given: Any = getattr(args, option)
        path = PKI_DIR / default
        # A token makes the certificate unnecessary; the CA is needed always, the system's if not ours.
        if given is not None:
            found[option] = given
        elif path.is_file() and (token is None or option == "ca"):
            found[option] = str(path)
    if token is None and "cert" not in found:
        raise CliError(
            "--host needs a client certificate (--cert and --key) or a token (--token-file, VDSM_TOKEN)", USAGE
        )
    return Place(args.socket, args.host, found.get("cert", ""), found.get("key", ""), found.get("ca", ""), token)


def _token(args: Namespace) -> str | None:
    if args.token_file is None:
        return os.environ.get("VDSM_TOKEN") or None
    try:
        token = Path(args.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"--token-file: cannot read {args.token_file}: {error}", USAGE) from error
    if not token or not token.isascii() or not token.isprintable():
        raise CliError(f"--token-file: {args.token_file} does not hold a token", USAGE)
    return token
