"""A VM's leases: named by an Engine's placeholders or asked for with a disk, found in their domains, or refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_domxml_paths import ENGINE, LEASE, TRAITS, VM
from test_vm_images import AT, DOMAIN, IMAGE, OWNER, VOLUME, spec

from vdsm.base.errors import BadParameter
from vdsm.services.vm_leases import VmLeases
from vdsm.storage.errors import NoSuchLease, StorageFailed
from vdsm.storage.formats.leases import Geometry, LeaseRecord
from vdsm.storage.ids import DomainId, LeaseId, VolumeRef
from vdsm.system.lock_driver import lock_manager
from vdsm.virt import domxml
from vdsm.virt.leases import LeaseLocation, LeaseRef

XLEASES = f"/mnt/{DOMAIN}/dom_md/xleases"
OF_VOLUME = f"/mnt/{DOMAIN}/images/{IMAGE}/{VOLUME}.lease"


@dataclass
class Storage:
    """One domain with one external lease, and a lease of each volume unless it is of one host only."""

    local: bool = False
    error: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def info(self, domain_id: DomainId, lease_id: LeaseId) -> LeaseRecord:
        self.asked.append(lease_id)
        if self.error is not None:
            raise self.error
        return LeaseRecord(domain_id, lease_id, XLEASES, 3 << 20, Geometry())

    def find(self, _: DomainId) -> SimpleNamespace:
        return SimpleNamespace(backend=self)

    def volume_lease(self, volume: VolumeRef) -> LeaseRecord | None:
        return None if self.local else LeaseRecord(volume.domain_id, volume.volume_id, OF_VOLUME, 0, Geometry())


def leases(storage: Storage, keeper: str = "sanlock") -> VmLeases:
    return VmLeases(storage.find, storage, lambda: keeper)  # type: ignore[arg-type]


def test_lease_of_an_engine_is_put_in_place() -> None:
    text = LEASE.replace(f"<lockspace>{VM}", f"<lockspace>{DOMAIN}").replace(f":{VM}'", f":{DOMAIN}'")
    prepared = domxml.prepare(ENGINE.replace("</devices>", f"{text}</devices>", 1), VM, OWNER, TRAITS)
    (ref,) = prepared.leases
    assert ref == LeaseRef("xml.devices.lease[0]", DOMAIN, VM)
    found = leases(Storage()).locate(ref)
    placed = domxml.place(prepared, {}, "", {(ref.domain_id, ref.lease_id): found})
    assert f'<target path="{XLEASES}" offset="3145728"' in placed.xml
    assert "LEASE-" not in placed.xml


def test_lease_of_a_described_disk() -> None:
    prepared = domxml.build(spec(image=replace(AT, lease=True)), OWNER, TRAITS)
    (ref,) = prepared.leases
    assert ref == LeaseRef("disks[0].image.lease", DOMAIN, VOLUME, IMAGE)
    storage = Storage()
    found = leases(storage).locate(ref)
    assert found == LeaseLocation(OF_VOLUME, 0)
    assert storage.asked == []
    placed = domxml.place(prepared, {}, "", {(ref.domain_id, ref.lease_id): found})
    for part in (f"<lockspace>{DOMAIN}</lockspace>", f"<key>{VOLUME}</key>", f'<target path="{OF_VOLUME}" offset="0"'):
        assert part in placed.xml
    assert domxml.build(spec(), OWNER, TRAITS).leases == ()


@pytest.mark.parametrize("keeper", ["", "lockd"])
def test_without_a_keeper_of_leases_no_vm_runs_unprotected(keeper: str) -> None:
    with pytest.raises(BadParameter, match="lock_manager") as caught:
        leases(Storage(), keeper).locate(LeaseRef("xml.devices.lease[0]", DOMAIN, VM))
    assert "xml.devices.lease[0]" in str(caught.value)


def test_what_is_not_there_is_told_of_the_lease() -> None:
    ref = LeaseRef("xml.devices.lease[0]", DOMAIN, VM)
    with pytest.raises(BadParameter, match=r"xml\.devices\.lease\[0\]"):
        leases(Storage(error=NoSuchLease(VM))).locate(ref)
    with pytest.raises(BadParameter, match="have no leases"):
        leases(Storage(local=True)).locate(LeaseRef("disks[0].image.lease", DOMAIN, VOLUME, IMAGE))
    with pytest.raises(StorageFailed):
        leases(Storage(error=StorageFailed("reading", "an error of the disk"))).locate(ref)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('lock_manager = "sanlock"\n', "sanlock"),
        ('user = "root"\n  lock_manager="lockd" # x\n', "lockd"),
        ('#lock_manager = "lockd"\n', ""),
        ('lock_manager = "lockd"\nlock_manager = "sanlock"\n', "sanlock"),
        ('xlock_manager = "sanlock"\n', ""),
        ("", ""),
    ],
)
def test_who_takes_leases_for_libvirt(tmp_path: Path, text: str, found: str) -> None:
    file = tmp_path / "qemu.conf"
    file.write_text(text)
    assert lock_manager(file) == found
    assert lock_manager(tmp_path / "none") == ""
