"""What operations are made of: kinds, and their steps.

A kind says what an operation of its name does: from typed arguments it makes a list of steps, the same list each time,
and the resources to be locked. On disk there are only the kind's name and version, the arguments and the steps' names;
the registry that is given to ``Operations`` leads from there back to code. When the steps or arguments of a kind
change, it gets a new version, and the old one stays registered until no host can have a record of it.

What has to be done often depends on what is there. Such a kind has a ``decide``: it looks once the locks are held, and
what it finds becomes part of the arguments in the journal, so that the plan still is a function of them alone.

A step is two functions, ``do`` and ``undo``, both idempotent:

- ``do`` may find its work done, half done or not begun, and leaves it done, durably.
- ``undo`` may find it done, half done or not begun, and leaves it not begun; the steps after it are undone by then.

What ``undo`` needs and cannot see afterwards, ``do`` puts into the journal first, with ``Run.remember``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from vdsm.base.errors import Failed
from vdsm.operations.locks import Wants
from vdsm.operations.records import Note, Record

A = TypeVar("A", bound=Struct)


class Run(Protocol):
    """What a step gets: its operation's memory, progress and stop signs."""

    @property
    def id(self) -> str:
        """The operation's id."""

    @property
    def notes(self) -> dict[str, Note]:
        """What was remembered, also by earlier steps and before a restart."""

    def remember(self, **notes: Note) -> None:
        """Put facts into the journal, durably, before what they are needed for is done."""

    def progress(self, fraction: float) -> None:
        """Say how much of this step is done, 0 to 1."""

    def check(self) -> None:
        """Be stopped here if that was asked for; long steps call it often.

        Raises:
            run.Cancelled: the operation is to be undone; not during undo.
            run.Halted: the operation is to be left as it is. No ``Exception``, so that nobody catches it by chance.
        """

    def on_stop(self, function: Callable[[], object]) -> AbstractContextManager[None]:
        """A context: if the operation is to stop while the block runs, ``function`` is called, in another thread.

        For what cannot look by itself, such as a child process. The block then fails somehow, or calls ``check``.
        """

    def point(self, name: str) -> None:
        """A place in the middle of a step where tests may kill the process; otherwise it does nothing."""


class Policy(StrEnum):
    """What becomes of an operation that does not run through."""

    # Failed, cancelled, or the agent ended: undone.
    UNDO = "undo"
    # The agent ended: goes on at the next start. Failed or cancelled: undone. For long work worth keeping.
    RESUME = "resume"
    # Goes on at the next start, also after a failure; cannot be cancelled and has nothing to undo (deletions).
    FINISH = "finish"


def nothing(run: Run) -> None:
    """The ``undo`` of a step that changes nothing that lasts."""


@dataclass(frozen=True, slots=True)
class Step:
    """One idempotent step.

    Attributes:
        name: what it does, for people and for the journal: "make the image's directory".
        do: see the module.
        undo: see the module.
        weight: its share of the progress, beside the other steps'.
        recorded: its end is put into the journal. Without that, which saves a write to the disk, it may be done again
            or undone although it has been done, or has not, together with its neighbours.
        pivot: once its end is in the journal there is no way back: the operation is finished, as ``Policy.FINISH``.
    """

    name: str
    do: Callable[[Run], None]
    undo: Callable[[Run], None] = nothing
    weight: float = 1.0
    recorded: bool = True
    pivot: bool = False


def no_locks(_: Any) -> Wants:
    """The ``wants`` of a kind that locks nothing."""
    return ()


@dataclass(frozen=True, slots=True)
class Kind(Generic[A]):
    """What an operation of this name and version does.

    Attributes:
        name: on disk; never used for anything else later.
        version: of the arguments' and steps' meaning, on disk.
        arguments: the type of the arguments; secrets have no place in it, as it goes to the disk.
        plan: the steps; a pure function of the arguments.
        wants: what is locked from before the first step until the operation is settled.
        decide: called once what it wants is locked: looks at the present state, changes nothing, refuses what cannot be
            done by raising a VdsmError, and returns the arguments with what it found or decided filled in. ``plan`` and
            the journal then get those. None when the arguments say everything.
        policy: what becomes of it when it does not run through.
        lock_timeout_s: seconds to wait for the locks.
    """

    name: str
    version: int
    arguments: type[A]
    plan: Callable[[A], Sequence[Step]]
    wants: Callable[[A], Wants] = no_locks
    decide: Callable[[A], A] | None = None
    policy: Policy = Policy.UNDO
    lock_timeout_s: float = 120.0


@dataclass(eq=False)
class Unsettled(Failed):
    """An operation of the journal cannot be settled by this agent; it is left as it is."""

    name = "unsettled"
    message = "{what} cannot be settled: {reason}"


class Kinds:
    """The registry: every kind that the journal may name."""

    def __init__(self, kinds: Iterable[Kind[Any]]) -> None:
        self._kinds: dict[tuple[str, int], Kind[Any]] = {}
        for kind in kinds:
            if (kind.name, kind.version) in self._kinds:
                msg = f"two kinds of operation are named {kind.name} version {kind.version}"
                raise ValueError(msg)
            self._kinds[kind.name, kind.version] = kind

    def __contains__(self, kind: Kind[Any]) -> bool:
        return self._kinds.get((kind.name, kind.version)) is kind

    def of(self, record: Record) -> Kind[Any]:
        """The kind of a journaled operation.

        Raises:
            Unsettled: this agent does not know it.
        """
        kind = self._kinds.get((record.kind, record.version))
        if kind is None:
            raise Unsettled(
                f"operation {record.id}", f"this agent does not know {record.kind} version {record.version}"
            )
        return kind
