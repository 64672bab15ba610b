"""The whole agent on real libvirt and real QEMU: what survives when something beneath it freezes or dies."""

from __future__ import annotations

import json
import os
import signal
import uuid
from pathlib import Path

import pytest

from lab.agent_host import AgentHost, Problem, short_directory
from lab.light import LightHost, eventually

pytestmark = pytest.mark.light

# Every verb that only reads, with arguments for VM {vm}: they all must answer whatever hangs.
READING = [
    ("Host.ping", {}),
    ("Host.ping2", {}),
    ("Host.echo", {"message": "x"}),
    ("Host.getCapabilities", {}),
    ("Host.getHardwareInfo", {}),
    ("Host.getStats", {}),
    ("Host.getVMList", {}),
    ("Host.getVMFullList", {}),
    ("Host.getAllVmStats", {}),
    ("Host.dumpxmls", {}),
    ("Host.getJobs", {}),
    ("Host.getAllTasksInfo", {}),
    ("Host.getAllTasksStatuses", {}),
    ("Host.getAllVmIoTunePolicies", {}),
    ("VM.getStats", {"vmID": "{vm}"}),
    ("VM.getInfo", {"vmID": "{vm}"}),
    ("Definition.list", {}),
    ("Token.list", {}),
]
# An answer from memory takes milliseconds, and what hangs takes for ever. How long it takes is measured in bench/:
# machines of tests are slow at times.
PROMISE_S = 20.0


@pytest.fixture(scope="module")
def host():
    with short_directory() as place, LightHost(place / "host", network=True) as light:
        yield light


@pytest.fixture
def agent(host):
    options = "cheap_interval_s = 0.5\nmonitor_interval_s = 1.0\nnot_responding_after_s = 1.0\ncall_deadline_s = 2.0"
    with short_directory() as place, AgentHost(place / "a", host, options) as running:
        yield running
        for vm in running.call("GET", "/vms?only_uuid=true"):
            running.call("DELETE", f"/vms/{vm}")


def read_everything(agent: AgentHost, vm_id: str) -> None:
    for method, params in READING:
        filled = json.loads(json.dumps(params).replace("{vm}", vm_id))
        answer = agent.rpc(method, filled, timeout_s=PROMISE_S)
        assert "result" in answer, (method, answer)


def test_frozen_qemu_disturbs_nobody_and_recovers(agent, host):
    frozen, other = agent.create("frozen"), agent.create("other")
    read_everything(agent, other)
    before = agent.threads()
    host.freeze(frozen)
    eventually(lambda: not agent.stats(frozen)["responding"], "the frozen VM is shown as not responding")
    read_everything(agent, frozen)
    agent.call("POST", f"/vms/{other}/pause")
    agent.call("POST", f"/vms/{other}/cont")
    third = agent.create("third")
    for _ in range(8):
        with pytest.raises(Problem) as refused:
            agent.call("POST", f"/vms/{frozen}/pause", timeout_s=PROMISE_S)
        assert refused.value.body["title"] is not None
        assert refused.value.status == 503
    wire = agent.rpc("VM.getStats", {"vmID": frozen})["result"][0]
    assert wire["monitorResponse"] == "-1"
    fresh = agent.stats(other)["stats_age"]
    assert fresh < PROMISE_S
    assert agent.threads() <= before + 8
    host.thaw(frozen)
    eventually(lambda: agent.stats(frozen)["responding"], "it responds again")
    agent.call("POST", f"/vms/{frozen}/pause")
    assert agent.stats(frozen)["status"] == "Paused"
    assert agent.stats(third)["responding"]


def test_frozen_vm_can_be_destroyed(agent, host):
    vm = agent.create("stuck")
    host.freeze(vm)
    eventually(lambda: not agent.stats(vm)["responding"], "not responding")
    agent.call("DELETE", f"/vms/{vm}")
    assert vm not in agent.call("GET", "/vms?only_uuid=true")
    assert "stuck" not in host.virsh("list", "--all", "--name")


