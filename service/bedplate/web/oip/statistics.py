"""What this front end counted of a model, in the shape of the protocol's statistics extension."""

from __future__ import annotations

from typing import Any

from bedplate.bundle import Bundle
from bedplate.web.metrics import WebMetrics


def model_statistics(model: Bundle, metrics: WebMetrics) -> dict[str, Any]:
    """Read from the same figures that Prometheus gets, so that both tell the same."""
    parts = {part: metrics.timed(f"prediction_{part}", model) for part in ("queue", "decode", "batch", "compute")}
    computed = parts["compute"][0]
    preparing_s = parts["decode"][1] + parts["batch"][1]
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": metrics.last_ms(model),
        "inference_count": metrics.items(model),
        "execution_count": computed,
        "inference_stats": {
            "success": _duration(*metrics.timed("prediction", model)),
            "fail": _duration(*metrics.timed("prediction_failed", model)),
            "queue": _duration(*parts["queue"]),
            "compute_input": _duration(computed, preparing_s),
            "compute_infer": _duration(*parts["compute"]),
            "compute_output": _duration(computed, 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
