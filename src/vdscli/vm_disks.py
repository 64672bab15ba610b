"""Disks of VMs that are images in storage: named ones found, new ones made.

image=NAME[,storage=STORAGE]     one that is there
size=SIZE[,storage=STORAGE]      a new one, called after the VM
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vdscli import storage_inventory
from vdscli.failures import USAGE, CliError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdscli.session import Session

_KINDS = ("image=", "size=")


def is_image(text: str) -> bool:
    """Whether a disk's description is of an image in storage."""
    return text.startswith(_KINDS)


@contextmanager
def resolved(session: Session, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A VM's description with the ids of its images; those that were made are deleted again when the block fails.

    Raises:
        CliError: there is no such image, or it cannot be made.
    """
    made: list[dict[str, Any]] = []
    try:
        disks = [_disk(session, body["name"], disk, made) for disk in body["disks"]]
        yield {**body, "disks": disks}
    except BaseException:
        for image in reversed(made):
            _delete(session, image)
        raise


def _disk(session: Session, vm_name: str, disk: dict[str, Any], made: list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(name := disk.get("image"), str):
        return {**_rest(disk), **_found(session, name, disk.get("storage"))}
    if isinstance(size := disk.get("size"), str):
        from vdscli import image_commands

        storage = storage_inventory.the_storage(session.client, disk.get("storage"))
        taken = {image.name for image in storage_inventory.images(session.client, [storage])}
        names = [vm_name, *(f"{vm_name}-{number}" for number in range(2, len(taken) + 3))]
        image = image_commands.make(
            session,
            storage,
            next(name for name in names if name not in taken),
            image_commands.size_of("--disk size", size),
            image_format=disk.get("format", "qcow2"),
            preallocated=False,
        )
        made.append(image)
        return {**_rest(disk), **_described(image, image["format"])}
    return disk


def _rest(disk: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in disk.items() if key not in {"image", "size", "storage", "format"}}


def _found(session: Session, name: str, storage: str | None) -> dict[str, Any]:
    image = storage_inventory.find_image(session.client, name, storage)
    if image.is_template:
        raise CliError(f"--disk: {name} is a template; 'vdscli image create NAME --from {name}' stands on it", USAGE)
    address = {
        "pool_id": image.storage.pool_id,
        "domain_id": image.storage.domain_id,
        "image_id": image.image_id,
        "volume_id": image.leaf,
    }
    return _described(address, image.format)


def _described(image: dict[str, Any], image_format: str) -> dict[str, Any]:
    address = {key: image[key] for key in ("pool_id", "domain_id", "image_id", "volume_id")}
    return {"image": address, "format": image_format}


def _delete(session: Session, image: dict[str, Any]) -> None:
    from vdscli.storage_tasks import finish

    try:
        task = session.client.delete(f"/storage-domains/{image['domain_id']}/images/{image['image_id']}")
        finish(session, task, f"deleting image {image['name']}")
    except CliError as error:
        session.out.note(f"image {image['name']} was made, and could not be deleted again: {error}")
