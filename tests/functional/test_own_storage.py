"""Storage without a manager, through the whole agent: made, used, remembered, shared, taken away; real files."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.agent_host import AgentHost, Problem, short_directory
from lab.light import LightHost, eventually
from needs import needs

pytestmark = needs("root", "qemu", "program:libvirtd", "program:qemu-img")

MIB = 1 << 20
BLANK = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentHost]:
    with (
        short_directory() as place,
        LightHost(place / "host", "own") as host,
        AgentHost(place / "agent", host) as running,
    ):
        yield running


@pytest.fixture
def directory(agent: AgentHost) -> Path:
    place = agent.directory / f"data {uuid.uuid4().hex[:6]}"  # a blank in its name
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    return place


def storages(agent: AgentHost) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in agent.call("GET", "/storage")}


def ask(agent: AgentHost, method: str, params: dict[str, Any]) -> Any:
    answer = agent.rpc(method, params)
    assert "result" in answer, answer
    return answer["result"]


def make(agent: AgentHost, name: str, directory: Path) -> dict[str, Any]:
    made: dict[str, Any] = agent.call("POST", "/storage", {"name": name, "path": str(directory)})
    return made


def active(agent: AgentHost, name: str) -> bool:
    found = storages(agent).get(name)
    return found is not None and found["status"] == "active"


def make_image(agent: AgentHost, storage: dict[str, Any]) -> tuple[str, str]:
    """A qcow2 image of 64 MiB; its and its volume's ids."""
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    task = ask(
        agent,
        "Volume.create",
        {
            "storagepoolID": storage["pool_id"],
            "storagedomainID": storage["domain_id"],
            "imageID": image,
            "volumeID": volume,
            "size": str(64 * MIB),
            "volFormat": 4,
            "preallocate": 2,
            "diskType": "DATA",
            "desc": "",
            "srcImgUUID": BLANK,
            "srcVolUUID": BLANK,
        },
    )
    eventually(
        lambda: ask(agent, "Task.getStatus", {"taskID": task})["taskState"] == "finished", "the volume's task has ended"
    )
    assert ask(agent, "Task.getStatus", {"taskID": task})["code"] == 0
    ask(agent, "Task.clear", {"taskID": task})
    return image, volume


def test_storage_is_made_remembered_and_taken_away(agent: AgentHost, directory: Path) -> None:
    made = make(agent, "first", directory)
    assert made["master"]
    assert made["type"] == "LOCALFS"
    eventually(lambda: active(agent, "first"), "the storage is in use")
    image, _ = make_image(agent, made)
    agent.restart()
    eventually(lambda: active(agent, "first"), "the storage is in use again")
    found = storages(agent)["first"]
    assert (found["domain_id"], found["pool_id"]) == (made["domain_id"], made["pool_id"])
    assert found["total"] >= found["free"] > 0
    assert ask(agent, "StorageDomain.getImages", {"storagedomainID": made["domain_id"]}) == [image]
    agent.call("DELETE", "/storage/first")
    assert storages(agent) == {}
    assert (directory / made["domain_id"] / "images" / image).is_dir()

    again = agent.call("POST", "/storage/attach", {"name": "back", "path": str(directory)})
    assert (again["domain_id"], again["pool_id"]) == (made["domain_id"], made["pool_id"])
    assert ask(agent, "StorageDomain.getImages", {"storagedomainID": made["domain_id"]}) == [image]
    agent.call("DELETE", "/storage/back?destroy=true")
    assert list(directory.iterdir()) == []


def test_second_storage_outlives_the_master(agent: AgentHost, directory: Path) -> None:
    other = directory.with_name(directory.name + "-other")
    other.mkdir(mode=0o777)
    other.chmod(0o777)
    first, second = make(agent, "first", directory), make(agent, "second", other)
    assert second["pool_id"] == first["pool_id"]
    assert not second["master"]
    agent.call("DELETE", "/storage/first?destroy=true")
    assert list(directory.iterdir()) == []
    left = storages(agent)
    assert list(left) == ["second"]
    assert left["second"]["master"]
    make_image(agent, left["second"])
    agent.restart()
    eventually(lambda: active(agent, "second"), "the other storage is in use again")
    agent.call("DELETE", "/storage/second?destroy=true")


