"""Runs in a node: uses an agent's storage from several threads, and says what became of it.

    storage_load.py '{"seconds": 9, "pool": ID, "domain": ID, "local": ID, "image": ID, "volume": ID, "pid": 9}'

Says on standard output, as JSON, when the time is over (or, with ``seconds`` 0, never: it only loads):

    calls    per verb: [when, seconds it took, error's number or 0 or -1 for no answer]
    made     the volumes (also their images' ids) whose tasks were begun, and how they ended
    sizes    [when, threads of vdsmd, processes below it]
    valid    [when, whether the domain is]
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

ASKED = json.loads(sys.argv[1])
BEGAN = time.monotonic()
BLANK = "00000000-0000-0000-0000-000000000000"
GIVE_UP_S = 90.0
calls: dict[str, list[tuple[float, float, int]]] = {}
made: dict[str, str] = {}
sizes: list[tuple[float, int, int]] = []
valid: list[tuple[float, bool]] = []


def over() -> bool:
    return bool(ASKED["seconds"]) and time.monotonic() > BEGAN + ASKED["seconds"]


def ask(method: str, **params: object) -> dict[str, Any]:
    """One call; its time and its end are noted."""
    began = time.monotonic()
    answer: dict[str, Any] = {"error": {"code": -1}}
    connection = http.client.HTTPConnection("localhost")
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(GIVE_UP_S)
        connection.sock.connect("/run/vdsm/vdsm.sock")
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
        connection.request("POST", "/api/v1/jsonrpc", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException) as error:
        answer["error"]["message"] = str(error)
    finally:
        connection.close()
    code = answer["error"]["code"] if "error" in answer else 0
    noted = (round(began - BEGAN, 2), round(time.monotonic() - began, 3), code)
    calls.setdefault(method + (" local" if params.get("storagedomainID") == ASKED["local"] else ""), []).append(noted)
    return answer


def easy() -> None:
    """What needs no shared storage."""
    while not over():
        ask("Host.ping")
        ask("Host.getStats")
        ask("Host.getAllVmStats")
        ask("StorageDomain.getStats", storagedomainID=ASKED["local"])
        ask("StorageDomain.getInfo", storagedomainID=ASKED["local"])
        report = ask("Host.getStorageRepoStats").get("result", {}).get(ASKED["domain"])
        if report is not None:
            valid.append((round(time.monotonic() - BEGAN, 1), report["valid"]))
        time.sleep(0.3)


def size() -> None:
    """How much of the machine vdsmd takes."""
    while not over():
        parents = {}
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(place.parent.name)] = int(fields[1])
        below = {ASKED["pid"]}
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        threads = len(list(Path(f"/proc/{ASKED['pid']}/task").glob("*")))
        sizes.append((round(time.monotonic() - BEGAN, 1), threads, len(below) - 1))
        time.sleep(1)


def look() -> None:
    """What reads shared storage."""
    where = {"storagepoolID": ASKED["pool"], "storagedomainID": ASKED["domain"]}
    while not over():
        ask("Volume.getInfo", imageID=ASKED["image"], volumeID=ASKED["volume"], **where)
        ask("StorageDomain.getStats", storagedomainID=ASKED["domain"])
        time.sleep(0.3)


def make() -> None:
    """What writes it: volumes, one after the other."""
    while not over():
        ident = str(uuid.uuid4())
        made[ident] = "asked"
        answer = ask(
            "Volume.create",
            storagepoolID=ASKED["pool"],
            storagedomainID=ASKED["domain"],
            imageID=ident,
            volumeID=ident,
            size=str(1 << 20),
            volFormat=4,
            preallocate=2,
            diskType="DATA",
            desc="",
            srcImgUUID=BLANK,
            srcVolUUID=BLANK,
        )
        made[ident] = f"refused {answer['error']['code']}" if "error" in answer else follow(answer["result"])
        time.sleep(0.2)


def follow(task: str) -> str:
    """How a task ends; it is cleared."""
    while not over():
        answer = ask("Task.getStatus", taskID=task)
        if "result" in answer and answer["result"]["taskState"] == "finished":
            ask("Task.clear", taskID=task)
            return "made" if answer["result"]["code"] == 0 else f"failed {answer['result']['code']}"
        time.sleep(0.3)
    return task


threads = [threading.Thread(target=work, daemon=True) for work in (easy, size, look, make, make)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.stdout.write(json.dumps({"calls": calls, "made": made, "sizes": sizes, "valid": valid}))
