"""From the parts of an HTTP request - path, query, body - to a verb's arguments, and its errors back.

A verb's parameters that are not in its path are the fields of the JSON body, or of the query with GET and DELETE; one
parameter may be the whole body. Errors name a field as the REST caller wrote it.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, NoReturn, Union, get_args, get_origin

import msgspec

from vdsm.api.contract import Param, Verb, camel_case, wire_mark
from vdsm.base.errors import BadParameter
from vdsm.bindings.problems import Malformed

BODILESS: Final = frozenset({"GET", "DELETE"})
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_BOOLEANS: Final = {"true": True, "false": False}
_PATH_NAMES: Final = re.compile(r"{(\w+)}")
_FIRST_NAME: Final = re.compile(r"^[^.\[]*")


class Place(Enum):
    """Where a parameter is in an HTTP request."""

    PATH = "path"
    QUERY = "query"
    FIELD = "field"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Parts:
    """What an HTTP request carries for a verb."""

    path: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    body: bytes


def placed(verb: Verb) -> dict[str, Place]:
    """Where REST has each parameter of a verb.

    A parameter beside a whole-body one is left out: what it says, the body can say.

    Raises:
        TypeError: the verb's declaration cannot be served.
    """
    in_path = set(_PATH_NAMES.findall(verb.rest.path))
    names = {param.name for param in verb.params}
    if not in_path <= names or (verb.rest.body or "") not in names | {""}:
        message = f"{verb.name}: the route {verb.rest.path} names what is no parameter"
        raise TypeError(message)
    places = {}
    for param in verb.params:
        if param.name in in_path:
            places[param.name] = Place.PATH
        elif verb.rest.method in BODILESS:
            places[param.name] = Place.QUERY
        elif verb.rest.body is None:
            places[param.name] = Place.FIELD
        elif param.name == verb.rest.body:
            places[param.name] = Place.BODY
        elif param.required:
            message = f"{verb.name}: {param.name} has no place beside the body"
            raise TypeError(message)
    return places


class Arguments:
    """Gathers one verb's arguments."""

    def __init__(self, verb: Verb) -> None:
        places = placed(verb)
        self._query = {p.name: _reader(p) for p in verb.params if places.get(p.name) is Place.QUERY}
        self._path = frozenset(name for name, place in places.items() if place is Place.PATH)
        self._body = verb.rest.body
        self._reads_body = verb.rest.method not in BODILESS
        self._clean = {param.wire_name: param.name for param in verb.params}
        body = next((param for param in verb.params if param.name == self._body), None)
        self._body_fields = {} if body is None else _clean_names(body.type)

    @property
    def reads_body(self) -> bool:
        """Whether the verb's method has a body."""
        return self._reads_body

    def values(self, parts: Parts) -> dict[str, Any]:
        """The arguments by name, not yet checked against the verb's types.

        Raises:
            BadParameter: a name is unknown or given twice.
            Malformed: the body is no JSON.
        """
        values: dict[str, Any] = {}
        self._add_query(values, parts.query)
        if self._reads_body:
            self._add_body(values, parts.body)
        values.update(parts.path)
        return values

    def renamed(self, error: BadParameter, values: Mapping[str, Any]) -> BadParameter:
        """The same error with the field's name as the REST caller who sent ``values`` knows it."""
        field = _with_first(error.field, self._clean, values)
        if self._body is not None and _first_name(field) == self._body:
            field = field.removeprefix(self._body).removeprefix(".") or "body"
        body = values.get(self._body or "")
        sent = body if isinstance(body, dict) else {}
        return type(error)(_with_first(field, self._body_fields, sent), error.reason)

    def _add_query(self, values: dict[str, Any], query: Sequence[tuple[str, str]]) -> None:
        for name, text in query:
            reader = self._query.get(name)
            if reader is None:
                raise BadParameter(name[:200], "is not a known parameter of the query")
            if reader.many:
                values.setdefault(name, []).extend(map(reader.value, text.split(",")))
            elif name in values:
                raise BadParameter(name, "is given twice")
            else:
                values[name] = reader.value(text)

    def _add_body(self, values: dict[str, Any], raw: bytes) -> None:
        if self._body is not None:
            if not raw:
                raise BadParameter("body", "is missing")
            values[self._body] = json_of(raw)
            return
        fields = json_of(raw) if raw else {}
        if not isinstance(fields, dict):
            raise BadParameter("body", "must be an object")
        for name in self._path & fields.keys():
            raise BadParameter(name, "is in the path, not in the body")
        values.update(fields)


def _first_name(field: str) -> str:
    match = _FIRST_NAME.match(field)
    return match[0] if match else ""


def _with_first(field: str, clean: Mapping[str, str], sent: Mapping[str, Any]) -> str:
    """The field with its first name as REST has it: a service may name it as the wire does, unless it was sent so."""
    first = _first_name(field)
    return field if first in sent else clean.get(first, first) + field[len(first) :]


def _clean_names(declared: Any) -> dict[str, str]:
    """The clean names of a struct's fields by their wire names."""
    if not (isinstance(declared, type) and issubclass(declared, msgspec.Struct)):
        return {}
    hints = typing.get_type_hints(declared, include_extras=True)
    return {wire_mark(hints[name]).name or camel_case(name): name for name in declared.__struct_fields__}


class _Reader:
    """Reads a query parameter's text as what its type may be; what does not look so stays a text and is refused."""

    def __init__(self, kinds: frozenset[type], *, many: bool) -> None:
        self.many = many
        self._kinds = kinds

    def value(self, text: str) -> Any:
        if bool in self._kinds and text in _BOOLEANS:
            return _BOOLEANS[text]
        if int in self._kinds and _INTEGER.fullmatch(text):
            return int(text)
        if float in self._kinds and _NUMBER.fullmatch(text):
            return float(text)
        return text


def _reader(param: Param) -> _Reader:
    members = _members(param.type)
    items = [get_args(member)[0] for member in members if get_origin(member) in {tuple, list}]
    kinds = [kind for item in (items or members) for kind in _members(item)]
    return _Reader(frozenset(kind for kind in kinds if isinstance(kind, type)), many=bool(items))


def _members(declared: Any) -> list[Any]:
    """The plain types that a declared one may be."""
    while get_origin(declared) is Annotated:
        declared = get_args(declared)[0]
    if isinstance(declared, typing.NewType):
        return _members(declared.__supertype__)
    if get_origin(declared) in {Union, types.UnionType}:
        return [kind for member in get_args(declared) for kind in _members(member)]
    return [declared]


def json_of(raw: bytes) -> Any:
    """Decode JSON as strictly as RFC 8259 allows: UTF-8, no NaN, no name twice in an object.

    Raises:
        Malformed: it is not that.
    """
    try:
        value = msgspec.json.decode(raw)
        if b"{" in raw:
            # msgspec is strict about everything but repeated names: there the last one would count silently.
            json.loads(raw, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError as error:
        raise Malformed("the body is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"{twice[:200]!r} is there twice"
        raise ValueError(message)
    return members


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
