"""How a verb is declared: once, as a method of a Protocol class.

The signature is the schema and the docstring is the manual. What neither can carry is said by marks:

    @namespace("VM")
    class Vm(Protocol):
        @verb(rest=post("/vms/{vm_id}/pause"), role=Role.OPERATOR, pool=Pool.LIFECYCLE)
        def pause(self, vm_id: Annotated[str, Wire("vmID")]) -> None: ...

Every form of the API is derived from `verbs_of`: JSON-RPC over STOMP, REST with OpenAPI, the command line's raw
verbs, the reference manual and the contract tests. Nothing is generated at import.

Two forms of every value: the *clean* one (REST: Python's snake_case names, numbers as numbers) and the *wire* one
(JSON-RPC: the original's camelCase names, some numbers as texts). `Wire` marks where the second is not simply the
camelCase of the first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import msgspec


class Role(StrEnum):
    """What a caller may do; each role includes those before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether a caller of this role may do what needs ``other``."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Pool(StrEnum):
    """Which bounded worker pool runs a verb, so that slow ones cannot starve others."""

    INLINE = "inline"  # answered from memory, on the event loop: must never wait
    QUERY = "query"  # answered from memory, may take milliseconds
    LIFECYCLE = "lifecycle"  # waits for one VM, under a deadline
    HOST = "host"  # waits for a tool of the host, under a deadline
    STORAGE = "storage"  # waits for a storage domain, under a deadline


class Answer(StrEnum):
    """How JSON-RPC shows the result where the original differs from the clean form."""

    PLAIN = "plain"
    LIST = "list"  # the one object as an array of one


class Form(Enum):
    """How a value looks on the wire when not as in JSON."""

    SAME = "same"
    TEXT = "text"  # 5 -> "5"
    DECIMAL = "decimal"  # 0.5 -> "0.50"
    SMALL = "small"  # 0.0003 -> "0.000300"
    BOOL_TEXT = "bool_text"  # true -> "true"
    BOOL_WORD = "bool_word"  # true -> "True"
    AGE = "age"  # a monotonic instant in seconds -> the seconds since then: "1.25"; clean: 1.25
    NOW = "now"  # the ordering time when it was asked for, in ms: "2147484000"; clean: 2147484000


@dataclass(frozen=True, slots=True)
class Wire:
    """Marks a field or parameter: its name and form in the original's protocol.

    ``codes`` belong to a Literal of words: the number that the original has for each. A request may have the number,
    also as a text, or the word.
    """

    name: str | None = None
    form: Form | None = None
    codes: tuple[tuple[str, int], ...] = ()


