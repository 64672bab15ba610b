"""The command line's parts: units, tables, places, completion, and what keeps it quick."""

from __future__ import annotations

import ast
import json
import socket
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vdscli
from cli_agent import Agent, definition, serving, stats
from vdscli import arguments, completion, raw_calls, session, terminal, transport, units
from vdscli.failures import CliError
from vdscli.main import main
from vdscli.parser import CommandParser
from vdscli.terminal import Cell, Column
from vdsm.api.catalogue import all_verbs

SOURCES = Path(vdscli.__file__).parent
PROJECT = SOURCES.parent.parent
A = "aaaaaaaa-0000-4000-8000-000000000001"


# -- units


@pytest.mark.parametrize(
    ("text", "mib"),
    [("512", 512), ("512M", 512), ("2g", 2048), ("1.5GiB", 1536), ("1T", 1 << 20), ("2048k", 2), ("64MB", 64)],
)
def test_memory_as_typed(text: str, mib: int) -> None:
    assert units.mebibytes(text) == mib


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "1.5", "1e3", "nan", "1.2.3G", "\u0661G", "512 X", "1023k"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        units.mebibytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (512 << 20, "512 MiB"), (3 << 41, "6 TiB"),
     ((1 << 30) - 1, "1.0 GiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert units.size(count) == text


@given(st.integers(min_value=0, max_value=1 << 62))
def test_a_size_is_short(count: int) -> None:
    assert len(units.size(count)) <= 8


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (61, "1m 01s"), (7260, "2h 01m"), (90000, "1d 1h"), (-1, "0s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


# -- tables


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_table_is_aligned_whatever_is_in_it(rows: list[tuple[str, str]]) -> None:
    lines = terminal.table((Column("A", right=True), Column("B")), rows, colour=False)
    assert len(lines) == len(rows) + 1
    for line in lines:
        assert not any(unicodedata.category(char) == "Cc" for char in line)
        assert line == line.rstrip()
    starts = {
        terminal.width(line) - terminal.width(terminal.cleaned(second))
        for line, (_, second) in zip(lines[1:], rows, strict=True)
        if second and terminal.cleaned(second).strip() == terminal.cleaned(second)
    }
    assert len(starts) <= 1


def test_colours_do_not_move_columns() -> None:
    rows = [[Cell("Up", "green"), "x"], [Cell("Down", "red"), "y"]]
    plain = terminal.table((Column("S"), Column("T")), rows, colour=False)
    coloured = terminal.table((Column("S"), Column("T")), rows, colour=True)
    assert coloured[1] == plain[1].replace("Up", "\x1b[32mUp\x1b[0m")


@given(st.text(), st.integers(min_value=1, max_value=20))
def test_shortened_fits(text: str, columns: int) -> None:
    shown = terminal.cleaned(text)
    assert terminal.width(terminal.shortened(shown, columns)) <= columns


def test_a_card_leaves_out_what_is_empty_and_indents_lines() -> None:
    assert terminal.card([("A", "1"), ("Nothing", ""), ("Long", ["2", "3"])], colour=False) == [
        "A     1",
        "Long  2",
        "      3",
    ]


# -- where the agent is


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("h", "h", 54321), ("h:1", "h", 1), ("[::1]:9", "::1", 9), ("[::1]", "::1", 54321), ("fe80::1", "fe80::1", 54321)],
)
def test_hosts(text: str, host: str, port: int) -> None:
    assert transport.split_host(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":1", "h:x", "h:0", "h:65536", "h:-1", "[::1]:x"])
def test_hosts_that_are_none(text: str) -> None:
    with pytest.raises(CliError, match="--host"):
        transport.split_host(text)


def place(monkeypatch: pytest.MonkeyPatch, *words: str) -> transport.Place:
    return session.place(arguments.parser().parse_args([*words, "vm", "list"]))


