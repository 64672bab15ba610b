"""The whole agent's images under unkind use: in use, made twice at once, on storage that is full or read-only."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from domain_parts import mounted
from lab.agent_host import PATIENCE_S, AgentHost, Problem, short_directory
from lab.light import LightHost, eventually
from needs import needs

pytestmark = needs("root", "qemu", "program:libvirtd", "program:qemu-img")

MIB = 1 << 20
BUSY, EXISTS, FULL = 203, 212, 397


class Desk:
    """One agent with one storage, and what is asked of it."""

    def __init__(self, agent: AgentHost, path: Path) -> None:
        self.agent = agent
        self.path = path
        path.chmod(0o777)
        self.storage: dict[str, Any] = agent.call("POST", "/storage", {"name": path.name, "path": str(path)})
        self.images = path / self.storage["domain_id"] / "images"

    def address(self, image: str, volume: str | None = None) -> dict[str, str]:
        found = {
            "storagepoolID": self.storage["pool_id"],
            "storagedomainID": self.storage["domain_id"],
            "imageID": image,
        }
        return found if volume is None else {**found, "volumeID": volume}

    def ask(self, method: str, **params: Any) -> Any:
        answer = self.agent.rpc(method, params)
        assert "result" in answer, (method, answer)
        return answer["result"]

    def run(self, method: str, **params: Any) -> tuple[int, str]:
        """The code and message of a task, or of the refusal to begin it."""
        answer = self.agent.rpc(method, params)
        if "error" in answer:
            return answer["error"]["code"], answer["error"]["message"]
        until = time.monotonic() + PATIENCE_S
        while (status := self.ask("Task.getStatus", taskID=answer["result"]))["taskState"] != "finished":
            assert time.monotonic() < until, status
            time.sleep(0.02)
        self.ask("Task.clear", taskID=answer["result"])
        return status["code"], status["message"]

    def create(self, image: str, volume: str, size: int = 8 * MIB, **more: Any) -> tuple[int, str]:
        wanted = {"size": str(size), "volFormat": 4, "preallocate": 2, "diskType": "DATA", "desc": "", **more}
        return self.run("Volume.create", **self.address(image, volume), **wanted)

    def made(self, size: int = 8 * MIB, **more: Any) -> tuple[str, str]:
        image, volume = str(uuid.uuid4()), str(uuid.uuid4())
        code, message = self.create(image, volume, size, **more)
        assert code == 0, message
        return image, volume

    def delete(self, image: str) -> tuple[int, str]:
        return self.run("Image.delete", **self.address(image), postZero="false", force="false")

    def delete_volume(self, image: str, volume: str) -> tuple[int, str]:
        return self.run("Volume.delete", **self.address(image, volume), postZero="false", force="false")

    def disk(self, image: str, volume: str, **more: Any) -> dict[str, Any]:
        names = {key: self.storage[key] for key in ("pool_id", "domain_id")}
        return {"format": "qcow2", "image": {**names, "image_id": image, "volume_id": volume, **more}}

    def listed(self) -> set[str]:
        """The domain's images: as the agent says, and nothing else is there."""
        found = set(self.ask("StorageDomain.getImages", storagedomainID=self.storage["domain_id"]))
        assert {path.name for path in self.images.iterdir()} == found
        return found


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentHost]:
    with (
        short_directory() as place,
        LightHost(place / "host", "images") as host,
        AgentHost(place / "agent", host, storage="health_check_interval_s = 1.0") as running,
    ):
        yield running


@pytest.fixture
def desk(agent: AgentHost) -> Iterator[Desk]:
    path = agent.directory / f"d{uuid.uuid4().hex[:6]}"
    path.mkdir()
    found = Desk(agent, path)
    yield found
    agent.call("DELETE", f"/storage/{path.name}?destroy=true")
    assert list(path.iterdir()) == []


