"""Images: listed, made, deleted, copied, resized."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from vdscli import storage_inventory, units
from vdscli.client import quoted
from vdscli.failures import USAGE, WRONG_STATE, CliError, RequestFailed
from vdscli.storage_inventory import Image, Storage, find_image, find_storage, the_storage
from vdscli.storage_tasks import finish
from vdscli.terminal import Cell, Column

if TYPE_CHECKING:
    from vdscli.session import Session

_FORMATS: Final = {"raw": "RAW", "qcow2": "COW"}
_SHORT_ID: Final = 8


def show_all(session: Session) -> None:
    """``image list``."""
    args, client = session.args, session.client
    if args.storage is not None:
        within = [find_storage(client, args.storage)]
    else:
        within = [item for item in storage_inventory.storages(client) if item.status == "active"]
    found = storage_inventory.images(client, within)
    if session.out.as_json:
        session.out.value([facts(image) for image in found])
    elif args.quiet:
        for image in found:
            session.out.line(image.name or image.image_id)
    else:
        columns = (
            *(Column("NAME"), Column("ID"), Column("SIZE", right=True), Column("USED", right=True)),
            *(Column("FORMAT"), Column("STORAGE"), Column("VOLUMES", right=True), Column("STATUS")),
        )
        session.out.table(columns, [_row(image, full=args.full) for image in found])


def _row(image: Image, *, full: bool) -> list[str | Cell]:
    ident = image.image_id if full else image.image_id[:_SHORT_ID]
    status = Cell("template" if image.is_template else image.status, "" if image.status == "OK" else "red")
    count = str(len(image.volumes))
    size, used = units.size(image.size), units.size(image.used)
    return [image.name, ident, size, used, image.format, image.storage.name, count, status]


def facts(image: Image) -> dict[str, Any]:
    """An image as JSON."""
    return {
        "name": image.name,
        "image_id": image.image_id,
        "storage": image.storage.name,
        "domain_id": image.storage.domain_id,
        "pool_id": image.storage.pool_id,
        "size": image.size,
        "used": image.used,
        "format": image.format,
        "status": image.status,
        "template": image.is_template,
        "parent_volume": image.below or None,
        "volumes": [{"volume_id": ident, **image.facts[ident]} for ident in image.volumes],
    }


def show(session: Session) -> None:
    """``image show``."""
    image = find_image(session.client, session.args.image, session.args.storage)
    if session.out.as_json:
        session.out.value(facts(image))
        return
    session.out.card([
        ("Name", image.name),
        ("Id", image.image_id),
        ("Storage", f"{image.storage.name} ({image.storage.domain_id})"),
        ("Size", units.size(image.size)),
        ("Used", units.size(image.used)),
        ("Format", image.format),
        ("Status", image.status),
        ("Kind", "template" if image.is_template else ""),
        ("Stands on", f"volume {image.below}" if image.below else ""),
        ("Volumes", [_volume(ident, image.facts[ident]) for ident in image.volumes]),
    ])


def _volume(ident: str, item: dict[str, Any]) -> str:
    if item.get("capacity") is None:
        return f"{ident}  {item['status']}: {item.get('reason') or ''}"
    words = f"{item['format']} {item['type']} {item['voltype']} {item['legality']}"
    return f"{ident}  {words}, {units.size(item['capacity'])}, {units.size(item.get('truesize') or 0)} used"


def size_of(flag: str, text: str) -> int:
    """A size in bytes.

    Raises:
        CliError: it is none.
    """
    try:
        return units.mebibytes(text) << 20
    except ValueError as error:
        raise CliError(f"{flag}: {text!r} is {error}", USAGE) from error


def create(session: Session) -> None:
    """``image create``."""
    args, client = session.args, session.client
    source = None if args.source is None else find_image(client, args.source)
    storage = source.storage if source is not None and args.storage is None else the_storage(client, args.storage)
    _refuse_taken(session, storage, args.name)
    if source is None:
        if args.size is None:
            raise CliError("--size is missing: 512M, 10G, ...", USAGE)
        size = size_of("--size", args.size)
        image = make(session, storage, args.name, size, image_format=args.format, preallocated=args.preallocated)
    else:
        image = _create_from(session, source, storage)
    words = f"{units.size(image['size'])} in {storage.name}, {image['image_id']}"
    session.out.done(f"{args.name}: made ({words})", image)


def _refuse_taken(session: Session, storage: Storage, name: str) -> None:
    """Names are only descriptions; two of one name would be of no use."""
    if not name.strip():
        raise CliError("NAME is empty", USAGE)
    if any(image.name == name for image in storage_inventory.images(session.client, [storage])):
        raise CliError(f"{storage.name} has an image {name!r}", WRONG_STATE)


def make(
    session: Session, storage: Storage, name: str, size: int, *, image_format: str, preallocated: bool
) -> dict[str, Any]:
    """Make an empty image; its facts.

    Raises:
        CliError: it was not made.
    """
    image_id, volume_id = str(uuid.uuid4()), str(uuid.uuid4())
    body = {
        "volume_id": volume_id,
        "size": size,
        "vol_format": _FORMATS[image_format],
        "preallocate": "PREALLOCATED" if preallocated else "SPARSE",
        "description": name,
    }
    task = session.client.post(f"{storage.rest}/images/{image_id}/volumes", body)
    finish(session, task, f"making image {name}")
    return _made(storage, name, image_id, volume_id, size, image_format)


def _made(storage: Storage, name: str, image_id: str, volume_id: str, size: int, image_format: str) -> dict[str, Any]:
    return {
        "name": name,
        "image_id": image_id,
        "volume_id": volume_id,
        "storage": storage.name,
        "domain_id": storage.domain_id,
        "pool_id": storage.pool_id,
        "size": size,
        "format": image_format,
    }


def _create_from(session: Session, source: Image, storage: Storage) -> dict[str, Any]:
    """A clone that stands on a template of the same storage; else a copy of all that a guest sees."""
    args = session.args
    if not (source.is_template and storage.domain_id == source.storage.domain_id):
        return _copy(session, source, storage, args.name, args.format, preallocated=args.preallocated)
    image_id, volume_id = str(uuid.uuid4()), str(uuid.uuid4())
    size = source.size if args.size is None else size_of("--size", args.size)
    body = {
        "volume_id": volume_id,
        "size": size,
        "vol_format": "COW",
        "description": args.name,
        "parent_image_id": source.image_id,
        "parent_id": source.leaf,
    }
    task = session.client.post(f"{storage.rest}/images/{image_id}/volumes", body)
    finish(session, task, f"making image {args.name}")
    return _made(storage, args.name, image_id, volume_id, size, "qcow2")


def _copy(
    session: Session, source: Image, storage: Storage, name: str, image_format: str | None, *, preallocated: bool
) -> dict[str, Any]:
    image_id, volume_id = str(uuid.uuid4()), str(uuid.uuid4())
    wanted = image_format or source.format
    body = {
        "target_image_id": image_id,
        "target_volume_id": volume_id,
        "target_domain_id": storage.domain_id,
        "description": name,
        "vol_format": _FORMATS[wanted],
        "preallocate": "PREALLOCATED" if preallocated else "SPARSE",
    }
    task = session.client.post(f"{source.rest}/volumes/{quoted(source.leaf)}/copy", body)
    finish(session, task, f"copying {source.name or source.image_id}")
    return _made(storage, name, image_id, volume_id, source.size, wanted)


def copy(session: Session) -> None:
    """``image copy``."""
    args = session.args
    source = find_image(session.client, args.image, args.storage)
    storage = source.storage if args.to is None else find_storage(session.client, args.to)
    _refuse_taken(session, storage, args.name)
    made = _copy(session, source, storage, args.name, args.format, preallocated=args.preallocated)
    session.out.done(f"{args.name}: copied from {args.image} ({made['image_id']} in {storage.name})", made)


def move(session: Session) -> None:
    """``image move``."""
    args = session.args
    source = find_image(session.client, args.image, args.storage)
    storage = find_storage(session.client, args.to)
    if storage.domain_id == source.storage.domain_id:
        raise CliError(f"{args.image} is in {storage.name} already", WRONG_STATE)
    body = {"target_domain_id": storage.domain_id, "operation": "MOVE"}
    task = session.client.post(f"{source.rest}/move", body)
    finish(session, task, f"moving {args.image}")
    session.out.done(
        f"{args.image}: moved to {storage.name}",
        {"image_id": source.image_id, "name": source.name, "domain_id": storage.domain_id, "storage": storage.name},
    )


def resize(session: Session) -> None:
    """``image resize``."""
    args = session.args
    image = find_image(session.client, args.image, args.storage)
    size = size_of("SIZE", args.size)
    if size < image.size:
        raise CliError(f"{args.image} has {units.size(image.size)}: images only grow", WRONG_STATE)
    task = session.client.post(f"{image.rest}/volumes/{quoted(image.leaf)}/resize", {"new_size": size})
    finish(session, task, f"resizing {args.image}")
    session.out.done(f"{args.image}: {units.size(size)}", {"image_id": image.image_id, "size": size})


def snapshot(session: Session) -> None:
    """``image snapshot``: a new volume on top; what is below stays as it is from now on."""
    args = session.args
    image = find_image(session.client, args.image, args.storage)
    volume_id = str(uuid.uuid4())
    body = {
        "volume_id": volume_id,
        "size": image.size,
        "vol_format": "COW",
        "description": image.facts[image.leaf].get("description") or "",
        "parent_image_id": image.image_id,
        "parent_id": image.leaf,
    }
    task = session.client.post(f"{image.rest}/volumes", body)
    finish(session, task, f"making a snapshot of {args.image}")
    answer = {"image_id": image.image_id, "volume_id": volume_id, "snapshot": image.leaf}
    session.out.done(f"{args.image}: volume {image.leaf} is kept as it is; {volume_id} is on top", answer)


def rename(session: Session) -> None:
    """``image rename``."""
    args = session.args
    image = find_image(session.client, args.image, args.storage)
    _refuse_taken(session, image.storage, args.name)
    session.client.put(f"{image.rest}/volumes/{quoted(image.leaf)}/description", {"description": args.name})
    session.out.done(f"{args.image}: is {args.name} now", {"image_id": image.image_id, "name": args.name})


def delete(session: Session) -> int:
    """``image delete``."""
    args = session.args

    def act(text: str) -> None:
        image = find_image(session.client, text, args.storage)
        try:
            task = session.client.delete(image.rest, force=args.force)
        except RequestFailed as error:
            raise CliError(f"{text}: {error}", error.exit_code) from error
        finish(session, task, f"deleting image {text}")
        session.out.done(
            f"{text}: deleted", {"image_id": image.image_id, "name": image.name, "storage": image.storage.name}
        )

    return session.each(args.image, act)
