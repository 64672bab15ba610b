"""The verbs that explain and repair storage domains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vdsm.api import storage_checks as api
from vdsm.services.storage_gates import Gates
from vdsm.services.storage_spm import SpmDoor
from vdsm.storage.checks.check import DomainChecker
from vdsm.storage.checks.check_facts import Finding, Skipped
from vdsm.storage.checks.repair import DomainRepair
from vdsm.storage.ids import BLANK, ImageId, parse_image_id
from vdsm.storage.pool.pool_errors import NoSuchPool, NotSpm


class StorageCheckService:
    """Implements ``api.storage_checks.StorageChecks``."""

    def __init__(self, checker: DomainChecker, repair: DomainRepair, spm: SpmDoor, gates: Gates) -> None:
        self._checker: Final = checker
        self._repair: Final = repair
        self._spm: Final = spm
        self._gates: Final = gates

    def check(self, domain_id: str, *, image_id: str = BLANK, data: bool = False) -> api.StorageCheck:
        """Name what does not agree."""
        with self._gates.domain(domain_id) as ident:
            found = self._checker.check(ident, image_id=_image(image_id), data=data, managed=self._is_manager())
            return api.StorageCheck(
                findings=_findings(found.findings),
                skipped=_skipped(found.skipped),
                images=found.images,
                volumes=found.volumes,
            )

    def repair(self, domain_id: str, *, image_id: str = BLANK, data: bool = False) -> api.StorageRepair:
        """Mend what needs no guess."""
        with self._gates.domain(domain_id) as ident:
            self._spm.may_write(ident)
            done = self._repair.repair(ident, image_id=_image(image_id), data=data, managed=True)
            return api.StorageRepair(
                mended=_findings(done.mended), left=_findings(done.left), skipped=_skipped(done.skipped)
            )

    def _is_manager(self) -> bool:
        """Whether what the pool has under way is this host's."""
        try:
            self._spm.spm(BLANK)
        except (NotSpm, NoSuchPool):
            return False
        return True


def _image(text: str) -> ImageId | None:
    return None if text == BLANK else parse_image_id(text)


def _findings(found: Iterable[Finding]) -> list[api.StorageFinding]:
    return [
        api.StorageFinding(
            word=item.word.value,
            object=item.object,
            what=item.what,
            remedy=item.remedy,
            repairable=item.fix is not None,
            image_id=item.image_id or "",
            volume_id=item.volume_id or "",
        )
        for item in found
    ]


def _skipped(found: Iterable[Skipped]) -> list[api.StorageSkipped]:
    return [api.StorageSkipped(object=item.object, reason=item.reason) for item in found]
