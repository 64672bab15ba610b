"""Mends what a check has found, as far as that needs no guess.

Each image is mended while nobody of this host changes it: what an operation has under way is its own business, also
when the operation waits for the next start. One finding is mended after the other, each by what can be done twice, and
the image is looked at again after each; so whoever is killed here leaves at the most what the next repair finds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from vdsm.base.errors import VdsmError
from vdsm.operations.locks import Locked, Mode, Resource, Wants
from vdsm.storage import wants
from vdsm.storage.checks.check import DomainChecker, owner
from vdsm.storage.checks.check_facts import (
    Checked,
    Finding,
    Fix,
    FreeLeaks,
    MakeFile,
    RebuildLeases,
    RemoveDirectory,
    RemoveFile,
    SetMode,
    Skipped,
    Steps,
    Word,
    WriteLease,
)
from vdsm.storage.domains.domain import Domain
from vdsm.storage.executor import carry_out
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.ids import DomainId, ImageId, ImageRef
from vdsm.storage.images.mover import FindDomain, QemuImages
from vdsm.storage.images.usage import refuse_busy
from vdsm.storage.leases.external_leases import ExternalLeases
from vdsm.storage.leases.lease_index import LeaseAreas

log = logging.getLogger(__name__)

_LOCK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair has done.

    Attributes:
        mended: findings that are no more.
        left: findings that are still there; their remedy says why.
        skipped: what could not be looked at.
    """

    mended: tuple[Finding, ...] = ()
    left: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()


class DomainRepair:
    """See the module; only for a host that may write the domain's metadata.

    Args:
        find: the handle on a domain.
        checker: who finds what is wrong.
        data: who changes the data of images.
        areas: who formats lease areas.
    """

    def __init__(self, find: FindDomain, checker: DomainChecker, data: QemuImages, areas: LeaseAreas) -> None:
        self._find: Final = find
        self._checker: Final = checker
        self._data: Final = data
        self._areas: Final = areas
        self._leases: Final = ExternalLeases(find, areas, lambda: 0)  # it holds no lease: an index is rebuilt

    def repair(
        self, domain_id: DomainId, *, image_id: ImageId | None = None, data: bool = False, managed: bool = False
    ) -> Repaired:
        """Mend what can be mended. Arguments and errors as of ``DomainChecker.check``."""
        found = self._checker.check(domain_id, image_id=image_id, data=data, managed=managed)
        domain = self._find(domain_id)
        mended: list[Finding] = []
        failed: dict[tuple[Word, str], str] = {}
        self._mend_domain(domain, [item for item in found.findings if item.image_id is None], mended, failed)
        images = {item.image_id for item in found.findings if item.image_id is not None}
        # A template before what stands on it: its own lease is what is linked.
        for ident in sorted(images, key=lambda ident: (self._stands_on_others(domain, ident), ident)):
            self._mend_image(domain, ident, mended, failed, _of_data(found, ident))
        left = self._checker.check(domain_id, image_id=image_id, data=data, managed=managed)
        return Repaired(tuple(mended), tuple(_left(left.findings, failed)), left.skipped)

    def _stands_on_others(self, domain: Domain, image_id: ImageId) -> bool:
        with suppress(VdsmError):
            return bool(domain.backend.image(image_id).shared)
        return True

    def _mend_domain(
        self,
        domain: Domain,
        findings: Iterable[Finding],
        mended: list[Finding],
        failed: dict[tuple[Word, str], str],
    ) -> None:
        claim = [*wants.of_domain(domain.id), (Resource("external leases", domain.id), Mode.EXCLUSIVE)]
        for finding in findings:
            if finding.fix is not None:
                self._mend(domain, finding, finding.fix, mended, failed, claim)

    def _mend_image(
        self,
        domain: Domain,
        image_id: ImageId,
        mended: list[Finding],
        failed: dict[tuple[Word, str], str],
        more: Iterable[Finding],
    ) -> None:
        """Mend one finding after the other until only those are left that cannot be mended."""
        tried: set[tuple[Word, str]] = set()
        waiting = list(more)
        while (finding := self._next(domain, image_id, tried, waiting)) is not None and finding.fix is not None:
            tried.add(finding.key)
            self._mend(domain, finding, finding.fix, mended, failed, wants.of_image(ImageRef(domain.id, image_id)))

    def _next(
        self, domain: Domain, image_id: ImageId, tried: set[tuple[Word, str]], waiting: list[Finding]
    ) -> Finding | None:
        found = self._checker.image(domain, image_id)
        return next((item for item in [*found, *waiting] if item.fix is not None and item.key not in tried), None)

    def _mend(
        self,
        domain: Domain,
        finding: Finding,
        fix: Fix,
        mended: list[Finding],
        failed: dict[tuple[Word, str], str],
        claim: Wants,
    ) -> None:
        try:
            with self._checker.locks.hold(owner("repair"), claim, timeout_s=_LOCK_S):
                if finding.image_id is not None and not self._is_there(domain, finding.image_id, finding):
                    return
                log.info("repairing %s of %s: %s; %s", finding.object, domain.id, finding.what, finding.remedy)
                self._apply(domain, fix)
        except Locked as error:
            failed[finding.key] = f"{error.holders} is at work on it"
        except VdsmError as error:
            failed[finding.key] = f"mending it failed: {error}"
        else:
            mended.append(finding)

    def _is_there(self, domain: Domain, image_id: ImageId, finding: Finding) -> bool:
        """Whether a finding is still what it was, now that nobody changes the image."""
        if isinstance(finding.fix, FreeLeaks):
            return True
        return finding in self._checker.image(domain, image_id)

    def _apply(self, domain: Domain, fix: Fix) -> None:
        match fix:
            case Steps(plan, free):
                refuse_busy(domain, free)
                for step in plan:
                    carry_out(step, domain.backend, self._data)
            case RebuildLeases():
                self._leases.rebuild(domain.id)
            case WriteLease(volume):
                lease = domain.backend.volume_lease(volume)
                if lease is None:
                    return
                with told(f"making {lease.path}"):
                    domain.files.truncate(lease.path, 0, create=True, mode=tree.DATA_MODE)
                self._areas.write_resource(lease)
            case FreeLeaks(volume):
                refuse_busy(domain, [volume])
                self._data.check(volume, repair_leaks=True)
            case _:
                self._apply_to_file(domain, fix)

    def _apply_to_file(self, domain: Domain, fix: SetMode | MakeFile | RemoveDirectory | RemoveFile) -> None:
        path = f"{domain.path}/{fix.path}".rstrip("/")
        with told(f"mending {path}"), suppress(FileNotFoundError):
            match fix:
                case SetMode(_, mode):
                    domain.files.chmod(path, mode)
                case MakeFile(_, size, mode):
                    domain.files.truncate(path, size, create=True, mode=mode)
                case RemoveDirectory():
                    domain.files.rmdir(path)
                case RemoveFile():
                    domain.files.unlink(path)


def _of_data(found: Checked, image_id: ImageId) -> list[Finding]:
    """What qemu-img has found, which looking at an image again does not."""
    return [item for item in found.findings if item.image_id == image_id and isinstance(item.fix, FreeLeaks)]


def _left(findings: Iterable[Finding], failed: dict[tuple[Word, str], str]) -> Iterable[Finding]:
    for item in findings:
        yield replace(item, remedy=failed[item.key], fix=None) if item.key in failed else item
