"""vdscli storage, image and op against the real agent, as a person uses them: names, sizes, refusals, repairs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.agent_host import AgentHost, short_directory
from lab.light import LightHost, eventually
from needs import needs

pytestmark = [needs("root", "qemu", "program:libvirtd", "program:qemu-img"), pytest.mark.timeout(300)]

VDSCLI = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "vdscli"
PATIENCE_S = 90.0
MIB = 1 << 20


class Cli:
    """Runs vdscli for one agent."""

    def __init__(self, agent: AgentHost) -> None:
        self.agent = agent
        self.environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "VDSM_SOCKET": str(agent.socket)}

    def run(self, *words: object) -> tuple[int, str, str]:
        argv = [str(VDSCLI), *map(str, words)]
        done = subprocess.run(
            argv, capture_output=True, text=True, env=self.environment, timeout=PATIENCE_S, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def ok(self, *words: object) -> str:
        code, out, err = self.run(*words)
        assert code == 0, (words, out, err)
        return out

    def json(self, *words: object) -> Any:
        return json.loads(self.ok("--json", *words))

    def refused(self, code: int, *words: object) -> str:
        done = self.run(*words)
        assert done[0] == code, done
        assert done[2].count("\n") == 1, done
        return done[2]


@pytest.fixture(scope="module")
def cli() -> Iterator[Cli]:
    with (
        short_directory() as place,
        LightHost(place / "host", "clis") as host,
        AgentHost(place / "agent", host) as running,
    ):
        for name in ("one", "two"):
            (place / "agent" / name).mkdir(mode=0o777, exist_ok=True)
            (place / "agent" / name).chmod(0o777)
        made = Cli(running)
        made.ok("storage", "create", "one", running.directory / "one")
        wait_active(made, "one")
        yield made


def wait_active(cli: Cli, name: str) -> None:
    eventually(
        lambda: any(item["name"] == name and item["status"] == "active" for item in cli.json("storage", "list")),
        f"storage {name} is in use",
    )


def names(cli: Cli, *words: str) -> list[str]:
    return [item["name"] for item in cli.json("image", "list", *words)]


def directory(cli: Cli, storage: str) -> Path:
    (found,) = [item for item in cli.json("storage", "list") if item["name"] == storage]
    return Path(found["path"]) / found["domain_id"]


def test_images_are_made_named_and_deleted(cli: Cli) -> None:
    assert "64 MiB in one" in cli.ok("image", "create", "disk", "--size", "64M")
    assert "has an image 'disk'" in cli.refused(4, "image", "create", "disk", "--size", "1G")
    assert "--size" in cli.refused(2, "image", "create", "other")
    cli.ok("image", "create", "plain", "--size", "16M", "--format", "raw", "--preallocated")
    listed = cli.ok("image", "list")
    assert listed.splitlines()[0].split() == ["NAME", "ID", "SIZE", "USED", "FORMAT", "STORAGE", "VOLUMES", "STATUS"]
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["disk", "plain"]
    found = cli.json("image", "show", "plain")
    assert (found["size"], found["format"], found["used"] >= 16 * MIB) == (16 * MIB, "raw", True)
    assert cli.json("image", "show", found["image_id"][:8])["name"] == "plain"
    assert "there is no image 'nothing'" in cli.refused(3, "image", "show", "nothing")
    cli.ok("image", "resize", "disk", "80M")
    cli.ok("image", "resize", "plain", "17M")
    assert {item["name"]: item["size"] // MIB for item in cli.json("image", "list")} == {"disk": 80, "plain": 17}
    assert cli.ok("storage", "check", "one").startswith("one: sound")
    assert "only grow" in cli.refused(4, "image", "resize", "disk", "64M")
    cli.ok("image", "snapshot", "disk")
    cli.ok("image", "rename", "plain", "bare")
    shown = cli.json("image", "show", "disk")
    assert (shown["size"], len(shown["volumes"])) == (80 * MIB, 2)
    assert [item["voltype"] for item in shown["volumes"]] == ["INTERNAL", "LEAF"]
    cli.ok("image", "copy", "disk", "copied")
    assert len(cli.json("image", "show", "copied")["volumes"]) == 1
    assert names(cli) == ["bare", "copied", "disk"]
    assert cli.ok("op", "list", "-q") == ""  # what was waited for is forgotten
    code, _, err = cli.run("image", "delete", "bare", "nothing", "copied", "disk")
    assert (code, "nothing" in err) == (3, True)
    assert names(cli) == []


def test_second_storage_and_moving(cli: Cli) -> None:
    cli.ok("storage", "create", "two", cli.agent.directory / "two")
    wait_active(cli, "two")
    assert "--storage: which one" in cli.refused(2, "image", "create", "mover", "--size", "8M")
    cli.ok("image", "create", "mover", "--size", "8M", "--storage", "two")
    assert names(cli, "--storage", "two") == ["mover"]
    cli.ok("image", "move", "mover", "one")
    assert (names(cli, "--storage", "two"), names(cli, "--storage", "one")) == ([], ["mover"])
    assert "already" in cli.refused(4, "image", "move", "mover", "one")
    card = cli.ok("storage", "show", "two")
    assert "this host" in card
    assert "--yes" in cli.refused(2, "storage", "remove", "two", "--destroy")
    cli.ok("storage", "remove", "two")
    cli.ok("storage", "attach", "again", cli.agent.directory / "two")
    wait_active(cli, "again")
    cli.ok("storage", "remove", "again", "--destroy", "--yes")
    assert list((cli.agent.directory / "two").iterdir()) == []
    cli.ok("image", "delete", "mover")


def test_faults_are_told_and_mended(cli: Cli) -> None:
    cli.ok("image", "create", "hurt", "--size", "8M")
    cli.ok("image", "snapshot", "hurt")
    assert cli.ok("storage", "check", "one").startswith("one: sound (1 images, 2 volumes)")
    image = cli.json("image", "show", "hurt")
    place = directory(cli, "one") / "images" / image["image_id"]
    base, leaf = (item["volume_id"] for item in image["volumes"])
    meta = place / f"{base}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=INTERNAL", "VOLTYPE=LEAF"))
    (place / "mine.txt").write_text("x")
    code, out, _ = cli.run("storage", "check", "one")
    assert code == 1
    assert "it says LEAF, and is INTERNAL" in out
    assert "mine.txt" in out
    code, out, _ = cli.run("--json", "storage", "check", "one", "--repair", "--data")
    found = json.loads(out)
    assert (code, [item["word"] for item in found["mended"]]) == (1, ["kind"])
    assert [(item["word"], item["repairable"]) for item in found["findings"]] == [("stray", False)]
    assert "VOLTYPE=INTERNAL" in meta.read_text()
    (place / "mine.txt").unlink()
    assert "sound" in cli.ok("storage", "check", "one", "--data", "--repair")
    assert place.joinpath(leaf).exists()
    cli.ok("image", "delete", "hurt")


def test_vm_is_made_with_images(cli: Cli) -> None:
    cli.ok("image", "create", "given", "--size", "8M")
    cli.ok("vm", "create", "machine", "--memory", "32M", "--disk", "image=given", "--disk", "size=16M,bus=scsi")
    assert names(cli) == ["given", "machine"]
    xml = json.loads(cli.ok("--json", "vm", "show", "machine"))
    assert all(image["image_id"] in json.dumps(xml) for image in cli.json("image", "list"))
    assert "in use" in cli.refused(1, "image", "delete", "given")
    assert "in use" in cli.run("storage", "check", "one", "--data")[2]
    assert cli.ok("op", "list", "-q") == ""
    cli.ok("vm", "destroy", "machine")
    cli.ok("vm", "forget", "machine")
    assert "there is no image" in cli.refused(3, "vm", "create", "other", "--disk", "image=nothing")
    # What was made for a VM that could not be made is gone again.
    cli.refused(1, "vm", "create", "broken", "--memory", "32M", "--disk", "size=8M", "--disk", "/nowhere/x.raw")
    assert names(cli) == ["given", "machine"]
    eventually(lambda: cli.run("image", "delete", "given", "machine")[0] == 0, "the images can be deleted")


def test_names_are_completed(cli: Cli) -> None:
    cli.ok("image", "create", "finish-me", "--size", "8M")
    assert "finish-me" in cli.ok("--complete", "zsh", "image", "show", "fin")
    assert "one" in cli.ok("--complete", "zsh", "storage", "check", "")
    assert "image=finish-me" in cli.ok("--complete", "zsh", "vm", "create", "x", "--disk", "image=f")
    cli.ok("image", "delete", "finish-me")
