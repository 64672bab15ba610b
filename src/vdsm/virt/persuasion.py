"""Asking a guest to end (or to start again), one way after the other: its agent, then the power button."""

from __future__ import annotations

import logging
from collections import deque

from vdsm.base.errors import VdsmError
from vdsm.base.ids import VmId
from vdsm.system.libvirt.domains import Order, Way
from vdsm.virt.hypervisor import Hypervisor
from vdsm.virt.requests import Shutdown

log = logging.getLogger(__name__)


class Persuasion:
    """The ways that are left to ask one guest."""

    def __init__(self, hypervisor: Hypervisor, vm_id: VmId, ask: Shutdown, *, agent: bool) -> None:
        """Prepare to ask; ``agent``: the guest's agent is connected."""
        self._hypervisor = hypervisor
        self._vm_id = vm_id
        self._ways: deque[Way] = deque(["agent", "acpi"] if agent else ["acpi"])
        self.ask = ask

    def go_on(self) -> bool:
        """Try the next way that is accepted; False: there is none left.

        Raises:
            VdsmError: the last way was refused, too.
        """
        order: Order = "reboot" if self.ask.reboot else "shutdown"
        while self._ways:
            way = self._ways.popleft()
            try:
                self._hypervisor.order(self._vm_id, order, way)
            except VdsmError as error:
                if not self._ways:
                    raise
                log.info("VM %s: %s by %s: %s", self._vm_id, order, way, error)
            else:
                return True
        return False
