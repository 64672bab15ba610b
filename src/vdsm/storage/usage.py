"""Whether somebody on this host has a volume open: a VM, a transfer, or a tool of QEMU.

Asked before data is deleted. What other hosts have open is not seen: the manager knows that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vdsm.storage.domain import Domain
from vdsm.storage.errors import VolumeBusy
from vdsm.storage.files import told
from vdsm.storage.formats import tree
from vdsm.storage.ids import VolumeRef
from vdsm.system.filelocks import FileNumber, opened_by_qemu

Opened = Callable[[], frozenset[FileNumber]]


def refuse_busy(domain: Domain, volumes: Iterable[VolumeRef], opened: Opened = opened_by_qemu) -> None:
    """Refuse when one of the volumes is open; on block storage the device cannot be removed then, anyway.

    Raises:
        VolumeBusy: it is open.
        StorageFailed: that cannot be found out.
    """
    if domain.kind.is_block:
        return
    with told("reading the locks of files"):
        files = opened()
    for volume in volumes if files else ():
        path = f"{domain.path}/{tree.IMAGES}/{volume.image_id}/{volume.volume_id}"
        with told(f"looking at {path}"):
            try:
                found = domain.files.stat(path)
            except FileNotFoundError:
                continue
        if FileNumber.of(found.device, found.inode) in files:
            raise VolumeBusy(volume.volume_id)
