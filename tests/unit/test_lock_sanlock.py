"""The calls of sanlock's module: under deadlines, counted when they are given up, and told apart by their numbers."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from collections.abc import Callable
from types import ModuleType

import pytest

from vdsm.base.errors import Unfinished
from vdsm.storage.clusterlock import Membership
from vdsm.storage.errors import HostIdFailed, LeaseFailed, LeaseHeld
from vdsm.storage.formats.leases import MIB, Geometry
from vdsm.storage.ids import DomainId, new_id
from vdsm.storage.locks.sanlock_lock import SanlockLeases, SanlockLock, SanlockSettings
from vdsm.system.sanlock.daemon import Daemon
from vdsm.system.sanlock.facts import Deadlines, HostState, SanlockFailed, Spot

SPOT = Spot("/leases", MIB, MIB, 512)
DOMAIN = DomainId(new_id())


class SanlockError(Exception):
    @property
    def errno(self) -> int:
        return self.args[0]


class Module(ModuleType):
    """python3-sanlock's surface, with answers put in by a test."""

    HOST_UNKNOWN, HOST_FREE, HOST_LIVE, HOST_FAIL, HOST_DEAD = 1, 2, 3, 4, 5
    SanlockException = SanlockError

    def __init__(self) -> None:
        super().__init__("sanlock")
        self.ends: list[socket.socket] = []
        self.asked: list[str] = []
        self.held: list[dict] = []

    def register(self) -> int:
        ours, theirs = socket.socketpair()
        self.ends.append(theirs)
        return ours.detach()

    def get_lockspaces(self) -> list:
        return []

    def inq_lockspace(self, *_: object, **__: object) -> bool:
        return True

    def read_resource(self, *_: object, **__: object) -> dict:
        return {"lockspace": DOMAIN.encode(), "resource": b"SDM", "version": 7}

    def read_resource_owners(self, *_: object, **__: object) -> list:
        return []

    def acquire(self, lockspace: bytes, resource: bytes, disks: list, **_: object) -> None:
        self.held.append({"lockspace": lockspace, "resource": resource, "disks": disks})

    def release(self, *_: object, **__: object) -> None:
        self.held.clear()

    def inquire(self, **_: object) -> list:
        return self.held

    def answer(self, call: str, what: Callable[..., object] | int) -> None:
        """Let a call do something else, or fail with a number."""

        def failing(*_: object, **__: object) -> None:
            raise SanlockError(what, "it failed", "for a reason")

        setattr(self, call, failing if isinstance(what, int) else what)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    made = Module()
    monkeypatch.setitem(sys.modules, "sanlock", made)
    yield made
    for end in made.ends:
        end.close()


def a_lock(deadlines: Deadlines | None = None) -> tuple[SanlockLock, Daemon]:
    daemon = Daemon(deadlines)
    leases = SanlockLeases(daemon, SanlockSettings(io_timeout_s=10))
    lock = leases.of(DOMAIN, "/ids", "/leases", Geometry())
    assert leases.of(DOMAIN, "/ids", "/leases", Geometry()) is lock
    return lock, daemon


def test_machine_without_the_module_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sanlock", None)
    lock, _ = a_lock()
    with pytest.raises(LeaseFailed, match="python3-sanlock"):
        lock.format()
    with pytest.raises(HostIdFailed, match="python3-sanlock"):
        lock.join(1, wait_s=None)


def test_call_that_hangs_is_given_up_and_delays_nobody(module: Module) -> None:
    go_on = threading.Event()
    module.answer("read_resource", lambda *_, **__: go_on.wait(60))
    daemon = Daemon(Deadlines(storage_s=0.05), workers=2)
    for number in range(4):  # two hang in workers, two in the queue
        with pytest.raises(Unfinished):
            daemon.read_resource(SPOT)
        assert daemon.abandoned == min(number + 1, 2)
    assert daemon.in_lockspace("x", 1, SPOT) is True
    module.answer("read_resource", lambda *_, **__: {"lockspace": b"a", "resource": b"b", "version": 7})
    go_on.set()
    assert daemon.stop(30)
    assert daemon.abandoned == 0


def test_lease_that_comes_too_late_is_given_back(module: Module) -> None:
    go_on = threading.Event()
    module.answer("acquire", lambda *_, **__: go_on.wait(60))
    lock, daemon = a_lock(Deadlines(acquire_s=0.05))
    with pytest.raises(LeaseFailed, match="not finished"):
        lock.acquire(lock.sdm, 1)
    assert not lock.holds(lock.sdm)
    (end,) = module.ends
    end.settimeout(30)
    go_on.set()
    assert end.recv(1) == b""  # the connection was closed
    assert daemon.stop(30)


def test_connection_that_comes_too_late_is_closed(module: Module) -> None:
    go_on = threading.Event()
    register = module.register
    module.answer("register", lambda: (go_on.wait(60), register())[1])
    daemon = Daemon(Deadlines(memory_s=0.05))
    with pytest.raises(Unfinished):
        daemon.register()
    go_on.set()
    assert daemon.stop(30)
    (end,) = module.ends
    end.settimeout(30)
    assert end.recv(1) == b""


