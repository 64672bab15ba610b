"""What a machine needs from outside: its collaborators and its patience."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vdsm.base.ids import VmId
from vdsm.base.threads import Pool
from vdsm.virt.hypervisor import Hypervisor
from vdsm.virt.records import Records
from vdsm.virt.view import VmChange, VmView


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds.

    ``up_after_s``: a guest whose agent does not connect counts as up after this; a VM without an agent's channel at
    once. ``step_s``: how long a guest gets to obey one way of asking it to shut down.
    """

    up_after_s: float = 60.0
    step_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all machines share.

    Called from a machine's strand: ``record`` with its first view, ``publish`` with every change, ``gone`` when the VM
    is to be listed no more, ``suspect`` when a call about it passed its deadline, ``doubt`` when only libvirt's list
    can tell what became of it.
    """

    hypervisor: Hypervisor
    records: Records
    pool: Pool
    record: Callable[[VmView], None]
    publish: Callable[[VmChange], None]
    gone: Callable[[VmId], None]
    suspect: Callable[[VmId], None]
    doubt: Callable[[], None]
    patience: Patience
