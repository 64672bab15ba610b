"""The machine's identity, asked of the root helper once and kept."""

from __future__ import annotations

from vdsm.api.host_types import HardwareInfo
from vdsm.privileged.calls import Hardware, Privileged


class HardwareSource:
    """What the firmware says; it does not change while the agent runs."""

    def __init__(self, privileged: Privileged) -> None:
        self._privileged = privileged
        self._kept: HardwareInfo | None = None

    def current(self) -> HardwareInfo:
        """The hardware.

        Raises:
            Unreachable: it was never asked, and the root helper does not run.
        """
        if self._kept is None:
            self._kept = _shown(self._privileged.hardware())
        return self._kept


def _shown(hardware: Hardware) -> HardwareInfo:
    return HardwareInfo(
        system_manufacturer=hardware.manufacturer,
        system_product_name=hardware.product,
        system_version=hardware.version,
        system_serial_number=hardware.serial,
        system_uuid=hardware.uuid,
        system_family=hardware.family,
    )
