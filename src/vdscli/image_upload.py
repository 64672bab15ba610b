"""``vdscli image upload``."""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli import units
from vdscli.failures import USAGE, WRONG_STATE, CliError
from vdscli.storage_inventory import domain_id
from vdscli.transfer import checksum, moves, pieces, source
from vdscli.transfer.moves import Move, Target
from vdscli.transfer.parts import AGAIN, address, bar_of, both, connections, state_dir, swept
from vdscli.transfer.pieces import Journal
from vdscli.transfer.volume import NewVolume, VolumeApi, VolumeKey
from vdscli.transfer.wire import Refused

if TYPE_CHECKING:
    from vdscli.session import Session
    from vdscli.transfer.source import Source

_ALIGNMENT: Final = 4096
_FORMATS: Final = {"raw": "RAW", "qcow2": "COW"}
_NO_SPACE: Final = ("No space left", "Disk quota exceeded")


def upload(session: Session) -> None:
    """``image upload``."""
    args = session.args
    found = source.look(args.file)
    args.domain = domain_id(session.client, args.domain)
    volume_format = _FORMATS[args.volume_format or found.format]
    if found.format == "qcow2" and volume_format == "RAW":
        raise CliError(f"{args.file} is qcow2: 'qemu-img convert -O raw' makes it raw, or keep its format", USAGE)
    upload_run = _Upload(session, found, volume_format)
    try:
        upload_run.run()
    except KeyboardInterrupt:
        session.out.note(f"interrupted; {AGAIN}")
        raise


class _Upload:
    """One upload. What may go on later is in a file of the user's: which volume, and which pieces are done."""

    def __init__(self, session: Session, found: Source, volume_format: str) -> None:
        args = session.args
        self._session = session
        self._out = session.out
        self._source = found
        self._format = volume_format
        words = json.dumps([session.client.place, args.domain, args.image, args.volume, found.path])
        self._state = state_dir() / f"upload-{hashlib.sha256(words.encode()).hexdigest()[:20]}.json"
        begun = self._begun()
        self._again = begun is not None
        self._key = begun or VolumeKey(args.domain, args.image or str(uuid.uuid4()), args.volume or str(uuid.uuid4()))
        self._volume = VolumeApi(session.client, self._key, swept(session))
        self._journal = Journal(self._state, {**found.subject(), "volume": list(self._key)})
        self._made = False
        self._rate = self._seconds = 0.0

    def run(self) -> None:
        """Do it.

        Raises:
            CliError: it did not come to its end.
        """
        self._open()
        try:
            self._fill()
        except Refused as error:
            if any(words in str(error) for words in _NO_SPACE):
                self._discard()
                raise CliError("the storage domain is full") from error
            raise CliError(f"{error}; {AGAIN}") from error
        except CliError as error:
            raise CliError(f"{error}; {AGAIN}", error.exit_code) from error
        self._publish()

    def _begun(self) -> VolumeKey | None:
        """The volume that an earlier run of the same command began to fill."""
        subject = pieces.read(self._state).get("subject")
        known = subject.get("volume") if isinstance(subject, dict) else None
        return VolumeKey(*known) if isinstance(known, list) and len(known) == len(VolumeKey._fields) else None

    def _open(self) -> None:
        """Make the volume, or have the one that is there ILLEGAL."""
        info = self._volume.info() or self._create()
        if info is None:
            return
        if info["parent"] != str(uuid.UUID(int=0)):
            raise CliError(f"volume {self._key.volume} stands on another one: only a whole image is filled", USAGE)
        if int(info["capacity"]) < self._source.virtual_size:
            raise CliError(f"volume {self._key.volume} is smaller than {self._source.path}", WRONG_STATE)
        self._format = info["format"]
        if self._source.format == "qcow2" and self._format == "RAW":
            raise CliError(f"volume {self._key.volume} is raw and {self._source.path} is qcow2", WRONG_STATE)
        if info["legality"] == "LEGAL":
            self._volume.set_legal(legal=False)

    def _create(self) -> dict[str, Any] | None:
        """Make the volume; what it is, if a command that was killed was still making it."""
        self._journal.reset()  # before there is a volume: it is found again also if this process ends now
        allocation = "PREALLOCATED" if self._session.args.preallocated else "SPARSE"
        new = NewVolume(self._source.volume_size, self._format, allocation, self._session.args.description)
        try:
            self._volume.create(new)
        except CliError:
            found = self._volume.info() if self._again else None
            if found is None:
                self._journal.remove()
                raise
            return found
        self._made = True
        return None

    def _fill(self) -> None:
        with ExitStack() as opened:
            if self._source.format == "raw" and self._format == "COW":
                url, size = opened.enter_context(self._volume.served(readonly=False)), self._source.volume_size
            else:
                path = opened.enter_context(self._volume.prepared())
                # A qcow2 file goes into the volume byte for byte.
                as_guest = self._source.format == "raw"
                url, size = f"file://{path}", self._source.volume_size if as_guest else self._source.length
            sparse = not self._session.args.preallocated
            ticket_id = opened.enter_context(self._volume.ticket(url, size, write=True, sparse=sparse))
            target = Target(address(self._session), ticket_id)
            every = pieces.of_file(self._source.path, size)
            left = self._journal.left(every)
            bar = bar_of(self._session, f"upload {Path(self._source.path).name}", every, left)
            moves.upload(self._source.path, target, Move(left, connections(self._session), self._journal, bar.moved))
            bar.end()
            self._compare(target, size)
        if source.look(self._source.path).identity != self._source.identity:
            raise CliError(f"{self._source.path} was changed meanwhile")
        self._rate, self._seconds = bar.per_second, bar.seconds

    def _compare(self, target: Target, size: int) -> None:
        if self._session.args.no_checksum:
            return
        self._out.progress("comparing checksums ...")
        connection = target.connect()
        try:
            there = sum(extent.length for extent in connection.extents())
            if there > -(-size // _ALIGNMENT) * _ALIGNMENT:
                same = checksum.reads_as(self._source.path, size, connection.read)
            else:
                ours, theirs = both(lambda: checksum.of_file(self._source.path, there), connection.checksum)
                same = ours == theirs
        finally:
            connection.close()
        if not same:
            self._discard()
            raise CliError("the checksums differ: what arrived is not what was sent")

    def _publish(self) -> None:
        try:
            self._volume.verify()
        except CliError:
            self._discard()
            raise
        self._volume.set_legal(legal=True)
        self._journal.remove()
        size = units.size(self._source.virtual_size)
        self._out.done(
            f"{self._source.path}: {size} in {self._seconds:.1f} s ({units.rate(self._rate)}) to image "
            f"{self._key.image}, volume {self._key.volume}",
            {
                "domain": self._key.domain,
                "image": self._key.image,
                "volume": self._key.volume,
                "size": self._source.virtual_size,
                "seconds": round(self._seconds, 3),
            },
        )

    def _discard(self) -> None:
        """Nothing is left of what cannot go on; a volume that was there before stays ILLEGAL."""
        self._journal.remove()
        if self._made:
            self._volume.delete_image()
