"""From an Authorization header to a caller."""

from __future__ import annotations

from typing import Final, Protocol

from vdsm.api.token import Token
from vdsm.base.errors import Unauthenticated
from vdsm.bindings.peers import Caller, Way

# Longer ones are not hashed at all.
_MAX_SECRET: Final = 256


class TokenStore(Protocol):
    """What is needed of the tokens' store."""

    def find(self, secret: str) -> Token | None:
        """The valid token of this secret; must not wait for anything."""


def token_caller(authorization: str, store: TokenStore) -> Caller:
    """The caller whom an Authorization header proves.

    Raises:
        Unauthenticated: it is no bearer token, or none that is valid; does not say which.
    """
    scheme, _, secret = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("only bearer tokens are accepted in the Authorization header")
    secret = secret.strip()
    token = store.find(secret) if 0 < len(secret) <= _MAX_SECRET else None
    if token is None:
        raise Unauthenticated("the bearer token is not valid")
    return Caller(token.name, token.role, Way.TOKEN)
