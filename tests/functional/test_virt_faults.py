"""Faults on real libvirt and QEMU: frozen, killed, restarted. Others go on, threads do not pile up, all recovers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import doomed
from lab.fleets import Lab, reaches
from lab.light import LightHost, eventually
from needs import needs
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import NotResponding, Unfinished, Unreachable, VdsmError
from vdsm.system.libvirt.connection import Connection
from vdsm.virt.fleet import Fleet
from vdsm.virt.hypervisor import LANES, Deadlines, LibvirtHypervisor
from vdsm.virt.lifecycle import Status
from vdsm.virt.requests import Cont, Pause
from vdsm.virt.view import ExitCode, ExitReason

pytestmark = needs("root", "qemu", "program:libvirtd")

# Every lane's threads, the fleet's, the samplers' and the two of libvirt: what there can ever be.
MORE_THREADS = 35


@pytest.fixture
def light() -> Iterator[LightHost]:
    with tempfile.TemporaryDirectory(prefix="fault") as directory, LightHost(Path(directory) / "host") as host:
        yield host


@pytest.fixture
def lab(light: LightHost) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="fault") as directory:
        lab = Lab(Path(directory))
        yield lab
        lab.close()


@pytest.fixture
def fleet(light: LightHost, lab: Lab) -> Fleet:
    return lab.fleet(LibvirtHypervisor(light.uri, Deadlines(call_s=1.5)))


def running(lab: Lab, fleet: Fleet, count: int) -> list[str]:
    vms = [lab.vm() for _ in range(count)]
    for prepared in vms:
        fleet.create(prepared)
    for prepared in vms:
        reaches(fleet, prepared.vm_id, Status.UP)
    return [prepared.vm_id for prepared in vms]


def sampled_after(fleet: Fleet, vm_id: str, since_s: float) -> bool:
    sample = fleet.get(vm_id).sample
    return sample is not None and min(sample.taken_s, sample.monitor_taken_s or 0.0) > since_s


def test_frozen_qemu(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    frozen, healthy = running(lab, fleet, 2)
    eventually(lambda: sampled_after(fleet, frozen, 0), "a sample")
    threads = threading.active_count()
    light.freeze(frozen)
    eventually(lambda: not fleet.get(frozen).responding, "the frozen VM does not respond")
    assert fleet.get(healthy).responding
    for _ in range(30):
        with pytest.raises(NotResponding):
            fleet.request(frozen, Pause())
    assert fleet.request(healthy, Pause()).status is Status.PAUSED
    assert fleet.request(healthy, Cont()).status is Status.UP
    eventually(lambda: sampled_after(fleet, healthy, monotonic_s() - 0.1), "fresh samples of the healthy VM")
    assert fleet.health().abandoned <= 1  # it may have been frozen in the middle of a sample
    assert threading.active_count() <= threads + 2
    light.thaw(frozen)
    eventually(lambda: fleet.get(frozen).responding, "it responds again")
    now_s = monotonic_s()
    eventually(lambda: sampled_after(fleet, frozen, now_s), "fresh samples of it")
    assert fleet.request(frozen, Pause()).status is Status.PAUSED


def test_qemu_that_hangs_in_a_request(lab: Lab, light: LightHost) -> None:
    """Whose hanging the kernel does not tell: here, because nobody looks at the processes yet."""
    fleet = lab.fleet(
        LibvirtHypervisor(light.uri, Deadlines(call_s=1.0)), cheap_interval_s=3600.0, monitor_interval_s=3600.0
    )
    frozen, healthy = running(lab, fleet, 2)
    light.freeze(frozen)
    with pytest.raises(Unfinished):
        fleet.request(frozen, Pause())
    eventually(lambda: not fleet.get(frozen).responding, "the frozen VM does not respond")
    with pytest.raises(NotResponding):
        fleet.request(frozen, Pause())
    assert fleet.request(healthy, Pause()).status is Status.PAUSED
    light.thaw(frozen)
    eventually(lambda: fleet.get(frozen).responding, "it responds again")
    reaches(fleet, frozen, Status.PAUSED)  # the request came through after all


def test_sampling_finds_the_hanging_qemu_beside_its_stuck_call(lab: Lab, light: LightHost) -> None:
    hypervisor = LibvirtHypervisor(light.uri)
    hypervisor.processes = lambda vm_ids: {}  # type: ignore[method-assign]  # a /proc that tells nothing
    hypervisor.stopped = lambda vm_id: False  # type: ignore[method-assign]
    fleet = lab.fleet(hypervisor)
    frozen, *healthy = running(lab, fleet, 3)
    light.freeze(frozen)
    eventually(lambda: not fleet.get(frozen).responding, "the frozen VM does not respond")
    now_s = monotonic_s()
    eventually(lambda: all(sampled_after(fleet, vm_id, now_s) for vm_id in healthy), "samples of the others")
    assert all(fleet.get(vm_id).responding for vm_id in healthy)
    assert fleet.health().abandoned == 1
    sample = fleet.get(healthy[0]).sample
    assert sample is not None
    assert sample.cpu_ns > 0  # from QEMU, where /proc does not tell
    light.thaw(frozen)
    eventually(lambda: fleet.get(frozen).responding, "it responds again")
    assert fleet.health().abandoned == 0


def test_frozen_qemu_is_destroyed(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    frozen, healthy = running(lab, fleet, 2)
    light.freeze(frozen)
    eventually(lambda: not fleet.get(frozen).responding, "the frozen VM does not respond")
    gone = threading.Thread(target=fleet.destroy, args=(frozen,))
    gone.start()
    assert fleet.request(healthy, Pause()).status is Status.PAUSED
    assert gone.is_alive()  # libvirt gives it 10 s, and nobody waits for that
    gone.join(60)
    assert [view.vm_id for view in fleet.views()] == [healthy]


def test_frozen_libvirtd(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    one, other = running(lab, fleet, 2)
    eventually(lambda: sampled_after(fleet, one, 0), "a sample")
    threads = threading.active_count()
    light.freeze_libvirtd()
    with pytest.raises(NotResponding, match="libvirt does not respond"):
        fleet.request(one, Pause())
    for _ in range(30):
        with pytest.raises(NotResponding, match="libvirt does not respond"):
            fleet.request(other, Pause())
        with pytest.raises(NotResponding, match="libvirt does not respond"):
            fleet.create(lab.vm())
        with pytest.raises(NotResponding, match="libvirt does not respond"):
            fleet.destroy(one)
    before = fleet.get(one)
    assert (before.status, before.responding) == (Status.UP, True)
    assert before.sample is not None
    assert before.xml
    time.sleep(2)  # rounds of sampling that must not pile up
    sample = fleet.get(one).sample
    assert sample is not None
    assert monotonic_s() - sample.taken_s > 2  # its age is what it is
    assert threading.active_count() <= threads + 4
    light.thaw_libvirtd()
    eventually(lambda: fleet.health().answers, "libvirt answers")
    eventually(lambda: not fleet.health().abandoned, "all calls came back")
    now_s = monotonic_s()
    eventually(lambda: sampled_after(fleet, one, now_s), "fresh samples")
    assert fleet.request(other, Pause()).status is Status.PAUSED
    assert threading.active_count() <= threads + 4


def test_libvirtd_frozen_until_the_connections_are_given_up(lab: Lab, light: LightHost) -> None:
    """libvirt's keepalive frees the threads of calls to a daemon that never answers again."""
    connection = Connection(light.uri, LANES, keepalive=(1, 2))
    fleet = lab.fleet(LibvirtHypervisor(light.uri, connection=connection))
    (vm_id,) = running(lab, fleet, 1)
    fleet.request(vm_id, Cont())
    fleet.request(vm_id, Pause())
    eventually(lambda: sampled_after(fleet, vm_id, 0), "a sample")  # all lanes have a connection
    fleet.request(vm_id, Cont())
    light.freeze_libvirtd()
    with pytest.raises(NotResponding):
        fleet.request(vm_id, Pause())
    eventually(lambda: not fleet.health().reachable, "the connection is given up")
    eventually(lambda: not fleet.health().abandoned, "its calls came back")
    with pytest.raises((Unreachable, NotResponding)):
        fleet.request(vm_id, Pause())
    assert fleet.get(vm_id).status is Status.UP
    light.thaw_libvirtd()
    eventually(lambda: fleet.health().answers, "libvirt answers")
    assert fleet.request(vm_id, Pause()).status is Status.PAUSED
    light.virsh("resume", fleet.get(vm_id).name)
    reaches(fleet, vm_id, Status.UP)  # events come on the new connection