@pytest.mark.parametrize("number", [-243, -244, -245, -246, -247, -212, -213, errno.EAGAIN, errno.EEXIST, errno.EBUSY])
def test_what_others_have_is_held(module: Module, number: int) -> None:
    module.answer("acquire", number)
    lock, _ = a_lock()
    with pytest.raises(LeaseHeld):
        lock.acquire(lock.sdm, 1)
    module.__dict__.pop("acquire")
    lock.acquire(lock.sdm, 1)
    assert lock.holds(lock.sdm)


@pytest.mark.parametrize("number", [-202, -223, -227, -241, errno.EIO, errno.ENOSPC, errno.ECONNREFUSED])
def test_other_refusals_are_failures_that_name_their_number(module: Module, number: int) -> None:
    module.answer("acquire", number)
    lock, _ = a_lock()
    with pytest.raises(LeaseFailed, match=rf"\({number}\)"):
        lock.acquire(lock.sdm, 1)


def test_end_of_the_connection_is_the_loss_of_the_lease(module: Module) -> None:
    lock, _ = a_lock()
    lock.acquire(lock.sdm, 1)
    assert lock.holds(lock.sdm)
    module.ends[0].close()
    assert not lock.holds(lock.sdm)
    lock.acquire(lock.sdm, 1)  # anew, with a new connection
    assert lock.holds(lock.sdm)


def test_daemon_that_knows_nothing_of_the_lease_is_believed(module: Module) -> None:
    lock, _ = a_lock()
    lock.acquire(lock.sdm, 1)
    module.held[0]["disks"] = [("/elsewhere", MIB)]
    assert not lock.holds(lock.sdm)
    module.held.clear()
    assert not lock.holds(lock.sdm)
    module.answer("inquire", errno.EIO)
    with pytest.raises(LeaseFailed):
        lock.holds(lock.sdm)
    module.answer("inquire", errno.EPIPE)
    assert not lock.holds(lock.sdm)


def host(host_id: int, generation: int, flags: int, timestamp: int = 100) -> dict:
    return {
        "host_id": host_id, "generation": generation, "timestamp": timestamp, "io_timeout": 10, "flags": flags,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("now", "owners"),
    [
        ([host(2, 5, Module.HOST_LIVE)], (2,)),
        ([host(2, 5, Module.HOST_FAIL)], (2,)),
        ([host(2, 5, Module.HOST_UNKNOWN)], (2,)),
        ([host(2, 5, Module.HOST_DEAD)], ()),
        ([host(2, 5, Module.HOST_FREE)], ()),
        ([host(2, 6, Module.HOST_LIVE)], ()),
        (errno.EAGAIN, (2,)),
    ],
)
def test_owner_counts_while_it_may_be_alive(module: Module, now: list | int, owners: tuple) -> None:
    module.answer("read_resource_owners", lambda *_, **__: [host(2, 5, 0)])
    module.answer("get_hosts", now if isinstance(now, int) else lambda *_: now)
    lock, _ = a_lock()
    state = lock.inspect(lock.sdm)
    assert (state.owners, state.version) == (owners, 7)
    if owners:
        with pytest.raises(LeaseHeld, match="host 2"):
            lock.acquire(lock.sdm, 1)
    else:
        lock.acquire(lock.sdm, 1)


def test_host_that_has_not_joined_cannot_tell(module: Module) -> None:
    module.answer("read_resource_owners", lambda *_, **__: [host(2, 5, 0)])
    module.answer("get_hosts", errno.ENOENT)
    lock, _ = a_lock()
    with pytest.raises(LeaseFailed):
        lock.inspect(lock.sdm)
    with pytest.raises(LeaseFailed):
        lock.valid_for_s(1)


def test_joining_waits_only_as_long_as_it_may(module: Module) -> None:
    module.answer("add_lockspace", errno.EINPROGRESS)
    module.answer("inq_lockspace", lambda *_, **__: None)
    lock, _ = a_lock()
    lock.join(1, wait_s=None)
    assert lock.membership(1) is Membership.JOINING
    with pytest.raises(HostIdFailed, match="not done within"):
        lock.join(1, wait_s=0.0)
    module.answer("inq_lockspace", lambda *_, **__: False)
    with pytest.raises(HostIdFailed, match="another host"):
        lock.join(1, wait_s=60)
    module.answer("rem_lockspace", errno.EBUSY)
    with pytest.raises(HostIdFailed, match="still held"):
        lock.leave(1)
    module.answer("rem_lockspace", errno.ENOENT)
    lock.leave(1)


def test_states_of_hosts_are_named(module: Module) -> None:
    module.answer("get_hosts", lambda *_: [host(number, 1, number) for number in range(1, 6)])
    states = [found.state for found in Daemon().hosts("x")]
    assert states == [HostState.UNKNOWN, HostState.FREE, HostState.LIVE, HostState.FAIL, HostState.DEAD]


def test_failure_keeps_its_number(module: Module) -> None:
    module.answer("read_resource", -223)
    with pytest.raises(SanlockFailed) as failed:
        Daemon().read_resource(SPOT)
    assert (failed.value.number, failed.value.no_lease, failed.value.held) == (-223, True, False)
