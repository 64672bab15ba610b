"""All verbs of the agent, by their names."""

from __future__ import annotations

from vdsm.api.contract import Verb, verbs_of
from vdsm.api.host import Host
from vdsm.api.token import Tokens
from vdsm.api.transfer import ImageTickets, Nbd
from vdsm.api.vm import Definitions, Vm

PROTOCOLS: tuple[type, ...] = (Host, Vm, Definitions, ImageTickets, Nbd, Tokens)


def all_verbs() -> dict[str, Verb]:
    """Every verb by its name, ``VM.create``; in the order of their declaration."""
    return {verb.name: verb for protocol in PROTOCOLS for verb in verbs_of(protocol)}
