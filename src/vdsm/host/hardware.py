"""Storage adapters, passthrough and random number sources of the host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FibreChannelPort:
    """One port of a Fibre Channel adapter; world wide names are hex digits without 0x."""

    wwnn: str
    wwpn: str
    model: str


@dataclass(frozen=True, slots=True)
class HbaInventory:
    """What can reach block storage from here."""

    initiator_name: str
    """iSCSI initiator name, "" when the host has none."""
    fibre_channel: tuple[FibreChannelPort, ...]