def test_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VDSM_SOCKET", "VDSM_HOST", "VDSM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(session, "PKI_DIR", tmp_path)
    assert place(monkeypatch) == transport.Place("/run/vdsm/vdsm.sock")
    with pytest.raises(CliError, match="certificate"):
        place(monkeypatch, "--host", "h")
    (tmp_path / "t").write_text("secret\n")
    assert place(monkeypatch, "--host", "h", "--token-file", str(tmp_path / "t")).token == "secret"
    for name in ("certs/cacert.pem", "clients/vdscli.pem", "clients/vdscli.key"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = place(monkeypatch, "--host", "h")
    assert (found.ca, found.cert) == (str(tmp_path / "certs/cacert.pem"), str(tmp_path / "clients/vdscli.pem"))
    monkeypatch.setenv("VDSM_TOKEN", "other")
    monkeypatch.setenv("VDSM_HOST", "h2")
    found = place(monkeypatch)
    assert (found.host, found.token, found.cert) == ("h2", "other", "")
    (tmp_path / "t").write_text("two\nlines")
    with pytest.raises(CliError, match="--token-file"):
        place(monkeypatch, "--token-file", str(tmp_path / "t"))


# -- every command can be reached, and is quick to reach


def every(parser: CommandParser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], CommandParser]]:
    yield path, parser.filled()
    for name, command in parser.commands.items():
        yield from every(command, (*path, name))


def test_every_command_has_a_function_and_help() -> None:
    leaves = [(path, item) for path, item in every(arguments.parser()) if not item.commands]
    assert len(leaves) > 25
    for path, item in leaves:
        assert callable(session.command(item.get_default("run"))), path
        assert item.description, path
        assert item.format_help()


def test_start_up_imports_little() -> None:
    """What is imported before a command runs is counted in milliseconds that every command pays."""
    heavy = {"vdsm", "msgspec", "http", "ssl", "asyncio", "dataclasses", "subprocess", "logging", "email", "urllib"}
    at_start = ["main", "failures", "arguments", "parser", "vm_arguments", "session", "terminal", "__init__"]
    for module in at_start:
        tree = ast.parse((SOURCES / f"{module}.py").read_text())
        assert not heavy & set(_imported(tree)), module
    for source in SOURCES.glob("*.py"):
        deep = {name for node in ast.walk(ast.parse(source.read_text())) for name in _imported(node)}
        assert not deep & {"vdsm", "msgspec", "requests", "rich", "click"}, source


def _imported(tree: ast.AST) -> Iterator[str]:
    body = getattr(tree, "body", None)
    for node in body if isinstance(body, list) else []:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_the_list_of_verbs_is_the_contract() -> None:
    known = raw_calls.verbs()
    assert list(known) == list(all_verbs())
    for name, verb in all_verbs().items():
        listed = [(item["name"], item["required"]) for item in known[name]["params"]]
        assert listed == [(param.wire_name, param.required) for param in verb.params]


# -- raw parameters


def test_parameters() -> None:
    types = {"message": "string"}
    assert raw_calls.parameters([], {}) == {}
    assert raw_calls.parameters(['{"a": 1}'], {}) == {"a": 1}
    assert raw_calls.parameters(["message=5", "n=5", "l=[1]", "t=a=b", "e="], types) == {
        "message": "5", "n": 5, "l": [1], "t": "a=b", "e": "",
    }  # fmt: skip


@pytest.mark.parametrize("words", [["{"], ["5"], ["a=1", "b"], ["=1"], ["[" * 100_000]])
def test_parameters_that_are_none(words: list[str]) -> None:
    with pytest.raises(raw_calls.BadParams):
        raw_calls.parameters(words, {})


# -- completion


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    with serving(tmp_path / "s") as agent:
        monkeypatch.setenv("VDSM_SOCKET", str(agent.socket_path))
        agent.vms(live=[stats("web1", A)], defined=[definition("web2", A[:-1] + "2")])
        yield agent


