"""The two forms of every value, compiled from its type: the clean one (REST) and the wire one (JSON-RPC).

For a type and a `Dialect` a `Shape` knows three things: the type that msgspec decodes into (on the wire, a twin of
each struct with the original's names and kinds, so that an error names the field as the caller wrote it), how to come
from there to the declared type, and how to go from the declared type to what is encoded. Where both forms agree
nothing is done.
"""

from __future__ import annotations

import functools
import operator
import types
import typing
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from vdsm.api.contract import CachedReply, Form, camel_case, wire_mark
from vdsm.base.clock import monotonic_s, notify_time_ms

Convert = Callable[[Any], Any]
_WHOLE: Final = msgspec.Meta(pattern=r"^-?[0-9]{1,18}$")
_NUMBER: Final = msgspec.Meta(pattern=r"^-?[0-9]{1,18}(\.[0-9]{1,18})?$")

# When the verb that is answered was called, on the clock of notify_time_ms. An answer must not claim to be newer than
# what it was made of: a manager would take it for newer than the event that came in between.
called_ms: Final[ContextVar[int]] = ContextVar("called_ms", default=0)


class Dialect(Enum):
    """Which form."""

    CLEAN = "clean"
    WIRE = "wire"


@dataclass(frozen=True, slots=True)
class Shape:
    """How a type looks in one dialect; a conversion that is None changes nothing."""

    decoded: Any
    arrive: Convert | None
    leave: Convert | None


@dataclass(frozen=True, slots=True)
class _Text:
    """A scalar that the wire carries as a text."""

    decoded: Any
    parse: Convert
    show: Callable[[Any], str]


def _bool_of(value: Any) -> bool:
    return value if isinstance(value, bool) else value.lower() == "true"


def _as_of_ms() -> int:
    return called_ms.get() or notify_time_ms()


_BOOL_WORDS: Final = Annotated[str, msgspec.Meta(pattern="^([Tt]rue|[Ff]alse)$")]
_TEXTS: Final[Mapping[Form, _Text]] = {
    Form.TEXT: _Text(int | Annotated[str, _WHOLE], int, str),
    Form.DECIMAL: _Text(float | Annotated[str, _NUMBER], float, lambda value: f"{value:.2f}"),
    Form.SMALL: _Text(float | Annotated[str, _NUMBER], float, lambda value: f"{value:.6f}"),
    Form.BOOL_TEXT: _Text(bool | _BOOL_WORDS, _bool_of, lambda value: "true" if value else "false"),
    Form.BOOL_WORD: _Text(bool | _BOOL_WORDS, _bool_of, str),
    Form.NOW: _Text(int, int, lambda _unset: str(_as_of_ms())),
    Form.AGE: _Text(float, float, lambda at_s: f"{max(0.0, monotonic_s() - at_s):.2f}"),
}


def _clean_age(at_s: float) -> float:
    return round(max(0.0, monotonic_s() - at_s), 3)


_CLEAN: Final[Mapping[Form, Convert]] = {Form.AGE: _clean_age, Form.NOW: lambda _unset: _as_of_ms()}


