"""What an oVirt Engine does with disks: templates, snapshots, cold merges, copies, transfers, its OVF stores.

    disks = EngineDisks(engine, irs)
    disk = disks.new_disk(8 << 20, COW)
    top = disks.snapshot(disk, 8 << 20)
    disks.cold_merge(disk, top)

Source of the sequences: what an Engine sends over the wire.
"""

from __future__ import annotations

import http.client
import json
import ssl
import uuid
from dataclasses import dataclass
from typing import Any, Final

from .engine_storage import BLANK, EngineStorage
from .engine_values import Reader
from .engine_wire import ClassCast

COW, RAW = 4, 5
PREALLOCATED, SPARSE = 1, 2
SHARED: Final = 6
_HTTP_S: Final = 60.0
OVF_SIZE: Final = 128 << 20


@dataclass(frozen=True)
class Disk:
    """An image and one of its volumes."""

    image: str
    volume: str

    @classmethod
    def new(cls) -> Disk:
        """Ids that nothing has yet."""
        return cls(str(uuid.uuid4()), str(uuid.uuid4()))

    def below(self) -> Disk:
        """Another volume's id, in the same image."""
        return Disk(self.image, str(uuid.uuid4()))


class JobFailed(Exception):
    """A job of the host has failed, with this error's number."""


