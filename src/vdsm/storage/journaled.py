"""Plans as texts, for the journal of an operation: what is to be done is decided once and then only carried out.

    [{"step": "Change", "with": {"volume": {"domain_id": ..., ...}, "kind": "INTERNAL", ...}}, ...]

The steps' names and fields are on disks while operations run: one that is renamed keeps being read under its old name.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from vdsm.storage.errors import Damaged
from vdsm.storage.steps import (
    Change,
    Commit,
    Delete,
    GrowData,
    MakeData,
    Plan,
    Publish,
    PurgeImage,
    Rebase,
    RemoveImage,
    Resize,
    ShareTemplate,
    Step,
    UnshareTemplate,
)

_KINDS: Final[dict[str, type[Step]]] = {
    kind.__name__: kind
    for kind in (
        *(ShareTemplate, UnshareTemplate, MakeData, Publish, Change, GrowData, Resize),
        *(Commit, Rebase, Delete, RemoveImage, PurgeImage),
    )
}


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a plan, as plain values."""

    step: str
    facts: dict[str, Any] = msgspec.field(name="with")


def write_plan(plan: Plan) -> list[Entry]:
    """A plan as plain values, for an operation's arguments."""
    return [Entry(type(step).__name__, msgspec.to_builtins(step)) for step in plan]


def read_plan(entries: list[Entry]) -> Plan:
    """The plan of an operation's arguments.

    Raises:
        Damaged: there is a step that is not known, or one with other facts.
    """
    found: list[Step] = []
    for entry in entries:
        try:
            found.append(msgspec.convert(entry.facts, _KINDS[entry.step]))
        except (KeyError, msgspec.ValidationError) as error:
            raise Damaged("the journal of an operation", f"its step {entry.step!r:.80} cannot be read") from error
    return tuple(found)
