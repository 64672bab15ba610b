"""How the SPM stops writing the moment that its lease is lost, and who notices.

A lease is safe until ``valid``: 8 io_timeouts (80 s) after this host last renewed its id. From then on sanlock ends
this process; other hosts take the lease 60 s later, because by then a hardware watchdog has reset a host whose sanlock
could not do so. What has to be shown is that nothing is written after ``valid`` + 60 s, whatever stood still meanwhile.

    storage lost      Renewals fail. At ``valid`` sanlock sends SIGTERM, and SIGKILL after its grace. Nothing is written
                      in between, nor by the orderly end that SIGTERM begins: the gate has a clock, and asks nobody.
    sanlock is gone   Nobody renews. The connection breaks, the next look here (2 s) finds it, or the gate's clock.
    process stopped   (SIGSTOP) sanlock goes on renewing, so the lease is kept; no harm is done. If it is lost as well,
                      sanlock's SIGKILL ends a stopped process, too.
    host stopped      and thawed (suspended, or its QEMU was stopped). sanlock needs a moment to notice. The gate's
                      clock goes on while the machine is suspended, so the first ``check`` after thawing refuses. Where
                      the clock stood still as well (a paused VM) the lease's sector on the storage names the other
                      host, and ``check`` reads it.
    process killed    The lease is free at once. Helpers end when their socket closes; other children that write are
                      started with ``process.Limits(dies_with_caller=True)`` and get SIGKILL from the kernel.

Between ``check`` and the write there is the way to the disk:

- Each change of a file is asked for by itself, in the steps of operations and wherever ``guard.guarded`` is around it.
- A helper process does not begin a change after its caller's deadline (10 s), which is sent along: a request that sat
  in a socket while everything stood still is not done when things move again.
- What has begun sits in the kernel. On thawing it may still be done: that is one write of at most the size of a call,
  in a step that the next SPM does again or takes back. Without a watchdog device nobody can take it back; hosts that
  matter have one (wdmd), and then a host that stood still for so long is reset and does not thaw.

``lost`` is called once, with the gate shut. It stops the operations (``Operations.stop`` writes no journal) and ends
the process; that is enough for the kernel to end the children.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from vdsm.base import threads
from vdsm.base.errors import VdsmError
from vdsm.storage.errors import LeaseLost
from vdsm.storage.pool.write_gate import WriteGate

log = logging.getLogger(__name__)


class Watchdog:
    """Looks at a gate's lease again and again; ``start`` and ``stop`` are called once each.

    Args:
        gate: the open gate.
        lost: called in a thread of its own, once, when the lease is lost; the gate is shut by then.
        well: called in the same thread after each look that found the lease, and the storage it is on; must not wait.
        interval_s: seconds between two looks; each costs two questions to the keeper and one sector.
        patience_s: seconds after the lease's time in which a late renewal is still waited for; writes are refused
            meanwhile. The keeper knows of its renewals one renewal late, which is 2 io_timeouts.
    """

    def __init__(
        self,
        gate: WriteGate,
        lost: Callable[[str], None],
        well: Callable[[], None] = lambda: None,
        *,
        interval_s: float = 2.0,
        patience_s: float = 20.0,
    ) -> None:
        self._gate: Final = gate
        self._lost: Final = lost
        self._well: Final = well
        self._interval_s: Final = interval_s
        self._patience_s: Final = patience_s
        self._stopped: Final = threading.Event()
        self._thread: threads.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threads.start("spm-watchdog", self._watch)

    def stop(self, deadline_s: float = 5.0) -> None:
        """Look no more: before the lease is given back. ``lost`` is not called after this returned in time."""
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(deadline_s)

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            reason = self._look()
            if reason is not None and not self._stopped.is_set():
                log.critical("the SPM's lease is lost: %s", reason)
                self._lost(reason)
                return

    def _look(self) -> str | None:
        """Why the lease is lost; None as long as it may not be."""
        sound = True
        # A keeper that does not answer is no reason not to look at the storage.
        for look in (self._gate.confirm, self._gate.check):
            try:
                look()
            except LeaseLost as error:
                return error.reason
            except VdsmError as error:
                # Storage or keeper may come back in time.
                sound = False
                log.warning("cannot look at the SPM's lease: %s", error)
                if self._gate.overdue_s >= self._patience_s:
                    return self._shut(f"its time is over, and {error}")
            except Exception as error:  # the top of a thread that must not die in silence
                log.exception("cannot look at the SPM's lease")
                return self._shut(f"{type(error).__name__}: {error}")
        if sound:
            self._tell_well()
        return None

    def _tell_well(self) -> None:
        try:
            self._well()
        except Exception:  # whoever is told must not end the looking
            log.exception("the news that the SPM's lease is sound was lost")

    def _shut(self, reason: str) -> str:
        self._gate.shut(reason)
        return reason
