"""The tree of the agent's errors: each has named facts, and its message is made from them.

    VdsmError
    +-- Rejected            nothing was changed
    |   +-- BadParameter    a request's field is wrong: names the field
    |   +-- NotFound        the thing is not known here      (NoSuchVm, NoSuchDefinition, NoSuchVerb, ...)
    |   +-- AlreadyExists   a thing of that name or id exists
    |   +-- WrongState      legal, but not in the present state
    |   +-- Denied          the caller's role does not allow it
    |   +-- Busy            a bounded pool or inbox is full: try again
    |   +-- Recovering      the agent is starting: try again
    +-- Failed              the tool underneath refused; the thing is as it was
    |   +-- HypervisorFailed, CommandFailed, Unreachable, NotResponding
    +-- Unfinished          no outcome within the deadline: it may still happen

Each class carries its stable ``name``, the numeric ``code`` that an oVirt Engine branches on (0..32767, from the
original's published error table) and an HTTP ``status``. Nobody converts an error between the place that raises
it and the binding that encodes it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(eq=False)
class VdsmError(Exception):
    """Base of all errors of the agent; subclasses add facts as dataclass fields."""

    name: ClassVar[str] = "general"
    code: ClassVar[int] = 100
    status: ClassVar[int] = 500
    message: ClassVar[str] = "the request failed"

    def __str__(self) -> str:
        return self.message.format(**self.facts())

    def facts(self) -> dict[str, Any]:
        """The error's named facts, for logs and for the ``data`` of an answer."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def __reduce__(self) -> tuple[type[VdsmError], tuple[Any, ...]]:
        return (type(self), tuple(self.facts().values()))


@dataclass(eq=False)
class Rejected(VdsmError):
    """The request was refused before anything was changed."""

    name = "rejected"
    code = 100
    status = 400


@dataclass(eq=False)
class BadParameter(Rejected):
    """A field of the request is missing, unknown, of the wrong type or out of range."""

    name = "bad_parameter"
    code = 91
    status = 422
    message = "{field}: {reason}"
    field: str
    reason: str


@dataclass(eq=False)
class NotFound(Rejected):
    """The thing asked for is not known to this host."""

    name = "not_found"
    code = 100
    status = 404
    message = "{kind} {ident} does not exist"
    kind: str
    ident: str


@dataclass(eq=False)
class NoSuchVm(Rejected):
    """This host does not have the VM."""

    name = "no_such_vm"
    code = 1
    status = 404
    message = "VM {vm_id} does not exist"
    vm_id: str


@dataclass(eq=False)
class VmExists(Rejected):
    """A VM of this id (or name) is there already."""

    name = "vm_exists"
    code = 4
    status = 409
    message = "VM {vm_id} already exists"
    vm_id: str


@dataclass(eq=False)
class AlreadyExists(Rejected):
    """A thing of this name is there already."""

    name = "already_exists"
    code = 4
    status = 409
    message = "{kind} {ident} already exists"
    kind: str
    ident: str


@dataclass(eq=False)
class WrongState(Rejected):
    """The request is known, but not legal in the present state."""

    name = "wrong_state"
    code = 100
    status = 409
    message = "cannot {request} while {state}"
    request: str
    state: str


@dataclass(eq=False)
class Denied(Rejected):
    """The caller is not allowed to do this."""

    name = "denied"
    code = 100
    status = 403
    message = "{what} needs the role {role}"
    what: str
    role: str


@dataclass(eq=False)
class Unauthenticated(Rejected):
    """The caller did not prove who it is."""

    name = "unauthenticated"
    code = 100
    status = 401
    message = "{reason}"
    reason: str


@dataclass(eq=False)
class Busy(Rejected):
    """A bounded pool or inbox is full; nothing was started."""

    name = "busy"
    code = 1100
    status = 503
    message = "too many {what} requests are waiting, try again"
    what: str


@dataclass(eq=False)
class Recovering(Rejected):
    """The agent is starting and does not know its VMs yet."""

    name = "recovering"
    code = 99
    status = 503
    message = "Recovering from crash or Initializing"


@dataclass(eq=False)
class NoSuchVerb(Rejected):
    """No verb of this name."""

    name = "no_such_verb"
    code = -32601
    status = 404
    message = "there is no verb {verb}"
    verb: str


@dataclass(eq=False)
class Failed(VdsmError):
    """Something beneath refused; the thing asked about is as it was."""

    name = "failed"
    code = 16
    status = 500
    message = "{what} failed: {reason}"
    what: str
    reason: str


@dataclass(eq=False)
class HypervisorFailed(Failed):
    """libvirt or QEMU refused. ``number`` is libvirt's error code, 0 when it has none."""

    name = "hypervisor_failed"
    code = 16
    number: int = 0


@dataclass(eq=False)
class CommandFailed(VdsmError):
    """A program ended with a status that was not expected."""

    name = "command_failed"
    code = 16
    message = "{argv} ended with {status_code}: {stderr}"
    argv: str
    status_code: int
    stdout: str
    stderr: str


@dataclass(eq=False)
class Unreachable(Failed):
    """A service underneath cannot be reached at the moment; it is being tried again."""

    name = "unreachable"
    status = 503
    message = "{what} cannot be reached: {reason}"


@dataclass(eq=False)
class NotResponding(VdsmError):
    """The thing underneath has not answered for a while, so the request was not sent to it."""

    name = "not_responding"
    code = 16
    status = 503
    message = "{what} does not respond (for {seconds:.0f} s)"
    what: str
    seconds: float


@dataclass(eq=False)
class Unfinished(VdsmError):
    """No outcome within the deadline; what was asked may still happen."""

    name = "unfinished"
    code = 16
    status = 504
    message = "{what} has not finished within {seconds:.1f} s; it may still happen"
    what: str
    seconds: float
