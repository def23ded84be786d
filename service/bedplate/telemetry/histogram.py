"""Histograms for a process that counts in one thread: prometheus_client's take a lock and four times as long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """The observations of one set of label values."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]):
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # by bucket, each for itself; the last has no bound
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


class Histogram(Collector):
    """One metric. It registers itself.

    Args:
        bounds: upper bounds of its buckets, ascending, each included; +Inf is added.
    """

    def __init__(
        self, name: str, help_: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ):
        self._name, self._help, self._labels = name, help_, labels
        self._bounds = list(map(float, bounds))
        self._names = [*map(floatToGoString, self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Return the series of these label values, in the order of `labels`. It is exported from now on."""
        return self._series.setdefault(values, Series(self._bounds))

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self._name, self._help, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, self._cumulated(series), series.total)
        yield family

    def _cumulated(self, series: Series) -> list[tuple[str, float]]:
        count, buckets = 0, []
        for name, more in zip(self._names, series.counts, strict=True):
            count += more
            buckets.append((name, float(count)))
        return buckets
