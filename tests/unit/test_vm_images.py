"""A VM's disks in storage domains: asked for by ids, put in place by path, given back also by the next process."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from test_domxml_paths import ENGINE, TRAITS, VM

from vdsm.base.errors import BadParameter, Denied
from vdsm.bindings.peers import Credentials, unix_caller
from vdsm.services.vm_images import VmImages
from vdsm.storage.errors import IllegalVolume, NoSuchImage, StorageFailed
from vdsm.storage.images.preparing import Prepared
from vdsm.storage.kinds import VolumeFormat
from vdsm.virt import domxml
from vdsm.virt.disks import ImageRef, Location
from vdsm.virt.domxml import Owner
from vdsm.virt.spec import DiskImage, DiskSpec, VmSpec

POOL = "11111111-0000-4000-8000-000000000001"
DOMAIN = "22222222-0000-4000-8000-000000000002"
IMAGE = "33333333-0000-4000-8000-000000000003"
VOLUME = "44444444-0000-4000-8000-000000000004"
AT = DiskImage(DOMAIN, IMAGE, VOLUME, POOL)
OWNER = Owner("agent-1")


@dataclass
class Repository:
    """The image repository with one image, which counts who uses it."""

    error: Exception | None = None
    users: list[tuple[str, str]] = field(default_factory=list)

    def prepare(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> Prepared:
        if self.error is not None:
            raise self.error
        self.users.append((domain_id, image_id))
        return Prepared(f"/mnt/{domain_id}/images/{image_id}/{volume_id}", False, VolumeFormat.COW, ())

    def teardown(self, domain_id: str, image_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.users.remove((domain_id, image_id))


class Paths:
    def prepare(self, ref: ImageRef) -> Location:
        return Location(ref.path)

    def teardown(self, ref: ImageRef) -> None:
        pass


def spec(**disk: object) -> VmSpec:
    given: dict[str, object] = {"path": None, "format": "qcow2", "image": AT, **disk}
    return VmSpec(vm_id=VM, name="web", memory_mib=64, disks=(DiskSpec(**given),))  # type: ignore[arg-type]


def images(repository: Repository, connected: str | None = POOL) -> VmImages:
    return VmImages(Paths(), repository, lambda: connected)  # type: ignore[arg-type]


def test_described_image_is_prepared_put_in_place_and_given_back() -> None:
    repository = Repository()
    door = images(repository)
    prepared = domxml.build(spec(), OWNER, TRAITS)
    (ref,) = prepared.images
    assert (ref.field, ref.volume_id, ref.pool_id) == ("disks[0].image", VOLUME, POOL)
    location = door.prepare(ref)
    placed = domxml.place(prepared, {ref.target: location}, "+64055:+36")
    assert f'file="/mnt/{DOMAIN}/images/{IMAGE}/{VOLUME}"' in placed.xml
    assert '<seclabel model="dac" relabel="no"' in placed.xml
    assert "<label>+64055:+36</label>" in placed.xml
    assert placed.facts.disks[0].image_id == IMAGE
    door.release(domxml.describe(placed.xml))
    assert not repository.users


def test_engines_disk_is_asked_for_by_its_ids_and_not_by_its_path() -> None:
    prepared = domxml.prepare(ENGINE, VM, OWNER, TRAITS)
    asked = [ref for ref in prepared.images if ref.volume_id]
    assert asked
    placed = domxml.place(prepared, {ref.target: Location(f"/x/{ref.volume_id}", shared=True) for ref in asked})
    for ref in asked:
        assert f"/x/{ref.volume_id}" in placed.xml
        assert ref.path not in placed.xml


def test_plain_paths_keep_libvirts_own_labels() -> None:
    prepared = domxml.build(spec(path="/var/lib/vdsm/images/a", image=None), OWNER, TRAITS)
    location = images(Repository()).prepare(prepared.images[0])
    placed = domxml.place(prepared, {prepared.images[0].target: location}, "+64055:+36")
    assert "seclabel" not in placed.xml


@pytest.mark.parametrize(
    ("error", "field"),
    [(NoSuchImage(IMAGE, DOMAIN), "does not exist"), (IllegalVolume(VOLUME), "is illegal")],
)
def test_what_is_wrong_with_an_image_names_the_disk(error: Exception, field: str) -> None:
    (ref,) = domxml.build(spec(), OWNER, TRAITS).images
    with pytest.raises(BadParameter, match=rf"disks\[0\].image.*{field}"):
        images(Repository(error)).prepare(ref)


def test_storages_own_trouble_stays_what_it_is() -> None:
    (ref,) = domxml.build(spec(), OWNER, TRAITS).images
    with pytest.raises(StorageFailed):
        images(Repository(StorageFailed("reading", "I/O error"))).prepare(ref)


@pytest.mark.parametrize(
    ("disk", "match"),
    [
        ({"path": "/var/lib/vdsm/images/a"}, r"disks\[0\].path"),
        ({"image": DiskImage("../x", IMAGE, VOLUME, POOL)}, r"disks\[0\].image.domain_id"),
        ({"image": DiskImage(DOMAIN, IMAGE, "", POOL)}, r"disks\[0\].image.volume_id"),
        ({"image": None}, r"disks\[0\].path"),
    ],
)
def test_bad_addresses_are_refused_by_name(disk: dict[str, object], match: str) -> None:
    with pytest.raises(BadParameter, match=match):
        domxml.build(spec(**disk), OWNER, TRAITS)


def test_wrong_format_and_unconnected_pool_are_refused() -> None:
    (ref,) = domxml.build(spec(format="raw"), OWNER, TRAITS).images
    with pytest.raises(BadParameter, match="is qcow2, not raw"):
        images(Repository()).prepare(ref)
    with pytest.raises(BadParameter, match="not connected"):
        images(Repository(), connected=None).prepare(ref)


def test_qemus_user_gives_no_orders_whatever_its_group() -> None:
    with pytest.raises(Denied):
        unix_caller(Credentials(1, 64055, frozenset({36})), 36, 64055)
    assert unix_caller(Credentials(1, 1000, frozenset({36})), 36, 64055)
    assert unix_caller(Credentials(1, 0, frozenset()), 36, 0)


def test_path_outside_the_repository_is_what_it_says():
    repository = Repository()
    ids = {"pool_id": POOL, "domain_id": DOMAIN, "image_id": IMAGE, "volume_id": VOLUME}
    images = VmImages(Paths(), repository, lambda: POOL)  # type: ignore[arg-type]
    outside = ImageRef(field="x", target="vda", path="/var/lib/vdsm/images/a", format="qcow2", **ids)
    assert images.prepare(outside) == Location("/var/lib/vdsm/images/a")
    images.teardown(outside)
    assert repository.users == []
    for path in ("", f"/rhev/data-center/{POOL}/{DOMAIN}/images/{IMAGE}/{VOLUME}"):
        inside = ImageRef(field="x", target="vda", path=path, format="qcow2", **ids)
        assert images.prepare(inside).shared
        assert repository.users == [(DOMAIN, IMAGE)]
        images.teardown(inside)
