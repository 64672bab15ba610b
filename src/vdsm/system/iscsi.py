"""open-iscsi: the initiator's name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

INITIATOR_FILE: Final = Path("/etc/iscsi/initiatorname.iscsi")

_KEY: Final = "InitiatorName="


def initiator_name(file: Path = INITIATOR_FILE) -> str:
    """The host's iSCSI qualified name; empty where open-iscsi is not installed or has no name yet.

    The file's format: lines, ``#`` begins a comment, ``InitiatorName=iqn....``; the last one counts.
    """
    try:
        text = file.read_text("utf-8", "replace")
    except OSError:
        return ""
    names = [line.strip().removeprefix(_KEY).strip() for line in text.splitlines() if line.strip().startswith(_KEY)]
    return names[-1] if names else ""
