"""A full node is a machine of its own with a real kernel, and its command channel keeps its promises."""

from __future__ import annotations

import os
import time

import pytest

from .channel import ChannelClosed, CommandFailed
from .deadlines import eventually
from .lab import sweep

pytestmark = pytest.mark.node


def facts() -> dict:
    import os
    import platform
    import time
    import uuid
    from pathlib import Path

    texts = ("/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/sys/class/dmi/id/product_uuid", "/etc/hostname")
    return {
        "kernel": platform.release(),
        "name": platform.node(),
        "uuids": [str(uuid.uuid4()), os.urandom(16).hex()],
        "kernel uuid": Path("/proc/sys/kernel/random/uuid").read_text(),
        "now": time.time(),
        **{path: Path(path).read_text() for path in texts},
    }


def test_clones_are_machines_of_their_own(nodes) -> None:
    one, two = (node.call(facts) for node in nodes(2))
    assert one["kernel"] == two["kernel"] != os.uname().release
    for mine, others in ((one, two), (two, one)):
        for fact in mine.keys() - {"kernel", "now"}:
            assert mine[fact] != others[fact], fact
        assert abs(mine["now"] - time.time()) < 30


def test_kernel_has_what_the_development_machine_lacks(nodes) -> None:
    (node,) = nodes(1)
    node.run("modprobe -a dm_multipath dm_thin_pool dm_flakey dm_delay iscsi_tcp target_core_iblock iscsi_target_mod")
    node.run("modprobe -a nfs nfsd nfsv4 bonding 8021q bridge sch_hfsc ifb softdog")
    assert "multipath" in node.run(["dmsetup", "targets"]).text


def test_shared_disk_is_seen_by_both_nodes(nodes) -> None:
    one, two = nodes(2, disks=["lun"])
    one.run(f"vgcreate shared {one.disk('lun')} && lvcreate -y -L 64m -n lv shared")
    one.run("echo from one | dd of=/dev/shared/lv bs=512 conv=sync oflag=direct")
    two.run(["lvchange", "-ay", "shared/lv"])
    assert two.run("dd if=/dev/shared/lv bs=512 count=1 iflag=direct").stdout.startswith(b"from one")


def test_project_runs_inside_with_its_environment(nodes) -> None:
    (node,) = nodes(1)
    check = "import vdsm, msgspec, starlette, uvicorn, libvirt, sanlock; print(vdsm.__file__)"
    assert node.run(["/opt/vdsm/.venv/bin/python", "-c", check]).text.startswith("/opt/vdsm/src/")
    assert "vdscli" in node.run(["/opt/vdsm/.venv/bin/vdscli", "--help"]).text


def test_commands_carry_status_output_input_and_environment(nodes) -> None:
    (node,) = nodes(1)
    answer = node.run(
        "read line; echo $line $WORD; echo wrong >&2; exit 3", stdin=b"in\n", env={"WORD": "env"}, check=False
    )
    assert (answer.code, answer.stdout, answer.stderr) == (3, b"in env\n", b"wrong\n")
    with pytest.raises(CommandFailed, match="status 3"):
        node.run("exit 3")
    assert node.run(["sh", "-c", "kill -9 $$"], check=False).code == -9
    assert node.run(["no-such-program"], check=False).code == 127


def test_command_ends_at_its_deadline_with_all_that_it_started(nodes) -> None:
    (node,) = nodes(1)
    answer = node.run("sleep 1234 & sleep 1235", timeout_s=1, check=False)
    assert answer.timed_out
    with pytest.raises(CommandFailed, match="deadline"):
        answer.checked("it")
    eventually(lambda: not node.run("pgrep -f 'sleep 123[45]'", check=False).stdout, "the end of the whole group")


def test_daemon_that_keeps_the_output_open_holds_up_nobody(nodes) -> None:
    (node,) = nodes(1)
    assert node.run("sleep 1000 & echo started", timeout_s=30).text == "started\n"


def test_files_go_in_and_out_unchanged(nodes) -> None:
    (node,) = nodes(1)
    data = os.urandom(3 << 20)
    node.push("/var/tmp/deep/below/file", data, mode=0o600)
    assert node.pull("/var/tmp/deep/below/file") == data
    assert node.run("stat -c %a /var/tmp/deep/below/file").text == "600\n"


def test_functions_are_shipped_and_their_errors_come_back(nodes) -> None:
    (node,) = nodes(1)

    def add(one: int, other: int) -> dict:
        import socket

        return {"sum": one + other, "where": socket.gethostname()}

    assert node.call(add, 2, 3) == {"sum": 5, "where": node.name}
    with pytest.raises(CommandFailed, match="TypeError"):
        node.call(add, 2, "3")


def test_command_is_killed_on_request(nodes) -> None:
    (node,) = nodes(1)
    running = node.start(["sleep", "1000"])
    running.kill(15)
    assert running.wait(30, check=False).code == -15


def test_power_loss_loses_memory_and_keeps_disks(nodes) -> None:
    (node,) = nodes(1, disks=["lun"], nics=["lan"])
    node.push("/run/in-memory", "x")
    node.run("echo kept > /var/tmp/on-disk; sync")
    before = node.call(facts)
    waiting = node.start(["sleep", "1000"])
    node.power_off()
    with pytest.raises(ChannelClosed):
        waiting.wait(30)
    with pytest.raises(ChannelClosed):
        node.run(["true"])
    node.power_on()
    after = node.call(facts)
    assert node.run("cat /run/in-memory", check=False).code == 1
    assert node.run("cat /var/tmp/on-disk").text == "kept\n"
    assert before["name"] == after["name"]
    assert before["/proc/sys/kernel/random/boot_id"] != after["/proc/sys/kernel/random/boot_id"]
    assert node.nic("lan0").address in node.run(["ip", "address", "show", "lan0"]).text
    node.run(["blockdev", "--getsize64", node.disk("lun")])


def test_more_nodes_than_the_machine_carries_are_refused(nodes) -> None:
    with pytest.raises(ValueError, match="5 nodes"):
        nodes(5)


def test_killed_lab_leaves_nothing(lab, tmp_path) -> None:
    import signal
    import subprocess
    import sys
    from pathlib import Path

    from .image.build import PROJECT

    program = (
        "import time; from lab.lab import Lab\n"
        "with Lab() as lab:\n"
        "    (node,) = lab.nodes(1)\n"
        "    print(node.qemu.pid, lab.directory, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    lab.template()
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT / "tests", stdout=subprocess.PIPE, text=True
    )
    pid, directory = process.stdout.readline().split()
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the QEMU of a killed lab")
    sweep()
    assert not Path(directory).exists()
