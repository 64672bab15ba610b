"""Metrics of storage: helper processes, domains, operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from vdsm.api.host_types import HostStats
from vdsm.bindings.metric_families import Family

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class HelperFigures(Protocol):
    """What the helper processes of one mount are doing."""

    @property
    def domain(self) -> str:
        """Where: the mount's path."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""

    @property
    def calls(self) -> int:
        """Calls made."""

    @property
    def late(self) -> int:
        """Calls without an answer in time."""

    @property
    def refused(self) -> int:
        """Calls that were not made."""

    @property
    def started(self) -> int:
        """Helpers started."""

    @property
    def abandoned(self) -> int:
        """Helpers that were given up and are still there."""


@dataclass(frozen=True, slots=True)
class StorageFigures:
    """What storage is doing.

    Attributes:
        helpers: of each mount.
        operations: how many there are, by journal and phase.
        calls: verbs under way, by what they wait for.
    """

    helpers: Sequence[HelperFigures] = ()
    operations: Mapping[tuple[str, str], int] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)


_HELPERS: Final = (
    ("gauge", "in_flight", "Calls to the storage that are under way."),
    ("counter", "calls", "Calls to the storage."),
    ("counter", "late", "Calls that had no answer in time."),
    (
        "counter",
        "refused",
        "Calls not made: the storage does not respond, or too many were under way.",
    ),
    ("counter", "started", "Helper processes started."),
    ("gauge", "abandoned", "Helper processes that were given up and are still there."),
)


def storage_families(figures: StorageFigures, host: HostStats | None) -> Iterator[Metric]:
    """All of storage; how the domains are comes from the host's last sample."""
    for kind, what, text in _HELPERS:
        family = Family(kind, f"vdsm_storage_helper_{what}", text, ["mount"])
        for helper in figures.helpers:
            family.add(getattr(helper, what), helper.domain)
        yield family.metric
    operations = Family("gauge", "vdsm_operations", "Operations, by journal and phase.", ["journal", "phase"])
    for (journal, phase), number in figures.operations.items():
        operations.add(number, journal, phase)
    yield operations.metric
    calls = Family("gauge", "vdsm_storage_requests", "Requests under way, by what they wait for.", ["place"])
    for place, number in figures.calls.items():
        calls.add(number, place)
    yield calls.metric
    if host is not None:
        yield from _domains(host)


def _domains(host: HostStats) -> Iterator[Metric]:
    valid = Family("gauge", "vdsm_storage_domain_valid", "1 while the storage domain can be used.", ["domain"])
    joined = Family("gauge", "vdsm_storage_domain_acquired", "1 while the host shows there that it lives.", ["domain"])
    delay = Family("gauge", "vdsm_storage_domain_delay_seconds", "How long the last look took.", ["domain"])
    age = Family("gauge", "vdsm_storage_domain_check_age_seconds", "Age of the last look.", ["domain"])
    for ident, health in host.storage_domains.items():
        valid.add(float(health.valid), ident)
        joined.add(float(health.acquired), ident)
        delay.add(health.delay, ident)
        age.add(health.last_check, ident)
    for family in (valid, joined, delay, age):
        yield family.metric
