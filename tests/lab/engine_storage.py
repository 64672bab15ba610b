"""What an oVirt Engine does with storage: a data centre on one domain, disks, and how it reads the answers.

    storage = EngineStorage(engine, irs)       # irs: its second connection, to the SPM
    storage.add_domain("LOCALFS", "/data")     # connect, create, look
    storage.make_data_centre()                 # pool, SPM, activation: until getInfo agrees
    storage.run_task("Volume.create", ...)     # submitted to the SPM, polled, cleared

Reading is strict: see `engine_values`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final, Protocol

from .engine_values import Reader
from .engine_wire import ClassCast, VdsError

BLANK: Final = "00000000-0000-0000-0000-000000000000"
TYPES: Final = {"NFS": 1, "LOCALFS": 4, "POSIXFS": 6}
TASK_STATES: Final = {"unknown", "init", "running", "finished", "aborting", "cleaning"}
TASK_RESULTS: Final = {"", "success", "failure", "cleanSuccess", "cleanFailure"}
# The Engine asks every 10 s; the answers are the same for who asks more often.
POLL_S: Final = 0.05
LEASES: Final = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}


class Wire(Protocol):
    """A way to a host; `engine_wire.Connection` is one."""

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a verb; its result."""


class TaskFailed(Exception):
    """A task has ended, and not well."""


