"""Upload and download of a half-empty raw image of 2 GiB, beside ``qemu-img convert`` between the same files.

The image daemon and vdscli's way of moving data are the real ones, over the daemon's unix socket; all is done in turns.
qemu-img goes past the page cache, as transfers do and as copies between storage domains must: another host has to see
the data. What it costs with the page cache, without the data being on the disk then, is told for comparison.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figure, median_of
from vdscli.transfer import moves, pieces
from vdscli.transfer.moves import Move, Target
from vdscli.transfer.pieces import Journal
from vdscli.transfer.wire import Address
from vdsm.system.qemu_nbd import Export, Layer
from vdsm.transfers.imageio_daemon import DaemonSettings
from vdsm.transfers.nbd_servers import NbdServers
from vdsm.transfers.tickets import Tickets

MIB = 1 << 20
SIZE = 2048 * MIB
PART = 64 * MIB
ROUNDS = 5
DIRECT = ("-t", "none", "-T", "none")


def figures() -> list[Figure]:
    """All of them; needs 5 GiB below /var/tmp."""
    place = Path(tempfile.mkdtemp(prefix="vdsm-bench-", dir="/var/tmp"))
    bench = _Bench(place)
    try:
        return bench.figures()
    finally:
        bench.stop()
        shutil.rmtree(place)


class _Bench:
    def __init__(self, place: Path) -> None:
        self._place = place
        self._source = place / "source"
        self._target = place / "target"
        settings = DaemonSettings(
            directory=place / "imageio", address="127.0.0.1", port=0, log_file=place / "imageio.log"
        )
        self._tickets = Tickets(settings)
        self._servers = NbdServers(place / "nbd")
        self._address = Address(str(settings.images_socket))
        self._seconds: dict[str, list[float]] = defaultdict(list)
        data = os.urandom(PART)
        with self._source.open("wb") as file:
            for start in range(0, SIZE, 2 * PART):
                file.seek(start)
                file.write(data)
            file.truncate(SIZE)
            os.fsync(file.fileno())

    def stop(self) -> None:
        self._tickets.stop()
        self._servers.stop_all()

    def figures(self) -> list[Figure]:
        for _ in range(ROUNDS):
            self._timed("convert", lambda: self._convert(*DIRECT))
            for connections in (1, 4):
                self._upload(connections)
                self._download(connections)
            self._timed("cached", self._convert)
        convert = self._seconds["convert"]
        found = [median_of("qemu-img convert, 2 GiB half empty", [SIZE / MIB / item for item in convert], "MiB/s")]
        for way in ("upload", "download"):
            for connections, bound in ((1, 0.9), (4, 1.0)):
                seconds = self._seconds[f"{way} {connections}"]
                ratios = [ours / theirs for theirs, ours in zip(seconds, convert, strict=True)]
                words = f"{way}, {connections} connection{'s' * (connections > 1)}, beside qemu-img convert"
                found.append(median_of(words, ratios, "x", bound, "at least"))
        cached = [SIZE / MIB / item for item in self._seconds["cached"]]
        return [*found, median_of("qemu-img convert within the page cache", cached, "MiB/s", note="not on the disk")]

    def _timed(self, name: str, work: Callable[[], object]) -> None:
        self._target.unlink(missing_ok=True)
        with self._target.open("wb") as file:
            file.truncate(SIZE)
        os.sync()
        began = time.perf_counter()
        work()
        self._seconds[name].append(time.perf_counter() - began)

    def _convert(self, *options: str) -> None:
        argv = ["qemu-img", "convert", "-f", "raw", "-O", "raw", *options, self._source, self._target]
        subprocess.run(argv, check=True)

    def _upload(self, connections: int) -> None:
        def work() -> None:
            ticket = self._ticket(f"file://{self._target}", "write")
            every = pieces.of_file(str(self._source), SIZE)
            moves.upload(str(self._source), ticket, self._move(every, connections))

        self._timed(f"upload {connections}", work)
        self._check()

    def _download(self, connections: int) -> None:
        def work() -> None:
            server = str(uuid.uuid4())
            chain = (Layer(str(self._source), "raw"),)
            told = self._ticket(self._servers.start(server, Export(chain=chain, readonly=True)), "read")
            asked = told.connect()
            every = pieces.of_extents(asked.extents())
            asked.close()
            data = self._ticket(f"file://{self._source}", "read")
            moves.download(data, str(self._target), self._move(every, connections))
            self._servers.stop(server)

        self._timed(f"download {connections}", work)
        self._check()

    def _ticket(self, url: str, operation: str) -> Target:
        ticket_id = str(uuid.uuid4())
        ticket = {"uuid": ticket_id, "size": SIZE, "timeout": 600, "url": url, "ops": [operation], "sparse": True}
        self._tickets.add(ticket)
        return Target(self._address, ticket_id)

    def _move(self, every: list[pieces.Piece], connections: int) -> Move:
        return Move(every, connections, Journal(self._place / "journal", {"id": str(uuid.uuid4())}), lambda _: None)

    def _check(self) -> None:
        """The same data, as sparse as it was."""
        subprocess.run(["cmp", self._source, self._target], check=True)
        taken = self._target.stat().st_blocks * 512
        if taken > SIZE // 2 + MIB:
            raise AssertionError(f"{taken} bytes were taken")
