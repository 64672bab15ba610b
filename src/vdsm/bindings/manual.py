"""The manual of the contract, out of its docstrings: what each verb, parameter, field and error means.

Used when documents are generated, not by the daemon: it reads the sources.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec

from vdsm.api.catalogue import PROTOCOLS
from vdsm.api.contract import Param, Verb, verbs_of
from vdsm.base import errors
from vdsm.base.errors import VdsmError
from vdsm.storage import errors as storage_errors
from vdsm.storage.domains import domain_errors
from vdsm.storage.images import image_errors
from vdsm.storage.pool import pool_errors
from vdsm.transfers import errors as transfer_errors

_ERRORS: Final = (errors, storage_errors, domain_errors, image_errors, pool_errors, transfer_errors)
_SECTION: Final = re.compile(r"^(Args|Raises|Returns):$", re.MULTILINE)
_ENTRY: Final = re.compile(r"^(\w+): (.*)$")
# Every verb can fail so, so no docstring says it.
_ALWAYS: Final = ("BadParameter", "Denied", "Recovering", "Unauthenticated")


@dataclass(frozen=True, slots=True)
class VerbManual:
    """One verb's docstring, in its parts. ``raises`` maps the names of error classes to when they happen."""

    summary: str
    body: str
    args: dict[str, str]
    raises: dict[str, str]

    @property
    def text(self) -> str:
        """Summary and body."""
        return f"{self.summary}\n\n{self.body}".strip()


def manual_of(verb: Verb) -> VerbManual:
    """Take a verb's docstring apart."""
    parts = _SECTION.split(verb.doc)
    prose = parts[0].strip()
    summary, _, body = prose.partition("\n")
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    args = _entries(sections.get("Args", ""))
    for param in verb.params:
        if param.name not in args and (said := _described(param.type)):
            args[param.name] = said
    return VerbManual(summary.strip(), body.strip(), args, _entries(sections.get("Raises", "")))


def namespaces() -> dict[str, type]:
    """The first Protocol class of each namespace."""
    found: dict[str, type] = {}
    for protocol in PROTOCOLS:
        found.setdefault(verbs_of(protocol)[0].namespace, protocol)
    return found


def error_class(name: str) -> type[VdsmError]:
    """The error class that a docstring names.

    Raises:
        KeyError: there is none.
    """
    for module in _ERRORS:
        found = vars(module).get(name)
        if isinstance(found, type) and issubclass(found, VdsmError):
            return found
    raise KeyError(name)


def all_errors() -> list[type[VdsmError]]:
    """The agent's errors that a caller can see, by their names."""
    found = [kind for module in _ERRORS for kind in vars(module).values() if isinstance(kind, type)]
    # Those without a name of their own are bases of others.
    named = {kind for kind in found if issubclass(kind, VdsmError) and "name" in vars(kind)}
    kinds = named - {VdsmError, errors.Rejected}
    return sorted(kinds, key=lambda kind: kind.name)


def failures(verb: Verb) -> dict[type[VdsmError], str]:
    """The errors of one verb and when they happen, those that its pool and role bring included."""
    found = {error_class(name): when for name, when in manual_of(verb).raises.items()}
    for name in _ALWAYS:
        found.setdefault(error_class(name), first_line(error_class(name)))
    if verb.pool != "inline":
        found.setdefault(errors.Busy, first_line(errors.Busy))
    if verb.while_starting:
        del found[errors.Recovering]
    return found


def first_line(documented: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


@cache
def field_docs(struct: type) -> dict[str, str]:
    """What the texts beneath a struct's fields say, inherited ones included."""
    docs: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if issubclass(cls, msgspec.Struct) and cls.__module__.startswith("vdsm."):
            docs |= _own_field_docs(cls)
    return docs


def _own_field_docs(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(statements)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def structs_of(*declared: Any) -> dict[str, type[msgspec.Struct]]:
    """All structs within these types, by name."""
    found: dict[str, type[msgspec.Struct]] = {}
    todo = list(declared)
    while todo:
        item = todo.pop()
        if isinstance(item, type) and issubclass(item, msgspec.Struct):
            if item.__name__ not in found:
                found[item.__name__] = item
                todo += [member.type for member in msgspec.structs.fields(item)]
        else:
            todo += get_args(item)
    return found


def _described(declared: Any) -> str:
    """What the annotations of a parameter say of it."""
    if get_origin(declared) is not Annotated:
        return ""
    texts = [meta.description for meta in get_args(declared)[1:] if isinstance(meta, msgspec.Meta)]
    return next((text for text in texts if text), "")


def undocumented(verb: Verb) -> list[Param]:
    """The parameters of which nothing is said."""
    said = manual_of(verb).args
    return [param for param in verb.params if param.name not in said]


def _entries(section: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section).strip("\n").splitlines():
        match = _ENTRY.match(line)
        if match and not line.startswith(" "):
            name = match[1]
            entries[name] = match[2]
        elif name and line.strip():
            entries[name] += " " + line.strip()
    return entries