class EngineDisks(EngineStorage):
    """An Engine that works with disks."""

    # -- volumes

    def new_disk(self, size: int, volume_format: int = RAW, allocation: int = SPARSE, **more: Any) -> Disk:
        """An empty disk."""
        disk = Disk.new()
        self.create_volume(disk.image, disk.volume, size, volFormat=volume_format, preallocate=allocation, **more)
        return disk

    def snapshot(self, leaf: Disk, size: int) -> Disk:
        """A new leaf on top of a disk's."""
        sequence = int(str(self.info(leaf)["sequence"])) + 1
        top = leaf.below()
        parent = {"srcImgUUID": leaf.image, "srcVolUUID": leaf.volume}
        self.create_volume(top.image, top.volume, size, volFormat=COW, sequence=sequence, **parent)
        return top

    def make_template(self, source: Disk, volume_format: int = COW, *, domain_id: str = "") -> Disk:
        """Copy a disk into a template."""
        made = Disk.new()
        verb = self.run_task(
            "Volume.copy",
            **self.at(source),
            dstSdUUID=domain_id or self.domain_id,
            dstImgUUID=made.image,
            dstVolUUID=made.volume,
            desc="template",
            volType=SHARED,
            volFormat=volume_format,
            preallocate=SPARSE,
            postZero="false",
            force="false",
        )
        if verb != "copyImage":
            raise AssertionError(f"copying is called {verb}")
        return made

    def clone(self, template: Disk, size: int) -> Disk:
        """A disk that stands on a template."""
        parent = {"srcImgUUID": template.image, "srcVolUUID": template.volume}
        return self.new_disk(size, COW, **parent)

    def delete_disk(self, disk: Disk, domain_id: str = "") -> None:
        """Image.delete."""
        verb = self.run_task("Image.delete", **self.whole(disk, domain_id), postZero="false", force="false")
        if verb != "deleteImage":
            raise AssertionError(f"deleting is called {verb}")

    def at(self, disk: Disk, domain_id: str = "") -> dict[str, str]:
        """The ids that name a volume."""
        return {**self.whole(disk, domain_id), "volumeID": disk.volume}

    def whole(self, disk: Disk, domain_id: str = "") -> dict[str, str]:
        """The ids that name an image."""
        found = self.address(disk.image)
        return {**found, "storagedomainID": domain_id} if domain_id else found

    def info(self, disk: Disk, domain_id: str = "") -> dict[str, object]:
        """Volume.getInfo."""
        return self.volume_info(disk.image, disk.volume, domain_id)

    def header(self, disk: Disk) -> dict[str, object]:
        """Volume.getQemuImageInfo."""
        found = Reader(self.host.call("Volume.getQemuImageInfo", self.at(disk)), "getQemuImageInfo")
        found.texts("compat", "backingfile")
        found.list("bitmaps", dict)
        found.int("clustersize")
        size = found.big("virtualsize", needed=True)
        return {"format": found.text("format", needed=True), "size": size, "backing": found.text("backingfile")}

    def measure(self, disk: Disk, volume_format: int, *, chain: bool) -> int:
        """Volume.measure."""
        params = {**self.at(disk), "dstVolFormat": volume_format, "backing_chain": chain}
        found = Reader(self.host.call("Volume.measure", params), "Volume.measure")
        found.big("bitmaps")
        return found.big("required", needed=True) or 0

    # -- jobs

    def run_job(self, method: str, **params: Any) -> list[str]:
        """Have the host do something, and poll it until it has ended; the states that were seen."""
        job = str(uuid.uuid4())
        self.expect_true(method, job_id=job, **params)
        seen: list[str] = []

        def ended() -> bool:
            status, code = self.jobs([job])[job]
            if status not in {"pending", "running", "done", "aborted", "failed"}:
                raise ClassCast(f"a job is {status}")
            seen.append(status)
            if status in {"failed", "aborted"}:
                raise JobFailed(method, code)
            return status == "done"

        self._until(ended, method)
        return seen

    def expect_true(self, method: str, **params: Any) -> None:
        """Call a verb whose result is only the status: the original answers with true."""
        if (found := self.host.call(method, params)) is not True:
            raise ClassCast(f"{method} answers {found!r:.80}")

    def cold_merge(self, base: Disk, top: Disk) -> None:
        """Merge a volume into the one below it, and delete it."""
        generation = self.info(base)["generation"]
        chain = {
            "sd_id": self.domain_id,
            "img_id": base.image,
            "base_id": base.volume,
            "top_id": top.volume,
            "base_generation": generation,
        }
        if (verb := self.run_task("StoragePool.prepareMerge", subchainInfo=chain)) != "prepareMerge":
            raise AssertionError(f"preparing is called {verb}")
        self.run_job("SDM.merge", subchain_info=chain, merge_bitmaps=False)
        after = {**chain, "base_generation": self.info(base)["generation"]}
        if (verb := self.run_task("StoragePool.finalizeMerge", subchainInfo=after)) != "finalizeMerge":
            raise AssertionError(f"finishing is called {verb}")
        self.delete_volumes(top)

    def delete_volumes(self, *volumes: Disk) -> None:
        """Image.deleteVolumes."""
        names = [disk.volume for disk in volumes]
        verb = self.run_task("Image.deleteVolumes", **self.whole(volumes[0]), volumeList=names, postZero="false")
        if verb != "deleteVolume":
            raise AssertionError(f"deleting is called {verb}")

    def reconcile(self, leaf: Disk) -> list[str]:
        """Image.reconcileVolumeChain: the volumes, base first."""
        found = self.irs.call("Image.reconcileVolumeChain", {**self.whole(leaf), "leafVolID": leaf.volume})
        return Reader({"chain": found}, "reconcileVolumeChain").list("chain", needed=True)

    # -- transfers

    def prepare(self, disk: Disk, *, illegal: bool) -> str:
        """Image.prepare: where the volume is."""
        found = Reader(self.host.call("Image.prepare", {**self.at(disk), "allowIllegal": illegal}), "Image.prepare")
        return found.text("path", needed=True) or ""

    def teardown(self, disk: Disk) -> None:
        """Image.teardown."""
        self.expect_true("Image.teardown", **self.whole(disk), leafVolID=disk.volume)

    def serve(self, disk: Disk, *, readonly: bool) -> tuple[str, str]:
        """NBD.start_server: its id and its url."""
        server = str(uuid.uuid4())
        config = {
            "sd_id": self.domain_id,
            "img_id": disk.image,
            "vol_id": disk.volume,
            "readonly": readonly,
            "discard": not readonly,
            "detect_zeroes": True,
            "backing_chain": True,
        }
        url = self.host.call("NBD.start_server", {"server_id": server, "config": config})
        if not isinstance(url, str) or not url.startswith("nbd:unix:"):
            raise ClassCast(f"NBD.start_server answers {url!r:.80}")
        return server, url

    def set_legality(self, disk: Disk, legality: str) -> None:
        """Volume.setLegality."""
        self.irs.call("Volume.setLegality", {**self.at(disk), "legality": legality})

    def add_ticket(self, url: str, size: int, *operations: str) -> str:
        """Host.add_image_ticket; its id."""
        ident = str(uuid.uuid4())
        ticket = {
            "uuid": ident,
            "timeout": 300,
            "inactivity_timeout": 60,
            "size": size,
            "url": url,
            "ops": [*operations],
            "sparse": True,
            "transfer_id": str(uuid.uuid4()),
            "dirty": False,
        }
        self.expect_true("Host.add_image_ticket", ticket=ticket)
        return ident

    def ticket(self, ident: str) -> dict[str, object]:
        """Host.get_image_ticket."""
        found = Reader(self.host.call("Host.get_image_ticket", {"uuid": ident}), "get_image_ticket")
        found.text("filename")
        found.ints("idle_time")
        return {
            "uuid": found.text("uuid", needed=True),
            "size": found.big("size", needed=True),
            "url": found.text("url", needed=True),
            "timeout": found.int("timeout", needed=True),
            "ops": found.list("ops", needed=True),
            "active": found.bool("active", needed=True),
            "transferred": found.big("transferred"),
        }

    def end_ticket(self, ident: str) -> None:
        """Extend a ticket, as between two polls, and remove it."""
        self.expect_true("Host.extend_image_ticket", uuid=ident, timeout=300)
        self.expect_true("Host.remove_image_ticket", uuid=ident)

    # -- OVF stores

    def make_ovf_stores(self, door: Door, body: bytes) -> list[Disk]:
        """Two volumes for OVF files, each filled and described."""
        made = []
        for _ in range(2):
            disk = self.new_disk(OVF_SIZE, RAW, PREALLOCATED, diskType="OVFS", desc='{"Updated":false}')
            made.append(disk)
            self.put_ovf(door, disk, body)
            words = {
                "Updated": True,
                "Size": len(body),
                "Last Updated": "Sun Nov 22 20:00:00 UTC 2026",
                "Storage Domains": [{"uuid": self.domain_id}],
                "Disk Description": "OVF_STORE",
            }
            text = json.dumps(words, separators=(",", ":"))
            self.irs.call("Volume.setDescription", {**self.at(disk), "description": text})
        return made

    def put_ovf(self, door: Door, disk: Disk, body: bytes) -> None:
        """Replace the content of a volume for OVF files."""
        headers = {**self._http(disk), "Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        status, task, _ = door.ask("PUT", "/", headers, body)
        if status != 200:
            raise AssertionError(f"PUT: {status}")
        self.end_task(task, "PUT")

    def get_ovf(self, door: Door, disk: Disk, size: int) -> bytes:
        """Read the content of a volume for OVF files."""
        status, task, body = door.ask("GET", "/", {**self._http(disk), "Range": f"bytes=0-{size - 1}"})
        if status != 206:
            raise AssertionError(f"GET: {status}")
        self.end_task(task, "GET")
        return body

    def _http(self, disk: Disk) -> dict[str, str]:
        return {
            "Storage-Pool-Id": self.pool_id,
            "Storage-Domain-Id": self.domain_id,
            "Image-Id": disk.image,
            "Volume-Id": disk.volume,
        }


@dataclass(frozen=True)
class Door:
    """HTTPS on a port of the host."""

    port: int
    context: ssl.SSLContext

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str, bytes]:
        """One request; the status, the task's id if the answer has one, and the body."""
        line = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=_HTTP_S, context=self.context)
        try:
            line.request(method, path, body or None, headers)
            answer = line.getresponse()
            return answer.status, answer.headers.get("Task-Id", ""), answer.read()
        finally:
            line.close()


__all__ = ["BLANK", "COW", "OVF_SIZE", "PREALLOCATED", "RAW", "SPARSE", "Disk", "Door", "EngineDisks", "JobFailed"]
