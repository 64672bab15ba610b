"""Which urls a ticket may have: volumes of the repository, and sockets of NBD servers. Pure: only names are looked at.

    file://<repository>/<pool>/<domain>/images/<image>/<volume>
    file://<repository>/mnt/.../<domain>/images/<image>/<volume>
    file://<run>/<domain>/<image>/<volume>
    nbd:unix:<socket directory>/<name>.sock[:exportname=<name>]

Looking at the files themselves could wait for storage that does not answer; and who can change these directories has
the images anyway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vdsm.base.errors import BadParameter

_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID_FORM: Final = re.compile(_UUID, re.IGNORECASE)
_IN_REPOSITORY: Final = re.compile(rf"/(?:[^/]+/)+{_UUID}/images/{_UUID}/{_UUID}")
_IN_RUN: Final = re.compile(rf"/{_UUID}/{_UUID}/{_UUID}")
_SOCKET: Final = re.compile(r"(?P<directory>/.*)/[A-Za-z0-9][A-Za-z0-9._-]*(?::exportname=[A-Za-z0-9._-]*)?")
_MAX_URL: Final = 4096


def check_id(text: str, field: str) -> str:
    """An id as the original's clients send them.

    Raises:
        BadParameter: it is no UUID.
    """
    if not _UUID_FORM.fullmatch(text):
        raise BadParameter(field, f"must be a UUID, is {text!r:.80}")
    return text.lower()


@dataclass(frozen=True, slots=True)
class Places:
    """The directories.

    Attributes:
        repository: of the storage domains, ``/rhev/data-center``.
        run: of the links to prepared images, ``/run/vdsm/storage``.
        sockets: of NBD servers.
    """

    repository: str
    run: str
    sockets: tuple[str, ...]

    def check(self, url: str, field: str) -> None:
        """Refuse what is not for transfers.

        Raises:
            BadParameter: names the field.
        """
        if len(url) > _MAX_URL or not url.isprintable():
            raise BadParameter(field, "is too long, or has characters that no path of an image has")
        scheme, _, rest = url.partition(":")
        if scheme == "file":
            self._check_file(rest, field)
        elif scheme == "nbd":
            self._check_socket(rest, field)
        else:
            raise BadParameter(field, f"must be file:///PATH or nbd:unix:PATH, is {url!r:.200}")

    def _check_file(self, rest: str, field: str) -> None:
        path = rest.removeprefix("//") if rest.startswith("///") else ""
        # What follows ";", "?" or "#" is no part of the path for who parses the url.
        if not path or any(character in path for character in "?#;") or not _is_plain(path):
            raise BadParameter(field, f"must be file:///PATH of a volume, is {rest!r:.200}")
        for directory, form in ((self.repository, _IN_REPOSITORY), (self.run, _IN_RUN)):
            if path.startswith(f"{directory}/") and form.fullmatch(path.removeprefix(directory)):
                return
        raise BadParameter(field, f"{path:.200} is not a volume of the repository {self.repository}")

    def _check_socket(self, rest: str, field: str) -> None:
        match = _SOCKET.fullmatch(rest.removeprefix("unix:")) if rest.startswith("unix:") else None
        if match is None or not _is_plain(match["directory"]):
            raise BadParameter(field, f"must be nbd:unix:PATH[:exportname=NAME], is {rest!r:.200}")
        if match["directory"] not in self.sockets:
            raise BadParameter(field, f"{match['directory']:.200} has no NBD servers: they are in {self.sockets[0]}")


def _is_plain(path: str) -> bool:
    return not any(part in {"", ".", ".."} for part in path.split("/")[1:])
