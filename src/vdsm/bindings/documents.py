"""Writes the files that are made from the contract: `python -m vdsm.bindings.documents`, or `make docs`.

They are checked in, so that the daemon and the command line make nothing when they start; a test fails when one is not
what the contract says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from vdsm.api.catalogue import all_verbs
from vdsm.api.contract import Verb
from vdsm.bindings.openapi import document
from vdsm.bindings.reference import html, markdown, reference_of, verb_list

VERB_LIST_FORMAT: Final = 1


def documents(verbs: Mapping[str, Verb]) -> dict[str, bytes]:
    """The content of each generated file by its path below the project's root."""
    compact = msgspec.json.encode(document(verbs))
    openapi = msgspec.json.format(compact, indent=1) + b"\n"
    listed = msgspec.json.encode({"format": VERB_LIST_FORMAT, "verbs": verb_list(verbs)})
    names = msgspec.json.format(listed, indent=1) + b"\n"
    reference = reference_of(verbs)
    return {
        "docs/openapi.json": openapi,
        "docs/verbs.json": names,
        "docs/api.md": markdown(reference).encode(),
        "src/vdscli/verbs.json": names,
        "src/vdsm/bindings/pages/openapi.json": compact,
        "src/vdsm/bindings/pages/reference.html": html(reference).encode(),
    }


def stale(root: Path, verbs: Mapping[str, Verb]) -> list[str]:
    """The generated files that are missing or not what the contract says."""
    return [
        name
        for name, content in documents(verbs).items()
        if not (root / name).is_file() or (root / name).read_bytes() != content
    ]


def project_root() -> Path:
    """The root of the source tree that this module is in."""
    return Path(__file__).resolve().parents[3]


def main() -> int:
    """Write what is stale; returns the exit status."""
    root = project_root()
    contents = documents(all_verbs())
    for name in stale(root, all_verbs()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents[name])
        sys.stdout.write(f"wrote {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