Text = Annotated[int, Wire(form=Form.TEXT)]
Decimal = Annotated[float, Wire(form=Form.DECIMAL)]
Small = Annotated[float, Wire(form=Form.SMALL)]
BoolText = Annotated[bool, Wire(form=Form.BOOL_TEXT)]
BoolWord = Annotated[bool, Wire(form=Form.BOOL_WORD)]
Age = Annotated[float, Wire(form=Form.AGE)]
Now = Annotated[int, Wire(form=Form.NOW)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a caller sends: unknown fields are refused by name."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent answers; a field that is None and has None as its default is left out."""


class CachedReply(Reply, frozen=True, kw_only=True, eq=False, weakref=True):
    """A reply whose objects are kept between calls: a binding may keep its encoded form with it."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where REST has the verb, below /api/v1.

    ``body`` names the one parameter that is the whole request body; None: the parameters that are not in the path are
    the body's fields (or the query's, with GET and DELETE).
    """

    method: str
    path: str
    body: str | None = None
    status: int = 200


def get(path: str) -> Route:
    """A REST route that only reads."""
    return Route("GET", path)


def post(path: str, *, body: str | None = None, status: int = 200) -> Route:
    """A REST route that does something."""
    return Route("POST", path, body, status)


def put(path: str, *, body: str | None = None) -> Route:
    """A REST route that sets something; doing it twice is as doing it once."""
    return Route("PUT", path, body)


def delete(path: str) -> Route:
    """A REST route that removes something."""
    return Route("DELETE", path)


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a verb; ``type`` keeps its annotations."""

    name: str
    wire_name: str
    type: Any
    required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Marks:
    """What `verb` was given."""

    rest: Route
    role: Role
    pool: Pool
    answer: Answer
    name: str | None
    legacy: str | None
    since: str
    while_starting: bool


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb, as every binding sees it. ``name`` is the original's: ``VM.getStats``; ``service`` implements it."""

    name: str
    namespace: str
    service: str
    method: str
    params: tuple[Param, ...]
    result: Any
    doc: str
    rest: Route
    role: Role
    pool: Pool
    answer: Answer
    legacy: str | None
    since: str
    while_starting: bool

    @property
    def summary(self) -> str:
        """The first line of the manual."""
        return self.doc.partition("\n")[0]


_MARKS: Final = "__verb_marks__"
_NAMESPACE: Final = "__verb_namespace__"
_SERVICE: Final = "__verb_service__"
Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


def verb(  # noqa: PLR0913 - one keyword per thing that a signature cannot carry
    *,
    rest: Route,
    role: Role = Role.VIEWER,
    pool: Pool = Pool.QUERY,
    answer: Answer = Answer.PLAIN,
    name: str | None = None,
    legacy: str | None = None,
    since: str = "0.1",
    while_starting: bool = False,
) -> Callable[[Function], Function]:
    """Mark a Protocol's method as a verb.

    Args:
        rest: its REST route.
        role: the least role that may call it.
        pool: which worker pool runs it.
        answer: how JSON-RPC shows its result.
        name: the original's name where it is not the camelCase of the method.
        legacy: the 2011 XML-RPC name, where there was one.
        since: the first version of this agent that has it.
        while_starting: whether it answers before the agent knows its VMs.
    """
    marks = Marks(rest, role, pool, answer, name, legacy, since, while_starting)

    def mark(function: Function) -> Function:
        setattr(function, _MARKS, marks)
        return function

    return mark


def namespace(name: str, *, service: str | None = None) -> Callable[[Class], Class]:
    """Mark a Protocol class as the verbs of one namespace.

    Args:
        name: the namespace on the wire, ``VM``.
        service: who implements them, where a namespace has several Protocols; otherwise the namespace's own name.
    """

    def mark(cls: Class) -> Class:
        setattr(cls, _NAMESPACE, name)
        setattr(cls, _SERVICE, service or name)
        return cls

    return mark


def camel_case(name: str) -> str:
    """``vm_id`` -> ``vmId``: the original's spelling unless a `Wire` mark says otherwise."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def wire_mark(annotated: Any) -> Wire:
    """The marks of an annotation, combined: the outermost name and form that are given."""
    name: str | None = None
    form: Form | None = None
    codes: tuple[tuple[str, int], ...] = ()
    for mark in getattr(annotated, "__metadata__", ()):
        if isinstance(mark, Wire):
            name = mark.name or name
            form = mark.form or form
            codes = mark.codes or codes
    return Wire(name, form, codes)


def verbs_of(protocol: type) -> tuple[Verb, ...]:
    """The verbs that a Protocol class declares, in their order."""
    space: str = getattr(protocol, _NAMESPACE)
    found = []
    for method, function in vars(protocol).items():
        marks: Marks | None = getattr(function, _MARKS, None)
        if marks is None:
            continue
        hints = get_type_hints(function, include_extras=True)
        params = tuple(
            _param(parameter, hints[parameter.name])
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        )
        found.append(
            Verb(
                name=f"{space}.{marks.name or camel_case(method)}",
                namespace=space,
                service=getattr(protocol, _SERVICE),
                method=method,
                params=params,
                result=hints["return"],
                doc=inspect.getdoc(function) or "",
                rest=marks.rest,
                role=marks.role,
                pool=marks.pool,
                answer=marks.answer,
                legacy=marks.legacy,
                since=marks.since,
                while_starting=marks.while_starting,
            )
        )
    return tuple(found)


def _param(parameter: inspect.Parameter, annotated: Any) -> Param:
    required = parameter.default is inspect.Parameter.empty
    return Param(
        name=parameter.name,
        wire_name=wire_mark(annotated).name or camel_case(parameter.name),
        type=annotated,
        required=required,
        default=None if required else parameter.default,
    )
