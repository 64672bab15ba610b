"""The fleet on the simulated hypervisor: what a real one cannot be made to do quickly or at will."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fleets import Lab, reaches
from lab.light import eventually
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import NoSuchVm, NotResponding, Recovering, Unfinished, Unreachable, VmExists, WrongState
from vdsm.base.ids import new_vm_id
from vdsm.base.secrets import Secret
from vdsm.system.libvirt.facts import (
    AgentConnected,
    ConsoleClient,
    IoError,
    PauseCause,
    Paused,
    Rebooted,
    Resumed,
    ShutdownBy,
    StopCause,
)
from vdsm.virt.fleet import Fleet
from vdsm.virt.lifecycle import Status
from vdsm.virt.requests import ChangeMedium, Cont, Pause, Reset, SetTicket, Shutdown
from vdsm.virt.simulated import SimulatedHost, SimulatedHypervisor
from vdsm.virt.surroundings import Patience
from vdsm.virt.view import ExitCode, ExitReason, PauseCode, What


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, pace_s=0.05)
    yield lab
    lab.close()


@pytest.fixture
def fleet(lab: Lab, host: SimulatedHost) -> Fleet:
    return lab.fleet(SimulatedHypervisor(host, deadline_s=0.1))


def started(lab: Lab, fleet: Fleet, **options: object) -> str:
    prepared = lab.vm(**options)  # type: ignore[arg-type]
    assert fleet.create(prepared).status is Status.WAIT_FOR_LAUNCH
    reaches(fleet, prepared.vm_id, Status.UP, Status.POWERING_UP, Status.PAUSED)
    return prepared.vm_id


def why_down(fleet: Fleet, vm_id: str) -> tuple[int, int]:
    how = reaches(fleet, vm_id, Status.DOWN).exit
    assert how is not None
    assert how.message
    return int(how.code), int(how.reason)


# -- start


def test_vm_without_an_agent_channel_is_up_at_once(lab: Lab, fleet: Fleet) -> None:
    vm_id = started(lab, fleet)
    reaches(fleet, vm_id, Status.UP)
    assert lab.statuses(vm_id) == ["WaitForLaunch", "Powering up", "Up"]


def test_vm_with_an_agent_is_up_when_it_connects(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet, agent_channel=True)
    assert fleet.get(vm_id).status is Status.POWERING_UP
    host.connect_agent(vm_id)
    assert reaches(fleet, vm_id, Status.UP).agent_connected
    eventually(lambda: fleet.get(vm_id).guest, "the guest's answer")
    guest = fleet.get(vm_id).guest
    assert guest is not None
    assert guest.os_id == "simulated"


def test_vm_whose_agent_never_connects_is_up_after_a_while(lab: Lab, host: SimulatedHost) -> None:
    fleet = lab.fleet(SimulatedHypervisor(host), patience=Patience(up_after_s=0.1))
    vm_id = started(lab, fleet, agent_channel=True)
    reaches(fleet, vm_id, Status.UP)


def test_launch_paused(lab: Lab, fleet: Fleet) -> None:
    vm_id = started(lab, fleet, launch_paused=True)
    assert reaches(fleet, vm_id, Status.PAUSED).pause_code is PauseCode.USER
    assert fleet.request(vm_id, Cont()).status is Status.UP
    assert lab.statuses(vm_id) == ["WaitForLaunch", "Paused", "Powering up", "Up"]


def test_failed_start_leaves_a_down_vm_and_gives_back_what_was_prepared(
    lab: Lab, fleet: Fleet, host: SimulatedHost
) -> None:
    prepared = lab.vm()
    host.run(lab.vm(vm_id=prepared.vm_id, instance="another agent").xml)
    given_back = threading.Event()
    fleet.create(prepared, given_back.set)
    assert why_down(fleet, prepared.vm_id) == (ExitCode.ERROR, ExitReason.START_FAILED)
    how = fleet.get(prepared.vm_id).exit
    assert how is not None
    assert "already running" in how.message
    assert given_back.wait(10)
    fleet.destroy(prepared.vm_id)
    assert prepared.vm_id in host.domains  # the other's


def test_teardown_that_fails_does_not_keep_the_vm(lab: Lab, fleet: Fleet) -> None:
    def fail() -> None:
        raise OSError("no")

    prepared = lab.vm()
    fleet.create(prepared, fail)
    reaches(fleet, prepared.vm_id, Status.UP)
    fleet.destroy(prepared.vm_id)
    assert fleet.views() == ()


def test_vm_exists_by_id_and_by_name(lab: Lab, fleet: Fleet) -> None:
    prepared = lab.vm(name="same")
    fleet.create(prepared)
    with pytest.raises(VmExists):
        fleet.create(prepared)
    with pytest.raises(VmExists, match="same"):
        fleet.create(lab.vm(name="same"))
    assert len(fleet.views()) == 1


def test_nothing_is_created_while_the_hypervisor_is_away(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    host.freeze_daemon()
    with pytest.raises(NotResponding):
        fleet.create(lab.vm())
    host.thaw_daemon()
    host.kill_daemon()
    with pytest.raises(Unreachable):
        fleet.create(lab.vm())
    host.restart_daemon()
    assert fleet.views() == ()
    started(lab, fleet)


def test_start_whose_outcome_was_lost_with_the_daemon(lab: Lab, host: SimulatedHost) -> None:
    fleet = lab.fleet(SimulatedHypervisor(host, launch_s=0.3))
    begun, never = lab.vm(), lab.vm()
    fleet.create(begun)
    fleet.create(never)
    host.kill_daemon()
    host.run(begun.xml)  # it was started, but nobody was told
    eventually(lambda: len(lab.statuses(never.vm_id)) > 0, "created")
    threading.Event().wait(0.5)
    host.restart_daemon()
    reaches(fleet, begun.vm_id, Status.UP)
    assert why_down(fleet, never.vm_id) == (ExitCode.ERROR, ExitReason.START_FAILED)


def test_destroy_during_the_start(lab: Lab, host: SimulatedHost) -> None:
    fleet = lab.fleet(SimulatedHypervisor(host, launch_s=0.3))
    vms = [lab.vm() for _ in range(8)]  # the last ones wait for a thread
    for prepared in vms:
        fleet.create(prepared)
    for prepared in vms:
        fleet.destroy(prepared.vm_id)
    assert fleet.views() == ()
    assert host.domains == {}


# -- requests


def test_pause_and_cont(lab: Lab, fleet: Fleet) -> None:
    vm_id = started(lab, fleet)
    reaches(fleet, vm_id, Status.UP)
    paused = fleet.request(vm_id, Pause())
    assert (paused.status, paused.pause_code) == (Status.PAUSED, PauseCode.USER)
    assert fleet.request(vm_id, Pause()).status is Status.PAUSED
    running = fleet.request(vm_id, Cont())
    assert (running.status, running.pause_code) == (Status.UP, PauseCode.NONE)
    assert lab.statuses(vm_id)[-2:] == ["Paused", "Up"]


def test_illegal_request_is_refused_by_name(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet)
    host.end(vm_id, StopCause.CRASHED)
    reaches(fleet, vm_id, Status.DOWN)
    with pytest.raises(WrongState, match="cannot pause while Down"):
        fleet.request(vm_id, Pause())
    with pytest.raises(WrongState, match="cannot take a screenshot while Down"):
        fleet.screenshot(vm_id)


def test_unknown_vm(fleet: Fleet) -> None:
    nobody = new_vm_id()
    for call in (fleet.get, fleet.destroy, fleet.screenshot, lambda vm_id: fleet.request(vm_id, Pause())):
        with pytest.raises(NoSuchVm):
            call(nobody)


def test_devices_change_in_the_view_with_the_answer(lab: Lab, fleet: Fleet, tmp_path: Path) -> None:
    vm_id = started(lab, fleet, disks=(lab.cdrom(),))
    reaches(fleet, vm_id, Status.UP)
    before = fleet.get(vm_id).facts.devices_hash
    image = str(tmp_path / "cd.iso")
    view = fleet.request(vm_id, ChangeMedium("sda", image))
    assert view.facts.disks[0].path == image
    assert view.facts.devices_hash != before
    assert image in view.xml
    assert fleet.request(vm_id, ChangeMedium("sda", "")).facts.disks[0].path == ""


def test_ticket_needs_a_display_and_is_not_kept(lab: Lab, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    vm_id = started(lab, fleet, graphics="vnc")
    fleet.request(vm_id, SetTicket(Secret("hush-hush"), 60))
    assert "hush-hush" not in fleet.get(vm_id).xml
    assert "hush-hush" not in caplog.text
    bare = started(lab, fleet)
    with pytest.raises(WrongState, match="it has no display"):
        fleet.request(bare, SetTicket(Secret("hush-hush"), 60))


def test_reset(lab: Lab, fleet: Fleet) -> None:
    vm_id = started(lab, fleet)
    reaches(fleet, vm_id, Status.UP)
    assert fleet.request(vm_id, Reset()).status is Status.REBOOT_IN_PROGRESS
    reaches(fleet, vm_id, Status.UP)


def test_shutdown_by_the_agent(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet, agent_channel=True)
    host.connect_agent(vm_id)
    reaches(fleet, vm_id, Status.UP)
    fleet.request(vm_id, Shutdown())
    assert why_down(fleet, vm_id) == (ExitCode.NORMAL, ExitReason.ADMIN_SHUTDOWN)
    assert "Powering down" in lab.statuses(vm_id)


def test_guest_that_does_not_obey_is_up_again(lab: Lab, fleet: Fleet) -> None:
    vm_id = started(lab, fleet)
    reaches(fleet, vm_id, Status.UP)
    assert fleet.request(vm_id, Shutdown(step_s=0.1)).status is Status.POWERING_DOWN
    reaches(fleet, vm_id, Status.UP)


def test_guest_that_does_not_obey_is_powered_off_by_force(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet)
    fleet.request(vm_id, Shutdown(step_s=0.1, force=True))
    assert why_down(fleet, vm_id) == (ExitCode.NORMAL, ExitReason.ADMIN_SHUTDOWN)
    assert vm_id not in host.domains
    assert fleet.get(vm_id).status is Status.DOWN  # listed until it is destroyed


def test_shutdown_after_a_delay(lab: Lab, fleet: Fleet) -> None:
    vm_id = started(lab, fleet)
    reaches(fleet, vm_id, Status.UP)
    assert fleet.request(vm_id, Shutdown(delay_s=0.2)).status is Status.UP
    reaches(fleet, vm_id, Status.POWERING_DOWN)


# -- news


@pytest.mark.parametrize(
    ("cause", "by", "expected"),
    [
        (StopCause.SHUTDOWN, ShutdownBy.GUEST, (ExitCode.NORMAL, ExitReason.USER_SHUTDOWN)),
        (StopCause.SHUTDOWN, ShutdownBy.HOST, (ExitCode.ERROR, ExitReason.HOST_SHUTDOWN)),
        (StopCause.FAILED, None, (ExitCode.ERROR, ExitReason.LOST_QEMU)),
        (StopCause.CRASHED, None, (ExitCode.ERROR, ExitReason.GENERIC_ERROR)),
        (StopCause.DESTROYED, None, (ExitCode.ERROR, ExitReason.GENERIC_ERROR)),
        (StopCause.SAVED, None, (ExitCode.NORMAL, ExitReason.SAVED)),
        (StopCause.MIGRATED, None, (ExitCode.NORMAL, ExitReason.MIGRATION_SUCCEEDED)),
    ],
)
def test_end_has_its_reason_and_is_listed_until_destroyed(
    lab: Lab,
    fleet: Fleet,
    host: SimulatedHost,
    cause: StopCause,
    by: ShutdownBy | None,
    expected: tuple[ExitCode, ExitReason],
) -> None:
    vm_id = started(lab, fleet)
    host.end(vm_id, cause, by)
    assert why_down(fleet, vm_id) == expected
    assert [view.vm_id for view in fleet.views()] == [vm_id]
    fleet.destroy(vm_id)
    assert fleet.views() == ()
    assert lab.changes[-1].what & What.REMOVED


def test_io_error_says_what_kind(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet)
    reaches(fleet, vm_id, Status.UP)
    host.find(vm_id).paused = PauseCause.IO_ERROR
    host.emit(Paused(vm_id, PauseCause.IO_ERROR))
    host.emit(IoError(vm_id, "ua-1", "enospc", paused=True))
    eventually(lambda: fleet.get(vm_id).pause_code is PauseCode.ENOSPC, "ENOSPC")
    assert fleet.get(vm_id).status is Status.PAUSED
    host.find(vm_id).paused = None
    host.emit(Resumed(vm_id))
    assert reaches(fleet, vm_id, Status.UP).pause_code is PauseCode.NONE


def test_guest_reboots(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet, agent_channel=True)
    host.connect_agent(vm_id)
    reaches(fleet, vm_id, Status.UP)
    host.emit(AgentConnected(vm_id, connected=False))
    host.emit(Rebooted(vm_id))
    reaches(fleet, vm_id, Status.REBOOT_IN_PROGRESS)
    host.connect_agent(vm_id)
    reaches(fleet, vm_id, Status.UP)


def test_console_client(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet, graphics="vnc")
    host.emit(ConsoleClient(vm_id, "192.0.2.7", connected=True))
    eventually(lambda: fleet.get(vm_id).client_address == "192.0.2.7", "the client's address")
    host.emit(ConsoleClient(vm_id, "192.0.2.7", connected=False))
    eventually(lambda: fleet.get(vm_id).client_address == "", "no client")


def test_lost_news_are_found_out(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    paused, resumed, gone = started(lab, fleet), started(lab, fleet), started(lab, fleet)
    for vm_id in (paused, resumed, gone):
        reaches(fleet, vm_id, Status.UP)
    fleet.request(resumed, Pause())
    with host.changed:  # nobody is told
        host.domains[paused].paused = PauseCause.USER
        host.domains[resumed].paused = None
        del host.domains[gone]
    reaches(fleet, paused, Status.PAUSED)
    reaches(fleet, resumed, Status.UP)
    assert why_down(fleet, gone) == (ExitCode.ERROR, ExitReason.LOST_QEMU)


# -- samples and VMs that do not answer


def test_samples_are_new_objects_and_views_keep_them(lab: Lab, fleet: Fleet) -> None:
    vm_id = started(lab, fleet, disks=(lab.cdrom(),))
    eventually(lambda: (sample := fleet.get(vm_id).sample) and sample.monitor_taken_s, "a whole sample")
    first = fleet.get(vm_id).sample
    assert first is not None
    eventually(lambda: fleet.get(vm_id).sample is not first, "another sample")
    eventually(lambda: (sample := fleet.get(vm_id).sample) and sample.disks[0].read_rate > 0, "rates")
    sample = fleet.get(vm_id).sample
    assert sample is not None
    assert sample.taken_s > first.taken_s
    assert 5 < sample.cpu_user_percent < 20
    assert sample.memory_used_percent == 75
    assert sample.disks[0].read_latency_ns == 100_000


def test_vm_stopped_in_the_kernel_is_not_asked_at_all(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    frozen, healthy = started(lab, fleet), started(lab, fleet)
    host.freeze(frozen)
    eventually(lambda: not fleet.get(frozen).responding, "not responding")
    assert fleet.health().abandoned == 0
    with pytest.raises(NotResponding):
        fleet.request(frozen, Pause())
    assert fleet.request(healthy, Pause()).status is Status.PAUSED
    before = fleet.get(healthy).sample
    eventually(lambda: fleet.get(healthy).sample is not before, "a sample of the healthy one")
    host.thaw(frozen)
    eventually(lambda: fleet.get(frozen).responding, "responding")
    assert fleet.request(frozen, Pause()).status is Status.PAUSED
    told = [change.view.responding for change in lab.changes if change.what & What.RESPONDING]
    assert told == [False, True]


def test_silent_vms_are_found_beside_the_stuck_call(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vms = [started(lab, fleet) for _ in range(6)]
    silent = set(vms[:2])
    for vm_id in silent:
        host.freeze(vm_id, visible=False)
    eventually(lambda: {view.vm_id for view in fleet.views() if not view.responding} == silent, "the silent two")
    assert fleet.health().abandoned == len(silent)
    now_s = monotonic_s()
    eventually(
        lambda: all(
            view.sample is not None and (view.sample.monitor_taken_s or 0) > now_s
            for view in fleet.views()
            if view.vm_id not in silent
        ),
        "whole samples of the others",
    )
    assert fleet.health().abandoned == len(silent)  # nobody asked them again
    for vm_id in silent:
        host.thaw(vm_id)
    eventually(lambda: all(view.responding for view in fleet.views()), "all respond")


def test_request_that_passes_its_deadline_marks_the_vm(lab: Lab, host: SimulatedHost) -> None:
    fleet = lab.fleet(SimulatedHypervisor(host, deadline_s=0.1), monitor_interval_s=3600)
    vm_id = started(lab, fleet)
    host.freeze(vm_id, visible=False)
    with pytest.raises(Unfinished):
        fleet.request(vm_id, Pause())
    eventually(lambda: not fleet.get(vm_id).responding, "not responding")
    with pytest.raises(NotResponding):
        fleet.request(vm_id, Pause())
    host.thaw(vm_id)
    eventually(lambda: fleet.get(vm_id).responding, "responding")


def test_frozen_vm_can_be_destroyed(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet)
    host.freeze(vm_id)
    eventually(lambda: not fleet.get(vm_id).responding, "not responding")
    fleet.destroy(vm_id)
    assert fleet.views() == ()


def test_frozen_daemon_leaves_views_and_their_age(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    vm_id = started(lab, fleet)
    eventually(lambda: fleet.get(vm_id).sample, "a sample")
    host.freeze_daemon()
    with pytest.raises(NotResponding, match="libvirt"):
        fleet.request(vm_id, Pause())
    view = fleet.get(vm_id)
    assert view.status is Status.UP
    assert view.responding
    assert view.xml
    host.thaw_daemon()
    assert fleet.request(vm_id, Pause()).status is Status.PAUSED


# -- restart of the agent, of the daemon


def test_not_ready_before_the_hypervisor_was_heard(lab: Lab, host: SimulatedHost) -> None:
    host.kill_daemon()
    fleet = lab.fleet(SimulatedHypervisor(host), ready=False)
    assert not fleet.ready
    for call in (fleet.views, lambda: fleet.get(new_vm_id()), lambda: fleet.create(lab.vm())):
        with pytest.raises(Recovering):
            call()
    host.restart_daemon()
    assert fleet.wait_ready(10)
    assert fleet.views() == ()


def test_restart_adopts_ours_and_tells_who_died(lab: Lab, host: SimulatedHost) -> None:
    first = lab.fleet(SimulatedHypervisor(host))
    up, paused, died, down = (started(lab, first) for _ in range(4))
    first.request(paused, Pause())
    host.end(down, StopCause.CRASHED)
    reason = why_down(first, down)
    before = {view.vm_id: view for view in first.views()}
    first.stop()
    host.end(died, StopCause.FAILED)
    foreign = host.run(lab.vm(instance="another agent").xml)
    second = lab.fleet(SimulatedHypervisor(host))
    after = {view.vm_id: view for view in second.views()}
    assert set(after) == {up, paused, died, down}
    assert foreign in host.domains
    assert after[up].status is Status.UP
    assert (after[paused].status, after[paused].pause_code) == (Status.PAUSED, PauseCode.USER)
    assert why_down(second, died) == (ExitCode.ERROR, ExitReason.DOMAIN_MISSING)
    assert why_down(second, down) == reason
    for vm_id in (up, paused):
        assert after[vm_id].facts == before[vm_id].facts
        assert after[vm_id].started_s == before[vm_id].started_s
        assert after[vm_id].xml == before[vm_id].xml
    for vm_id in after:
        second.destroy(vm_id)
    second.stop()
    assert lab.fleet(SimulatedHypervisor(host)).views() == ()


def test_restart_of_the_host_is_told_as_such(lab: Lab, host: SimulatedHost) -> None:
    first = lab.fleet(SimulatedHypervisor(host))
    vm_id = started(lab, first)
    first.stop()
    host.domains.clear()
    second = lab.fleet(SimulatedHypervisor(host), boot_id="22222222-0000-4000-8000-000000000000")
    assert why_down(second, vm_id) == (ExitCode.ERROR, ExitReason.HOST_SHUTDOWN)


def test_vm_whose_start_outlived_the_agent_is_adopted_later(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    prepared = lab.vm()
    host.run(prepared.xml)
    eventually(fleet.views, "adopted")
    assert fleet.get(prepared.vm_id).status is Status.UP
    host.run(lab.vm(instance="another agent").xml)
    started(lab, fleet)
    assert len(fleet.views()) == 2


def test_restarted_daemon_loses_nothing(lab: Lab, fleet: Fleet, host: SimulatedHost) -> None:
    stays, ends, pauses = (started(lab, fleet) for _ in range(3))
    host.kill_daemon()
    with host.changed:
        del host.domains[ends]
        host.domains[pauses].paused = PauseCause.USER
    host.restart_daemon()
    assert why_down(fleet, ends) == (ExitCode.ERROR, ExitReason.DOMAIN_MISSING)
    reaches(fleet, pauses, Status.PAUSED)
    assert fleet.request(stays, Pause()).status is Status.PAUSED


def test_five_hundred_vms_do_not_mean_five_hundred_threads(lab: Lab, host: SimulatedHost) -> None:
    before = threading.active_count()
    pattern = lab.vm(name="pattern")
    for number in range(500):
        host.run(pattern.xml.replace(pattern.vm_id, new_vm_id()).replace("pattern", f"vm-{number}"))
    fleet = lab.fleet(SimulatedHypervisor(host), cheap_interval_s=3.0, monitor_interval_s=10.0)
    assert len(fleet.views()) == 500
    eventually(lambda: all(view.sample for view in fleet.views()), "samples of all")
    assert threading.active_count() - before < 20
