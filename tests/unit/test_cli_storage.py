"""vdscli storage, image and op without an agent's storage: what is shown and sent, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_agent import Agent, clean, serving
from vdscli import storage_inventory, storage_tasks
from vdscli.main import main
from vdsm.api import storage, storage_types
from vdsm.api.host_types import TaskInfo, TaskStatus
from vdsm.base.errors import NotFound

Run = Callable[..., tuple[int, str, str]]
DOMAIN = "11111111-aaaa-4000-8000-000000000001"
POOL = "11111111-aaaa-4000-8000-000000000002"
IMAGE = "22222222-aaaa-4000-8000-000000000001"
BASE = "33333333-aaaa-4000-8000-000000000001"
LEAF = "33333333-aaaa-4000-8000-000000000002"
TASK = "44444444-aaaa-4000-8000-000000000001"
MIB = 1 << 20


def view(**more: Any) -> Any:
    facts = {"name": "local", "domain_id": DOMAIN, "pool_id": POOL, "type": "LOCALFS", "path": "/data"}
    return clean(storage.StorageView(**{**facts, "status": "active", **more}), storage.StorageView)


def volume(parent: str, voltype: str, **more: Any) -> storage_types.VolumeDump:
    facts: dict[str, Any] = {"capacity": 8 * MIB, "truesize": MIB, "apparentsize": MIB, "legality": "LEGAL"}
    return storage_types.VolumeDump(**{
        **facts, "image": IMAGE, "status": "OK", "parent": parent, "voltype": voltype, "format": "COW",
        "type": "SPARSE", "description": json.dumps({"DiskAlias": "mail", "DiskDescription": ""}), **more,
    })  # fmt: skip


def task(state: str, result: str = "", message: str = "") -> Any:
    found = TaskStatus(code=0, message=message, task_state=state, task_result=result, task_id=TASK)
    return clean(found, TaskStatus)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with serving(tmp_path / "s") as agent:
        info = storage_types.DomainInfo(
            uuid=DOMAIN, name="local", type="LOCALFS", domain_class="Data", role="Master", version=5, pool=[POOL],
            block_size=512, alignment=MIB,
        )  # fmt: skip
        dump = storage_types.DomainDump(
            metadata=info,
            volumes={BASE: volume(storage_inventory.BLANK, "INTERNAL"), LEAF: volume(BASE, "LEAF")},
        )
        agent.on("GET", "/storage", [view()])
        agent.on("GET", "/storage-domains", [DOMAIN])
        agent.on("GET", f"/storage-domains/{DOMAIN}/dump", clean(dump, storage_types.DomainDump))
        yield agent


@pytest.fixture
def run(agent: Agent, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("VDSM_SOCKET", str(agent.socket_path))

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(list(words))
        except SystemExit as end:
            code = int(str(end.code))
        return code, *capfd.readouterr()

    return run


def test_storage_is_listed_with_what_it_has(agent: Agent, run: Run) -> None:
    agent.on("GET", "/storage", [view(total=10 << 30, free=4 << 30)])
    code, out, _ = run("storage", "list")
    assert (code, out.splitlines()[1].split()) == (
        0,
        ["local", DOMAIN[:8], "LOCALFS", "active", "10", "GiB", "4", "GiB", "/data"],
    )
    assert json.loads(run("--json", "storage", "list")[1])[0]["domain_id"] == DOMAIN
    assert run("-q", "storage", "list")[1] == "local\n"


def test_storage_that_fails_says_why(agent: Agent, run: Run) -> None:
    agent.on("GET", "/storage", [view(status="failing", reason="it does not answer")])
    assert run("storage", "list")[2] == "local: it does not answer\n"
    code, _, err = run("image", "create", "x", "--size", "1G")
    assert (code, "no storage in use" in err) == (3, True)


@pytest.mark.parametrize("text", ["mail", IMAGE, IMAGE[:6], IMAGE.upper()])
def test_images_have_the_names_that_an_engine_gave_them(run: Run, text: str) -> None:
    code, out, _ = run("--json", "image", "show", text)
    found = json.loads(out)
    assert (code, found["name"], found["format"], found["used"]) == (0, "mail", "qcow2", 2 * MIB)
    assert [item["volume_id"] for item in found["volumes"]] == [BASE, LEAF]


@pytest.mark.parametrize("text", ["other", "222", "2222x"])
def test_images_that_are_not_there(run: Run, text: str) -> None:
    assert run("image", "show", text)[0] == 3


def test_an_image_is_made_by_a_task(agent: Agent, run: Run) -> None:
    made: list[Any] = []
    agent.on("POST", "/storage/attach", None)

    def create(body: Any) -> str:
        made.append(body)
        return TASK

    real = dict.get

    class Routes(dict[tuple[str, str], Any]):
        def get(self, key: tuple[str, str], default: Any = None) -> Any:
            if key[0] == "POST" and key[1].endswith("/volumes"):
                return create
            return real(self, key, default)

    agent.routes = Routes(agent.routes)
    agent.in_turn("GET", f"/tasks/{TASK}", task("running"), task("finished", "success"))
    agent.on("DELETE", f"/tasks/{TASK}", None)
    code, out, err = run("image", "create", "new", "--size", "2G", "--format", "raw", "--preallocated")
    assert (code, err) == (0, ""), err
    assert out.startswith("new: made (2 GiB in local, ")
    (body,) = made
    assert (body["size"], body["vol_format"], body["preallocate"]) == (2 << 30, "RAW", "PREALLOCATED")


def test_a_task_that_fails_is_an_error_and_forgotten(agent: Agent, run: Run) -> None:
    agent.on("DELETE", f"/storage-domains/{DOMAIN}/images/{IMAGE}?force=false", TASK)
    agent.on("GET", f"/tasks/{TASK}", task("finished", "cleanFailure", "it is in use"))
    agent.on("DELETE", f"/tasks/{TASK}", None)
    code, _, err = run("image", "delete", "mail")
    assert (code, err) == (1, "vdscli: deleting image mail failed: it is in use\n")
    assert agent.asked("DELETE")[-1][0] == f"/tasks/{TASK}"


def test_who_interrupts_is_told_that_the_task_goes_on(agent: Agent, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.on("DELETE", f"/storage-domains/{DOMAIN}/images/{IMAGE}?force=false", TASK)
    agent.on("GET", f"/tasks/{TASK}", task("running"))

    class Interrupted:
        @staticmethod
        def monotonic() -> float:
            return 0.0

        @staticmethod
        def sleep(_: float) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage_tasks, "time", Interrupted)
    code, _, err = run("image", "delete", "mail")
    assert code == 130
    assert f"goes on: 'vdscli op explain {TASK}'" in err
    assert agent.asked("DELETE") == [(f"/storage-domains/{DOMAIN}/images/{IMAGE}?force=false", None)]


def test_images_only_grow(run: Run) -> None:
    code, _, err = run("image", "resize", "mail", "4M")
    assert (code, "only grow" in err) == (4, True)


def test_a_vm_gets_the_ids_of_its_image(agent: Agent, run: Run) -> None:
    agent.on("POST", "/definitions", NotFound("thing", "told apart"))
    assert run("vm", "define", "web", "--disk", "image=mail,bus=sata")[0] == 3
    ((_, body),) = agent.asked("POST")
    address = {"pool_id": POOL, "domain_id": DOMAIN, "image_id": IMAGE, "volume_id": LEAF}
    assert body["disks"] == [{"bus": "sata", "image": address, "format": "qcow2"}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("vm", "define", "web", "--disk", "image=mail,colour=red"), "colour"),
        (("vm", "define", "web", "--disk", "/x.raw,storage=local"), "storage"),
        (("vm", "define", "web", "--disk", "size=many"), "many"),
        (("image", "create", "x", "--size", "0"), "--size"),
        (("image", "create", " ", "--size", "1G"), "NAME"),
        (("storage", "create", "x", "fs", "--type", "posixfs"), "--vfs-type"),
        (("storage", "remove", "local", "--destroy"), "--yes"),
    ],
)
def test_wrong_command_lines(run: Run, words: tuple[str, ...], says: str) -> None:
    code, out, err = run(*words)
    assert (code, out, says in err) == (2, "", True)


def test_operations_are_named_by_the_beginning_of_their_id(agent: Agent, run: Run) -> None:
    agent.on("GET", "/tasks", {TASK: task("running")})
    agent.on("GET", "/tasks/info", {TASK: clean(TaskInfo(verb="copyImage", id=TASK), TaskInfo)})
    found = storage_types.TaskExplanation(
        id=TASK, verb="copyImage", arguments="{}", summary="it is at 40 %: copy", done=["one"], uncertain=["two"],
        left=[], next="it goes on", locks=[],
    )  # fmt: skip
    agent.on("GET", f"/tasks/{TASK}/explanation", clean(found, storage_types.TaskExplanation))
    agent.on("POST", f"/tasks/{TASK}/stop", None)
    assert run("op", "list")[1].splitlines()[1].split() == [TASK, "copyImage", "running"]
    out = run("op", "explain", TASK[:4])[1]
    assert "it is at 40 %: copy" in out
    assert "In doubt   two" in out
    assert run("op", "cancel", TASK[:4])[0] == 0
    assert agent.asked("POST")[-1][0] == f"/tasks/{TASK}/stop"


def test_what_is_wrong_is_told_and_is_an_exit_code(agent: Agent, run: Run) -> None:
    finding = {"word": "kind", "object": "images/x", "what": "it is LEAF", "remedy": "set", "repairable": True}
    found = {"findings": [finding], "skipped": [], "images": 1, "volumes": 2}
    agent.on("GET", f"/storage-domains/{DOMAIN}/check", found)
    code, out, err = run("storage", "check", "local")
    assert (code, out.splitlines()[0]) == (1, "kind: images/x: it is LEAF")
    assert "--repair' mends 1" in err
    agent.on(
        "POST",
        f"/storage-domains/{DOMAIN}/repair",
        {"mended": [{**finding, "image_id": ""}], "left": [], "skipped": []},
    )
    code, out, _ = run("storage", "check", "local", "--repair")
    assert (code, out.splitlines()) == (0, ["mended  kind: images/x: it is LEAF", "local: sound (1 images, 2 volumes)"])


@pytest.mark.parametrize(
    ("text", "name"),
    [("plain", "plain"), ('{"DiskAlias":"a b"}', "a b"), ('{"other":1}', '{"other":1}'), ("{broken", "{broken")],
)
def test_names_in_descriptions(text: str, name: str) -> None:
    assert storage_inventory.name_of(text) == name
