"""How an oVirt Engine reads a host's JSON: which kinds each of its helpers takes, loses or dies of.

`Reader` is stricter than the Engine in one way: a value that is there and that the Engine would silently lose is an
error as well (`Lost`), because nobody sends a value in order to have it lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from .engine_wire import ClassCast

_INT32: Final = range(-(1 << 31), 1 << 31)


class Missing(Exception):
    """A field without which the host does not come Up, or a feature is lost."""


class Lost(Exception):
    """A field of a kind that the Engine takes for null."""


def is_int32(value: object) -> bool:
    """Whether the Engine's JSON library makes an Integer of it."""
    return type(value) is int and value in _INT32


def integer(value: object) -> int | None:
    """An int32, or a text that is cut at its first dot."""
    if value is None:
        return None
    if isinstance(value, str):
        return _number(value.partition(".")[0])
    if not is_int32(value):
        raise ClassCast(f"Integer {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def long(value: object) -> int | None:
    """An int or a text; other kinds are lost."""
    if isinstance(value, str):
        return _number(value)
    return int(value) if is_int32(value) else None  # type: ignore[call-overload]


def big(value: object) -> int | None:
    """An int of any size or a text; other kinds are lost."""
    if isinstance(value, str):
        return _number(value)
    return value if type(value) is int else None


def double(value: object) -> float | None:
    """A float or a text; an int is lost."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError as error:
            raise ClassCast(f"Double {value!r}") from error
    return value if isinstance(value, float) else None


def text(value: object) -> str | None:
    """A text; other kinds are lost."""
    return value if isinstance(value, str) else None


def boolean(value: object) -> bool:
    """A bool or a text; anything else is false."""
    if isinstance(value, str):
        return value.lower() == "true"
    return value is True


def _number(value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


class Reader:
    """An object of an answer. Each method reads one field as the Engine does.

    ``needed`` ones must be there.
    """

    def __init__(self, found: object, where: str) -> None:
        if not isinstance(found, dict):
            raise ClassCast(f"{where} must be an object, is {found!r:.80}")
        self._found: Mapping[str, Any] = found
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._found.get(key) is not None

    def int(self, key: str, *, needed: bool = False) -> int | None:
        """An int."""
        return self._kept(key, integer(self._get(key, needed)))

    def long(self, key: str, *, needed: bool = False) -> int | None:
        """A long."""
        return self._kept(key, long(self._get(key, needed)))

    def big(self, key: str, *, needed: bool = False) -> int | None:
        """A BigInteger."""
        return self._kept(key, big(self._get(key, needed)))

    def double(self, key: str, *, needed: bool = False) -> float | None:
        """A double."""
        return self._kept(key, double(self._get(key, needed)))

    def text(self, key: str, *, needed: bool = False) -> str | None:
        """A text."""
        return self._kept(key, text(self._get(key, needed)))

    def bool(self, key: str, *, needed: bool = False) -> bool:
        """A bool."""
        value = self._get(key, needed)
        if value is not None and not isinstance(value, bool) and str(value).lower() not in {"true", "false"}:
            raise Lost(f"{self.where}.{key}: {value!r}")
        return boolean(value)

    def list(self, key: str, kind: type = str, *, needed: bool = False) -> list[Any]:
        """An array, all of one kind."""
        value = self._get(key, needed)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ClassCast(f"{self.where}.{key} must be an array, is {value!r:.80}")
        for item in value:
            if type(item) is not kind:
                raise ClassCast(f"{self.where}.{key} holds {item!r:.80}")
        return value

    def object(self, key: str, *, needed: bool = False) -> Reader | None:
        """An object."""
        value = self._get(key, needed)
        return None if value is None else Reader(value, f"{self.where}.{key}")

    def each(self, key: str, *, needed: bool = False) -> Iterator[tuple[str, Reader]]:
        """The objects of an object."""
        value = self._get(key, needed)
        if value is not None and not isinstance(value, dict):
            raise ClassCast(f"{self.where}.{key} must be an object, is {value!r:.80}")
        for name, item in (value or {}).items():
            yield name, Reader(item, f"{self.where}.{key}[{name}]")

    def items(self, key: str) -> Iterator[Reader]:
        """The objects of an array."""
        for number, item in enumerate(self.list(key, dict)):
            yield Reader(item, f"{self.where}.{key}[{number}]")

    def names(self) -> list[str]:
        """The names of all fields."""
        return [*self._found]

    def texts(self, *keys: str) -> None:
        """Texts that may be left out."""
        for key in keys:
            self.text(key)

    def ints(self, *keys: str) -> None:
        """Ints that may be left out."""
        for key in keys:
            self.int(key)

    def doubles(self, *keys: str) -> None:
        """Doubles that may be left out."""
        for key in keys:
            self.double(key)

    def longs(self, *keys: str) -> None:
        """Longs that may be left out."""
        for key in keys:
            self.long(key)

    def bools(self, *keys: str) -> None:
        """Bools that may be left out."""
        for key in keys:
            self.bool(key)

    def raw(self, key: str) -> Any:
        """A field as it is."""
        return self._get(key, needed=True)

    def _get(self, key: str, needed: bool) -> Any:
        value = self._found.get(key)
        if value is None and needed:
            raise Missing(f"{self.where}.{key}")
        return value

    def _kept(self, key: str, value: Any) -> Any:
        if value is None and self._found.get(key) is not None:
            raise Lost(f"{self.where}.{key}: {self._found[key]!r:.80}")
        return value
