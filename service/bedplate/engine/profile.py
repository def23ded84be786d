"""What the engine learned about one model on its device: how long batches take, and how large they may be."""

from __future__ import annotations

from typing import Any

from bedplate.engine.curve import Curve
from bedplate.engine.schedule import BatchLimits
from bedplate.engine.work import Key, QueuedRequest, Runnable, key_of

# Of a request's time that its own batch may take. The rest is for the batch that is on the device when it comes.
_BATCH_SHARE = 0.5
# Distances from the mean that are allowed for, where a deadline depends on it.
_DEVIATIONS = 4


class ModelProfile:
    """The profile of one loaded model."""

    def __init__(self, max_items: int, max_cost: int):
        self.curve = Curve()
        # Lowered when the device runs out of memory.
        self.max_items = max_items
        self.max_cost = max_cost
        self.last_ns = 0.0  # what the last batch took that the curve learned from
        self.items = 0  # computed
        self.failures = 0  # items that the model failed on
        self.out_of_memory = 0  # times

    def limits_for(self, work: QueuedRequest) -> BatchLimits:
        """Return the limits of a batch with `work`: as large as the device takes, and small enough for its deadline."""
        cost: float = self.max_cost
        if work.deadline_ns and self.curve.is_known:
            cost = min(cost, self.curve.largest_cost_within(_BATCH_SHARE * work.time_ns))
        return BatchLimits(self.max_items, cost)

    def expect_ns(self, cost: float) -> float:
        return self.curve.expect_ns(cost)

    def is_short(self, cost: float, limit_ns: float) -> bool:
        """True if batches of at most this cost take no longer than `limit_ns`; after one that did, the next decides."""
        known = self.curve.is_known and self.last_ns <= limit_ns
        return known and self.curve.expect_ns(min(cost, self.max_cost)) <= limit_ns

    def learn(self, cost: int, took_ns: float) -> None:
        self.curve.learn(cost, took_ns)
        self.last_ns = took_ns

    @property
    def margin_ns(self) -> float:
        return _DEVIATIONS * self.curve.deviation_ns

    def shrink(self, items: int) -> None:
        """Lower the limit after `items` were too many for the device's memory."""
        self.out_of_memory += 1
        kept = max(1, min(self.max_items, items) // 2)
        self.max_cost = max(1, self.max_cost * kept // self.max_items)
        self.max_items = kept

    def figures(self) -> dict[str, Any]:
        """The profile for operators; times in ms."""
        return {
            "batches": self.curve.batches,
            "items": self.items,
            "failures": self.failures,
            "out_of_memory": self.out_of_memory,
            "max_items": self.max_items,
            "max_cost": self.max_cost,
            "fixed_ms": round(self.curve.fixed_ns / 1e6, 3),
            "per_cost_ms": round(self.curve.per_cost_ns / 1e6, 6),
            "deviation_ms": round(self.curve.deviation_ns / 1e6, 3),
        }


class ModelProfiles:
    """The profiles of all models that got requests."""

    def __init__(self) -> None:
        self._by_key: dict[Key, ModelProfile] = {}

    def of(self, model: Runnable) -> ModelProfile:
        key = key_of(model)
        profile = self._by_key.get(key)
        if profile is None:
            # A copy, so that whoever reads the figures in another thread walks over a dictionary that stays.
            profile = ModelProfile(model.max_items, model.max_cost)
            self._by_key = {**self._by_key, key: profile}
        return profile

    def figures(self, key: Key) -> dict[str, Any]:
        """Return the figures of a model; empty if nothing was learned of it."""
        profile = self._by_key.get(key)
        return profile.figures() if profile else {}

    def forget(self, key: Key) -> None:
        """Drop the profile of a model that is no longer served."""
        self._by_key = {known: profile for known, profile in self._by_key.items() if known != key}

    def slowest_ns(self) -> float:
        """Return how long the largest batch of the slowest model takes."""
        slowest = 0.0
        for profile in self._by_key.values():
            slowest = max(slowest, profile.expect_ns(profile.max_cost) + profile.margin_ns)
        return slowest
