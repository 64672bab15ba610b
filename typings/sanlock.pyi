# What the agent uses of Debian's python3-sanlock (3.8.5), typed by hand.
from collections.abc import Sequence
from typing import Any

RES_LVER: int
RES_SHARED: int
HOST_FREE: int
HOST_LIVE: int
HOST_FAIL: int
HOST_DEAD: int
HOST_UNKNOWN: int

class SanlockException(Exception):
    errno: int

_Disks = Sequence[tuple[str, int]]

def register() -> int: ...
def add_lockspace(
    lockspace: bytes, host_id: int, path: str, offset: int = 0, iotimeout: int = 0, wait: bool = True
) -> None: ...
def inq_lockspace(lockspace: bytes, host_id: int, path: str, offset: int = 0, wait: bool = False) -> bool | None: ...
def rem_lockspace(
    lockspace: bytes, host_id: int, path: str, offset: int = 0, wait: bool = True, unused: bool = False
) -> None: ...
def get_hosts(lockspace: bytes, host_id: int = 0) -> list[dict[str, int]]: ...
def acquire(
    lockspace: bytes, resource: bytes, disks: _Disks, slkfd: int = -1, shared: bool = False, lvb: bool = False
) -> None: ...
def release(lockspace: bytes, resource: bytes, disks: _Disks, slkfd: int = -1) -> None: ...
def inquire(slkfd: int = -1) -> list[dict[str, Any]]: ...
def write_lockspace(
    lockspace: bytes,
    path: str,
    offset: int = 0,
    max_hosts: int = 0,
    iotimeout: int = 0,
    align: int = ...,
    sector: int = ...,
) -> None: ...
def write_resource(
    lockspace: bytes,
    resource: bytes,
    disks: _Disks,
    max_hosts: int = 0,
    num_hosts: int = 0,
    clear: bool = False,
    align: int = ...,
    sector: int = ...,
) -> None: ...
def read_resource(path: str, offset: int = 0, align: int = ..., sector: int = ...) -> dict[str, Any]: ...
def read_resource_owners(
    lockspace: bytes, resource: bytes, disks: _Disks, align: int = ..., sector: int = ...
) -> list[dict[str, int]]: ...
def get_lvb(lockspace: bytes, resource: bytes, disks: _Disks, size: int) -> bytes: ...
def set_lvb(lockspace: bytes, resource: bytes, disks: _Disks, data: bytes) -> None: ...
def set_event(lockspace: bytes, host_id: int, generation: int, event: int, data: int = 0, flags: int = 0) -> None: ...
