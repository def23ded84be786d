"""What this front end counted of models, in the shape of the protocol's statistics extension."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bedplate.bundle.bundle import Bundle
from bedplate.web.metrics import WebMetrics

_PARTS = ("queue", "decode", "batch", "compute")


def statistics(models: Iterable[Bundle], metrics: WebMetrics) -> list[dict[str, Any]]:
    """Of each model, read from the same figures that Prometheus gets, so that both tell the same."""
    counted = metrics.by_version()

    def of(model: Bundle, name: str) -> int:
        return int(counted.get((f"bedplate_{name}", model.name, model.version), 0))

    def timed(model: Bundle, name: str) -> tuple[int, int]:
        seconds = counted.get((f"bedplate_{name}_seconds_sum", model.name, model.version), 0)
        return of(model, f"{name}_seconds_count"), round(seconds * 1e9)

    return [
        {
            "name": model.name,
            "version": model.version,
            "last_inference": metrics.last_ms(model),
            "inference_count": of(model, "predictions_total"),
            "execution_count": of(model, "prediction_compute_seconds_count"),
            "inference_stats": _durations(
                timed(model, "prediction"),
                timed(model, "prediction_failed"),
                {part: timed(model, f"prediction_{part}") for part in _PARTS},
            ),
            "response_stats": {},
            "batch_stats": [],
            "memory_usage": [],
        }
        for model in models
    ]


def _durations(
    success: tuple[int, int], fail: tuple[int, int], parts: dict[str, tuple[int, int]]
) -> dict[str, dict[str, int]]:
    computed, _ = parts["compute"]
    told = {
        "success": success,
        "fail": fail,
        "queue": parts["queue"],
        "compute_input": (computed, parts["decode"][1] + parts["batch"][1]),
        "compute_infer": parts["compute"],
        "compute_output": (computed, 0),
        "cache_hit": (0, 0),
        "cache_miss": (0, 0),
    }
    return {name: {"count": count, "ns": ns} for name, (count, ns) in told.items()}
