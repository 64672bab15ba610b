"""The verbs of bearer tokens: how people and scripts without a certificate prove who they are, over REST."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from vdsm.api.contract import Pool, Reply, Role, delete, get, namespace, post, verb


class Token(Reply, frozen=True, kw_only=True):
    """A bearer token, without its secret."""

    name: str
    role: Role
    created: str
    """UTC, ISO 8601."""
    expires: str | None = None


class NewToken(Token, frozen=True, kw_only=True):
    """A fresh token. ``secret`` is shown once: the host keeps only its hash."""

    secret: str


@namespace("Token")
class Tokens(Protocol):
    """Bearer tokens of this host."""

    @verb(rest=get("/tokens"), role=Role.ADMIN)
    def list(self) -> list[Token]:
        """All tokens, without their secrets."""

    @verb(rest=post("/tokens", status=201), role=Role.ADMIN, pool=Pool.LIFECYCLE)
    def create(
        self,
        name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")],
        role: Role = Role.VIEWER,
        days: Annotated[int, msgspec.Meta(ge=1, le=3650)] | None = None,
    ) -> NewToken:
        """Make a token; the answer is the only time its secret is shown.

        Args:
            name: to know it by.
            role: what its bearer may do.
            days: until it expires; None: never.

        Raises:
            AlreadyExists: there is one of this name.
        """

    @verb(rest=delete("/tokens/{name}"), role=Role.ADMIN, pool=Pool.LIFECYCLE)
    def revoke(self, name: str) -> None:
        """Make a token worthless from now on.

        Args:
            name: the token's name.

        Raises:
            NotFound: there is none of this name.
        """