def test_frozen_libvirtd_leaves_answers_from_memory(agent, host):
    vm = agent.create("guest")
    eventually(lambda: agent.stats(vm)["cpu_usage"] > 0, "a first sample")
    read_everything(agent, vm)
    before = agent.threads()
    host.freeze_libvirtd()
    try:
        for _ in range(5):
            read_everything(agent, vm)
            with pytest.raises(Problem) as refused:
                agent.call("POST", f"/vms/{vm}/pause")
            assert refused.value.status in {503, 504}
        with pytest.raises(Problem) as refused:
            agent.call("POST", f"/vms/{vm}/pause", timeout_s=PROMISE_S)
        assert refused.value.status == 503
        assert agent.threads() <= before + 8
    finally:
        host.thaw_libvirtd()
    eventually(lambda: agent.stats(vm)["stats_age"] < 2, "samples are fresh again")

    def runs() -> bool:
        # A pause that was given up may still have happened when libvirtd thawed, before this or after it.
        agent.call("POST", f"/vms/{vm}/cont")
        return agent.stats(vm)["status"] in {"Up", "Powering up"}

    eventually(runs, "it runs on request")


def test_killed_libvirtd_loses_nothing(agent, host):
    vm = agent.create("survivor")
    host.kill_libvirtd()
    read_everything(agent, vm)
    host.start_libvirtd()

    def paused() -> bool:
        try:
            agent.call("POST", f"/vms/{vm}/pause")
        except Problem:
            return False
        return True

    eventually(paused, "libvirt is used again")
    assert agent.stats(vm)["status"] == "Paused"
    host.virsh("resume", "survivor")
    agent.reaches(vm, "Up", "Powering up")


def test_vm_that_dies_while_libvirtd_is_away_is_down(agent, host):
    vm = agent.create("short")
    host.kill_libvirtd()
    os.kill(host.qemu_pid(vm), signal.SIGKILL)
    host.start_libvirtd()
    gone = agent.reaches(vm, "Down")
    assert gone["exit_code"] == 1
    assert gone["exit_message"]


def test_killed_agent_finds_its_vms_and_what_died(agent, host):
    alive, paused, dies = agent.create("alive"), agent.create("paused"), agent.create("dies")
    agent.call("POST", f"/vms/{paused}/pause")
    info = agent.call("GET", f"/vms/{alive}")
    agent.kill()
    os.kill(host.qemu_pid(dies), signal.SIGKILL)
    host.virsh("list")
    agent.start("vdsmd")
    agent.wait_ready()
    assert agent.stats(alive)["status"] in {"Up", "Powering up"}
    assert agent.stats(paused)["status"] == "Paused"
    down = agent.stats(dies)
    assert (down["status"], down["exit_code"]) == ("Down", 1)
    assert down["exit_message"]
    again = agent.call("GET", f"/vms/{alive}")
    for field in ("vm_name", "memory_mib", "vcpus", "disks", "nics", "display_info", "console"):
        assert again.get(field) == info.get(field), field
    agent.call("DELETE", f"/vms/{dies}")


def test_stopped_agent_leaves_vms_running(agent, host):
    vm = agent.create("steady")
    assert agent.stop() == 0
    assert host.virsh("domstate", "steady").strip() == "running"
    agent.start("vdsmd")
    agent.wait_ready()
    assert agent.stats(vm)["status"] in {"Up", "Powering up"}


def test_foreign_domains_are_neither_listed_nor_touched(agent, host, tmp_path):
    foreign = str(uuid.uuid4())
    xml = tmp_path / "foreign.xml"
    xml.write_text(
        f"<domain type='qemu'><name>foreign</name><uuid>{foreign}</uuid><memory unit='MiB'>32</memory>"
        "<os><type machine='q35'>hvm</type></os></domain>"
    )
    host.virsh("create", str(xml))
    try:
        agent.create("own")
        assert foreign not in agent.call("GET", "/vms?only_uuid=true")
        assert foreign not in agent.rpc("Host.dumpxmls")["result"]
        for method, path in (("DELETE", f"/vms/{foreign}"), ("POST", f"/vms/{foreign}/pause")):
            with pytest.raises(Problem) as refused:
                agent.call(method, path)
            assert refused.value.status == 404
        agent.restart()
        assert foreign not in agent.call("GET", "/vms?only_uuid=true")
        assert host.virsh("domstate", "foreign").strip() == "running"
    finally:
        host.virsh("destroy", "foreign")


