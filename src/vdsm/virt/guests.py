"""What guests say of themselves through their agents: asked in the background only, one at a time and rarely.

A guest's agent is the guest's: it may lie, hang or send nonsense. Nothing here trusts more of it than text.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Final

from vdsm.base.clock import monotonic_s
from vdsm.base.errors import Busy, HypervisorFailed, VdsmError
from vdsm.base.threads import Pool
from vdsm.system.libvirt.facts import GuestReply
from vdsm.virt.hypervisor import Hypervisor
from vdsm.virt.lifecycle import RUNNING
from vdsm.virt.machine import Machine
from vdsm.virt.view import GuestAddress, GuestInfo

log = logging.getLogger(__name__)

# A guest must not make the agent's answers grow without bound.
MAX_TEXT: Final = 256
MAX_ITEMS: Final = 64
_NO_ADDRESS: Final = "00:00:00:00:00:00"


class GuestWatch:
    """Asks every connected agent when it connects and then every ``interval_s`` seconds."""

    def __init__(self, hypervisor: Hypervisor, *, interval_s: float = 60.0) -> None:
        self._hypervisor = hypervisor
        self._interval_s = interval_s
        self._pool = Pool("guests", 2, 256)
        self._due_s: dict[str, float] = {}

    def tick(self, machines: Collection[Machine], now_s: float) -> None:
        """Ask those that are due."""
        connected = {machine.vm_id: machine for machine in machines if _can_answer(machine)}
        for vm_id in self._due_s.keys() - connected.keys():
            del self._due_s[vm_id]
        for vm_id, machine in connected.items():
            if self._due_s.get(vm_id, 0.0) <= now_s:
                try:
                    self._pool.submit(self._ask, machine)
                except Busy:
                    return
                self._due_s[vm_id] = now_s + self._interval_s

    def stop(self) -> None:
        """End; an agent that hangs is left behind."""
        self._pool.stop(0.0)

    def _ask(self, machine: Machine) -> None:
        if not _can_answer(machine):
            return
        try:
            reply = self._reply(machine.vm_id)
        except VdsmError as error:
            log.info("VM %s: its guest's agent: %s", machine.vm_id, error)
            return
        machine.tell_guest(parse(reply, monotonic_s()))

    def _reply(self, vm_id: str) -> GuestReply:
        try:
            return self._hypervisor.guest_info(vm_id)
        except HypervisorFailed:
            self._hypervisor.ping_agent(vm_id)  # it may know nothing but that it is there
            return GuestReply()


def _can_answer(machine: Machine) -> bool:
    view = machine.view
    return view.agent_connected and view.responding and view.status in RUNNING


def parse(reply: GuestReply, answered_s: float) -> GuestInfo:
    """Read an agent's answer; what is missing or odd is left empty."""
    values = reply.values
    offset = values.get("timezone.offset")
    return GuestInfo(
        answered_s=answered_s,
        host_name=_text(values, "hostname"),
        os_id=_text(values, "os.id"),
        os_name=_text(values, "os.pretty-name") or _text(values, "os.name"),
        os_version=_text(values, "os.version-id"),
        kernel=_text(values, "os.kernel-release"),
        architecture=_text(values, "os.machine"),
        timezone=_text(values, "timezone.name"),
        timezone_offset_s=offset if isinstance(offset, int) else 0,
        users=tuple(_text(values, f"user.{number}.name") for number in range(_count(values, "user"))),
        interfaces=tuple(_interface(values, f"if.{number}") for number in range(_count(values, "if"))),
    )


def _text(values: Mapping[str, object], key: str) -> str:
    value = values.get(key, "")
    return "".join(filter(str.isprintable, value))[:MAX_TEXT] if isinstance(value, str) else ""


def _count(values: Mapping[str, object], group: str) -> int:
    value = values.get(f"{group}.count", 0)
    return min(value, MAX_ITEMS) if isinstance(value, int) else 0


def _interface(values: Mapping[str, object], prefix: str) -> GuestAddress:
    addresses: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
    for number in range(_count(values, f"{prefix}.addr")):
        kind = _text(values, f"{prefix}.addr.{number}.type")
        if kind in addresses:
            addresses[kind].append(_text(values, f"{prefix}.addr.{number}.addr"))
    return GuestAddress(
        name=_text(values, f"{prefix}.name"),
        mac=_text(values, f"{prefix}.hwaddr") or _NO_ADDRESS,
        ipv4=tuple(addresses["ipv4"]),
        ipv6=tuple(addresses["ipv6"]),
    )
