"""A host for transfer tests: the real image daemon and NBD servers, over volumes that are plain files.

``Host.client`` answers the REST calls that ``vdscli image`` makes; storage behind it is a directory in the repository's
form, with the legality of each volume in a dict.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdscli.failures import RequestFailed
from vdscli.terminal import Output
from vdsm.api.transfer import ImageTicket, NbdConfig
from vdsm.base.errors import VdsmError
from vdsm.services.storage_gates import Gates
from vdsm.services.transfers import NbdService, TicketService
from vdsm.system.qemu_nbd import Layer
from vdsm.transfers.imageio_daemon import DaemonSettings
from vdsm.transfers.nbd_servers import NbdServers, ServedVolume
from vdsm.transfers.places import Places
from vdsm.transfers.tickets import Tickets

BLANK = str(uuid.UUID(int=0))


@dataclass
class Volume:
    path: Path
    format: str
    capacity: int
    legality: str = "ILLEGAL"
    parent: str = BLANK


@dataclass
class Host:
    """Storage, tickets and servers below one directory."""

    root: Path
    domain: str = field(default_factory=lambda: str(uuid.uuid4()))
    volumes: dict[tuple[str, str], Volume] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = self.root / "run"
        self.run.mkdir(exist_ok=True)
        self.settings = DaemonSettings(
            directory=self.run / "imageio", address="127.0.0.1", port=0, log_file=self.root / "imageio.log"
        )
        self.tickets = Tickets(self.settings)
        self.servers = NbdServers(self.run / "nbd")
        self.places = Places(str(self.root / "repository"), str(self.run / "storage"), (str(self.run / "nbd"),))
        self.ticket_verbs = TicketService(self.tickets, self.places)
        self.nbd_verbs = NbdService(self.servers, self, Gates(8))
        self.client = Client(self)
        self.calls: list[str] = []

    def stop(self) -> None:
        self.tickets.stop()
        self.servers.stop_all()

    def make(self, capacity: int, kind: str = "RAW", *, legality: str = "LEGAL", below: str | None = None) -> str:
        """A new volume in an image of the same id (or in the image of the volume below)."""
        ident = str(uuid.uuid4())
        image = ident
        if below is not None:
            image = next(key[0] for key in self.volumes if key[1] == below)
        self.add(image, ident, kind, capacity, below)
        self.volumes[image, ident].legality = legality
        return ident

    def add(self, image: str, ident: str, kind: str, capacity: int, below: str | None = None) -> None:
        folder = self.root / "repository" / "mnt" / "local" / self.domain / "images" / image
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ident
        if kind == "RAW":
            with path.open("wb") as file:
                file.truncate(capacity)
        else:
            backing = []
            if below is not None:
                under = self.volumes[image, below]
                backing = ["-u", "-b", below, "-F", "raw" if under.format == "RAW" else "qcow2"]
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, path, str(capacity)], check=True)
        self.volumes[image, ident] = Volume(path, kind, capacity, parent=below or BLANK)

    def paths(self, domain_id: str, image_id: str, volume_id: str) -> ServedVolume:
        assert domain_id == self.domain
        layers = []
        ident = volume_id
        while ident != BLANK:
            volume = self.volumes[image_id, ident]
            layers.append(Layer(str(volume.path), "raw" if volume.format == "RAW" else "qcow2"))
            ident = volume.parent
        return ServedVolume(tuple(layers))

    def session(self, out: Any = None, **given: Any) -> Any:
        """What a vdscli command works with."""
        values = {
            "socket": str(self.run / "vdsm.sock"),
            "host": None,
            "ca": None,
            "connections": 4,
            "no_checksum": False,
            "domain": self.domain,
            "image": None,
            "volume": None,
            "volume_format": None,
            "preallocated": False,
            "description": "",
            "format": "raw",
            "overwrite": False,
        }
        args = argparse.Namespace(**{**values, **given})
        quiet = Output(as_json=False, quiet=True, no_colour=True)
        return argparse.Namespace(args=args, out=out or quiet, client=self.client)


class Client:
    """What ``vdscli.client.Client`` is, without HTTP."""

    place = "test"

    def __init__(self, host: Host) -> None:
        self._host = host

    def get(self, path: str, **_query: Any) -> Any:
        return self._do("GET", path, {})

    def post(self, path: str, body: Any = None) -> Any:
        return self._do("POST", path, body or {})

    def put(self, path: str, body: Any) -> Any:
        return self._do("PUT", path, body)

    def delete(self, path: str, **_query: Any) -> Any:
        return self._do("DELETE", path, {})

    def _do(self, method: str, path: str, body: dict[str, Any]) -> Any:
        self._host.calls.append(f"{method} {path}")
        try:
            if path.startswith("/storage-domains/"):
                return self._storage(method, path, body)
            return self._transfer(method, path, json.loads(json.dumps(body)))
        except VdsmError as error:
            raise RequestFailed(error.status, {"detail": str(error)}) from error

    def _transfer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        host = self._host
        _, kind, *rest = path.split("/")
        match method, kind:
            case "POST", "image-tickets":
                return host.ticket_verbs.add_image_ticket(ImageTicket(**{**body, "ops": tuple(body["ops"])}))
            case "DELETE", "image-tickets":
                return host.ticket_verbs.remove_image_ticket(rest[0])
            case "POST", "nbd-servers":
                return host.nbd_verbs.start_server(rest[0], NbdConfig(**body))
            case "DELETE", "nbd-servers":
                return host.nbd_verbs.stop_server(rest[0])
            case "GET", "tasks":
                return {"task_state": "finished", "task_result": "success", "message": ""}
            case "DELETE", "tasks":
                return None
        raise AssertionError((method, path))

    def _storage(self, method: str, path: str, body: dict[str, Any]) -> Any:
        host = self._host
        match = re.fullmatch(r"/storage-domains/([^/]+)/images/([^/]+)(/.*)?", path)
        assert match
        domain, image, rest = match.groups()
        parts = [part for part in (rest or "").split("/") if part]
        if domain != host.domain:
            raise RequestFailed(404, {"detail": f"storage domain {domain} does not exist"})
        match method, parts:
            case "GET", ["volumes"]:
                return [key[1] for key in host.volumes if key[0] == image]
            case "GET", ["volumes", ident]:
                return self._info(image, ident)
            case "POST", ["volumes"]:
                host.add(image, body["volume_id"], body["vol_format"], body["size"])
                assert body["legal"] is False
                return "task"
            case "PUT", ["volumes", ident, "legality"]:
                host.volumes[image, ident].legality = body["legality"]
                return None
            case "POST", ["volumes", ident, "verify-untrusted"]:
                assert host.volumes[image, ident].legality == "ILLEGAL"
                return None
            case "POST", ["prepare"]:
                return {"path": str(host.volumes[image, body["volume_id"]].path)}
            case "POST", ["teardown"]:
                return None
            case "DELETE", []:
                for key in [key for key in host.volumes if key[0] == image]:
                    host.volumes.pop(key).path.unlink()
                return "task"
        raise AssertionError((method, path))

    def _info(self, image: str, ident: str) -> dict[str, Any]:
        volume = self._host.volumes.get((image, ident))
        if volume is None:
            raise RequestFailed(404, {"detail": f"volume {ident} does not exist"})
        parents = {item.parent for item in self._host.volumes.values()}
        return {
            "uuid": ident,
            "capacity": volume.capacity,
            "format": volume.format,
            "legality": volume.legality,
            "parent": volume.parent,
            "voltype": "INTERNAL" if ident in parents else "LEAF",
            "mtime": 0,
        }
