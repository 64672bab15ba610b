"""The machine's identity as its firmware tells it (SMBIOS, read from sysfs; serial and UUID are root's to read)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vdsm.base import process

UNKNOWN: Final = "unknown"

SYSFS: Final = Path("/sys/class/dmi/id")
MACHINE_ID: Final = Path("/etc/machine-id")

# What manufacturers leave in fields that they did not fill in, lower case.
_FILLERS: Final = frozenset({
    "",
    "none",
    "n/a",
    "not specified",
    "not applicable",
    "not available",
    "default string",
    "system manufacturer",
    "system product name",
    "system version",
    "system serial number",
    "to be filled by o.e.m.",
    "0",
    "0123456789",
})
# Thousands of machines have these.
_SHARED_UUIDS: Final = frozenset({
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
})
# Goes into UUIDs that are made from a machine id, which itself is not for the network (machine-id(5)).
_SALT: Final = b"6c1dfae2-0f0c-4f5e-9d4b-3f1f6f9b7f0a "
_HASH_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of the machine; "unknown" where the firmware says nothing useful."""

    manufacturer: str
    product: str
    version: str
    serial: str
    uuid: str
    family: str
    uuid_source: Literal["firmware", "machine-id", "unknown"]


def read(sysfs: Path = SYSFS, machine_id: Path = MACHINE_ID) -> Identity:
    """Read it; what cannot be read is unknown."""
    ident, source = _uuid(sysfs, machine_id)
    return Identity(
        manufacturer=_text(sysfs / "sys_vendor"),
        product=_text(sysfs / "product_name"),
        version=_text(sysfs / "product_version"),
        serial=_text(sysfs / "product_serial"),
        uuid=ident,
        family=_text(sysfs / "product_family"),
        uuid_source=source,
    )


def _text(file: Path) -> str:
    try:
        text = file.read_text("utf-8", "replace").strip()
    except OSError:
        return UNKNOWN
    return UNKNOWN if text.lower() in _FILLERS else text


def _uuid(sysfs: Path, machine_id: Path) -> tuple[str, Literal["firmware", "machine-id", "unknown"]]:
    firmware = _canonical(_text(sysfs / "product_uuid"))
    if firmware is not None and firmware not in _SHARED_UUIDS:
        return firmware, "firmware"
    machine = _canonical(_text(machine_id))
    if machine is not None:
        return _derived(machine), "machine-id"
    return UNKNOWN, "unknown"


def _derived(machine: str) -> str:
    """A random-looking UUID that stays the same and does not give the machine id away."""
    # A program, because hashlib brings OpenSSL: 3 MiB for good in a helper that is to be small.
    digest = process.run(["sha256sum"], timeout_s=_HASH_S, stdin=_SALT + machine.encode()).stdout
    return str(uuid.UUID(digest[:32].decode(), version=4))


def _canonical(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
