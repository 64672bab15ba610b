"""A VM's display and its CD: the ticket, the screenshot, the medium."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli import inventory, vm_views
from vdscli.failures import USAGE, CliError
from vdscli.vm_creation import absolute
from vdscli.vm_power import with_name

if TYPE_CHECKING:
    from vdscli.session import Session

# VNC uses eight characters. Letters and digits that are not mistaken for one another.
_LENGTH: Final = 8
_CHARACTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_SUFFIXES: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/x-portable-pixmap": ".ppm"}


def ticket(session: Session) -> None:
    """``vm ticket``."""
    args, client = session.args, session.client
    password = _password(args.password_file)
    vm = inventory.live(client, args.vm, "set a ticket")
    body = {"password": password, "ttl": args.ttl, "existing_conn_action": args.existing}
    with_name(vm, lambda: client.put(f"{vm.path}/ticket", body))
    given = args.password_file is not None
    info = client.get(vm.path)
    answer: dict[str, Any] = {"vm_id": vm.vm_id, "vm_name": vm.name, "display": info["display_info"], "ttl": args.ttl}
    if session.out.as_json:
        session.out.value(answer if given else {**answer, "password": password})
    elif args.quiet:
        session.out.line("" if given else password)
    else:
        session.out.card([
            ("Display", vm_views.display(info)),
            ("Password", "" if given else password),
            ("Expires", f"in {args.ttl} s"),
        ])


def _password(source: str | None) -> str:
    if source is None:
        import secrets

        return "".join(secrets.choice(_CHARACTERS) for _ in range(_LENGTH))
    try:
        text = sys.stdin.readline() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"--password-file: cannot read {source}: {error}", USAGE) from error
    password = text.partition("\n")[0].rstrip("\r")
    if not password:
        raise CliError("--password-file: the password is empty", USAGE)
    return password


def screenshot(session: Session) -> None:
    """``vm screenshot``."""
    import base64

    args, client = session.args, session.client
    vm = inventory.live(client, args.vm, "take a screenshot")
    if args.output == "-" and sys.stdout.isatty():
        raise CliError("--output: a picture is not for a terminal", USAGE)
    answer = client.get(f"{vm.path}/screenshot")
    picture = base64.b64decode(answer["data"])
    if args.output == "-":
        sys.stdout.buffer.write(picture)
        return
    path = Path(args.output or vm.name + _SUFFIXES.get(answer["mime_type"], ".img"))
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise CliError(f"--output: cannot write {path}: {error.strerror}", USAGE) from error
    facts = {"path": str(path.absolute()), "mime_type": answer["mime_type"], "bytes": len(picture)}
    session.out.done(f"{vm.name}: {len(picture)} bytes of {answer['mime_type']} in {path}", facts)


def cd(session: Session) -> None:
    """``vm cd``."""
    args, client = session.args, session.client
    if (args.path is None) == (not args.eject):
        raise CliError("give either PATH or --eject", USAGE)
    path = absolute("PATH", args.path or "", local=client.is_local)
    vm = inventory.live(client, args.vm, "change the CD")
    words = f"{vm.name}: CD is {path}" if path else f"{vm.name}: CD ejected"
    with_name(vm, lambda: session.out.done(words, client.put(f"{vm.path}/cd", {"drive_spec": path})))