class EngineStorage:
    """One Engine's view of one data centre with one host.

    Args:
        host: its general connection to the host.
        irs: its connection to the SPM.
        wait_s: for whatever takes its time.
        host_id: of the host in the data centre.
    """

    def __init__(self, host: Wire, irs: Wire, *, wait_s: float = 60.0, host_id: int = 1) -> None:
        self.host = host
        self.irs = irs
        self._wait_s = wait_s
        self._host_id = host_id
        self.pool_id = str(uuid.uuid4())
        self.domain_id = str(uuid.uuid4())
        self.type = ""
        self.place = ""
        self.master_version = 1
        self.pool_name = "pool"

    # -- sequence 2: a data centre

    def connection(self, **more: str) -> dict[str, str]:
        """The fields of a connection, all of them texts."""
        fields = {"id": str(uuid.uuid4()), "connection": self.place, "iqn": "", "user": "", "password": "", "port": ""}
        return {**fields, "portal": "", "ipv6_enabled": "false", **more}

    def connect(self, pool_id: str = BLANK, **more: str) -> int:
        """Connect the storage; the status."""
        connection = self.connection(**more)
        params = {"storagepoolID": pool_id, "domainType": TYPES[self.type], "connectionParams": [connection]}
        found = self.host.call("StoragePool.connectStorageServer", params)
        return self._status(found, connection["id"])

    def disconnect(self, **more: str) -> int:
        """Disconnect it; the status."""
        connection = self.connection(**more)
        params = {"storagepoolID": BLANK, "domainType": TYPES[self.type], "connectionParams": [connection]}
        return self._status(self.host.call("StoragePool.disconnectStorageServer", params), connection["id"])

    def add_domain(self, kind: str, place: str, **more: str) -> None:
        """Connect storage, make a domain on it, and read what it says."""
        self.type, self.place = kind, place
        if (status := self.connect(**more)) != 0:
            raise AssertionError(f"connectStorageServer: status {status}")
        self.create_domain(self.domain_id, place, "first")
        self.domain_stats()

    def create_domain(self, domain_id: str, place: str, name: str, **more: Any) -> None:
        """StorageDomain.create, on storage of the same type."""
        params = {
            "storagedomainID": domain_id,
            "domainType": TYPES[self.type],
            "typeArgs": place,
            "name": name,
            "domainClass": 1,
            "version": "5",
            "blockSize": 512,
            "maxHosts": 250,
        }
        self.host.call("StorageDomain.create", {**params, **more})

    def domain_stats(self, domain_id: str = "") -> tuple[int, int]:
        """StorageDomain.getStats: the room, in bytes."""
        params = {"storagedomainID": domain_id or self.domain_id}
        found = Reader(self.host.call("StorageDomain.getStats", params), "getStats")
        found.text("status")
        found.list("alerts", dict)
        # As ints they are lost.
        total, free = found.text("disktotal", needed=True), found.text("diskfree", needed=True)
        return int(total or 0), int(free or 0)

    def domain_info(self, domain_id: str = "") -> dict[str, object]:
        """StorageDomain.getInfo."""
        params = {"storagedomainID": domain_id or self.domain_id}
        found = Reader(self.host.call("StorageDomain.getInfo", params), "getInfo")
        found.texts("state", "remotePath", "vguuid", "metadataDevice", "vgMetadataDevice")
        found.int("block_size")
        return {
            "uuid": found.text("uuid", needed=True),
            "name": found.text("name", needed=True),
            "type": found.text("type", needed=True),
            "class": found.text("class", needed=True),
            "role": found.text("role", needed=True),
            "version": found.int("version", needed=True),
            "pool": found.list("pool", needed=True),
        }

    def make_data_centre(self) -> None:
        """Make a pool of the domain, let the host be its SPM, and wait until it agrees with the Engine."""
        self.connect(self.pool_id)
        self.domain_info()
        self.host.call(
            "StoragePool.create",
            {
                "storagepoolID": self.pool_id,
                "name": self.pool_name,
                "masterSdUUID": self.domain_id,
                "masterVersion": self.master_version,
                "domainList": [self.domain_id],
                **LEASES,
            },
        )
        self.expect_error(309, self.spm_status)
        self.connect_pool()
        self.start_spm()
        self.irs.call("StorageDomain.activate", self._attached(self.domain_id))
        self.connect_pool({self.domain_id: "active"})
        self.tasks()
        self.check_pool()

    def connect_pool(self, domains: dict[str, str] | None = None) -> None:
        """StoragePool.connect."""
        params: dict[str, Any] = {
            "storagepoolID": self.pool_id,
            "hostID": self._host_id,
            "scsiKey": self.pool_id,
            "masterSdUUID": self.domain_id,
            "masterVersion": self.master_version,
        }
        if domains is not None:
            params["domainDict"] = domains
        self.host.call("StoragePool.connect", params)

    def start_spm(self) -> None:
        """Make the host the SPM."""
        status, lver, spm_id = self.spm_status()
        if status != "free":
            raise AssertionError(f"the SPM is {spm_id}, this host is {status}")
        task = self.ask_spm_start(spm_id, lver)
        self._until(lambda: self._ended(self.host, task), "spmStart")
        if self.spm_status()[0] != "spm":
            raise AssertionError("spmStart has ended, and the host is not the SPM")
        self.host.call("Task.clear", {"taskID": task})

    def ask_spm_start(self, spm_id: int = -1, lver: int = -1) -> str:
        """StoragePool.spmStart; the task's id."""
        params = {
            "storagepoolID": self.pool_id,
            "prevID": spm_id,
            "prevLver": str(lver),
            "enableScsiFencing": "false",
            "maxHostID": 250,
            "domVersion": "5",
        }
        return str(self.host.call("StoragePool.spmStart", params))

    def spm_status(self) -> tuple[str, int, int]:
        """StoragePool.getSpmStatus: this host's part, the lease's version and who has it."""
        found = Reader(self.irs.call("StoragePool.getSpmStatus", {"storagepoolID": self.pool_id}), "getSpmStatus")
        status = (found.text("spmStatus", needed=True) or "").lower()
        if status not in {"free", "spm", "contend"}:
            raise ClassCast(f"spmStatus {status}")
        return status, found.int("spmLver", needed=True) or 0, found.int("spmId", needed=True) or 0

    def check_pool(self) -> dict[str, str]:
        """StoragePool.getInfo, as it is polled: the state of each domain."""
        answer = Reader(self.irs.call("StoragePool.getInfo", {"storagepoolID": self.pool_id}), "getInfo")
        info = answer.object("info", needed=True)
        if info is None or info.text("master_uuid", needed=True) != self.domain_id:
            raise AssertionError("the master differs: the Engine would reconstruct it")
        if info.int("master_ver", needed=True) != self.master_version:
            raise AssertionError("the master's version differs: the Engine would reconstruct it")
        info.texts("name", "isoprefix", "pool_status")
        info.ints("spm_id", "lver", "version")
        if info.text("type", needed=True) != self.type:
            raise AssertionError(f"the pool's type is {info.text('type')}")
        states = {}
        for ident, domain in answer.each("dominfo", needed=True):
            states[ident] = domain.text("status", needed=True) or ""
            domain.texts("diskfree", "disktotal", "isoprefix")
            domain.list("alerts", dict)
        if self.domain_id not in states:
            raise AssertionError("the domain is missing from dominfo: the Engine would detach it")
        return states

    # -- more domains, other masters

    def add_second(self, place: str, name: str = "second") -> str:
        """Connect more storage, make a domain on it, and let the pool use it; its id."""
        if (status := self.connect(connection=place)) != 0:
            raise AssertionError(f"connectStorageServer: status {status}")
        domain_id = str(uuid.uuid4())
        self.create_domain(domain_id, place, name)
        self.domain_stats(domain_id)
        self.attach(domain_id)
        return domain_id

    def attach(self, domain_id: str) -> None:
        """Make a domain part of the pool, and use it."""
        self.domain_info(domain_id)
        self.irs.call("StorageDomain.attach", self._attached(domain_id))
        self.activate(domain_id)

    def activate(self, domain_id: str) -> None:
        """Use a domain of the pool; all hosts are told."""
        self.irs.call("StorageDomain.activate", self._attached(domain_id))
        self.connect_pool({**self._words(), domain_id: "active"})

    def deactivate(self, domain_id: str) -> None:
        """Use a domain no more, which is not the master; all hosts are told."""
        master = {"masterSdUUID": BLANK, "masterVersion": 0}
        self.irs.call("StorageDomain.deactivate", {**self._attached(domain_id), **master})
        self.connect_pool({**self._words(), domain_id: "attached"})

    def detach(self, domain_id: str) -> None:
        """Take a domain out of the pool."""
        master = {"masterSdUUID": BLANK, "masterVersion": 0}
        self.irs.call("StorageDomain.detach", {**self._attached(domain_id), **master})

    def detach_by_force(self, domain_id: str, pool_id: str = "") -> None:
        """Clean the metadata of a domain whose pool is gone."""
        params = {"storagedomainID": domain_id, "storagepoolID": pool_id or self.pool_id, "force": True}
        self.host.call("StorageDomain.detach", params)

    def format(self, domain_id: str) -> None:
        """StorageDomain.format."""
        self.host.call("StorageDomain.format", {"storagedomainID": domain_id, "autoDetach": False})

    def switch_master(self, domain_id: str) -> None:
        """Make another active domain the master."""
        self.master_version += 1
        old, self.domain_id = self.domain_id, domain_id
        masters = {"oldMasterUUID": old, "newMasterUUID": domain_id, "masterVersion": self.master_version}
        self.run_task("StoragePool.switchMaster", **masters)

    def reconstruct_master(self, domain_id: str, domains: dict[str, str]) -> None:
        """Make another domain the master, the old one being lost; the host is in no pool before, and is after."""
        self.master_version += 1
        self.domain_id = domain_id
        params = {
            "storagepoolID": self.pool_id,
            "hostId": 1,
            "name": self.pool_name,
            "masterSdUUID": domain_id,
            "masterVersion": self.master_version,
            "domainDict": domains,
        }
        self.host.call("StoragePool.reconstructMaster", {**params, **LEASES})
        self.connect_pool(domains)

    def leave_pool(self) -> None:
        """Manage the pool no more, and leave it: nothing is under way."""
        if tasks := self.tasks():
            raise AssertionError(f"the Engine stops no SPM that has tasks: {tasks}")
        self.host.call("StoragePool.spmStop", {"storagepoolID": self.pool_id})
        self.host.call("StoragePool.disconnect", self._member())

    def destroy_pool(self) -> None:
        """Dissolve the pool; only its master may be left."""
        self.irs.call("StoragePool.destroy", self._member())

    def health(self) -> dict[str, tuple[bool, bool, int]]:
        """Host.getStats.storageDomains: whether each is valid and joined, and its code."""
        stats = Reader(self.host.call("Host.getStats"), "Host.getStats")
        found = {}
        for ident, domain in stats.each("storageDomains", needed=True):
            for key in ("lastCheck", "delay"):
                float(domain.text(key, needed=True) or "")
            domain.bool("actual", needed=True)
            valid, acquired = domain.bool("valid", needed=True), domain.bool("acquired", needed=True)
            found[ident] = (valid, acquired, domain.int("code", needed=True) or 0)
        return found

    def _attached(self, domain_id: str) -> dict[str, str]:
        return {"storagedomainID": domain_id, "storagepoolID": self.pool_id}

    def _member(self) -> dict[str, Any]:
        return {"storagepoolID": self.pool_id, "hostID": 1, "scsiKey": self.pool_id}

    def _words(self) -> dict[str, str]:
        return {ident: status.lower() for ident, status in self.check_pool().items()}

    # -- tasks

    def tasks(self) -> dict[str, tuple[str, str, int]]:
        """Host.getAllTasksStatuses and getAllTasksInfo: the state, the verb and the code of each task."""
        statuses = self.irs.call("Host.getAllTasksStatuses")
        infos = self.irs.call("Host.getAllTasksInfo")
        found = {}
        for task_id, status in statuses.items():
            reader = Reader(status, f"task {task_id}")
            state, code = self._read_status(reader)
            info = Reader(infos[task_id], f"task {task_id}")
            found[task_id] = (state, info.text("verb", needed=True) or "", code)
            if info.text("id", needed=True) != task_id:
                raise AssertionError(f"task {task_id} says that it is {info.text('id')}")
        return found

    def run_task(self, method: str, **params: Any) -> str:
        """Have the SPM do something, poll it, and clear it; its verb."""
        return self.end_task(self.begin_task(method, **params), method)

    def begin_task(self, method: str, **params: Any) -> str:
        """Have the SPM begin something; the task's id."""
        task = self.irs.call(method, {"storagepoolID": self.pool_id, **params})
        if not isinstance(task, str):
            raise ClassCast(f"{method} must answer with a task's id, and answers {task!r:.80}")
        return task

    def end_task(self, task: str, method: str) -> str:
        """Poll a task until it has ended, and clear it; its verb."""
        found: dict[str, tuple[str, str, int]] = {}

        def ended() -> bool:
            found.update(self.tasks())
            return found[task][0] == "finished"

        self._until(ended, method)
        self.irs.call("Task.clear", {"taskID": task})
        _, verb, code = found[task]
        if code != 0:
            raise TaskFailed(method, code)
        return verb

    def create_volume(self, image_id: str, volume_id: str, size: int, **more: Any) -> str:
        """Volume.create, its fields as the Engine sends them."""
        fields: dict[str, Any] = {
            "storagedomainID": self.domain_id,
            "imageID": image_id,
            "volumeID": volume_id,
            "size": str(size),
            "volFormat": 5,
            "preallocate": 2,
            "diskType": "DATA",
            "desc": "",
            "srcImgUUID": BLANK,
            "srcVolUUID": BLANK,
            "sequence": 1,
        }
        return self.run_task("Volume.create", **{**fields, **more})

    def volume_info(self, image_id: str, volume_id: str, domain_id: str = "") -> dict[str, object]:
        """Volume.getInfo."""
        address = self.address(image_id, volume_id)
        if domain_id:
            address["storagedomainID"] = domain_id
        found = Reader(self.host.call("Volume.getInfo", address), "Volume.getInfo")
        found.texts("ctime", "domain", "image", "disktype")
        found.list("children")
        lease = found.object("lease")
        if lease is not None:
            lease.list("owners", int, needed=True)
            lease.int("version")
        return {
            "uuid": found.text("uuid", needed=True),
            "parent": found.text("parent", needed=True),
            "status": found.text("status", needed=True),
            "description": found.text("description"),
            "capacity": found.big("capacity", needed=True),
            "truesize": found.big("truesize", needed=True),
            "apparentsize": found.big("apparentsize", needed=True),
            "format": found.text("format", needed=True),
            "type": found.text("type", needed=True),
            "voltype": found.text("voltype", needed=True),
            "legality": found.text("legality", needed=True),
            "generation": found.int("generation", needed=True),
            "sequence": found.int("sequence", needed=True),
        }

    def address(self, image_id: str, volume_id: str | None = None) -> dict[str, str]:
        """The ids by which an image or a volume is named."""
        found = {"storagepoolID": self.pool_id, "storagedomainID": self.domain_id, "imageID": image_id}
        return found if volume_id is None else {**found, "volumeID": volume_id}

    def expect_error(self, code: int, call: Any) -> None:
        """See that a call fails with an error number on which the Engine branches."""
        try:
            found = call()
        except VdsError as error:
            if error.code != code:
                raise
            return
        raise AssertionError(f"no error {code}, but {found!r:.80}")

    def jobs(self, job_ids: list[str]) -> dict[str, tuple[str, int | None]]:
        """Host.getJobs: the status of each job, and its error's number."""
        found = self.host.call("Host.getJobs", {"job_type": "storage", "job_ids": job_ids})
        states: dict[str, tuple[str, int | None]] = {}
        for job_id, item in found.items():
            job = Reader(item, f"job {job_id}")
            job.texts("description", "job_type")
            # An int is an error of casting.
            if "progress" in job and not isinstance(job.raw("progress"), float):
                raise ClassCast(f"{job.where}.progress {job.raw('progress')!r}")
            error = job.object("error")
            status = job.text("status", needed=True) or ""
            states[job_id] = (status, None if error is None else error.int("code", needed=True))
        return states

    def ask(self, method: str, **params: Any) -> Any:
        """Any verb of the host."""
        return self.host.call(method, params)

    # --

    def _ended(self, wire: Wire, task: str) -> bool:
        reader = Reader(wire.call("Task.getStatus", {"taskID": task}), "Task.getStatus")
        state, code = self._read_status(reader)
        if state == "finished" and (code != 0 or reader.text("taskResult") != "success"):
            raise TaskFailed(reader.text("message"), code)
        return state == "finished"

    @staticmethod
    def _read_status(reader: Reader) -> tuple[str, int]:
        state, result = reader.text("taskState", needed=True), reader.text("taskResult", needed=True)
        if state not in TASK_STATES or result not in TASK_RESULTS:
            raise ClassCast(f"{reader.where}: {state} {result}")
        reader.text("message", needed=True)
        reader.text("taskID", needed=True)
        return state, reader.int("code", needed=True) or 0

    @staticmethod
    def _status(found: object, connection_id: str) -> int:
        if not isinstance(found, list) or len(found) != 1:
            raise ClassCast(f"connection statuses: {found!r:.80}")
        status = Reader(found[0], "connection status")
        if status.text("id", needed=True) != connection_id:
            raise AssertionError("the status is of another connection")
        return status.int("status", needed=True) or 0

    def _until(self, done: Any, what: str) -> None:
        end_s = time.monotonic() + self._wait_s
        while not done():
            if time.monotonic() >= end_s:
                raise AssertionError(f"{what} has not ended in {self._wait_s} s")
            time.sleep(POLL_S)
