"""Storage domains: listed, made, taken into use, shown, checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli import units
from vdscli.client import quoted
from vdscli.failures import FAILED, USAGE, WRONG_STATE, CliError
from vdscli.storage_inventory import Storage, find_storage, images, storages
from vdscli.terminal import Cell, Column

if TYPE_CHECKING:
    from vdscli.session import Session

_COLOURS: Final = {"active": "green", "connecting": "yellow", "failing": "red"}
_SHORT_ID: Final = 8


def show_all(session: Session) -> None:
    """``storage list``."""
    found = storages(session.client)
    if session.out.as_json:
        session.out.value([_facts(item) for item in found])
    elif session.args.quiet:
        for item in found:
            session.out.line(item.name or item.domain_id)
    else:
        columns = (
            *(Column("NAME"), Column("ID"), Column("TYPE"), Column("STATUS")),
            *(Column("SIZE", right=True), Column("FREE", right=True), Column("PATH")),
        )
        session.out.table(columns, [_row(item, full=session.args.full) for item in found])
        for item in found:
            if item.reason:
                session.out.note(f"{item.name or item.domain_id}: {item.reason}")


def _row(item: Storage, *, full: bool) -> list[str | Cell]:
    status = Cell(item.status, _COLOURS.get(item.status, ""))
    ident = item.domain_id if full else item.domain_id[:_SHORT_ID]
    return [item.name, ident, item.type, status, _size(item.total), _size(item.free), item.path]


def _size(count: int | None) -> str:
    return "" if count is None else units.size(count)


def _facts(item: Storage) -> dict[str, Any]:
    return item._asdict()


def show(session: Session) -> None:
    """``storage show``."""
    item = find_storage(session.client, session.args.storage)
    info = session.client.get(item.rest) if item.status != "connecting" else {}
    count = len(session.client.get(f"{item.rest}/images")) if item.status == "active" else None
    if session.out.as_json:
        session.out.value({**_facts(item), "info": info, "images": count})
        return
    session.out.card([
        ("Name", item.name),
        ("Id", item.domain_id),
        ("Status", Cell(item.status, _COLOURS.get(item.status, ""))),
        ("Reason", item.reason),
        ("Type", item.type),
        ("Path", item.path),
        ("Pool", f"{item.pool_id}{' (its master)' if item.master else ''}" if item.pool_id else "none"),
        ("Managed by", "this host" if item.own else "a manager"),
        ("Version", str(info.get("version", ""))),
        ("Size", _size(item.total)),
        ("Free", _size(item.free)),
        ("Images", "" if count is None else str(count)),
    ])


def create(session: Session) -> None:
    """``storage create``."""
    made = session.client.post("/storage", _request(session))
    session.out.done(f"{made['name']}: made and in use ({made['domain_id']})", made)


def attach(session: Session) -> None:
    """``storage attach``."""
    found = session.client.post("/storage/attach", _request(session))
    session.out.done(f"{found['name']}: in use ({found['domain_id']})", found)


def _request(session: Session) -> dict[str, Any]:
    args = session.args
    path = args.path
    if args.type == "localfs" and not path.startswith("/"):
        if not session.client.is_local:
            raise CliError(f"PATH: {path!r} must be an absolute path on the other host", USAGE)
        path = str(Path.cwd() / path)
    body = {"name": args.name, "type": args.type.upper(), "path": path}
    if args.type == "posixfs" and not args.vfs_type:
        raise CliError("--vfs-type: a POSIX file system needs the kernel's name of it", USAGE)
    for key, value in (
        ("vfs_type", args.vfs_type),
        ("mount_options", args.mount_options),
        ("nfs_version", args.nfs_version),
    ):
        if value:
            body[key] = value
    return body


def remove(session: Session) -> None:
    """``storage remove``."""
    args = session.args
    item = find_storage(session.client, args.storage)
    if not item.own:
        raise CliError(f"{item.name or item.domain_id} belongs to a manager, who removes it", WRONG_STATE)
    if args.destroy and not args.yes:
        count = len(images(session.client, [item])) if item.status == "active" else None
        words = "all its images" if count is None else f"its {count} images"
        raise CliError(f"--destroy deletes {item.name} with {words}; give --yes, too", USAGE)
    session.client.delete(f"/storage/{quoted(item.name)}", destroy=args.destroy)
    words = "deleted" if args.destroy else "no longer in use; its content stays"
    session.out.done(f"{item.name}: {words}", {"name": item.name, "domain_id": item.domain_id, "removed": True})


def check(session: Session) -> int:
    """``storage check``: exit code 0 when nothing is wrong, or nothing any more."""
    args = session.args
    item = find_storage(session.client, args.storage)
    found = _checked(session, item)
    if args.repair:
        found["mended"] = _repaired(session, item, found)
        found["findings"], found["skipped"] = found.pop("left"), found["left_skipped"]
        del found["left_skipped"]
    session.out.clear_progress()
    if session.out.as_json:
        session.out.value(found)
    else:
        _tell(session, item, found)
    return FAILED if found["findings"] else 0


def _checked(session: Session, item: Storage) -> dict[str, Any]:
    """All of it; qcow2 volumes image by image, because that takes long."""
    found: dict[str, Any] = session.client.get(f"{item.rest}/check")
    if session.args.data:
        idents = session.client.get(f"{item.rest}/images")
        for number, ident in enumerate(idents):
            session.out.progress(f"checking the data of {item.name}: image {number + 1} of {len(idents)}")
            more = session.client.get(f"{item.rest}/check", image_id=ident, data=True)
            known = {(entry["word"], entry["object"]) for entry in found["findings"]}
            found["findings"] += [entry for entry in more["findings"] if (entry["word"], entry["object"]) not in known]
            found["skipped"] += [entry for entry in more["skipped"] if entry not in found["skipped"]]
    return found


def _repaired(session: Session, item: Storage, found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was mended; what is left goes into ``found``."""
    session.out.progress(f"repairing {item.name} ...")
    done = session.client.post(f"{item.rest}/repair")
    mended, left, skipped = done["mended"], done["left"], done["skipped"]
    leaky = {entry["image_id"] for entry in found["findings"] if entry["word"].startswith("data-leak")}
    for ident in sorted(leaky):
        session.out.progress(f"repairing {item.name}: image {ident} ...")
        mended += session.client.post(f"{item.rest}/repair", {"image_id": ident, "data": True})["mended"]
    left += [entry for entry in found["findings"] if entry["word"] == "data-corrupt"]
    found["left"], found["left_skipped"] = left, skipped
    return list(mended)


def _tell(session: Session, item: Storage, found: dict[str, Any]) -> None:
    for entry in found.get("mended", ()):
        session.out.line(f"mended  {entry['word']}: {entry['object'] or '.'}: {entry['what']}", "green")
    for entry in found["findings"]:
        sign = "can be mended" if entry["repairable"] else "left"
        session.out.line(f"{entry['word']}: {entry['object'] or '.'}: {entry['what']}", "red")
        session.out.line(f"    {sign}: {entry['remedy']}")
    for entry in found["skipped"]:
        session.out.note(f"not looked at: {entry['object']}: {entry['reason']}")
    if session.args.quiet:
        return
    looked = f"{found['images']} images, {found['volumes']} volumes"
    if not found["findings"]:
        session.out.line(f"{item.name}: sound ({looked})")
        return
    count = sum(entry["repairable"] for entry in found["findings"])
    session.out.line(f"{item.name}: {len(found['findings'])} findings ({looked})")
    if count:
        session.out.note(f"'vdscli storage check {item.name} --repair' mends {count} of them")
