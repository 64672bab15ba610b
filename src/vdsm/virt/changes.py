"""Changes of a running VM's devices: a request and the live XML become XML for libvirt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from vdsm.base.errors import WrongState
from vdsm.virt import domxml
from vdsm.virt.disks import Location
from vdsm.virt.requests import ChangeMedium, SetTicket

_AGENT: Final = re.compile(r"<target\b[^>]*name='org\.qemu\.guest_agent\.0'[^>]*state='connected'")


def tickets(xml: str, facts: domxml.DomainFacts, ask: SetTicket, valid_to: datetime) -> Iterable[str]:
    """The displays with a password that is valid until ``valid_to``.

    Raises:
        WrongState: the VM has no display.
    """
    kinds = [display.kind for display in facts.graphics if display.kind in {"vnc", "spice"}]
    if not kinds:
        raise WrongState(ask.request.value, "it has no display")
    # QEMU's VNC server keeps who is connected, and refuses to be told so in other words.
    return [
        domxml.ticket(xml, kind, ask.password.reveal(), valid_to, "keep" if kind == "vnc" else ask.connected)
        for kind in kinds
    ]


def medium(xml: str, ask: ChangeMedium) -> Iterable[str]:
    """The drive with its new medium, or with none.

    Raises:
        NotFound: the VM has no such drive.
        BadParameter: the drive is not removable; names ``target``.
    """
    location = Location(ask.path, ask.block) if ask.path else None
    return [domxml.medium(xml, ask.target, location)]


def agent_connected(xml: str) -> bool:
    """Whether a live domain XML says that the guest's agent has its channel open."""
    return _AGENT.search(xml) is not None
