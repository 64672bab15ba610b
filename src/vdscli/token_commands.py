"""Bearer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdscli.client import quoted
from vdscli.terminal import Column

if TYPE_CHECKING:
    from vdscli.session import Session


def create(session: Session) -> None:
    """``token create``: the secret, alone, is what stdout gets."""
    args = session.args
    body = {"name": args.name, "role": args.role}
    if args.days is not None:
        body["days"] = args.days
    token = session.client.post("/tokens", body)
    if session.out.as_json:
        session.out.value(token)
        return
    session.out.note(f"token {token['name']} ({token['role']}), {_until(token.get('expires'))}; shown only now:")
    session.out.line(token["secret"])


def show(session: Session) -> None:
    """``token list``."""
    tokens = session.client.get("/tokens")
    if session.out.as_json:
        session.out.value(tokens)
    elif session.args.quiet:
        for token in tokens:
            session.out.line(token["name"])
    else:
        columns = (Column("NAME"), Column("ROLE"), Column("CREATED"), Column("EXPIRES"))
        rows = [[item["name"], item["role"], item["created"], item.get("expires") or "never"] for item in tokens]
        session.out.table(columns, rows)


def revoke(session: Session) -> int:
    """``token revoke``."""

    def act(name: str) -> None:
        session.client.delete(f"/tokens/{quoted(name)}")
        session.out.done(f"token {name}: revoked", {"name": name, "revoked": True})

    return session.each(session.args.name, act)


def _until(expires: str | None) -> str:
    return f"until {expires}" if expires else "until it is revoked"
