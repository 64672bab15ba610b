"""Remembers what setup made on this host, so that ``clean`` takes back exactly that.

One JSON file in the state directory; every single thing is listed before it is made, so that a setup that is broken off
at any moment is taken back as well; what is listed and was not made is passed over then. Kinds: directory, file, group,
user, member ("user group").
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1
Kind = Literal["directory", "file", "group", "user", "member"]


class UnknownManifest(ValueError):
    """The manifest was written by a version that is not understood, or is damaged."""


@dataclass(frozen=True)
class Made:
    """One thing that setup made: its kind and its name (a path, a user, ...)."""

    kind: Kind
    name: str


class Manifest:
    """The list, in the order in which things were made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Made] = _read(path)

    def made(self) -> list[Made]:
        """Everything that is listed, oldest first."""
        return list(self._made)

    @contextmanager
    def making(self, kind: Kind, name: str | Path) -> Iterator[None]:
        """List a thing while it is made; not any more when that fails, as somebody else may make it then."""
        entry = Made(kind, str(name))
        listed = entry in self._made
        self.add(kind, name)
        try:
            yield
        except Exception:
            if not listed:
                self.remove(entry)
            raise

    def add(self, kind: Kind, name: str | Path) -> None:
        """List a thing that is ours; what is listed already stays as it is."""
        entry = Made(kind, str(name))
        if entry not in self._made:
            self._made.append(entry)
            self._write()

    def remove(self, entry: Made) -> None:
        """Take a thing off the list, because it was taken back."""
        self._made.remove(entry)
        if self.path.parent.is_dir():
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": VERSION, "made": [[entry.kind, entry.name] for entry in self._made]}, indent=1)
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o644)
        partial.replace(self.path)


def _read(path: Path) -> list[Made]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["version"] != VERSION:
            raise UnknownManifest(f"{path} is of version {raw['version']}, known is {VERSION}")
        return [Made(kind, name) for kind, name in raw["made"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownManifest(f"{path} cannot be read: {error}") from error
