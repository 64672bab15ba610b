"""Identity, storage adapters, passthrough and random number sources of the host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vdsm.base.errors import VdsmError
from vdsm.privileged.calls import Hardware
from vdsm.system import sysfs

log = logging.getLogger(__name__)

HWRNG: Final = Path("/dev/hwrng")


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


def fibre_channel_ports() -> tuple[FibreChannelPort, ...]:
    """The Fibre Channel ports of this machine."""
    return tuple(
        FibreChannelPort(wwnn=item.node_name, wwpn=item.port_name, model=item.model)
        for item in sysfs.fibre_channel_hosts()
    )


def has_iommu() -> bool:
    """Whether an IOMMU is on, without which no device can be passed to a guest."""
    return bool(sysfs.entries("class/iommu") or sysfs.entries("kernel/iommu_groups"))


def rng_sources() -> tuple[str, ...]:
    """Sources for guests' random numbers: "random" is every kernel's, "hwrng" needs a generator and its device."""
    current = sysfs.read_text("class/misc/hw_random/rng_current")
    works = current not in {None, "", "none"} and HWRNG.exists()
    return ("hwrng", "random") if works else ("random",)


class HbaSource:
    """The storage adapters; the initiator's name comes from the privileged helper, as its file is root's."""

    def __init__(self, initiator_name: Callable[[], str]) -> None:
        self._ask = initiator_name
        self._name = ""
        self._failed = False

    def gather(self) -> HbaInventory:
        """The present adapters; the last known name when the helper does not answer."""
        try:
            self._name = self._ask()
        except VdsmError as error:
            if not self._failed:
                log.warning("the iSCSI initiator's name is not known: %s", error)
            self._failed = True
        else:
            self._failed = False
        return HbaInventory(initiator_name=self._name, fibre_channel=fibre_channel_ports())


class HardwareSource:
    """The machine's identity, asked once: firmware does not change under a running agent."""

    def __init__(self, ask: Callable[[], Hardware]) -> None:
        """``ask`` is the privileged helper's call, as serial number and UUID are root's to read."""
        self._ask = ask
        self._known: Hardware | None = None

    def current(self) -> Hardware:
        """The machine's identity, from memory after the first answer.

        Raises:
            VdsmError: the helper has not answered yet and does not now.
        """
        if self._known is None:
            self._known = self._ask()
        return self._known
