"""The metrics of an engine (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from bedplate.engine.catalogue import Catalogue
from bedplate.engine.work import Key, key_of
from bedplate.telemetry import exposition

# Unit: items in a batch.
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineMetrics:
    """The metrics of one engine and their registry. Any thread may call every method."""

    def __init__(self) -> None:
        self.registry = exposition.new_registry()
        self._batch_items = Histogram(
            "bedplate_batch_items", "Items in a batch", ["model"], buckets=_ITEMS, registry=self.registry
        )
        self._sizes: dict[str, Histogram] = {}  # by model: looking a series up takes as long as counting
        self._batch_failures = Counter(
            "bedplate_batch_failures", "Batches that the model failed on", ["model"], registry=self.registry
        )
        self._out_of_memory = Counter(
            "bedplate_out_of_memory", "Batches the device had no memory for", ["model"], registry=self.registry
        )
        self._rejected = Counter(
            "bedplate_rejected", "Requests turned away by the engine", ["reason"], registry=self.registry
        )
        self._cancelled = Counter(
            "bedplate_cancelled", "Requests given up by the web, by where they were", ["stage"], registry=self.registry
        )
        for stage in ("queue", "device"):
            self._cancelled.labels(stage)
        for reason in ("engine-busy", "deadline-exceeded", "draining"):
            self._rejected.labels(reason)
        self._queue_depth = Gauge("bedplate_queue_depth", "Requests that wait for the device", registry=self.registry)
        self._queue_limit = Gauge("bedplate_queue_limit", "Requests that may wait", registry=self.registry)
        self._model_info = self._of_version("bedplate_model_info", "1 for each model that is loaded")
        self._model_weights = self._of_version("bedplate_model_weights_bytes", "Memory of the weights")
        self._model_form = Gauge(
            "bedplate_model_form", "1 for how it is computed", ["model", "version", "form"], registry=self.registry
        )
        self._model_alias = Gauge(
            "bedplate_model_alias", "1 for each alias", ["model", "alias", "version"], registry=self.registry
        )
        # By what it shows of `Batcher.figures`, and how many of that make its unit.
        self._learned = {
            name: (self._of_version(f"bedplate_batch_{metric}", told), per_unit)
            for name, metric, told, per_unit in (
                ("fixed_ms", "fixed_seconds", "Time of an empty batch, as learned", 1e3),
                ("per_cost_ms", "cost_seconds", "What each unit of cost adds to a batch, as learned", 1e3),
                ("max_items", "max_items", "Items that a batch may hold", 1),
            )
        }

    def _of_version(self, name: str, told: str) -> Gauge:
        return Gauge(name, told, ["model", "version"], registry=self.registry)

    def serves(self, catalogue: Catalogue, figures: Callable[[Key], dict[str, Any]]) -> None:
        """Report exactly these models and aliases. The event loop calls this and exports, so no export sees half of it.

        Args:
            figures: returns what the batcher learned of a model.
        """
        for gauge in (self._model_info, self._model_weights, self._model_form, self._model_alias):
            gauge.clear()
        for gauge, _ in self._learned.values():
            gauge.clear()
        for model in catalogue.models:
            bundle = model.bundle
            self._model_info.labels(bundle.name, bundle.version).set(1)
            self._model_weights.labels(bundle.name, bundle.version).set(model.weights_bytes)
            self._model_form.labels(bundle.name, bundle.version, model.form).set(1)
            # Shown as 0 from the start, so that the first failure is an increase.
            self._batch_failures.labels(bundle.name)
            self._out_of_memory.labels(bundle.name)
            for figure, (gauge, per_unit) in self._learned.items():
                show = partial(_figure, figures, key_of(model), figure, per_unit)
                gauge.labels(bundle.name, bundle.version).set_function(show)
        for name, aliases in catalogue.aliases.items():
            for alias, version in aliases.items():
                self._model_alias.labels(name, alias, version).set(1)

    def queue(self, depth: Callable[[], int], limit: int) -> None:
        self._queue_depth.set_function(depth)
        self._queue_limit.set(limit)

    def batch_computed(self, model: Any, items: int) -> None:
        name = model.bundle.name
        series = self._sizes.get(name)
        if series is None:
            series = self._sizes[name] = self._batch_items.labels(name)
        series.observe(items)

    def batch_failed(self, model: Any) -> None:
        self._batch_failures.labels(model.bundle.name).inc()

    def out_of_memory(self, model: Any) -> None:
        self._out_of_memory.labels(model.bundle.name).inc()

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def cancelled(self, stage: str) -> None:
        self._cancelled.labels(stage).inc()


def _figure(figures: Callable[[Key], dict[str, Any]], key: Key, name: str, per_unit: float) -> float:
    return float(figures(key).get(name, 0)) / per_unit
