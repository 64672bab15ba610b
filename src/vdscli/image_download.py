"""``vdscli image download``."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli import units
from vdscli.client import quoted
from vdscli.failures import NOT_FOUND, WRONG_STATE, CliError
from vdscli.storage_inventory import domain_id, image_id
from vdscli.transfer import checksum, moves, pieces
from vdscli.transfer.moves import Move, Target
from vdscli.transfer.parts import AGAIN, address, bar_of, both, connections, convert, swept
from vdscli.transfer.pieces import Journal
from vdscli.transfer.volume import VolumeApi, VolumeKey

if TYPE_CHECKING:
    from vdscli.session import Session
    from vdscli.transfer.bar import Bar

_PRIVATE: Final = 0o600


def download(session: Session) -> None:
    """``image download``."""
    args = session.args
    target = Path(args.file).absolute()
    if target.exists() and not args.overwrite:
        raise CliError(f"{args.file} is there already; --overwrite replaces it", WRONG_STATE)
    args.domain = domain_id(session.client, args.domain)
    args.image = image_id(session.client, args.image, args.domain)
    key = VolumeKey(args.domain, args.image, args.volume or _top(session))
    found = _Download(session, VolumeApi(session.client, key, swept(session)), target)
    try:
        bar = found.run()
    except KeyboardInterrupt:
        session.out.note(f"interrupted; {AGAIN}")
        raise
    except OSError as error:
        raise CliError(f"{error.filename or target}: {error.strerror}; {AGAIN}") from error
    took = f"{units.size(found.size)} in {bar.seconds:.1f} s ({units.rate(bar.per_second)})"
    session.out.done(
        f"image {key.image}: {took} to {target}",
        {"file": str(target), "size": found.size, "seconds": round(bar.seconds, 3)},
    )


class _Download:
    """One download: into a file beside the target, which takes its name at the end.

    Raises:
        CliError: there is no such volume, or it is not to be used.
    """

    def __init__(self, session: Session, volume: VolumeApi, target: Path) -> None:
        info = volume.info()
        if info is None:
            raise CliError(f"there is no volume {volume.key.volume}", NOT_FOUND)
        if info["legality"] != "LEGAL":
            raise CliError(f"volume {volume.key.volume} is {info['legality']}: it is not to be used", WRONG_STATE)
        self.size = int(info["capacity"])
        self._info: dict[str, Any] = info
        self._session = session
        self._volume = volume
        self._target = target
        self._partial = target.with_name(f".{target.name}.partial")
        subject = {"volume": list(volume.key), "size": self.size, "changed": info["mtime"]}
        self._journal = Journal(self._partial.with_name(f"{self._partial.name}.json"), subject)

    def run(self) -> Bar:
        """Do it.

        Raises:
            CliError: it did not come to its end.
            OSError: the file cannot be written.
        """
        try:
            bar = self._fetch()
        except CliError as error:
            again = f"; {AGAIN}" if self._partial.exists() else ""
            raise CliError(f"{error}{again}", error.exit_code) from error
        if self._session.args.format == "qcow2":
            self._session.out.progress("converting to qcow2 ...")
            convert(self._partial, self._target)
            self._partial.unlink()
        else:
            self._partial.replace(self._target)
        self._journal.remove()
        return bar

    def _fetch(self) -> Bar:
        """Have the content in the partial file."""
        with ExitStack() as opened:
            where = address(self._session)
            served = opened.enter_context(self._volume.served(readonly=True))
            told = Target(where, self._ticket(opened, served))
            data = told
            if self._info["format"] == "RAW":
                # The NBD server knows where data is; from the file itself it is read faster.
                data = Target(where, self._ticket(opened, f"file://{opened.enter_context(self._volume.prepared())}"))
            asked = told.connect()
            opened.callback(asked.close)
            every = pieces.of_extents(asked.extents())
            self._begin()
            left = self._journal.left(every)
            bar = bar_of(self._session, f"download {self._target.name}", every, left)
            moves.download(data, str(self._partial), Move(left, connections(self._session), self._journal, bar.moved))
            bar.end()
            self._compare(data)
        return bar

    def _ticket(self, opened: ExitStack, url: str) -> str:
        return opened.enter_context(self._volume.ticket(url, self.size, write=False, sparse=True))

    def _begin(self) -> None:
        if self._journal.begun and self._partial.exists():
            return
        self._partial.unlink(missing_ok=True)
        self._partial.touch(_PRIVATE)
        os.truncate(self._partial, self.size)
        self._journal.reset()

    def _compare(self, data: Target) -> None:
        if self._session.args.no_checksum:
            return
        self._session.out.progress("comparing checksums ...")
        connection = data.connect()
        try:
            ours, theirs = both(lambda: checksum.of_file(str(self._partial), self.size), connection.checksum)
        finally:
            connection.close()
        if ours != theirs:
            self._partial.unlink()
            self._journal.remove()
            raise CliError("the checksums differ: what arrived is not what was sent")


def _top(session: Session) -> str:
    """The volume that the others of an image are underneath.

    Raises:
        CliError: it cannot be told.
    """
    args = session.args
    path = f"/storage-domains/{quoted(args.domain)}/images/{quoted(args.image)}/volumes"
    volumes = [str(ident) for ident in session.client.get(path)]
    if len(volumes) == 1:
        return volumes[0]
    infos = [session.client.get(f"{path}/{quoted(ident)}") for ident in volumes]
    tops = [info["uuid"] for info in infos if info["voltype"] == "LEAF" and info["legality"] == "LEGAL"]
    if len(tops) != 1:
        raise CliError(f"image {args.image} has {len(tops)} tops: say which --volume", WRONG_STATE)
    return str(tops[0])
