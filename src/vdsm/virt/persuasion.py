"""Asking a guest to end (or to start again), one way after the other: its agent, then the power button."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from vdsm.base.errors import VdsmError
from vdsm.base.ids import VmId
from vdsm.system.libvirt.domains import Order, Way
from vdsm.virt.alarms import Alarms
from vdsm.virt.hypervisor import Hypervisor
from vdsm.virt.requests import Shutdown

log = logging.getLogger(__name__)

ALARM = "ladder"


class Persuasion:
    """The ways that are left to ask one guest; runs in its VM's strand. ``given_up`` is called when none worked."""

    def __init__(self, hypervisor: Hypervisor, vm_id: VmId, ask: Shutdown, given_up: Callable[[], None]) -> None:
        self._hypervisor = hypervisor
        self._vm_id = vm_id
        self._order: Order = "reboot" if ask.reboot else "shutdown"
        self._given_up = given_up
        self._ways: deque[Way] = deque()

    def begin(self, alarms: Alarms, step_s: float, *, agent: bool) -> None:
        """Ask in the first way that is accepted; the next follow ``step_s`` seconds apart, on ``alarms``.

        Raises:
            VdsmError: no way was accepted; the last one's error.
        """
        self._ways.extend(("agent", "acpi") if agent else ("acpi",))
        self._try_next()
        alarms.set(ALARM, step_s, lambda: self._go_on(alarms, step_s))

    def _try_next(self) -> None:
        while True:
            way = self._ways.popleft()
            try:
                self._hypervisor.order(self._vm_id, self._order, way)
            except VdsmError as error:
                if not self._ways:
                    raise
                log.info("VM %s: %s by %s: %s", self._vm_id, self._order, way, error)
            else:
                return

    def _go_on(self, alarms: Alarms, step_s: float) -> None:
        if self._ways:
            try:
                self._try_next()
            except VdsmError as error:
                log.info("VM %s: no way left to ask it: %s", self._vm_id, error)
            else:
                alarms.set(ALARM, step_s, lambda: self._go_on(alarms, step_s))
                return
        self._given_up()
