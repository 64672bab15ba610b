"""A data centre on a local directory, as a manager makes one over its connection; volumes by the thousand in it."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.client import Connection
from vdsm.storage.formats import tree
from vdsm.storage.formats.volume import VolumeMetadata, encode_volume
from vdsm.storage.ids import DomainId, ImageId
from vdsm.storage.kinds import Allocation, Legality, VolumeFormat, VolumeKind

BLANK: Final = "00000000-0000-0000-0000-000000000000"
LOCALFS: Final = 4
RAW, COW = 5, 4
PATIENCE_S: Final = 60.0
# What a manager's poll may cost less than: the original's does so every 10 s.
_POLL_S: Final = 0.001
MIB: Final = 1 << 20


@dataclass(frozen=True)
class DataCentre:
    """One pool of one domain, of which the agent is the manager (SPM) while it has been started."""

    connection: Connection
    place: Path
    pool_id: str
    domain_id: str

    @property
    def images(self) -> Path:
        return self.place / self.domain_id / "images"

    def connect(self) -> None:
        """Connect the storage and the pool, as after the agent's start."""
        connect_storage(self.connection, self.place)
        self.connection.ask(
            "StoragePool.connect",
            {
                "storagepoolID": self.pool_id,
                "hostID": 1,
                "scsiKey": self.pool_id,
                "masterSdUUID": self.domain_id,
                "masterVersion": 1,
            },
        )

    def start_spm(self) -> float:
        """Become the SPM; the seconds until the task is seen to have ended."""
        began_s = time.perf_counter()
        task = self.connection.ask(
            "StoragePool.spmStart",
            {
                "storagepoolID": self.pool_id,
                "prevID": -1,
                "prevLver": "-1",
                "enableScsiFencing": "false",
                "maxHostID": 250,
                "domVersion": "5",
            },
        )
        self.ended(task)
        took_s = time.perf_counter() - began_s
        self.connection.ask("Task.clear", {"taskID": task})
        return took_s

    def stop_spm(self) -> None:
        self.connection.ask("StoragePool.spmStop", {"storagepoolID": self.pool_id})

    def create_volume(self, volume_format: int, capacity: int) -> tuple[float, str]:
        """Make a disk; the seconds until the task is seen to have ended, and its image."""
        image, volume = str(uuid.uuid4()), str(uuid.uuid4())
        params = {
            "storagepoolID": self.pool_id,
            "storagedomainID": self.domain_id,
            "imageID": image,
            "volumeID": volume,
            "size": str(capacity),
            "volFormat": volume_format,
            "preallocate": 2,
            "diskType": "DATA",
            "desc": "",
            "srcImgUUID": BLANK,
            "srcVolUUID": BLANK,
        }
        began_s = time.perf_counter()
        task = self.connection.ask("Volume.create", params)
        self.ended(task)
        took_s = time.perf_counter() - began_s
        self.connection.ask("Task.clear", {"taskID": task})
        return took_s, image

    def delete_image(self, image: str) -> None:
        params = {
            "storagepoolID": self.pool_id,
            "storagedomainID": self.domain_id,
            "imageID": image,
            "postZero": "false",
            "force": "false",
        }
        task = self.connection.ask("Image.delete", params)
        self.ended(task)
        self.connection.ask("Task.clear", {"taskID": task})

    def ended(self, task: str) -> None:
        """Poll a task until it has ended well."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            status = self.connection.ask("Task.getStatus", {"taskID": task})
            if status["taskState"] == "finished":
                if status["taskResult"] != "success":
                    raise RuntimeError(f"a task failed: {status}")
                return
            if time.monotonic() > until_s:
                raise TimeoutError(f"a task does not end: {status}")
            time.sleep(_POLL_S)

    def timed(self, method: str, **params: Any) -> float:
        """The seconds that a verb of the domain takes."""
        began_s = time.perf_counter()
        self.connection.ask(method, {"storagedomainID": self.domain_id, **params})
        return time.perf_counter() - began_s


def connect_storage(connection: Connection, place: Path) -> None:
    """Connect a local directory."""
    fields = {"id": str(uuid.uuid4()), "connection": str(place), "iqn": "", "user": "", "password": "", "port": ""}
    answer = connection.ask(
        "StoragePool.connectStorageServer",
        {"storagepoolID": BLANK, "domainType": LOCALFS, "connectionParams": [fields]},
    )
    if answer[0]["status"]:
        raise RuntimeError(f"the storage cannot be connected: {answer}")


def create_domain(connection: Connection, place: Path) -> tuple[float, str]:
    """Connect a new directory and make a domain in it; the seconds of the latter, and its id."""
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    connect_storage(connection, place)
    domain_id = str(uuid.uuid4())
    began_s = time.perf_counter()
    connection.ask(
        "StorageDomain.create",
        {
            "storagedomainID": domain_id,
            "domainType": LOCALFS,
            "typeArgs": str(place),
            "name": "bench",
            "domainClass": 1,
            "version": "5",
            "blockSize": 512,
            "maxHosts": 250,
        },
    )
    return time.perf_counter() - began_s, domain_id


def make(connection: Connection, place: Path) -> DataCentre:
    """A data centre on a new domain; its agent is connected to it, and its SPM."""
    _, domain_id = create_domain(connection, place)
    centre = DataCentre(connection, place, str(uuid.uuid4()), domain_id)
    connection.ask(
        "StoragePool.create",
        {
            "storagepoolID": centre.pool_id,
            "name": "bench",
            "masterSdUUID": domain_id,
            "masterVersion": 1,
            "domainList": [domain_id],
            "lockRenewalIntervalSec": 5,
            "leaseTimeSec": 60,
            "ioOpTimeoutSec": 10,
            "leaseRetries": 3,
        },
    )
    centre.connect()
    centre.start_spm()
    connection.ask("StorageDomain.activate", {"storagedomainID": domain_id, "storagepoolID": centre.pool_id})
    return centre


def fill(centre: DataCentre, count: int) -> None:
    """So many disks of one raw volume, written right into the domain."""
    for _ in range(count):
        image, volume = str(uuid.uuid4()), str(uuid.uuid4())
        directory = centre.images / image
        directory.mkdir(mode=tree.DIRECTORY_MODE)
        with (directory / volume).open("wb") as file:
            file.truncate(MIB)
        (directory / volume).chmod(tree.DATA_MODE)
        described = VolumeMetadata(
            domain_id=DomainId(centre.domain_id),
            image_id=ImageId(image),
            capacity=MIB,
            created_s=1795341752,
            format=VolumeFormat.RAW,
            allocation=Allocation.SPARSE,
            kind=VolumeKind.LEAF,
            legality=Legality.LEGAL,
            parent=None,
        )
        (directory / f"{volume}.meta").write_bytes(encode_volume(described, 5))
    os.sync()
