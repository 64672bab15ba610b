"""What the original's recoveries do, carried out on our back ends; each can be done again.

Source: storage format, section 5.3.
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from typing import Final

from vdsm.storage import chain, plans
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import Damaged, NoSuchImage, NoSuchVolume
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.formats.tasks import Rollback, RollbackKind
from vdsm.storage.ids import ImageId, ImageRef, VolumeId, VolumeRef, parse_domain_id, parse_image_id, parse_volume_id
from vdsm.storage.kinds import VolumeFormat, VolumeKind
from vdsm.storage.pool.pool_session import DomainSource
from vdsm.storage.steps import Change, Delete

log = logging.getLogger(__name__)

_NOTHING: Final = {RollbackKind.SENTINEL, RollbackKind.KILL}


def carry_out(rollback: Rollback, domains: DomainSource) -> None:
    """Take one step of another host back.

    Raises:
        Damaged: it does not say what, or is of a kind that is not known here.
        VdsmError: the back end refuses.
    """
    log.info("rollback %s: %s", rollback.name, ", ".join(rollback.params))
    if rollback.kind in _NOTHING:
        return
    try:
        _on_storage(rollback, domains)
    except (IndexError, ValueError) as error:
        raise Damaged(f"rollback {rollback.name}", f"its parameters are {rollback.params!r:.200}") from error


def _on_storage(rollback: Rollback, domains: DomainSource) -> None:
    params = rollback.params
    match rollback.kind:
        case RollbackKind.IMAGE:
            domain, image_id, _ = _of_path(domains, f"{params[0]}/")
            _remove_empty(domain, image_id)
        case RollbackKind.SHARE:
            _unlink(*_of_path(domains, params[0]))
        case RollbackKind.METADATA:
            _unpublish(*_of_path(domains, params[0]))
        case RollbackKind.HALF_MADE:
            _discard_half(*_of_path(domains, params[2]))
        case RollbackKind.PARENT | RollbackKind.EXTEND:
            domain, volume = _of_ids(domains, params[0], params[1], params[2])
            (_mend_kind if rollback.kind is RollbackKind.PARENT else _mend_capacity)(domain, volume)
        case RollbackKind.VOLUME:
            _delete(*_of_ids(domains, params[1], params[2], params[3]))
        case _:
            raise Damaged(f"rollback {rollback.name}", f"{rollback.function} is not known here")


def _of_path(domains: DomainSource, path: str) -> tuple[Domain, ImageId, str]:
    """What ``.../DOMAIN/images/IMAGE/NAME`` stands for on this host."""
    domain_id, images, image_id, name = path.rsplit("/", 4)[1:]
    if images != tree.IMAGES:
        raise ValueError(path)
    return domains.find(parse_domain_id(domain_id)), parse_image_id(image_id), name


def _of_ids(domains: DomainSource, domain_id: str, image_id: str, volume_id: str) -> tuple[Domain, VolumeRef]:
    domain = domains.find(parse_domain_id(domain_id))
    return domain, VolumeRef(domain.id, parse_image_id(image_id), parse_volume_id(volume_id))


def _remove_empty(domain: Domain, image_id: ImageId) -> None:
    path = f"{domain.path}/{tree.IMAGES}/{image_id}"
    with told(f"removing {path}"):
        try:
            domain.files.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def _unlink(domain: Domain, image_id: ImageId, name: str) -> None:
    """Take a template's links out of an image: never a volume of its own."""
    volume = VolumeRef(domain.id, image_id, parse_volume_id(name))
    try:
        metadata = domain.backend.volume(volume)
    except NoSuchVolume:
        home = None
    else:
        if metadata.kind is not VolumeKind.SHARED or metadata.image_id == image_id:
            return
        home = VolumeRef(domain.id, metadata.image_id, volume.volume_id)
    if home is not None:
        domain.backend.unshare(home, image_id)
        return
    path = f"{domain.path}/{tree.IMAGES}/{image_id}/{name}"
    with told(f"removing {path}"):
        for end in (tree.LEASE_SUFFIX, ""):
            with suppress(FileNotFoundError):
                # One that has another name somewhere is a link; the only name of some data is kept.
                if domain.files.stat(path + end).links > 1:
                    domain.files.unlink(path + end)


def _unpublish(domain: Domain, image_id: ImageId, name: str) -> None:
    path = f"{domain.path}/{tree.IMAGES}/{image_id}/{parse_volume_id(name)}{tree.META_SUFFIX}"
    with told(f"removing {path}"), suppress(FileNotFoundError):
        domain.files.unlink(path)


def _discard_half(domain: Domain, image_id: ImageId, name: str) -> None:
    volume = VolumeRef(domain.id, image_id, parse_volume_id(name))
    try:
        domain.backend.volume(volume)
    except NoSuchVolume:
        domain.backend.delete(volume)


def _mend_kind(domain: Domain, volume: VolumeRef) -> None:
    with suppress(NoSuchImage, NoSuchVolume):
        image = domain.backend.image(volume.image_id)
        kind = chain.right_kind(image, volume.volume_id)
        change = Change(volume, kind=kind).changed(image.volume(volume.volume_id))
        if change != image.volume(volume.volume_id):
            domain.backend.rewrite(volume, change)


def _mend_capacity(domain: Domain, volume: VolumeRef) -> None:
    with suppress(NoSuchVolume):
        metadata = domain.backend.volume(volume)
        size = domain.backend.data(volume).apparent
        if metadata.format is VolumeFormat.RAW and size > 0 and metadata.capacity != size:
            domain.backend.rewrite(volume, Change(volume, capacity=size).changed(metadata))


def _delete(domain: Domain, volume: VolumeRef) -> None:
    """Delete a volume that was made; its parent is mended, and its image goes if nothing else is in it."""
    try:
        image = domain.backend.image(volume.image_id)
        plan = plans.delete({ImageRef(domain.id, volume.image_id): image}, volume, force=True)
    except (NoSuchImage, NoSuchVolume):
        # Made, and not published; or deleted, and the image not yet.
        _discard_half(domain, volume.image_id, VolumeId(volume.volume_id))
        return
    for step in plan:
        if isinstance(step, Change):
            before = domain.backend.volume(step.volume)
            if (after := step.changed(before)) != before:
                domain.backend.rewrite(step.volume, after)
        elif isinstance(step, Delete):
            domain.backend.delete(step.volume)