class Forms:
    """Compiles and keeps the shapes of one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._structs: dict[type, Shape] = {}

    def shape(self, declared: Any) -> Shape:
        """The shape of a type in this dialect; annotations count."""
        mark = wire_mark(declared)
        metas: list[msgspec.Meta] = []
        while get_origin(declared) is Annotated:
            metas += [item for item in get_args(declared)[1:] if isinstance(item, msgspec.Meta)]
            declared = get_args(declared)[0]
        if isinstance(declared, typing.NewType):
            declared = declared.__supertype__
        if mark.codes and self.dialect is Dialect.WIRE:
            shape = _coded(dict(mark.codes))
        elif mark.form is not None and mark.form is not Form.SAME and not _is_union(declared):
            shape = self._marked(mark.form, declared, metas)
        else:
            shape = self._plain(declared)
            for meta in metas:
                shape = Shape(Annotated[shape.decoded, meta], shape.arrive, shape.leave)
        return shape

    def _marked(self, form: Form, declared: Any, metas: list[msgspec.Meta]) -> Shape:
        text = _TEXTS[form]
        if self.dialect is Dialect.WIRE:
            return Shape(_with_bounds(text.decoded, metas), _bounded(text.parse, declared, metas), text.show)
        for meta in metas:
            declared = Annotated[declared, meta]
        return Shape(declared, None, _CLEAN.get(form))

    def _plain(self, declared: Any) -> Shape:
        if isinstance(declared, type) and issubclass(declared, msgspec.Struct):
            return self._struct(declared)
        origin = get_origin(declared)
        if _is_union(declared):
            return self._union(get_args(declared))
        if origin in {list, tuple}:
            return self._sequence(origin, get_args(declared))
        if origin is dict:
            return self._mapping(*get_args(declared))
        if origin is Literal or isinstance(declared, type) or declared is Any:
            return Shape(declared, None, None)
        message = f"the contract has no form for {declared!r}"
        raise TypeError(message)

    def _union(self, members: tuple[Any, ...]) -> Shape:
        shapes = [(member, self.shape(member)) for member in members]
        decoded = _union_of(*(shape.decoded for _, shape in shapes))
        arriving = [(_runtime(shape.decoded), shape.arrive) for _, shape in shapes if shape.arrive]
        leaving = [(_runtime(member), shape.leave) for member, shape in shapes if shape.leave]
        return Shape(decoded, _first_of(arriving), _first_of(leaving))

    def _sequence(self, origin: type, args: tuple[Any, ...]) -> Shape:
        item = self.shape(args[0])
        decoded = list[item.decoded] if origin is list else tuple[item.decoded, ...]  # type: ignore[name-defined]
        return Shape(decoded, _each(origin, item.arrive), _each(list, item.leave))

    def _mapping(self, key: Any, value: Any) -> Shape:
        item = self.shape(value)
        return Shape(dict[key, item.decoded], _values(item.arrive), _values(item.leave))  # type: ignore[name-defined]

    def _struct(self, declared: type[msgspec.Struct]) -> Shape:
        if declared not in self._structs:
            self._structs[declared] = self._compile(declared)
        return self._structs[declared]

    def _compile(self, declared: type[msgspec.Struct]) -> Shape:
        hints = typing.get_type_hints(declared, include_extras=True)
        members = [
            Member(item.name, self.key(item.name, hints[item.name]), self.shape(hints[item.name]), item)
            for item in msgspec.structs.fields(declared)
        ]
        same = all(member.key == member.name and not member.shape.arrive for member in members)
        if same and all(member.shape.decoded == hints[member.name] for member in members):
            decoded, arrive = declared, None
        else:
            decoded, arrive = _twin(declared, members), _arrival(declared, members)
        leave = _departure(members)
        if issubclass(declared, CachedReply):
            leave = _cached(members)
        return Shape(decoded, arrive, leave)

    def key(self, name: str, declared: Any) -> str:
        """What a field or parameter is called in this dialect."""
        if self.dialect is Dialect.CLEAN:
            return name
        return wire_mark(declared).name or camel_case(name)


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a struct in one dialect."""

    name: str
    key: str
    shape: Shape
    info: msgspec.structs.FieldInfo


def _coded(codes: Mapping[str, int]) -> Shape:
    """Words that the original has numbers for; some of its callers send them as texts."""
    words: dict[object, str] = {word: word for word in codes}
    for word, number in codes.items():
        words[number] = words[str(number)] = word

    def word_of(value: Any) -> str:
        if value not in words:
            known = ", ".join(f"{number} ({word})" for word, number in codes.items())
            raise msgspec.ValidationError(f"Must be one of {known}, is {value!r:.40}")
        return words[value]

    return Shape(int | str, word_of, lambda word: codes[word])


def _is_union(declared: Any) -> bool:
    return get_origin(declared) in {Union, types.UnionType}


def _with_bounds(decoded: Any, metas: list[msgspec.Meta]) -> Any:
    """Put a number's bounds on the numeric member of a text-or-number union; texts are bounded after parsing."""
    members = list(get_args(decoded)) if _is_union(decoded) else [decoded]
    bounded = members[0]
    for meta in metas:
        bounded = Annotated[bounded, meta]
    return _union_of(bounded, *members[1:])


def _union_of(*members: Any) -> Any:
    return functools.reduce(operator.or_, members)


def _or_unset(decoded: Any) -> Any:
    return _union_of(decoded, msgspec.UnsetType)


