"""Errors as REST shows them: RFC 9457 problem details, and the errors that only HTTP knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from starlette.responses import Response

from vdsm.base.errors import BadParameter, Rejected, Unauthenticated, VdsmError

PROBLEM_TYPE: Final = "application/problem+json"
INTERNAL: Final = "internal"
INTERNAL_CODE: Final = -32603
_MAX_DETAIL: Final = 4096
_RETRY_AFTER_S: Final = "1"


@dataclass(eq=False)
class Malformed(Rejected):
    """The request cannot be understood at all: its body is no JSON, for instance."""

    name = "malformed"
    status = 400
    message = "{reason}"
    reason: str


@dataclass(eq=False)
class NoSuchPath(Rejected):
    """There is nothing at this path."""

    name = "no_such_path"
    status = 404
    message = "there is nothing at {path}"
    path: str


@dataclass(eq=False)
class WrongMethod(Rejected):
    """The path does not have this method; the Allow header names those that it has."""

    name = "wrong_method"
    status = 405
    message = "{method} is not allowed here, only {allowed}"
    method: str
    allowed: str


@dataclass(eq=False)
class TooSlow(Rejected):
    """The request's body did not arrive in time."""

    name = "too_slow"
    status = 408
    message = "the body did not arrive within {seconds:.0f} s"
    seconds: float


@dataclass(eq=False)
class TooLarge(Rejected):
    """The request's body exceeds the limit; it was not read."""

    name = "too_large"
    status = 413
    message = "the body is larger than {limit} bytes"
    limit: int


@dataclass(eq=False)
class WrongContentType(Rejected):
    """The request's body is not said to be JSON."""

    name = "wrong_content_type"
    status = 415
    message = "the body must be application/json in UTF-8, is {content_type}"
    content_type: str


@dataclass(eq=False)
class ForeignOrigin(Rejected):
    """A browser sent the request for a page of another site."""

    name = "foreign_origin"
    status = 403
    message = "a page of {origin} may not change this host"
    origin: str


HTTP_ERRORS: Final[tuple[type[Rejected], ...]] = (
    Malformed,
    NoSuchPath,
    WrongMethod,
    TooSlow,
    TooLarge,
    WrongContentType,
    ForeignOrigin,
)


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An error, as RFC 9457 has it."""

    type: Annotated[str, msgspec.Meta(description="what went wrong: /errors/ and the error's stable name")]
    title: Annotated[str, msgspec.Meta(description="the kind of error in words")]
    status: Annotated[int, msgspec.Meta(description="the HTTP status")]
    detail: Annotated[str, msgspec.Meta(description="what happened this time")]
    instance: Annotated[str, msgspec.Meta(description="urn:vdsm:flow: and the id of this request in the host's log")]
    code: Annotated[int, msgspec.Meta(description="the error's number in the JSON-RPC protocol")]
    field: Annotated[str | None, msgspec.Meta(description="the field that is wrong, as in disks[0].path")] = None


def problem(error: Exception, flow: str) -> Problem:
    """Describe an error. What is not one of the agent's own says nothing of its inside."""
    if not isinstance(error, VdsmError):
        return Problem(
            type=f"/errors/{INTERNAL}",
            title="internal error",
            status=500,
            detail="an error inside the agent; its log has more",
            instance=f"urn:vdsm:flow:{flow}",
            code=INTERNAL_CODE,
        )
    return Problem(
        type=f"/errors/{error.name}",
        title=title(type(error)),
        status=error.status,
        detail=str(error)[:_MAX_DETAIL],
        instance=f"urn:vdsm:flow:{flow}",
        code=error.code,
        field=error.field if isinstance(error, BadParameter) else None,
    )


def title(kind: type[VdsmError]) -> str:
    """An error's kind in words."""
    return kind.name.replace("_", " ")


def problem_response(error: Exception, flow: str, headers: Mapping[str, str]) -> Response:
    """The answer that tells of an error."""
    body = problem(error, flow)
    more = dict(headers)
    if isinstance(error, WrongMethod):
        more["Allow"] = error.allowed
    elif isinstance(error, Unauthenticated):
        more["WWW-Authenticate"] = 'Bearer realm="vdsm"'
    elif body.status == 503:
        more["Retry-After"] = _RETRY_AFTER_S
    return Response(msgspec.json.encode(body), body.status, more, PROBLEM_TYPE)
