"""The storage domains of a host and their images, as people name them: by name, id, or the beginning of an id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from vdscli.client import quoted
from vdscli.failures import FAILED, NOT_FOUND, USAGE, CliError, RequestFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vdscli.client import Client

BLANK: Final = "00000000-0000-0000-0000-000000000000"
_MIN_PREFIX: Final = 4
_ID_CHARACTERS: Final = frozenset("0123456789abcdef-")


class Storage(NamedTuple):
    """One storage domain. ``own``: this host manages it by itself; the others a manager connected."""

    name: str
    domain_id: str
    pool_id: str
    type: str
    path: str
    status: str
    reason: str
    own: bool
    master: bool = False
    total: int | None = None
    free: int | None = None

    @property
    def ident(self) -> str:
        """Its id."""
        return self.domain_id

    @property
    def rest(self) -> str:
        """Its REST path."""
        return f"/storage-domains/{quoted(self.domain_id)}"


class Image(NamedTuple):
    """One image of a storage domain; sizes are bytes, ``volumes`` the ids from the base up.

    ``below``: the template's volume it stands on, or "".
    """

    name: str
    image_id: str
    storage: Storage
    size: int
    used: int
    format: str
    volumes: tuple[str, ...]
    below: str
    status: str
    facts: dict[str, dict[str, Any]]

    @property
    def ident(self) -> str:
        """Its id."""
        return self.image_id

    @property
    def leaf(self) -> str:
        """The volume that a VM uses."""
        return self.volumes[-1]

    @property
    def rest(self) -> str:
        """Its REST path."""
        return f"{self.storage.rest}/images/{quoted(self.image_id)}"

    @property
    def is_template(self) -> bool:
        """Whether images can stand on it."""
        return self.facts[self.leaf].get("voltype") == "SHARED"


Thing = TypeVar("Thing", Storage, Image)


def storages(client: Client) -> list[Storage]:
    """All storage domains of the host, by name; those it manages itself first."""
    found = [_own(item) for item in client.get("/storage")]
    known = {item.domain_id for item in found}
    others = [_other(client, ident) for ident in client.get("/storage-domains") if ident not in known]
    return sorted([*found, *others], key=lambda item: (not item.own, item.name, item.domain_id))


def _own(item: dict[str, Any]) -> Storage:
    return Storage(
        name=item["name"],
        domain_id=item["domain_id"],
        pool_id=item["pool_id"],
        type=item["type"],
        path=item["path"],
        status=item["status"],
        reason=item.get("reason") or "",
        own=True,
        master=bool(item.get("master")),
        total=item.get("total"),
        free=item.get("free"),
    )


def _other(client: Client, domain_id: str) -> Storage:
    """A domain that a manager has connected; one that cannot be asked is shown with the reason."""
    path = f"/storage-domains/{quoted(domain_id)}"
    try:
        info, room = client.get(path), client.get(f"{path}/stats")
    except RequestFailed as error:
        return Storage("", domain_id, "", "", "", "failing", str(error), own=False)
    pools = info.get("pool") or [""]
    state = info.get("state") or "OK"
    return Storage(
        name=info["name"],
        domain_id=domain_id,
        pool_id=pools[0],
        type=info["type"],
        path=info.get("remote_path") or "",
        status="active" if state == "OK" else "failing",
        reason="" if state == "OK" else state,
        own=False,
        master=info["role"] == "Master",
        total=room["disktotal"],
        free=room["diskfree"],
    )


def find_storage(client: Client, text: str) -> Storage:
    """The storage that is meant.

    Raises:
        CliError: none, or more than one.
    """
    return _choose(storages(client), text, "storage")


def domain_id(client: Client, text: str) -> str:
    """The id of the storage domain that is meant; a whole id is taken as it is.

    Raises:
        CliError: none, or more than one.
    """
    return text if _is_id(text) else find_storage(client, text).domain_id


def image_id(client: Client, text: str, within: str) -> str:
    """The id of the image that is meant in a storage domain; a whole id is taken as it is.

    Raises:
        CliError: none, or more than one.
    """
    return text if _is_id(text) else find_image(client, text, within).image_id


def _is_id(text: str) -> bool:
    return len(text) == len(BLANK) and text.count("-") == BLANK.count("-")


def the_storage(client: Client, text: str | None) -> Storage:
    """The storage that is meant; without a text the only one, or the pool's first.

    Raises:
        CliError: none, or it is not clear.
    """
    if text is not None:
        return find_storage(client, text)
    found = [item for item in storages(client) if item.status == "active"]
    if not found:
        raise CliError("there is no storage in use; 'vdscli storage create' makes some", NOT_FOUND)
    if len(found) > 1:
        raise CliError(f"--storage: which one of {', '.join(item.name or item.domain_id for item in found)}?", USAGE)
    return found[0]


def images(client: Client, within: Sequence[Storage]) -> list[Image]:
    """The images of storage domains, by name."""
    found = [image for storage in within for image in _images(client, storage)]
    return sorted(found, key=lambda image: (image.name, image.image_id))


def find_image(client: Client, text: str, storage: str | None = None) -> Image:
    """The image that is meant, in one storage or in any that can be used.

    Raises:
        CliError: none, or more than one.
    """
    if storage is not None:
        within = [find_storage(client, storage)]
    else:
        within = [item for item in storages(client) if item.status == "active"]
    return _choose(images(client, within), text, "image")


def _images(client: Client, storage: Storage) -> list[Image]:
    volumes: dict[str, dict[str, dict[str, Any]]] = {}
    for ident, item in client.get(f"{storage.rest}/dump")["volumes"].items():
        volumes.setdefault(item["image"], {})[ident] = item
    return [_image(storage, image_id, found) for image_id, found in volumes.items()]


def _image(storage: Storage, image_id: str, found: dict[str, dict[str, Any]]) -> Image:
    chain = _chain(found)
    leaf = found[chain[-1]]
    below = str(found[chain[0]].get("parent") or "")
    statuses = {str(item["status"]) for item in found.values()}
    return Image(
        name=name_of(leaf.get("description") or ""),
        image_id=image_id,
        storage=storage,
        size=int(leaf.get("capacity") or 0),
        used=sum(int(item.get("truesize") or 0) for item in found.values()),
        format={"COW": "qcow2", "RAW": "raw"}.get(leaf.get("format") or "", "?"),
        volumes=chain,
        below="" if below == BLANK else below,
        status="OK" if statuses == {"OK"} else next(iter(sorted(statuses - {"OK"}))),
        facts=found,
    )


def _chain(found: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """The volumes from the base up to the leaf; what is not of the chain comes before all."""
    parents = {str(item.get("parent")) for item in found.values()}
    tops = sorted(ident for ident in found if ident not in parents) or sorted(found)
    # An ILLEGAL top is what is left of a merge, or still being made.
    top = min(tops, key=lambda ident: (found[ident].get("legality") != "LEGAL", ident))
    chain = [top]
    while (parent := str(found[chain[-1]].get("parent"))) in found and parent not in chain:
        chain.append(parent)
    rest = sorted(ident for ident in found if ident not in chain)
    return (*rest, *reversed(chain))


def name_of(description: str) -> str:
    """What people call an image: its description, of which an Engine makes JSON."""
    if description.startswith("{"):
        try:
            found = json.loads(description)
        except ValueError:
            return description
        if isinstance(found, dict) and isinstance(found.get("DiskAlias"), str):
            return str(found["DiskAlias"])
    return description


def _choose(things: Sequence[Thing], text: str, kind: str) -> Thing:
    wanted = text.lower()
    is_prefix = len(wanted) >= _MIN_PREFIX and _ID_CHARACTERS.issuperset(wanted)
    for matches in (
        [item for item in things if item.ident == wanted],
        [item for item in things if item.name == text],
        [item for item in things if is_prefix and item.ident.startswith(wanted)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise CliError(f"{text} is ambiguous: {', '.join(item.ident for item in matches)}", FAILED)
    raise CliError(f"there is no {kind} {text!r}", NOT_FOUND)