def _bounded(parse: Convert, declared: Any, metas: list[msgspec.Meta]) -> Convert:
    """Hold a number that came as a text to the bounds that one which came as a number has."""
    if not metas:
        return parse
    for meta in metas:
        declared = Annotated[declared, meta]
    return lambda value: msgspec.convert(parse(value), declared)


def _runtime(declared: Any) -> Any:
    """The class that isinstance can ask for, or None where every value will do."""
    while get_origin(declared) is Annotated:
        declared = get_args(declared)[0]
    if _is_union(declared):
        return tuple(_runtime(member) for member in get_args(declared))
    origin = get_origin(declared)
    return origin or declared


def _first_of(options: list[tuple[Any, Convert]]) -> Convert | None:
    if not options:
        return None

    def convert(value: Any) -> Any:
        for kinds, option in options:
            if isinstance(value, kinds):
                return option(value)
        return value

    return convert


def _each(origin: Callable[[Any], Any], convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda items: origin([convert(item) for item in items])


def _values(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda mapping: {key: convert(value) for key, value in mapping.items()}


def _twin(declared: type[msgspec.Struct], members: list[Member]) -> type[msgspec.Struct]:
    """A struct with the dialect's names and kinds; left-out fields stay UNSET, so that the declared default counts."""
    fields: list[Any] = []
    for member in members:
        if member.info.required:
            fields.append((member.name, member.shape.decoded))
        else:
            fields.append((member.name, _or_unset(member.shape.decoded), msgspec.UNSET))
    return msgspec.defstruct(
        declared.__name__,
        fields,
        rename={member.name: member.key for member in members},
        kw_only=True,
        forbid_unknown_fields=declared.__struct_config__.forbid_unknown_fields,
    )


def _arrival(declared: type[msgspec.Struct], members: list[Member]) -> Convert:
    steps = [(member.name, member.shape.arrive) for member in members]

    def arrive(twin: Any) -> Any:
        values = {}
        for name, convert in steps:
            value = getattr(twin, name)
            if value is not msgspec.UNSET:
                values[name] = convert(value) if convert and value is not None else value
        return declared(**values)

    return arrive


def _departure(members: list[Member]) -> Convert:
    steps = [(member.name, member.key, member.shape.leave, member.info.default is None) for member in members]

    def leave(value: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for name, key, convert, left_out in steps:
            item = getattr(value, name)
            if item is None:
                if not left_out:
                    shown[key] = None
            else:
                shown[key] = convert(item) if convert else item
        return shown

    return leave


def _cached(members: list[Member]) -> Convert:
    """Encode an object once; only what depends on the moment of asking is put in anew each time."""
    ageing = [member for member in members if wire_mark(member.info.type).form in {Form.AGE, Form.NOW}]
    lasting = _departure([member for member in members if member not in ageing])
    # Hundreds of answers are put together at a time.
    steps = [(f',"{member.key}":'.encode(), member.name, member.shape.leave) for member in ageing]
    kept: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()
    encode = msgspec.json.Encoder().encode

    def leave(value: Any) -> msgspec.Raw:
        head = kept.get(value)
        if head is None:
            head = kept[value] = encode(lasting(value))[:-1]
        parts = [head]
        for key, name, show in steps:
            parts += (key, encode(show(getattr(value, name)) if show else 0))
        parts.append(b"}")
        return msgspec.Raw(b"".join(parts))

    return leave


def params_struct(
    name: str, forms: Forms, params: tuple[Any, ...]
) -> tuple[type[msgspec.Struct], list[tuple[str, Convert | None]]]:
    """The struct that a verb's named parameters are decoded into, and each parameter's way to its declared type."""
    fields: list[Any] = []
    arrivals: list[tuple[str, Convert | None]] = []
    rename = {}
    for param in params:
        shape = forms.shape(param.type)
        rename[param.name] = param.wire_name if forms.dialect is Dialect.WIRE else param.name
        if param.required:
            fields.append((param.name, shape.decoded))
        else:
            fields.append((param.name, _or_unset(shape.decoded), msgspec.UNSET))
        arrivals.append((param.name, shape.arrive))
    struct = msgspec.defstruct(name, fields, rename=rename, kw_only=True, forbid_unknown_fields=True)
    return struct, arrivals
