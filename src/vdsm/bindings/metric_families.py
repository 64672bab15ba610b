"""Building families of metrics; hides which classes of the client library they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


class Family:
    """Builds one metric family: a "counter" or a "gauge"."""

    def __init__(self, kind: str, name: str, text: str, labels: Sequence[str] = ()) -> None:
        from prometheus_client.metrics_core import (  # noqa: PLC0415 - few hosts are scraped: save memory
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        self.metric: CounterMetricFamily | GaugeMetricFamily = family(name, text, labels=labels)

    def add(self, value: float, *labels: str) -> None:
        """Add a sample; the labels in the family's order."""
        self.metric.add_metric(labels, value)


def single(kind: str, name: str, text: str, value: float) -> Metric:
    """A family of one sample without labels."""
    family = Family(kind, name, text)
    family.add(value)
    return family.metric
