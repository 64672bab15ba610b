"""Whether somebody on this host has a volume open: a VM, a transfer, or a tool of QEMU.

Asked before data is deleted or changed. What other hosts have open is not seen: the manager knows that. A tool that
died with an earlier agent may still be writing its last block when the next one goes on: that is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import VolumeBusy
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.ids import VolumeRef
from vdsm.system.filelocks import FileNumber, opened_by_qemu

_LOOK_S: Final = 0.1
_DYING_S: Final = 60.0

Opened = Callable[[], frozenset[FileNumber]]


def refuse_busy(domain: Domain, volumes: Iterable[VolumeRef], opened: Opened = opened_by_qemu) -> None:
    """Refuse when one of the volumes is open; on block storage the device cannot be removed then, anyway.

    Raises:
        VolumeBusy: it is open.
        StorageFailed: that cannot be found out.
    """
    wanted = list(volumes)
    if domain.kind.is_block or not wanted:
        return
    with told("reading the locks of files"):
        files = opened()
    for volume in wanted if files else ():
        path = f"{domain.path}/{tree.IMAGES}/{volume.image_id}/{volume.volume_id}"
        with told(f"looking at {path}"):
            try:
                found = domain.files.stat(path)
            except FileNotFoundError:
                continue
        if FileNumber.of(found.device, found.inode) in files:
            raise VolumeBusy(volume.volume_id)


def wait_until_free(domain: Domain, volumes: Iterable[VolumeRef], check: Callable[[], None]) -> None:
    """Wait until none of the volumes is open; ``check`` is called now and then, and raises to stop the waiting.

    Raises:
        VolumeBusy: one is still open after a minute.
        StorageFailed: that cannot be found out.
    """
    wanted = list(volumes)
    until_s = monotonic_s() + _DYING_S
    while True:
        try:
            refuse_busy(domain, wanted)
        except VolumeBusy:
            if monotonic_s() > until_s:
                raise
            check()
            sleep_s(_LOOK_S)
        else:
            return
