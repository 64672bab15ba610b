"""The verbs of VMs that a stand-alone host remembers."""

from __future__ import annotations

import logging

from vdsm.api import vm_types as api
from vdsm.base.errors import VdsmError
from vdsm.base.ids import new_vm_id, parse_vm_id
from vdsm.services import vm_answers
from vdsm.services.launching import Launcher
from vdsm.services.vm_specs import description_of, spec_of
from vdsm.virt.definitions import Definition, Definitions
from vdsm.virt.fleet import Fleet
from vdsm.virt.lifecycle import Status

log = logging.getLogger(__name__)


class DefinitionService:
    """Implements ``api.vm.Definitions``."""

    def __init__(self, store: Definitions, fleet: Fleet, launcher: Launcher) -> None:
        self._store = store
        self._fleet = fleet
        self._launcher = launcher

    def list(self) -> list[api.Definition]:
        """All definitions."""
        return [self._shown(definition) for definition in self._store.list()]

    def get(self, name: str) -> api.Definition:
        """One definition."""
        return self._shown(self._store.get(name))

    def create(self, definition: api.DefinitionRequest) -> api.Definition:
        """Remember a VM, if it could be started."""
        vm_id = new_vm_id() if definition.vm_id is None else parse_vm_id(definition.vm_id, "vm_id")
        spec = spec_of(definition, definition.name, vm_id)
        self._launcher.check_spec(spec)
        stored = Definition(name=spec.name, vm_id=vm_id, spec=spec, autostart=definition.autostart)
        self._store.add(stored)
        return self._shown(stored)

    def set_autostart(self, name: str, enabled: bool) -> api.Definition:  # noqa: FBT001 - the contract's
        """Start it with the agent, or not."""
        return self._shown(self._store.set_autostart(name, enabled=enabled))

    def start(self, name: str) -> api.VmStats:
        """Start it; what is left of an earlier run is forgotten."""
        definition = self._store.get(name)
        left = self._fleet.find(definition.vm_id)
        if left is not None and left.status is Status.DOWN:
            self._fleet.destroy(definition.vm_id)
        return vm_answers.stats(self._launcher.from_spec(definition.spec))

    def delete(self, name: str) -> None:
        """Forget it."""
        self._store.delete(name)

    def autostart(self) -> None:
        """Start those that are to start with the agent and do not run; a failure is logged and stops no other."""
        try:
            definitions = self._store.list()
        except VdsmError as error:
            log.error("no VM starts with the agent: %s", error)  # noqa: TRY400 - the message says all
            return
        for definition in definitions:
            if not definition.autostart or self._status(definition) is not Status.DOWN:
                continue
            try:
                self.start(definition.name)
            except VdsmError as error:
                log.warning("%s does not start with the agent: %s", definition.name, error)

    def _status(self, definition: Definition) -> Status:
        view = self._fleet.find(definition.vm_id)
        return Status.DOWN if view is None else view.status

    def _shown(self, definition: Definition) -> api.Definition:
        return api.Definition(
            name=definition.name,
            vm_id=definition.vm_id,
            autostart=definition.autostart,
            status=self._status(definition).value,
            description=description_of(definition.spec),
        )