def test_libvirtd_killed_and_restarted(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    stays, dies, paused = running(lab, fleet, 3)
    fleet.request(paused, Pause())
    before = fleet.get(stays)
    light.kill_libvirtd()
    eventually(lambda: not fleet.health().reachable, "libvirt is gone")
    with pytest.raises(Unreachable):
        fleet.request(stays, Pause())
    with pytest.raises(Unreachable):
        fleet.create(lab.vm())
    assert [view.status for view in fleet.views()] == [Status.UP, Status.UP, Status.PAUSED]
    light.kill_qemu(dies)
    light.start_libvirtd()
    eventually(lambda: fleet.health().answers, "libvirt answers")
    reaches(fleet, dies, Status.DOWN)
    how = fleet.get(dies).exit
    assert how is not None
    assert how.code is ExitCode.ERROR
    assert fleet.get(paused).status is Status.PAUSED
    # libvirt drops an alias when it restarts, and the hash of the devices says so.
    assert replace(fleet.get(stays).facts, devices_hash="") == replace(before.facts, devices_hash="")
    assert fleet.request(stays, Pause()).status is Status.PAUSED  # and its events come again
    light.virsh("resume", fleet.get(stays).name)
    reaches(fleet, stays, Status.UP)


def test_libvirtd_restarted_while_a_qemu_is_frozen(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    frozen, healthy = running(lab, fleet, 2)
    light.freeze(frozen)
    light.kill_libvirtd()
    light.start_libvirtd()
    eventually(lambda: fleet.health().answers, "libvirt answers")
    assert fleet.request(healthy, Pause()).status is Status.PAUSED
    eventually(lambda: not fleet.get(frozen).responding, "the frozen VM does not respond")
    light.thaw(frozen)
    eventually(lambda: fleet.get(frozen).responding, "it responds again")

    def pauses() -> bool:
        try:
            return fleet.request(frozen, Pause()).status is Status.PAUSED
        except VdsmError:
            return False  # libvirtd is still getting to know it

    eventually(pauses, "it can be paused")


def test_agent_killed_adopts_its_vms_and_tells_who_died(lab: Lab, light: LightHost) -> None:
    argv = [sys.executable, doomed.__file__, light.uri, str(lab.directory), lab.instance, "4"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        vm_ids = []
        for line in agent.stdout:
            if line.strip() == "ready":
                break
            vm_ids.append(line.strip())
        agent.kill()
    assert len(vm_ids) == 4
    light.kill_qemu(vm_ids[0])
    light.virsh("suspend", vm_ids[1])
    fleet = lab.fleet(LibvirtHypervisor(light.uri))
    views = {view.vm_id: view for view in fleet.views()}
    assert set(views) == set(vm_ids)
    how = views[vm_ids[0]].exit
    assert how is not None
    assert (views[vm_ids[0]].status, how.code, how.reason) == (
        Status.DOWN,
        ExitCode.ERROR,
        ExitReason.DOMAIN_MISSING,
    )
    assert views[vm_ids[1]].status is Status.PAUSED
    assert {views[vm_id].status for vm_id in vm_ids[2:]} == {Status.POWERING_UP}
    for vm_id in vm_ids:
        fleet.destroy(vm_id)
    assert light.virsh("list", "--all", "--name").split() == []


def test_threads_are_bounded_whatever_hangs(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    vm_ids = running(lab, fleet, 6)
    before = threading.active_count()  # other tests of this process leave idle ones behind
    fleet._hypervisor.stopped = lambda vm_id: False  # type: ignore[method-assign]  # make every request try
    for vm_id in vm_ids:
        light.freeze(vm_id)
    callers = [threading.Thread(target=_try, args=(fleet, vm_id), daemon=True) for vm_id in vm_ids for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert threading.active_count() - before < MORE_THREADS
    for vm_id in vm_ids:
        light.thaw(vm_id)
    eventually(lambda: all(view.responding for view in fleet.views()), "all respond")
    eventually(lambda: not fleet.health().abandoned, "all calls came back")


def _try(fleet: Fleet, vm_id: str) -> None:
    with pytest.raises(VdsmError):
        fleet.request(vm_id, Pause())
