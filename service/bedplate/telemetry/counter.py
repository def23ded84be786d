"""Counters for a process that counts in one thread: prometheus_client's take a lock and five times as long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector


class Count:
    """The count of one set of label values."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1) -> None:
        self.value += by


class Counter(Collector):
    """One metric. It registers itself; its name is given without `_total`."""

    def __init__(self, name: str, help_: str, labels: Sequence[str], registry: CollectorRegistry):
        self._name, self._help, self._labels = name, help_, labels
        self._series: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """Return the series of these label values, in the order of `labels`. It is exported from now on."""
        return self._series.setdefault(values, Count())

    def describe(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._help, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in self._series.items():
            family.add_metric(values, count.value)
        yield family