BAD = [
    ({"memory_mib": 64}, "name"),
    ({"name": "x", "memory_mib": "64"}, "memory_mib"),
    ({"name": "x", "memory_mib": 0}, "memory_mib"),
    ({"name": "x", "memory_mib": 10**12}, "memory_mib"),
    ({"name": "x", "vcpus": 100_000}, "vcpus"),
    ({"name": "x", "colour": "red"}, "colour"),
    ({"name": "../x"}, "name"),
    ({"name": "x", "disks": [{"path": "{images}/none.img"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "/etc/passwd"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}/../vdsm.toml"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}/link"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}/fifo"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}/tty"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}/raw.img", "format": "qcow2"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}/escape.qcow2", "format": "qcow2"}]}, "disks[0].path"),
    ({"name": "x", "disks": [{"path": "{images}/raw.img", "format": "vmdk"}]}, "disks[0].format"),
    ({"name": "x", "boot": {"kernel": "/boot/vmlinuz"}}, "boot.kernel"),
    ({"name": "x", "nics": [{"mac": "zz"}]}, "nics[0].mac"),
    ({"xml": "<domain", "vm_id": str(uuid.uuid4())}, "xml"),
    ({"xml": "<domain type='qemu'/>", "vm_id": str(uuid.uuid4())}, "xml.uuid"),
    ({"xml": "<!DOCTYPE a [<!ENTITY b 'b'>]><domain/>", "vm_id": str(uuid.uuid4())}, "xml"),
    ({"xml": "<domain/>", "name": "x", "vm_id": str(uuid.uuid4())}, "name"),
    ({"name": "x", "vm_id": "not-a-uuid"}, "vm_id"),
]


@pytest.fixture(scope="module")
def quiet(host):
    with short_directory() as place, AgentHost(place / "a", host) as running:
        images = running.images
        (images / "raw.img").write_bytes(bytes(1 << 20))
        (images / "link").symlink_to("/etc/passwd")
        os.mkfifo(images / "fifo")
        os.mknod(images / "tty", 0o20600, os.makedev(5, 0))
        escape = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"]
        running.host.run(*escape, str(images / "escape.qcow2"), "1M")
        yield running


@pytest.mark.parametrize(("body", "field"), BAD, ids=[f"{index}-{field}" for index, (_, field) in enumerate(BAD)])
def test_bad_description_names_its_field_and_leaves_nothing(quiet, body, field):
    body = json.loads(json.dumps(body).replace("{images}", str(quiet.images)))
    with pytest.raises(Problem) as refused:
        quiet.call("POST", "/vms", body)
    assert refused.value.status == 422
    assert refused.value.body["field"].startswith(field), refused.value.body
    assert quiet.call("GET", "/vms") == []
    assert quiet.host.virsh("list", "--all", "--name").strip() == ""


def test_entity_bomb_is_refused_at_once(quiet):
    bomb = "<!DOCTYPE d [" + "<!ENTITY a0 'x'>"
    bomb += "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 12)) + "]><domain>&a11;</domain>"
    with pytest.raises(Problem) as refused:
        quiet.call("POST", "/vms", {"xml": bomb, "vm_id": str(uuid.uuid4())})
    assert refused.value.body["field"] == "xml"


def test_ids_and_names_are_taken_once(quiet):
    vm = quiet.create("single")
    for body in ({"name": "single"}, {"name": "other", "vm_id": vm}):
        with pytest.raises(Problem) as refused:
            quiet.call("POST", "/vms", body)
        assert refused.value.status == 409
    quiet.call("DELETE", f"/vms/{vm}")
    assert quiet.call("GET", "/vms") == []


def test_illegal_requests_are_refused_by_name(quiet):
    vm = quiet.create("legal")
    os.kill(quiet.host.qemu_pid(vm), signal.SIGKILL)
    quiet.reaches(vm, "Down")
    with pytest.raises(Problem) as refused:
        quiet.call("POST", f"/vms/{vm}/pause")
    assert (refused.value.status, refused.value.body["detail"]) == (409, "cannot pause while Down")
    answer = quiet.rpc("VM.pause", {"vmID": vm})
    assert answer["error"]["message"].startswith("cannot pause while Down")
    quiet.call("DELETE", f"/vms/{vm}")


def test_ticket_is_never_logged(quiet):
    vm = quiet.create("shown", graphics="vnc")
    quiet.call("PUT", f"/vms/{vm}/ticket", {"password": "s3cr3t-ticket", "ttl": 60})
    quiet.rpc("VM.setTicket", {"vmID": vm, "password": "t1cket-two", "ttl": "60", "existingConnAction": "keep"})
    for place in Path(quiet.log_dir).rglob("*"):
        if place.is_file():
            text = place.read_text(errors="replace")
            assert "s3cr3t" not in text
            assert "t1cket" not in text
    quiet.call("DELETE", f"/vms/{vm}")
