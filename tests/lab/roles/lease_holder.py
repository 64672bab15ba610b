"""Runs in a node: an SPM that does nothing but count on the shared disk, as long as its gate lets it.

    python -P lease_holder.py DOMAIN HOST_ID IDS LEASES COUNTER RATE

Says on standard output, a line each: joined, holds VERSION, counts, lost REASON, refused REASON. Its count goes to the
sector of the counter's disk that has the number of its host id.
"""

from __future__ import annotations

import os
import sys
import time

from vdsm.base.errors import VdsmError
from vdsm.storage.errors import LeaseHeld
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats.leases import Geometry, Leader, decode_leader
from vdsm.storage.ids import DomainId
from vdsm.storage.locks.sanlock_lock import SanlockLeases, SanlockSettings
from vdsm.storage.pool.watchdog import Watchdog
from vdsm.storage.pool.write_gate import WriteGate
from vdsm.system.sanlock.daemon import Daemon

SECTOR = 512


def say(*words: object) -> None:
    print(f"{time.monotonic():.2f}", *words, flush=True)


def main() -> None:
    domain, host_id, ids, leases, counter, rate = sys.argv[1:]
    number, files = int(host_id), LocalFiles()
    settings = SanlockSettings(io_timeout_s=5, clock_rate=float(rate))
    lock = SanlockLeases(Daemon(), settings).of(DomainId(domain), ids, leases, Geometry())
    lock.join(number, wait_s=120)
    say("joined")
    while True:
        try:
            lock.acquire(lock.sdm, number)
            break
        except LeaseHeld:
            time.sleep(0.1)
    say("holds", lock.inspect(lock.sdm).version)

    def leader() -> Leader:
        return decode_leader(files.read(leases, offset=lock.sdm.offset, size=SECTOR, direct=True), leases)

    def lost(reason: str) -> None:
        say("lost", reason)
        os._exit(3)

    gate = WriteGate(lock, lock.sdm, number, leader)
    gate.open()
    Watchdog(gate, lost, interval_s=1.0, patience_s=2 * settings.io_timeout_s / settings.clock_rate).start()
    say("counts")
    count = 0
    while True:
        count += 1
        try:
            gate.check()
        except VdsmError as error:
            say("refused", error)
            time.sleep(0.5)
            continue
        files.write_at(counter, number * SECTOR, count.to_bytes(8, "big").ljust(SECTOR, b"\0"), direct=True)


main()