def test_image_of_a_running_vm_is_not_deleted(desk: Desk) -> None:
    agent = desk.agent
    image, base = desk.made()
    top = str(uuid.uuid4())
    assert desk.create(image, top, srcImgUUID=image, srcVolUUID=base)[0] == 0
    vm_id = agent.create("user", disks=[desk.disk(image, top)])
    for code, message in (desk.delete(image), desk.delete_volume(image, top)):
        assert code == BUSY
        assert top in message or base in message
    assert sorted(desk.ask("Image.getVolumes", **desk.address(image))) == sorted([base, top])
    assert agent.stats(vm_id)["status"] in {"Up", "Powering up"}
    agent.restart()  # who asks now is another process than the one that prepared it
    eventually(lambda: desk.delete(image)[0] == BUSY, "the host is the SPM again, and refuses")
    agent.call("DELETE", f"/vms/{vm_id}")
    assert desk.delete_volume(image, top)[0] == 0
    assert desk.delete(image)[0] == 0
    assert desk.listed() == set()


def test_volume_is_made_once_however_many_ask_at_once(desk: Desk) -> None:
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    with ThreadPoolExecutor(6) as callers:
        ended = list(callers.map(lambda size: desk.create(image, volume, size * MIB), range(1, 7)))
    codes = sorted(code for code, _ in ended)
    assert codes == [0] + [EXISTS] * 5, ended
    (size,) = [size for size, (code, _) in enumerate(ended, 1) if code == 0]
    assert int(desk.ask("Volume.getInfo", **desk.address(image, volume))["capacity"]) == size * MIB
    assert int(desk.ask("Volume.getQemuImageInfo", **desk.address(image, volume))["virtualsize"]) == size * MIB
    vm_id = desk.agent.create("once", disks=[desk.disk(image, volume)])
    desk.agent.call("DELETE", f"/vms/{vm_id}")


def test_lease_without_anybody_who_takes_it_starts_no_vm(desk: Desk) -> None:
    image, volume = desk.made()
    with pytest.raises(Problem, match=r"disks\[0\]\.image\.lease.* have no leases"):
        desk.agent.create("leased", disks=[desk.disk(image, volume, lease=True)])
    assert desk.delete(image)[0] == 0


def test_full_storage_goes_on_when_there_is_room_again(agent: AgentHost) -> None:
    with mounted(agent.directory / "small", "-t", "tmpfs", "-o", "size=48m,mode=777", "small"):
        desk = Desk(agent, agent.directory / "small")
        made = [desk.made(12 * MIB, volFormat=5, preallocate=1) for _ in range(3)]
        for _ in range(2):
            code, message = desk.create(str(uuid.uuid4()), str(uuid.uuid4()), 30 * MIB, volFormat=5, preallocate=1)
            assert code == FULL, message
            assert desk.listed() == {image for image, _ in made}
        with pytest.raises(OSError, match="No space"):
            (desk.path / "filler").write_bytes(bytes(48 * MIB))
        code, message = desk.create(str(uuid.uuid4()), str(uuid.uuid4()))
        assert code == FULL, message
        assert desk.listed() == {image for image, _ in made}
        desk.ask("Volume.setDescription", **desk.address(*made[0]), description="on a full file system")
        (desk.path / "filler").unlink()
        assert desk.delete(made[0][0])[0] == 0
        desk.made()
        agent.call("DELETE", "/storage/small?destroy=true")


def test_read_only_storage_refuses_and_recovers(desk: Desk) -> None:
    agent = desk.agent
    place = agent.directory / "turning"
    with mounted(place, "-t", "tmpfs", "-o", "size=64m,mode=777", "turning"):
        turning = Desk(agent, place)
        assert not turning.storage["master"]  # nobody could turn that read-only: the SPM's lock is open for writing
        image, volume = turning.made()
        raw = turning.made(volFormat=5)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True, timeout=30)
        for code, message in (
            turning.create(str(uuid.uuid4()), str(uuid.uuid4())),
            turning.delete(image),
            turning.run("Volume.setDescription", **turning.address(image, volume), description="x"),
            turning.run("Volume.extendSize", **turning.address(*raw), newSize=str(16 * MIB)),
        ):
            assert code != 0
            assert "read-only" in message.lower(), message
        found = turning.ask("Volume.getInfo", **turning.address(*raw))
        assert (int(found["capacity"]), int(found["apparentsize"])) == (8 * MIB, 8 * MIB)
        assert turning.listed() == {image, raw[0]}
        desk.made()
        subprocess.run(["mount", "-o", "remount,rw", place], check=True, timeout=30)
        turning.made()
        assert turning.delete(image)[0] == 0
        agent.call("DELETE", "/storage/turning?destroy=true")