def completed(capsys: pytest.CaptureFixture[str], *words: str, shell: str = "zsh") -> list[str]:
    assert main(["--complete", shell, *words]) == 0
    return [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["v"], ["vm"]),
        (["vm", "st"], ["stats", "start", "stop"]),
        (["vm", "stop", "--fo"], ["--force"]),
        (["--json", "vm", "stop", ""], ["web1", "web2"]),
        (["vm", "stop", "web1", "w"], ["web2"]),
        (["vm", "start", ""], ["web2"]),
        (["vm", "forget", ""], ["web2"]),
        (["vm", "create", "x", "--graphics", ""], ["vnc", "none"]),
        (["vm", "create", "x", "--graphics=n"], ["--graphics=none"]),
        (["vm", "create", "--disk", ""], ["size=", "image=", ":files"]),
        (["vm", "autostart", "web2", "o"], ["on", "off"]),
        (["vm", "create", "x", "--memory", ""], []),
        (["token", "create", "t", "--role", "a"], ["admin"]),
        (["call", "VM.set"], ["VM.setTicket"]),
        (["call", "VM.pause", "v"], ["vmID="]),
        (["call", "VM.setTicket", "existingConnAction=f"], ["existingConnAction=fail"]),
        (["--soc"], ["--socket"]),
        (["vm", "pause", "--", "w"], ["web1", "web2"]),
        (["nonsense", ""], ["vm", "host", "storage", "image", "op", "events", "top", "token", "call", "completion"]),
    ],
)
def test_candidates(agent: Agent, capsys: pytest.CaptureFixture[str], words: list[str], found: list[str]) -> None:
    assert completed(capsys, *words) == found


def test_bash_breaks_words(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert completed(capsys, "vm", "create", "x", "--graphics", "=", "n", shell="bash") == ["none"]
    assert completed(capsys, "vm", "create", "x", "--graphics", "=", shell="bash") == ["vnc", "none"]


def test_no_agent_no_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert completed(capsys, "--socket", str(tmp_path / "none"), "vm", "stop", "") == []


@pytest.mark.parametrize(("shell", "name"), [("bash", "vdscli.bash"), ("zsh", "_vdscli"), ("fish", "vdscli.fish")])
def test_the_packaged_scripts_are_the_printed_ones(shell: str, name: str) -> None:
    assert (PROJECT / "packaging" / "completion" / name).read_text() == completion.SCRIPTS[shell]


# -- the console's bridge


class Guest:
    """The other end of a console."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.heard = b""

    def answer(self, *texts: bytes) -> None:
        def talk() -> None:
            line, _ = self.listener.accept()
            with line:
                for text in texts:
                    line.sendall(text)
                while chunk := line.recv(4096):
                    self.heard += chunk
                    if b"bye" in self.heard:
                        return

        self.thread = threading.Thread(target=talk, daemon=True)
        self.thread.start()


@pytest.fixture
def guest(agent: Agent, tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path / "console")
    agent.on("GET", f"/vms/{A}", {"console": str(tmp_path / "console")})
    yield guest
    guest.listener.close()


def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "typed").write_bytes(text)
    monkeypatch.setattr("sys.stdin", (tmp_path / "typed").open())


def test_console_copies_both_ways_until_the_vm_ends(
    guest: Guest, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, tmp_path, b"hello\nbye\n")
    guest.answer(b"login: ", b"\xffraw\n")
    assert main(["vm", "console", "web1"]) == 0
    guest.thread.join(5)
    assert guest.heard == b"hello\nbye\n"
    assert "login: " in capfd.readouterr().out


def test_console_waits_for_a_text_that_comes_in_pieces(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, tmp_path, b"")
    guest.answer(b"the guest is re", b"ady now\n")
    assert main(["vm", "console", "web1", "--until", "is ready", "--for", "20"]) == 0
    assert "is ready" in capfd.readouterr().out


def test_console_fails_when_the_text_never_comes(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, tmp_path, b"")
    guest.answer(b"hm\n")
    assert main(["vm", "console", "web1", "--until", "ready", "--for", "0.2"]) == 1
    assert "did not show 'ready'" in capfd.readouterr().err


def test_console_log(agent: Agent, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_bytes(b"booted\n")
    xml = f"<domain><serial type='unix'><source/><log file='{tmp_path}/log' append='on'/></serial></domain>"
    agent.on("GET", f"/vm-xml?vm_list={A}", {A: xml})
    assert main(["vm", "console", "web1", "--log"]) == 0
    assert capfd.readouterr().out == "booted\n"


def test_console_is_for_this_host_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDSM_TOKEN", "t")
    assert main(["--host", "far", "vm", "console", "web1"]) == 2
    assert "run 'vdscli vm console' on far" in capfd.readouterr().err


def test_json_is_one_line_for_programs(agent: Agent, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["vm", "list", "--json"]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    assert len(json.loads(out)) == 2
