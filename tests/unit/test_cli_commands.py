"""The command line's commands against an agent that records what it is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli_agent import HOST_STATS, Agent, clean, definition, host_types, known_fields, serving, stats, token
from vdscli.main import main
from vdsm.api import vm_types
from vdsm.base import errors

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
B2 = "bbbbbbbb-0000-4000-8000-000000000003"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with serving(tmp_path / "s") as agent:
        yield agent


@pytest.fixture
def run(agent: Agent, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("VDSM_SOCKET", str(agent.socket_path))
    monkeypatch.delenv("VDSM_HOST", raising=False)
    monkeypatch.delenv("VDSM_TOKEN", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def state(vm_id: str, name: str, status: str) -> object:
    return clean(
        vm_types.VmState(vm_id=vm_id, status=status, vm_name=name, status_time=1),
        vm_types.VmState,
    )


# -- lists and cards


def test_list_shows_running_and_defined_vms_aligned(agent: Agent, run: Run) -> None:
    web = stats(
        "web1", A, cpu_user=12.0, cpu_sys=0.5, elapsed_time=3725, guest_agent=True,
        balloon_info=vm_types.BalloonInfo(
            balloon_max=1 << 20, balloon_min=0, balloon_cur=1 << 20, balloon_target=1 << 20
        ),
        display_info=[vm_types.DisplayInfo(type="vnc", port=5900, tls_port=-1, ip_address="127.0.0.1")],
    )  # fmt: skip
    agent.vms(live=[web], defined=[definition("db", B)])
    code, out, err = run("vm", "list")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "NAME  ID        STATUS    CPU   MEMORY  UPTIME  DISPLAY             AGENT",
        "db    bbbbbbbb  Down        -  256 MiB       -  -                   -",
        "web1  aaaaaaaa  Up      12.5%    1 GiB  1h 02m  vnc 127.0.0.1:5900  yes",
    ]


def test_list_as_json_is_one_document_with_all_facts(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[definition("web1", A, autostart=True), definition("db", B)])
    code, out, _ = run("vm", "list", "--json")
    assert code == 0
    first, second = json.loads(out)
    assert (first["name"], first["status"], first["defined"]) == ("db", "Down", True)
    assert (second["name"], second["vm_id"], second["defined"], second["autostart"]) == ("web1", A, True, True)
    assert second["stats_age"] >= 0


@pytest.mark.parametrize("words", [("--json", "vm", "list"), ("vm", "--json", "list"), ("vm", "list", "--json")])
def test_common_options_are_known_everywhere(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words) == (0, "[]\n", "")


def test_list_narrows(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[definition("db", B)])
    assert run("vm", "list", "-q")[1] == "db\nweb1\n"
    assert run("vm", "list", "-q", "--running")[1] == "web1\n"
    assert A in run("vm", "list", "--full")[1]


def test_a_frozen_vm_is_marked(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A, responding=False, monitor_response=-1)], defined=[])
    assert "Up (not responding)" in run("vm", "list")[1]


def test_names_from_outside_cannot_move_the_cursor(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("e\x1b[2Jvil\n宽", A)], defined=[])
    _, out, _ = run("vm", "list")
    assert "\x1b" not in out
    assert "e?[2Jvil?宽  aaaaaaaa" in out
    head, row = out.splitlines()
    assert head.index("ID") == row.index(A[:8]) + 1  # the wide character takes two columns


def test_show_is_a_card_of_devices(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A, elapsed_time=5)], defined=[definition("web1", A, autostart=True)])
    info = vm_types.VmInfo(
        vm_id=A, vm_name="web1", status="Up", status_time=1, memory_mib=512, vcpus=2, kvm_enable=False,
        display_info=[], console="/run/c.sock", guest_agent=True,
        disks=[vm_types.DiskInfo(name="vda", device="disk", bus="virtio", path="/d/a.qcow2", format="qcow2")],
        nics=[vm_types.NicInfo(name="vnet0", mac_addr="02:00:00:00:00:01", model="virtio", network="")],
    )  # fmt: skip
    agent.on("GET", f"/vms/{A}", clean(info, vm_types.VmInfo))
    code, out, _ = run("vm", "show", "web1")
    assert code == 0
    facts = dict(line.split("  ", 1) for line in out.splitlines())
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    assert facts["Status"] == "Up for 5s"
    assert facts["Disks"] == "vda  /d/a.qcow2  (disk, virtio, qcow2)"
    assert facts["Networks"] == "vnet0  02:00:00:00:00:01  (user, virtio)"
    assert facts["Console"] == "/run/c.sock"
    assert facts["Defined here"] == "yes, starts with the agent"
    shown = json.loads(run("vm", "show", "web1", "--json")[1])
    assert (shown["vcpus"], shown["stats_age"] >= 0, shown["defined"]) == (2, True, True)


def test_stats_have_units(agent: Agent, run: Run) -> None:
    disks = {"vda": vm_types.DiskStats(read_rate=1536.0, read_bytes=3 << 20, write_latency=2_500_000)}
    agent.vms(live=[stats("web1", A, disks=disks, cpu_usage=2_500_000_000)], defined=[])
    _, out, _ = run("vm", "stats", "web1")
    assert "read 1.5 KiB/s (3 MiB), write 0 B/s (0 B), latency 0 ns / 2.5 ms" in out
    assert "CPU time  2.5 s" in out


def test_stats_of_a_vm_that_ended_say_why(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A, "Down", exit_code=1, exit_message="QEMU crashed")], defined=[definition("db", B)])
    assert run("vm", "stats", "web1")[1].splitlines() == [
        "Name    web1",
        "Status  Down (failed)",
        "Ended   QEMU crashed",
    ]
    assert run("vm", "stats", "db")[1].splitlines() == ["Name    db", "Status  Down"]


def test_host_commands(agent: Agent, run: Run) -> None:
    assert set(HOST_STATS) <= known_fields(host_types.HostStats)
    agent.on("GET", "/host/stats", HOST_STATS)
    _, out, _ = run("host", "stats")
    assert "10.0% user, 5.0% system, 85.0% idle" in out
    assert json.loads(run("host", "stats", "--json")[1]) == HOST_STATS


def test_top_prints_once_into_a_pipe(agent: Agent, run: Run) -> None:
    agent.on("GET", "/host/stats", HOST_STATS)
    agent.vms(live=[stats("idle", A), stats("busy", B, cpu_user=99.0)], defined=[])
    code, out, _ = run("top")
    assert code == 0
    lines = out.splitlines()
    assert "1 of 2 VMs running" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["NAME", "busy", "idle"]
    assert "\x1b" not in out
    assert [line.split()[0] for line in run("top", "-s", "name")[1].splitlines()[3:]] == ["busy", "idle"]
    assert json.loads(run("top", "--json")[1])["vms"][1]["vm_name"] == "busy"


# -- which VM


@pytest.mark.parametrize("text", ["web1", A, A.upper(), A[:4], A[:13]])
def test_a_vm_is_named_by_name_id_or_prefix(agent: Agent, run: Run, text: str) -> None:
    agent.vms(live=[stats("web1", A), stats("db", B)], defined=[])
    agent.on("POST", f"/vms/{A}/pause", state(A, "web1", "Paused"))
    assert run("vm", "pause", text) == (0, "web1: paused\n", "")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("nope", 3, "there is no VM 'nope'"),
        (A[:3], 3, f"there is no VM '{A[:3]}'"),
        (B[:8], 1, f"{B[:8]} is ambiguous: {B}, {B2}"),
    ],
)
def test_no_vm_or_two(agent: Agent, run: Run, text: str, code: int, words: str) -> None:
    agent.vms(live=[stats("web1", A), stats("db", B), stats("db2", B2)], defined=[])
    assert run("vm", "pause", text) == (code, "", f"vdscli: {words}\n")
    assert not agent.asked("POST")


def test_of_two_of_one_name_the_running_one_is_meant(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("db", B, "Down", exit_code=0), stats("db", B2)], defined=[])
    agent.on("POST", f"/vms/{B2}/pause", state(B2, "db", "Paused"))
    assert run("vm", "pause", "db")[0] == 0


def test_several_vms_the_first_failure_is_the_code_and_stops_nothing(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A), stats("db", B)], defined=[])
    agent.on("POST", f"/vms/{A}/pause", errors.Busy("lifecycle"))
    agent.on("POST", f"/vms/{B}/pause", state(B, "db", "Paused"))
    code, out, err = run("vm", "pause", "web1", "nope", "db")
    assert (code, out) == (5, "db: paused\n")
    assert err.splitlines() == [
        "vdscli: too many lifecycle requests are waiting, try again",
        "vdscli: there is no VM 'nope'",
    ]


def test_several_vms_make_one_json_document(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A), stats("db", B)], defined=[])
    agent.on("POST", f"/vms/{A}/pause", state(A, "web1", "Paused"))
    agent.on("POST", f"/vms/{B}/pause", errors.Busy("lifecycle"))
    code, out, _ = run("vm", "pause", "web1", "db", "--json")
    assert (code, [item["vm_name"] for item in json.loads(out)]) == (5, ["web1"])


# -- errors


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.WrongState("pause", "Down"), 4, "web1: cannot pause while Down"),
        (errors.NoSuchVm(A), 3, f"VM {A} does not exist"),
        (errors.Denied("VM.pause", "operator"), 7, "VM.pause needs the role operator"),
        (errors.Unauthenticated("who are you"), 7, "who are you"),
        (errors.Recovering(), 5, "the agent is starting: try again"),
        (errors.BadParameter("vm_id", "is not a UUID"), 1, "vm_id: is not a UUID"),
        (errors.HypervisorFailed("pause", "no\nluck"), 1, "pause failed: no luck"),
        (errors.Unfinished("pause", 5.0), 1, "pause has not finished within 5.0 s; it may still happen"),
    ],
)
def test_refusals_are_one_line_and_an_exit_code(
    agent: Agent, run: Run, error: errors.VdsmError, code: int, line: str
) -> None:
    agent.vms(live=[stats("web1", A)], defined=[])
    agent.on("POST", f"/vms/{A}/pause", error)
    assert run("vm", "pause", "web1") == (code, "", f"vdscli: {line}\n")


def test_no_agent(run: Run, tmp_path: Path) -> None:
    code, out, err = run("vm", "list", "--socket", str(tmp_path / "none"))
    assert (code, out) == (6, "")
    assert err == f"vdscli: no agent at {tmp_path}/none: is vdsmd running?\n"


def test_what_is_not_an_agent(agent: Agent, run: Run) -> None:
    agent.on("GET", "/vms", b"<html>hello</html>")
    assert run("vm", "show", "x")[0] == 6


def test_an_answer_of_another_version(agent: Agent, run: Run) -> None:
    agent.on("GET", "/vm-stats", [{"vmId": A}])
    code, out, err = run("vm", "list")
    assert (code, out) == (1, "")
    assert "another version" in err


def test_a_command_line_that_is_not_utf8(agent: Agent, run: Run) -> None:
    assert run("token", "revoke", "\udcff")[0] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("vm", "explode"), "explode"),
        (("vm",), "which command? one of list, show"),
        (("vm", "pause"), "VM"),
        (("vm", "stop", "x", "--timeout", "0"), "--timeout"),
        (("vm", "create", "x", "--memory", "lots"), "--memory: 'lots' is not a size"),
        (("vm", "create", "x", "--memory", "1.3M"), "--memory: '1.3M' is not a whole number of MiB"),
        (("vm", "create", "x", "--disk", "/a,colour=red"), "--disk: 'colour=red'"),
        (("vm", "create", "x", "--nic", "mac="), "--nic: 'mac='"),
        (("vm", "create", "x", "--cmdline", "quiet"), "--cmdline: needs --kernel"),
        (("vm", "create"), "NAME is missing"),
        (("vm", "create", "--xml", "/dev/null", "--memory", "1G"), "--memory cannot be given too"),
        (("vm", "create", "--xml", "/nonexistent"), "--xml: cannot read /nonexistent"),
        (("vm", "list", "--host", "h:notaport"), "--host"),
        (("token", "create", "x", "--role", "king"), "king"),
        (("vm", "cd", "x"), "either PATH or --eject"),
    ],
)
def test_wrong_command_lines(agent: Agent, run: Run, words: tuple[str, ...], says: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("vdscli: ")
    assert says in err
    assert err.count("\n") == 1
    assert not agent.asked("POST")


def test_nothing_typed_is_help(run: Run) -> None:
    code, out, _ = run()
    assert code == 2
    assert "exit codes:" in out


# -- creation


def test_create_defines_and_starts(agent: Agent, run: Run) -> None:
    agent.on("POST", "/definitions", clean(definition("web1", A), vm_types.Definition))
    agent.on("POST", "/definitions/web1/start", clean(stats("web1", A, "WaitForLaunch"), vm_types.VmStats))
    agent.in_turn(
        "GET",
        f"/vms/{A}/stats",
        clean(stats("web1", A, "WaitForLaunch"), vm_types.VmStats),
        clean(stats("web1", A, "Powering up"), vm_types.VmStats),
    )
    code, out, err = run(
        "vm", "create", "web1", "--memory", "1.5G", "--vcpus", "2", "--disk", "/d/a,,b.qcow2,bus=sata,readonly",
        "--disk", "/d/c,format=raw,serial=S1", "--cdrom", "", "--nic", "user", "--nic", "br0,model=e1000",
        "--kernel", "/k", "--initrd", "/i", "--cmdline", "console=ttyS0", "--boot", "cdrom,disk", "--no-agent",
        "--autostart",
    )  # fmt: skip
    assert (code, out, err) == (0, f"web1: started, Powering up ({A})\n", "")
    assert agent.asked("POST")[0] == (
        "/definitions",
        {
            "name": "web1", "memory_mib": 1536, "vcpus": 2, "autostart": True, "guest_agent": False,
            "disks": [
                {"path": "/d/a,b.qcow2", "format": "qcow2", "bus": "sata", "readonly": True},
                {"path": "/d/c", "format": "raw", "serial": "S1"},
                {"path": None, "format": "raw", "device": "cdrom", "readonly": True},
            ],
            "nics": [{}, {"network": "br0", "model": "e1000"}],
            "boot": {
                "order": ["cdrom", "disk"], "kernel": "/k", "initrd": "/i", "cmdline": "console=ttyS0"
            },
        },
    )  # fmt: skip


def test_what_is_sent_fits_the_contract(agent: Agent, run: Run) -> None:
    agent.on("POST", "/definitions", clean(definition("web1", A), vm_types.Definition))
    hardware = ("--disk", "/d/a.qcow2", "--cdrom", "/c.iso", "--nic", "network=br0,mac=02:00:00:00:00:01")
    options = ("--memory", "64", "--graphics", "none", "--machine", "pc", "--cpu", "qemu64", "--no-console", "--id", A)
    run("vm", "define", "web1", *hardware, *options)
    request = msgspec.convert(agent.asked("POST")[0][1], vm_types.DefinitionRequest)
    assert (request.memory_mib, request.graphics, request.machine, request.serial_console) == (64, "none", "pc", False)
    assert [disk.device for disk in request.disks] == ["disk", "cdrom"]
    assert request.nics[0].network == "br0"


def test_a_start_that_is_refused_leaves_no_definition(agent: Agent, run: Run) -> None:
    agent.on("POST", "/definitions", clean(definition("web1", A), vm_types.Definition))
    agent.on("POST", "/definitions/web1/start", errors.BadParameter("disks[0].path", "does not exist"))
    agent.on("DELETE", "/definitions/web1", None)
    assert run("vm", "create", "web1") == (1, "", "vdscli: disks[0].path: does not exist\n")
    assert agent.asked("DELETE") == [("/definitions/web1", None)]


def test_a_vm_that_dies_at_once_is_an_error(agent: Agent, run: Run) -> None:
    agent.on("POST", "/definitions", clean(definition("web1", A), vm_types.Definition))
    agent.on("POST", "/definitions/web1/start", clean(stats("web1", A, "WaitForLaunch"), vm_types.VmStats))
    dead = stats("web1", A, "Down", exit_code=1, exit_message="no such machine")
    agent.on("GET", f"/vms/{A}/stats", clean(dead, vm_types.VmStats))
    assert run("vm", "create", "web1") == (1, "", "vdscli: web1 did not start: no such machine\n")


def test_create_from_xml_takes_the_id_from_it(agent: Agent, run: Run, tmp_path: Path) -> None:
    xml = f"<domain type='qemu'><name>x</name><uuid> {A.upper()} </uuid></domain>"
    (tmp_path / "x.xml").write_text(xml)
    agent.on("POST", "/vms", clean(stats("x", A, "WaitForLaunch"), vm_types.VmStats))
    assert run("vm", "create", "--xml", str(tmp_path / "x.xml"), "--no-wait")[0] == 0
    assert agent.asked("POST") == [("/vms", {"xml": xml, "vm_id": A})]


def test_transient_has_no_definition(agent: Agent, run: Run) -> None:
    agent.on("POST", "/vms", clean(stats("x", A, "WaitForLaunch"), vm_types.VmStats))
    assert run("vm", "create", "x", "--transient", "--no-wait")[0] == 0
    assert agent.asked("POST") == [("/vms", {"name": "x", "disks": [], "nics": []})]


def test_relative_paths_are_those_of_this_host(
    agent: Agent, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agent.on("POST", "/definitions", clean(definition("x", A), vm_types.Definition))
    run("vm", "define", "x", "--disk", "a.img")
    assert agent.asked("POST")[0][1]["disks"][0]["path"] == f"{tmp_path}/a.img"


def test_forget_and_autostart(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A), stats("guest", B)], defined=[definition("web1", A)])
    agent.on("DELETE", "/definitions/web1", None)
    agent.on("PUT", "/definitions/web1/autostart", clean(definition("web1", A, autostart=True), vm_types.Definition))
    assert run("vm", "autostart", "web1")[:2] == (0, "web1: starts with the agent\n")
    assert agent.asked("PUT") == [("/definitions/web1/autostart", {"enabled": True})]
    assert run("vm", "forget", "web1")[:2] == (0, "web1: forgotten; it goes on (Up)\n")
    assert run("vm", "forget", "guest")[0] == 4


def test_forget_of_a_vm_that_is_down_leaves_nothing(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A, "Down", exit_code=0)], defined=[definition("web1", A)])
    agent.on("DELETE", "/definitions/web1", None)
    agent.on("DELETE", f"/vms/{A}", None)
    assert run("vm", "forget", "web1") == (0, "web1: forgotten\n", "")
    assert [path for path, _ in agent.asked("DELETE")] == ["/definitions/web1", f"/vms/{A}"]


# -- power


def test_start_by_name(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("guest", B, "Down", exit_code=0)], defined=[definition("web1", A)])
    agent.on("POST", "/definitions/web1/start", clean(stats("web1", A, "WaitForLaunch"), vm_types.VmStats))
    agent.in_turn(
        "GET",
        f"/vms/{A}/stats",
        clean(stats("web1", A, "Powering up"), vm_types.VmStats),
        clean(stats("web1", A), vm_types.VmStats),
    )
    code, out, _ = run("vm", "start", "web1", "--wait", "--json")
    assert (code, json.loads(out)["status"]) == (0, "Up")
    code, _, err = run("vm", "start", "guest")
    assert (code, "no definition" in err) == (4, True)


def test_start_of_a_running_vm(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[definition("web1", A)])
    assert run("vm", "start", "web1") == (4, "", "vdscli: web1 runs already (Up)\n")


def test_stop_waits_until_it_is_down(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[])
    agent.on("POST", f"/vms/{A}/shutdown", state(A, "web1", "Powering down"))
    down = stats("web1", A, "Down", exit_code=0, exit_message="User shut down from within the guest")
    agent.in_turn(
        "GET",
        f"/vms/{A}/stats",
        clean(stats("web1", A), vm_types.VmStats),
        clean(stats("web1", A, "Powering down"), vm_types.VmStats),
        clean(down, vm_types.VmStats),
    )
    assert run("vm", "stop", "web1", "--timeout", "30", "--message", "bye")[:2] == (
        0,
        "web1: Down (User shut down from within the guest)\n",
    )
    assert agent.asked("POST") == [(f"/vms/{A}/shutdown", {"message": "bye", "timeout": 30, "force": False})]


def test_stop_says_when_the_guest_does_not_obey(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[])
    agent.on("POST", f"/vms/{A}/shutdown", state(A, "web1", "Powering down"))
    agent.on("GET", f"/vms/{A}/stats", clean(stats("web1", A, "Powering down"), vm_types.VmStats))
    code, _, err = run("vm", "stop", "web1", "--timeout", "0.1")
    assert (code, "--force" in err) == (1, True)
    agent.in_turn(
        "GET",
        f"/vms/{A}/stats",
        clean(stats("web1", A, "Powering down"), vm_types.VmStats),
        clean(stats("web1", A, "Up"), vm_types.VmStats),
    )
    code, _, err = run("vm", "stop", "web1")
    assert (code, "did not shut down" in err) == (1, True)


def test_stop_of_a_vm_that_is_down_is_done(agent: Agent, run: Run) -> None:
    agent.vms(live=[], defined=[definition("db", B)])
    assert run("vm", "stop", "db") == (0, "db: is Down already\n", "")


def test_destroy_keeps_the_definition_unless_told(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[definition("web1", A)])
    agent.on("DELETE", f"/vms/{A}", None)
    agent.on("DELETE", "/definitions/web1", None)
    assert run("vm", "destroy", "web1") == (0, "web1: powered off; its definition stays\n", "")
    assert agent.asked("DELETE") == [(f"/vms/{A}", None)]
    assert json.loads(run("vm", "destroy", "web1", "--forget", "--json")[1])["defined"] is False
    assert agent.asked("DELETE")[1:] == [(f"/vms/{A}", None), ("/definitions/web1", None)]


def test_requests_to_a_vm_that_is_only_defined(agent: Agent, run: Run) -> None:
    agent.vms(live=[], defined=[definition("db", B)])
    assert run("vm", "pause", "db") == (4, "", "vdscli: db: cannot pause while Down\n")
    assert run("vm", "destroy", "db")[0] == 4
    assert run("vm", "console", "db")[0] == 4
    assert run("vm", "wait", "db", "--for", "down")[0] == 0


# -- display and CD


def test_a_ticket_is_made_and_shown_once(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[])
    agent.on("PUT", f"/vms/{A}/ticket", None)
    agent.on("GET", f"/vms/{A}", {"display_info": [{"type": "vnc", "port": 5901, "tls_port": -1, "ip_address": "::"}]})
    _, out, _ = run("vm", "ticket", "web1", "--ttl", "60")
    body = agent.asked("PUT")[0][1]
    assert len(body["password"]) == 8
    assert f"Password  {body['password']}" in out
    assert "vnc [::]:5901" in out
    assert body["ttl"] == 60


def test_a_ticket_from_a_file_is_not_shown(agent: Agent, run: Run, tmp_path: Path) -> None:
    agent.vms(live=[stats("web1", A)], defined=[])
    agent.on("PUT", f"/vms/{A}/ticket", None)
    agent.on("GET", f"/vms/{A}", {"display_info": []})
    (tmp_path / "p").write_text("hunter2\n")
    _, out, err = run("vm", "ticket", "web1", "--password-file", str(tmp_path / "p"))
    assert agent.asked("PUT")[0][1]["password"] == "hunter2"
    assert "hunter2" not in out + err


def test_a_screenshot_is_a_file(agent: Agent, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agent.vms(live=[stats("web1", A)], defined=[])
    agent.on("GET", f"/vms/{A}/screenshot", {"data": "UDYg", "encoding": "base64", "mime_type": "image/png"})
    assert run("vm", "screenshot", "web1")[0] == 0
    assert (tmp_path / "web1.png").read_bytes() == b"P6 "
    assert run("vm", "screenshot", "web1", "-o", "-")[1] == "P6 "
    assert run("vm", "screenshot", "web1", "-o", "/nonexistent/x")[0] == 2


def test_cd(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[])
    agent.on("PUT", f"/vms/{A}/cd", state(A, "web1", "Up"))
    assert run("vm", "cd", "web1", "/c.iso")[:2] == (0, "web1: CD is /c.iso\n")
    assert run("vm", "cd", "web1", "--eject")[:2] == (0, "web1: CD ejected\n")
    assert [body for _, body in agent.asked("PUT")] == [{"drive_spec": "/c.iso"}, {"drive_spec": ""}]


# -- tokens


def test_token_create_gives_the_secret_alone_to_a_script(agent: Agent, run: Run) -> None:
    fresh = token.NewToken(name="ci", role=token.Role.OPERATOR, created="2025-01-01T00:00:00Z", secret="s3cret")
    agent.on("POST", "/tokens", clean(fresh, token.NewToken))
    code, out, err = run("token", "create", "ci", "--role", "operator", "--days", "7")
    assert (code, out) == (0, "s3cret\n")
    assert "shown only now" in err
    assert agent.asked("POST") == [("/tokens", {"name": "ci", "role": "operator", "days": 7})]


def test_token_list_and_revoke(agent: Agent, run: Run) -> None:
    one = token.Token(name="a b", role=token.Role.VIEWER, created="2025-01-01T00:00:00Z")
    agent.on("GET", "/tokens", clean([one], list[token.Token]))
    agent.on("DELETE", "/tokens/a%20b", None)
    assert run("token", "list")[1].splitlines()[1] == "a b   viewer  2025-01-01T00:00:00Z  never"
    assert run("token", "revoke", "a b")[0] == 0


# -- events


def sse(*events: tuple[str, str, dict[str, Any]]) -> bytes:
    return b"".join(
        f"id: {ident}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode() for ident, name, data in events
    )


def test_events_go_on_after_a_lost_connection(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A)], defined=[])
    up = {"vm_id": A, "status": "Up", "notify_time": 1}
    down = {"vm_id": A, "status": "Down", "notify_time": 2, "exit_message": "bye"}
    agent.streams = [
        b"retry: 2000\nid: e-7\n\n: keep\n\n" + sse(("e-8", "VM_status", up)) + b"id: e-9\nevent: VM_st",
        sse(("e-9", "reset", {}), ("e-10", "VM_status", down)),
    ]
    code, out, err = run("events", "-n", "2")
    assert code == 0
    assert [line.split(maxsplit=1)[1] for line in out.splitlines()] == ["web1  Up", "web1  Down  (bye)"]
    assert "some events are missing" in err
    resumed = [headers.get("Last-Event-ID") for headers in agent.headers if "event-stream" in headers["Accept"]]
    assert resumed == [None, "e-8"]


def test_events_resume_where_a_silent_stream_began(agent: Agent, run: Run) -> None:
    agent.streams = [b"id: e-7\n\n", sse(("e-8", "host_conn", {"notify_time": 1}))]
    code, out, _ = run("events", "-n", "1", "--json")
    assert (code, json.loads(out)) == (0, {"id": "e-8", "event": "host_conn", "data": {"notify_time": 1}})
    assert agent.headers[-1]["Last-Event-ID"] == "e-7"


def test_events_of_some_vms(agent: Agent, run: Run) -> None:
    agent.vms(live=[stats("web1", A), stats("db", B)], defined=[])
    agent.streams = [
        sse(
            ("1", "VM_status", {"vm_id": B, "status": "Up", "notify_time": 1}),
            ("2", "VM_status", {"vm_id": A, "status": "Paused", "pause_code": "EIO", "notify_time": 2}),
        )
    ]
    _, out, _ = run("events", "web1", "-n", "1")
    assert out.rstrip().endswith("web1  Paused  (paused by EIO)")


# -- raw verbs


def test_call_prints_the_result_as_json(agent: Agent, run: Run) -> None:
    agent.on("POST", "/jsonrpc", lambda body: {"jsonrpc": "2.0", "id": body["id"], "result": body["params"]["message"]})
    assert run("call", "Host.echo", '{"message": "héllo"}') == (0, '"héllo"\n', "")
    assert run("call", "Host.echo", "message=5") == (0, '"5"\n', "")
    assert agent.asked("POST")[0][1]["method"] == "Host.echo"


def test_call_prints_errors_as_json_on_stderr(agent: Agent, run: Run, tmp_path: Path) -> None:
    error = {"code": -32601, "message": "there is no verb A.b"}
    agent.on("POST", "/jsonrpc", {"jsonrpc": "2.0", "id": "vdscli", "error": error})
    code, out, err = run("call", "A.b")
    assert (code, out, json.loads(err)) == (1, "", error)
    code, out, err = run("call", "Host.echo", "{broken")
    assert (code, out, json.loads(err)["code"]) == (1, "", -32700)
    code, out, err = run("call", "Host.echo", "[1]")
    assert (code, out, json.loads(err)["code"]) == (1, "", -32602)
    code, out, err = run("call", "Host.ping", "--socket", str(tmp_path / "none"))
    assert (code, "no agent" in json.loads(err)["message"]) == (6, True)


def test_call_has_a_manual_and_a_list(run: Run) -> None:
    from vdsm.api.catalogue import all_verbs

    assert run("call", "--list", "-q")[1].split() == list(all_verbs())
    code, out, _ = run("call", "VM.setTicket", "--help")
    assert code == 0
    assert "vmID" in out
    assert "required" in out
    assert run("call", "VM.fly", "--help")[0] == 3
    assert run("call")[0] == 2


# -- the rest


def test_who_stops_reading_is_no_error(agent: Agent, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["vm", "list"]) == 0


def test_interrupted(run: Run, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    from vdscli import inventory

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inventory, "inventory", interrupt)
    assert run("vm", "show", "x")[0] == 130


def test_a_silent_agent_is_not_waited_for_longer_than_told(run: Run, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        code, _, err = run("vm", "list", "--socket", str(tmp_path / "deaf"), "--timeout", "0.05")
    assert (code, "does not answer in time" in err) == (6, True)