def test_vm_runs_on_an_image_and_keeps_its_storage(agent: AgentHost, directory: Path) -> None:
    made = make(agent, "vms", directory)
    image, volume = make_image(agent, made)
    at = {"domain_id": made["domain_id"], "image_id": image, "volume_id": volume, "pool_id": made["pool_id"]}
    disk = {"format": "qcow2", "image": at}
    vm_id = agent.create("runner", memory_mib=32, disks=[disk])
    agent.reaches(vm_id, "Up", "Powering up")
    with pytest.raises(Problem, match="VMs have images in it"):
        agent.call("DELETE", "/storage/vms")
    link = agent.run_dir / "storage" / made["domain_id"] / image
    assert link.is_symlink()
    (volume_path,) = directory.glob(f"*/images/{image}/{volume}")
    owner = volume_path.stat()
    assert (owner.st_uid, owner.st_mode & 0o777) == (0, 0o660)  # as it was made: libvirt gave it to nobody
    agent.restart()  # who gives the image back is another process
    agent.call("DELETE", f"/vms/{vm_id}")
    eventually(lambda: not link.is_symlink(), "the image is given back")
    for wrong, field in (({"volume_id": str(uuid.uuid4())}, "image"), ({"pool_id": str(uuid.uuid4())}, "poolID")):
        with pytest.raises(Problem, match=field):
            agent.create("other", memory_mib=32, disks=[{"format": "qcow2", "image": {**at, **wrong}}])
    with pytest.raises(Problem, match="is qcow2, not raw"):
        agent.create("other", memory_mib=32, disks=[{"format": "raw", "image": at}])
    agent.call("DELETE", "/storage/vms?destroy=true")


def test_hostile_image_starts_no_vm(agent: AgentHost, directory: Path) -> None:
    made = make(agent, "hostile", directory)
    image, volume = make_image(agent, made)
    (path,) = directory.glob(f"*/images/{image}/{volume}")
    subprocess.run(
        ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", path],
        check=True,
        capture_output=True,
    )
    at = {"domain_id": made["domain_id"], "image_id": image, "volume_id": volume, "pool_id": made["pool_id"]}
    with pytest.raises(Problem, match="disks"):
        agent.create("thief", memory_mib=32, disks=[{"format": "qcow2", "image": at}])
    agent.call("DELETE", "/storage/hostile?destroy=true")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"path": "relative"}, "path"),
        ({"path": "/nonexistent/place"}, "path"),
        ({"path": "/etc/passwd"}, "path"),
        ({"type": "TAPE"}, "type"),
    ],
)
def test_bad_input_names_its_field_and_leaves_nothing(
    agent: AgentHost, directory: Path, given: dict[str, str], field: str
) -> None:
    with pytest.raises(Problem) as caught:
        agent.call("POST", "/storage", {"name": "x", "path": str(directory), **given})
    assert 400 <= caught.value.status < 500
    assert field in json.dumps(caught.value.body)
    assert storages(agent) == {}
    assert list(directory.iterdir()) == []


def test_name_and_path_are_used_once(agent: AgentHost, directory: Path) -> None:
    make(agent, "one", directory)
    with pytest.raises(Problem, match="one"):
        make(agent, "one", directory.with_name("elsewhere"))
    with pytest.raises(Problem, match="path"):
        make(agent, "two", directory)
    with pytest.raises(Problem):
        agent.call("DELETE", "/storage/two")
    agent.call("DELETE", "/storage/one?destroy=true")


def test_killed_while_storage_is_made_leaves_it_made_or_not(agent: AgentHost, directory: Path) -> None:
    """Later and later: afterwards it is listed and works, or it is not there and can be made."""
    for delay_ms in (5, 20, 45, 80, 120, 170, 240, 330):
        place = directory.with_name(f"{directory.name}-{delay_ms}")
        place.mkdir(mode=0o777)
        place.chmod(0o777)
        asked = threading.Thread(target=_make_quietly, args=(agent, place))
        asked.start()
        time.sleep(delay_ms / 1000)
        agent.restart()
        asked.join(60)
        eventually(lambda: all(item["status"] == "active" for item in storages(agent).values()), "all is settled")
        if "killed" not in storages(agent):
            made = make(agent, "killed", place)
            make_image(agent, made)
        else:
            make_image(agent, storages(agent)["killed"])
        agent.call("DELETE", "/storage/killed?destroy=true")
        assert list(place.iterdir()) == []


def _make_quietly(agent: AgentHost, place: Path) -> None:
    with contextlib.suppress(Problem, OSError, http.client.HTTPException, ValueError):
        make(agent, "killed", place)
