"""KEY=VALUE pairs under a checksum: the form of a domain's metadata, in a file's lines and in a volume group's tags.

    CLASS=Data
    ...                     ascending keys, one per line, UTF-8, nothing is quoted
    VERSION=5
    _SHA_CKSUM=<40 hex>     last

The checksum is SHA-1 over the pairs' ``KEY=VALUE`` in ascending order of keys, joined by nothing, in ASCII, with each
other character as its decimal XML reference (a u umlaut is ``&#252;``). It covers keys that nobody knows, too.

Source: storage format, sections 1.5 and 2.3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from vdsm.storage.errors import BrokenSeal, Damaged, InvalidParameter

CHECKSUM: Final = "_SHA_CKSUM"


def checksum(pairs: Mapping[str, str]) -> str:
    """The checksum that belongs to the pairs, 40 lower-case hex digits."""
    # Not security but a format: it finds what was torn or mixed up.
    digest = hashlib.sha1(usedforsecurity=False)
    for key in sorted(pairs):
        if key != CHECKSUM:
            digest.update(f"{key}={pairs[key]}".encode("ascii", "xmlcharrefreplace"))
    return digest.hexdigest()


def lines(pairs: Mapping[str, str]) -> list[str]:
    """The pairs as they are written, the checksum last.

    Raises:
        InvalidParameter: a value would not come back whole.
    """
    plain = {key: value for key, value in pairs.items() if key != CHECKSUM}
    for key, value in plain.items():
        check_value(key, value)
    written = [f"{key}={plain[key]}" for key in sorted(plain)]
    return [*written, f"{CHECKSUM}={checksum(plain)}"]


def check_value(key: str, value: str) -> None:
    """See that a value comes back whole from where it is kept.

    Raises:
        InvalidParameter: it holds a line's end in any of Unicode's forms, a NUL or what UTF-8 cannot write.
    """
    if "\0" in value or "".join(value.splitlines()) != value:
        raise InvalidParameter(key, "must be one line of text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter(key, "must be text that UTF-8 can write") from error


def encode(pairs: Mapping[str, str]) -> bytes:
    """The whole text of a metadata file.

    Raises:
        InvalidParameter: a value would not come back whole.
    """
    return "".join(f"{line}\n" for line in lines(pairs)).encode()


def decode(data: bytes, what: str) -> dict[str, str]:
    """Read a metadata file's text; the checksum is proved and left out.

    Args:
        data: the file's bytes; NULs at the end do not count.
        what: what is read, for the error.

    Raises:
        Damaged: it is no text, or empty.
        BrokenSeal: the checksum is another one.
    """
    try:
        text = data.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise Damaged(what, "it is not UTF-8") from error
    return unseal(text.splitlines(), what)


def unseal(texts: list[str], what: str) -> dict[str, str]:
    """Take ``KEY=VALUE`` texts apart; the checksum is proved and left out. A text without "=" does not count.

    A missing checksum is accepted, as the original does.

    Raises:
        Damaged: there are no pairs.
        BrokenSeal: the checksum is another one.
    """
    pairs = {}
    for text in texts:
        key, found, value = text.partition("=")
        if found:
            pairs[key.strip()] = value
    declared = pairs.pop(CHECKSUM, None)
    if not pairs:
        raise Damaged(what, "it is empty")
    computed = checksum(pairs)
    if declared is not None and declared != computed:
        raise BrokenSeal(what, f"its checksum is {computed} and it says {declared:.80}")
    return pairs
