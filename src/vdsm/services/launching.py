"""From a request to a VM that is being started: check, prepare its images, hand it to the fleet; all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from vdsm.base import threads
from vdsm.base.clock import now_utc
from vdsm.base.errors import VmExists
from vdsm.base.ids import VmId
from vdsm.base.undo import Undo
from vdsm.virt import domxml
from vdsm.virt.disks import ImageRef, Images
from vdsm.virt.domxml import Owner, Prepared
from vdsm.virt.fleet import Fleet
from vdsm.virt.leases import Leases
from vdsm.virt.spec import VmSpec
from vdsm.virt.traits import HostTraits
from vdsm.virt.view import VmView

# Images that are prepared at the same time, per VM. All lifecycle workers together stay below the connections that
# supervdsmd takes.
_AT_ONCE: Final = 3
# Each image has deadlines of its own, so this one is never reached.
_IMAGES_S: Final = 150.0


class Launcher:
    """Starts VMs from XML and from descriptions.

    ``traits`` is asked each time, as what the host can do may be learned after the agent's start.
    """

    def __init__(
        self, fleet: Fleet, images: Images, leases: Leases, traits: Callable[[], HostTraits], instance: str
    ) -> None:
        self._fleet = fleet
        self._images = images
        self._leases = leases
        self._traits = traits
        self._instance = instance

    def from_xml(self, xml: str, vm_id: VmId) -> VmView:
        """Start a VM as a manager describes it.

        Raises:
            BadParameter: the XML or something that it names cannot be used; nothing was changed.
            VmExists: a VM of this id or name is there.
        """
        owner = Owner(instance=self._instance, origin="engine", created=_now())
        return self._launch(domxml.prepare(xml, vm_id, owner, self._traits()))

    def from_spec(self, spec: VmSpec) -> VmView:
        """Start a VM from its description.

        Raises:
            BadParameter: names the description's field; nothing was changed.
            VmExists: a VM of this id or name is there.
        """
        return self._launch(self._prepared(spec))

    def check_spec(self, spec: VmSpec) -> None:
        """Refuse a description that could not be started now.

        Raises:
            BadParameter: names the description's field.
        """
        with Undo() as undo:
            self._place(self._prepared(spec), undo)
            undo.roll_back()

    def _prepared(self, spec: VmSpec) -> Prepared:
        traits = self._traits()
        owner = Owner(instance=self._instance, origin="local", created=_now())
        return domxml.build(spec, owner, traits)

    def _launch(self, prepared: Prepared) -> VmView:
        if self._fleet.find(prepared.vm_id) is not None:
            raise VmExists(prepared.vm_id)
        with Undo() as undo:
            placed = self._place(prepared, undo)
            view = self._fleet.create(placed, partial(self._teardown, prepared.images))
            undo.commit()
        return view

    def _place(self, prepared: Prepared, undo: Undo) -> Prepared:
        # First, because nothing has to be taken back.
        leases = {(ref.domain_id, ref.lease_id): self._leases.locate(ref) for ref in prepared.leases}
        for ref in prepared.images:
            undo.add(self._images.teardown, ref)  # one that is not prepared is no error
        # Looking into an image takes some 20 ms, most of it in other processes.
        found = threads.tmap(self._images.prepare, prepared.images, workers=_AT_ONCE, timeout_s=_IMAGES_S)
        locations = {ref.target: location for ref, location in zip(prepared.images, found, strict=True)}
        return domxml.place(prepared, locations, self._traits().storage_label, leases)

    def _teardown(self, images: tuple[ImageRef, ...]) -> None:
        for ref in images:
            self._images.teardown(ref)


def _now() -> str:
    return now_utc().isoformat(timespec="seconds")
