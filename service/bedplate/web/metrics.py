"""The metrics of a web instance (docs/metrics.md)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import Gauge, Summary

from bedplate.bundle.bundle import Bundle
from bedplate.errors import CODES
from bedplate.telemetry import exposition
from bedplate.telemetry.counter import Count, Counter
from bedplate.telemetry.histogram import Histogram, Series

# Unit: seconds. A prediction takes a millisecond at best, and its deadline is 30 s unless told otherwise.
_WHOLE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
# Waiting and computing may take less than a tenth of that.
_PART_S = (0.0001, 0.00025, 0.0005, *_WHOLE_S)
# A model with more labels is counted as a whole: each label is a series in Prometheus.
_MAX_LABELS = 100
_BY_VERSION = ["model", "version"]
_PARTS = {
    "decode": "From the body to items",
    "queue": "Waiting for the device",
    "batch": "Assembling and copying the batch",
    "compute": "The batch on the device",
}
# Shown as 0 from the start, so that the first failure is an increase.
_FAILURES = (500, 503, 504)


class WebMetrics:
    """The metrics of one web instance and their registry."""

    def __init__(self) -> None:
        self.registry = exposition.new_registry()
        self._requests = Counter("bedplate_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self._request_seconds = self._histogram("bedplate_request_seconds", "Whole requests", ["route"], _WHOLE_S)
        self.in_flight = 0
        in_flight = Gauge("bedplate_requests_in_flight", "Requests that are being answered", registry=self.registry)
        in_flight.set_function(lambda: self.in_flight)
        self._predictions = Counter(
            "bedplate_predictions", "Items predicted, by their label", [*_BY_VERSION, "label"], registry=self.registry
        )
        self._total_s = self._histogram(
            "bedplate_prediction_seconds", "Whole requests that gave predictions", _BY_VERSION, _WHOLE_S
        )
        self._parts_s = {
            part: self._histogram(f"bedplate_prediction_{part}_seconds", help_, _BY_VERSION, _PART_S)
            for part, help_ in _PARTS.items()
        }
        self._failed_s = Summary(
            "bedplate_prediction_failed_seconds",
            "Whole requests of a model that gave none, s",
            _BY_VERSION,
            registry=self.registry,
        )
        self._errors = Counter("bedplate_errors", "Errors answered, by their code", ["type"], registry=self.registry)
        self._routes: dict[tuple[str, int], tuple[Count, Series]] = {}
        for status in _FAILURES:
            for route in ("predict", "infer"):
                self._request_counters(route, status)
        for code in CODES:
            # Shown as 0 from the start, so that the first error is an increase.
            self._errors.labels(code)
        self._cache_requests = Counter(
            "bedplate_cache_requests", "Where predictions came from", ["result"], registry=self.registry
        )
        self._cache_errors = Counter(
            "bedplate_cache_errors", "Failures of the shared cache", ["kind"], registry=self.registry
        )
        self._retries = Counter(
            "bedplate_engine_retries", "Second attempts at an engine", ["reason"], registry=self.registry
        )
        self._cancelled = Counter(
            "bedplate_cancelled", "Predictions that nobody waited for any more", ["stage"], registry=self.registry
        )
        self._untold = Counter(
            "bedplate_security_untold",
            "Refused credentials without a line of the log",
            ["kind"],
            registry=self.registry,
        )
        for kind in ("missing", "wrong"):
            self._untold.labels(kind)
        for reason in ("lost", "draining", "busy", "stale"):
            self._retries.labels(reason)
        for stage in ("decode", "engine"):
            self._cancelled.labels(stage)
        self._models: dict[str, _OfVersion] = {}  # by the digest of the bundle

    def request(self, route: str, status: int, seconds: float) -> None:
        count, histogram = self._request_counters(route, status)
        count.inc()
        histogram.observe(seconds)

    def _request_counters(self, route: str, status: int) -> tuple[Count, Series]:
        found = self._routes.get((route, status))
        if found is None:
            found = self._requests.labels(route, str(status)), self._request_seconds.labels(route)
            self._routes[route, status] = found
        return found

    def prediction(
        self,
        model: Bundle,
        labels: Sequence[str | None],
        total_s: float,
        parts_ns: Mapping[str, int] | None = None,
    ) -> None:
        """Count one answered request.

        Args:
            labels: of its items; None where the model names no classes.
            parts_ns: what was done for it, by part; a cached answer has none of this.
        """
        of_version = self._of(model)
        of_version.took(total_s)
        for label in labels:
            of_version.count(label)
        if parts_ns is not None:
            of_version.did(parts_ns)

    def answered(self, model: Bundle, items: int, total_s: float, parts_ns: Mapping[str, int]) -> None:
        """Count one answered request of `items` without their labels, with the time of each part."""
        of_version = self._of(model)
        of_version.took(total_s)
        of_version.count_unnamed(items)
        of_version.did(parts_ns)

    def failed(self, model: Bundle, total_s: float) -> None:
        """Count one request that gave no prediction, for whatever reason."""
        self._failed_s.labels(model.name, model.version).observe(total_s)

    def by_version(self) -> Mapping[tuple[str, str, str], float]:
        """Return the counts by name of the sample, model and version, summed over all labels."""
        found: dict[tuple[str, str, str], float] = defaultdict(float)
        for collector in (self._predictions, self._total_s, self._failed_s, *self._parts_s.values()):
            for sample in (sample for family in collector.collect() for sample in family.samples):
                found[sample.name, sample.labels["model"], sample.labels["version"]] += sample.value
        return found

    def last_ms(self, model: Bundle) -> int:
        """Return when the model last answered, in ms since 1970; 0 if never."""
        found = self._models.get(model.digest)
        return int(found.last_s * 1e3) if found else 0

    def computed_s(self, model: Bundle) -> float:
        """Return when an engine last answered a client of the model, on the monotonic clock; 0 if never."""
        found = self._models.get(model.digest)
        return found.computed_s if found else 0.0

    def engine_retry(self, reason: str) -> None:
        """Count a second attempt by its reason: lost, draining, busy or stale."""
        self._retries.labels(reason).inc()

    def stale(self) -> None:
        """Count that a version was gone when its engine got the request, so that its successor gets it instead."""
        self.engine_retry("stale")

    def cancelled(self, stage: str) -> None:
        """Count a request that its client left, by stage: decode or engine."""
        self._cancelled.labels(stage).inc()

    def refusal_untold(self, kind: str) -> None:
        """Count a refusal of a missing or wrong credential that exceeds the rate of the security log."""
        self._untold.labels(kind).inc()

    def error(self, code: str) -> None:
        self._errors.labels(code).inc()

    def cache_lookup(self, result: str) -> None:
        """Count a lookup by its result: memory, shared, miss or bypass."""
        self._cache_requests.labels(result).inc()

    def cache_error(self, kind: str) -> None:
        self._cache_errors.labels(kind).inc()

    def cache_available(self, is_available: Callable[[], float]) -> None:
        """Export 1 or 0 as `is_available` returns; called once. A web without a shared cache exports neither."""
        gauge = Gauge("bedplate_cache_available", "1 while the shared cache is asked", registry=self.registry)
        gauge.set_function(is_available)

    def _histogram(self, name: str, help_: str, labels: Sequence[str], buckets_s: Sequence[float]) -> Histogram:
        return Histogram(name, f"{help_}, s", labels, buckets_s, self.registry)

    def _of(self, model: Bundle) -> _OfVersion:
        found = self._models.get(model.digest)
        if found is None:
            found = _OfVersion(self._predictions, self._total_s, self._parts_s, model)
            self._models[model.digest] = found
        return found


class _OfVersion:
    """The series of one version of a model, looked up once: finding a series costs more than counting in it."""

    def __init__(self, predictions: Counter, total_s: Histogram, parts_s: Mapping[str, Histogram], model: Bundle):
        version = (model.name, model.version)
        self.total_s = total_s.labels(*version)
        self.parts_s = {part: histogram.labels(*version) for part, histogram in parts_s.items()}
        self.last_s = 0.0  # since 1970
        self.computed_s = 0.0  # on the monotonic clock; what was remembered does not count
        shown = model.labels if model.names_classes and len(model.labels) <= _MAX_LABELS else ()
        self._by_label = {label: predictions.labels(*version, label) for label in shown}
        self._any_label = predictions.labels(*version, "*")

    def took(self, total_s: float) -> None:
        self.total_s.observe(total_s)
        self.last_s = time.time()

    def did(self, parts_ns: Mapping[str, int]) -> None:
        self.computed_s = time.monotonic()
        for part, part_ns in parts_ns.items():
            self.parts_s[part].observe(part_ns / 1e9)

    def count(self, label: str | None) -> None:
        (self._by_label.get(label or "") or self._any_label).inc()

    def count_unnamed(self, items: int) -> None:
        self._any_label.inc(items)
