"""What an engine counts (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from bedplate import exposition
from bedplate.engine.catalogue import Catalogue

# Unit: items in a batch.
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineMetrics:
    """The figures of one engine, and the registry that holds them. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = exposition.new_registry()
        self._batch_items = Histogram(
            "bedplate_batch_items", "Items in a batch", ["model"], buckets=_ITEMS, registry=self.registry
        )
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
        self._model_info = Gauge(
            "bedplate_model_info", "1 for each model that is loaded", ["model", "version"], registry=self.registry
        )
        self._model_weights = Gauge(
            "bedplate_model_weights_bytes", "Memory of the weights", ["model", "version"], registry=self.registry
        )
        self._model_alias = Gauge(
            "bedplate_model_alias", "1 for each alias", ["model", "alias", "version"], registry=self.registry
        )

    def serves(self, catalogue: Catalogue) -> None:
        """These models and aliases and no others. Called where figures are told, in the event loop: none sees half."""
        for gauge in (self._model_info, self._model_weights, self._model_alias):
            gauge.clear()
        for model in catalogue.models:
            bundle = model.bundle
            self._model_info.labels(bundle.name, bundle.version).set(1)
            self._model_weights.labels(bundle.name, bundle.version).set(model.weights_bytes)
            # Shown as 0 from the start, so that the first failure is an increase.
            self._batch_failures.labels(bundle.name)
            self._out_of_memory.labels(bundle.name)
        for name, aliases in catalogue.aliases.items():
            for alias, version in aliases.items():
                self._model_alias.labels(name, alias, version).set(1)

    def queue(self, depth: Callable[[], int], limit: int) -> None:
        self._queue_depth.set_function(depth)
        self._queue_limit.set(limit)

    def batch_computed(self, model: Any, items: int) -> None:
        self._batch_items.labels(model.bundle.name).observe(items)

    def batch_failed(self, model: Any) -> None:
        self._batch_failures.labels(model.bundle.name).inc()

    def out_of_memory(self, model: Any) -> None:
        self._out_of_memory.labels(model.bundle.name).inc()

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def cancelled(self, stage: str) -> None:
        self._cancelled.labels(stage).inc()
