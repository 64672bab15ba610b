"""The VMs of a host as people name them: those that run or ended, and those that are only defined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vdscli.client import quoted
from vdscli.failures import FAILED, NOT_FOUND, WRONG_STATE, CliError

if TYPE_CHECKING:
    from vdscli.client import Client

SHORT_ID: Final = 8
_MIN_PREFIX: Final = 4
_ID_CHARACTERS: Final = frozenset("0123456789abcdef-")


class Vm(NamedTuple):
    """One VM. ``live``: the agent has it, running or Down; else only its definition is there."""

    name: str
    vm_id: str
    status: str
    live: bool
    defined: bool

    @property
    def path(self) -> str:
        """Its REST path."""
        return f"/vms/{quoted(self.vm_id)}"

    @property
    def definition_path(self) -> str:
        """The REST path of its definition."""
        return f"/definitions/{quoted(self.name)}"

    @property
    def is_down(self) -> bool:
        """Whether it does not run."""
        return self.status == "Down"


def inventory(client: Client) -> list[Vm]:
    """All VMs, by name."""
    live = {item["vm_id"]: item for item in client.get("/vms")}
    defined = {item["vm_id"]: item for item in client.get("/definitions")}
    found = []
    for vm_id in live | defined:
        name = live[vm_id]["vm_name"] if vm_id in live else defined[vm_id]["name"]
        status = live[vm_id]["status"] if vm_id in live else "Down"
        found.append(Vm(name, vm_id, status, vm_id in live, vm_id in defined))
    return sorted(found, key=lambda vm: (vm.name, vm.vm_id))


def find(client: Client, text: str) -> Vm:
    """The VM that is meant.

    Raises:
        CliError: none, or more than one.
    """
    return choose(inventory(client), text)


def choose(vms: list[Vm], text: str) -> Vm:
    """The VM of this name, this id, or the one whose id begins so.

    Raises:
        CliError: none, or more than one.
    """
    wanted = text.lower()
    for matches in (
        [vm for vm in vms if vm.vm_id == wanted],
        [vm for vm in vms if vm.name == text],
        [vm for vm in vms if _is_prefix(wanted) and vm.vm_id.startswith(wanted)],
    ):
        if len(matches) == 1:
            return matches[0]
        # A name can be there twice: what is left of an ended VM, and one that came after it.
        running = [vm for vm in matches if not vm.is_down]
        if len(running) == 1:
            return running[0]
        if matches:
            raise CliError(f"{text} is ambiguous: {', '.join(vm.vm_id for vm in matches)}", FAILED)
    raise CliError(f"there is no VM {text!r}", NOT_FOUND)


def live(client: Client, text: str, request: str) -> Vm:
    """The VM that is meant, when the agent has it.

    Raises:
        CliError: none, more than one, or it is defined only: then ``request`` is not possible.
    """
    vm = find(client, text)
    if not vm.live:
        raise CliError(f"{vm.name}: cannot {request} while Down", WRONG_STATE)
    return vm


def stats_of(client: Client, vm: Vm) -> dict[str, Any]:
    """What is known of a VM; of one that is only defined, that it is Down."""
    if vm.live:
        answer: dict[str, Any] = client.get(f"{vm.path}/stats")
        return answer
    return {"vm_id": vm.vm_id, "vm_name": vm.name, "status": "Down"}


def _is_prefix(text: str) -> bool:
    return len(text) >= _MIN_PREFIX and _ID_CHARACTERS.issuperset(text)
