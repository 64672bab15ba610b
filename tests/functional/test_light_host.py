"""The light host itself: private, and gone with the process that made it, however that ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from lab.light import LightHost, eventually
from needs import needs

pytestmark = needs("root", "qemu", "program:libvirtd")

TESTS = Path(__file__).resolve().parents[1]
OWNER = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lab.light import LightHost
with LightHost(Path(sys.argv[2])) as host:
    print(host.pid, host.libvirtd_pid, flush=True)
    threading.Event().wait()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_light_host_has_its_own_libvirt_and_file_system() -> None:
    with tempfile.TemporaryDirectory(prefix="light") as directory:
        with LightHost(Path(directory) / "host", "lonely") as host:
            assert host.virsh("hostname").strip() == "lonely"
            assert host.virsh("list", "--all", "--name").split() == []
            inside = host.run("cat", "/proc/1/comm")
            assert "bash" in inside
            pids = host.pid, host.libvirtd_pid
            assert all(map(alive, pids))
            assert not host.run("sh", "-c", "ls /dev/kvm 2>/dev/null || true")
        assert not any(map(alive, pids))
        assert not (Path(directory) / "host").exists()


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    with tempfile.TemporaryDirectory(prefix="light") as directory:
        argv = [sys.executable, "-c", OWNER, str(TESTS), f"{directory}/host"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            pids = [int(word) for word in owner.stdout.readline().split()]
            assert all(map(alive, pids))
            owner.kill()
        eventually(lambda: not any(map(alive, pids)), "all processes are gone")
