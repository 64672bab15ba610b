"""The kinds of tasks that copy images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vdsm.operations.kinds import Kind
from vdsm.storage.images.copying import Copier, CopyVolume, MoveImage, copy_image, move_image
from vdsm.storage.images.structure_copies import CloneStructure, SyncData, clone_structure, sync_data


@dataclass(frozen=True, slots=True)
class CopyKinds:
    """The kinds by what they do; iterating gives all."""

    copy: Kind[CopyVolume]
    move: Kind[MoveImage]
    clone: Kind[CloneStructure]
    sync: Kind[SyncData]

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter((self.copy, self.move, self.clone, self.sync))


def copy_kinds(copier: Copier) -> CopyKinds:
    """Make the kinds."""
    return CopyKinds(copy_image(copier), move_image(copier), clone_structure(copier), sync_data(copier))
