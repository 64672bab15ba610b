"""The first tour in README.md: every line works as written, on a host where "make run" is on."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import time
from pathlib import Path

import pytest

from lab.fresh import FreshHost, eventually
from lab.make_run import MakeRun
from needs import needs
from vds_bootstrap.guest import Guest

pytestmark = [needs("root", "qemu", "busybox", "program:libvirtd", "program:make"), pytest.mark.timeout(400)]

README = Path(__file__).resolve().parents[2] / "README.md"
LEAVE = b"\x1d"  # Ctrl-]


def tour() -> list[str]:
    """The indented lines of the section "A first tour"."""
    section = README.read_text(encoding="utf-8").partition("## A first tour")[2].partition("\n## ")[0]
    return re.findall(r"^    (.+)$", section, re.MULTILINE)


def talk_on_console(host: FreshHost, command: str) -> str:
    """Run a command that wants a terminal: press Enter until there is a prompt, ask something, leave."""
    near, far = pty.openpty()
    process = subprocess.Popen(host.enter("bash", "-c", command), stdin=far, stdout=far, stderr=far)
    os.close(far)
    os.set_blocking(near, False)
    printed = b""

    def has_printed(words: bytes) -> bool:
        nonlocal printed
        with contextlib.suppress(BlockingIOError):
            printed += os.read(near, 65536)
        return words in printed

    def prompt_comes() -> bool:
        os.write(near, b"\r")
        time.sleep(0.2)
        return has_printed(b"demo:/root#")

    eventually(prompt_comes, "a prompt on the console")
    os.write(near, b"echo $((6 * 7))-is-the-answer\r")
    eventually(lambda: has_printed(b"42-is-the-answer"), "the shell's answer")
    os.write(near, LEAVE)
    assert process.wait(30) == 0
    os.close(near)
    return printed.decode(errors="replace")


def test_every_line_of_the_tour_works(tiny_guest: Guest, tmp_path: Path) -> None:
    assert tiny_guest.kernel.exists()
    lines = tour()
    assert len(lines) == 12
    with FreshHost(tmp_path / "host") as host:
        run = MakeRun(host)
        run.wait_up()
        before = lines[0]
        for line in lines[1:]:
            command = f"{before}; {line}"
            if " console " in line:
                talk_on_console(host, command)
                continue
            answer = host.run("bash", "-e", "-c", command)
            assert "rror" not in answer, answer
        listed = host.run(".venv/bin/vdscli", "vm", "list")
        assert re.findall(r"^(\w+) .*", listed, re.MULTILINE) == ["NAME", "demo"], listed
        run.press_ctrl_c()
        run.wait_end()
