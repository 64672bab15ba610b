"""Guests move alive between light hosts, by bare libvirt over TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import libvirt
import pytest

from . import host_faults
from .deadlines import eventually
from .enclosure import state
from .guests import Disk, Guest, make_disk
from .host_fixtures import lend
from .hosts import Host, Hosts

pytestmark = pytest.mark.light

MIB = 1 << 20


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    with lend(request) as make:
        yield make(2, shared=("images",), agents=False)


@pytest.fixture(scope="module")
def guest(pair: Hosts) -> Guest:
    """A running guest with a disk in the shared directory; each test finds it where the one before left it."""
    make_disk(pair.shared("images") / "guest.qcow2", 64 * MIB, "qcow2")
    guest = Guest(pair[0], "guest", disks=[Disk(f"{pair[0].shared('images')}/guest.qcow2", "qcow2")])
    guest.boot()
    return guest


def ends(pair: Hosts, guest: Guest) -> tuple[Host, Host]:
    """The host where the guest is, and the other."""
    return (pair[0], pair[1]) if guest.host is pair[0] else (pair[1], pair[0])


def domains(host: Host) -> list[str]:
    return [domain.name() for domain in host.virt.listAllDomains()]


def test_running_guest_moves_there_and_back(pair: Hosts, guest: Guest) -> None:
    one, two = ends(pair, guest)
    guest.write_pattern("vda", "before", 0, MIB)
    boot_id = guest.run("cat /proc/sys/kernel/random/boot_id")
    counter = guest.count()
    eventually(lambda: guest.counted() > 2, "it counts")
    for here, there in ((one, two), (two, one)):
        counted = guest.counted()
        guest.migrate(there)
        assert domains(there) == [guest.name]
        assert domains(here) == []
        eventually(guest.agent_answers, "its agent on the other host")
        assert guest.counted() >= counted
        now = guest.counted()
        eventually(lambda now=now: guest.counted() > now, "it counts on")
        assert guest.run("cat /proc/sys/kernel/random/boot_id") == boot_id
        assert guest.console.run("hostname") == f"{guest.name}\n"
        assert guest.check_pattern("vda", "before", 0, MIB) is None
        guest.write_pattern("vda", there.name, MIB, MIB)
        assert guest.check_pattern("vda", there.name, MIB, MIB) is None
    guest.kill(counter)


def test_guest_that_writes_faster_than_the_link_stays_until_the_link_is_good(pair: Hosts, guest: Guest) -> None:
    one, two = ends(pair, guest)
    writer = guest.dirty_memory(16, over_mib=24)
    eventually(lambda: guest.dirtied().mib > 24, "it writes")
    domain = guest.domain
    errors: list[libvirt.libvirtError] = []

    def move() -> None:
        try:
            guest.migrate(two)
        except libvirt.libvirtError as error:
            errors.append(error)

    mover = threading.Thread(target=move)
    with host_faults.throttled(one, 2_000_000):
        mover.start()
        eventually(lambda: domain.jobStats().get("data_processed", 0) > 0, "migration is under way")
        sent = domain.jobStats()["data_processed"]
        eventually(lambda: domain.jobStats()["data_processed"] > sent + MIB, "it goes on")
        assert mover.is_alive()
        assert domains(one) == [guest.name]
    mover.join(60)
    assert errors == []
    assert guest.host is two
    eventually(guest.agent_answers, "its agent")
    before = guest.dirtied().mib
    eventually(lambda: guest.dirtied().mib > before, "it writes on")
    guest.kill(writer)


def test_host_with_a_revoked_certificate_is_no_target(pair: Hosts, guest: Guest) -> None:
    one, two = ends(pair, guest)
    with host_faults.certificate_revoked(two), pytest.raises(libvirt.libvirtError, match="certificate"):
        guest.migrate(two)
    assert domains(one) == [guest.name]
    assert guest.agent_answers()
    guest.migrate(two)
    assert domains(two) == [guest.name]


def test_guest_of_a_dead_host_starts_on_the_other_with_its_disk(pair: Hosts) -> None:
    one, two = pair
    make_disk(pair.shared("images") / "ha.raw", 64 * MIB)
    disks = [Disk(f"{one.shared('images')}/ha.raw")]
    guest = Guest(one, "ha", disks=disks)
    guest.boot()
    guest.write_pattern("vda", "kept", 0, MIB)
    qemu = guest.pid
    with host_faults.without_power(one):
        assert state(qemu) in "XZ"
        heir = Guest(two, "ha", disks=disks)
        heir.boot()
        assert heir.check_pattern("vda", "kept", 0, MIB) is None
        heir.destroy()
