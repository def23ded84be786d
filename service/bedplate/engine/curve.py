"""How long a batch takes: T(cost) = a + b·cost, learned from the batches that the device computed."""

from __future__ import annotations

# Of each batch in the running means, once there are enough of them: about the last twenty count.
_WEIGHT = 0.05
# A batch may look this much slower than expected at most. A process that was stopped for a minute must not
# make the engine refuse callers for the minutes after it.
_SLOWEST_BELIEVED = 4.0
# Batches before that rule holds: the first ones are all there is to know.
_ENOUGH = 8
# Variance of the costs, as a part of their mean squared, above which they tell the slope. With batches of one size the
# slope learned before stays, and only the line's height is learned.
_TELLING_SPREAD = 0.01


class Curve:
    """Least squares over a running window. Times are in ns; `cost` is counted as bundles do, often in items."""

    def __init__(self) -> None:
        self.batches = 0
        self.fixed_ns = 0.0
        self.per_cost_ns = 0.0
        self.deviation_ns = 0.0  # mean distance of what was measured from what was expected
        self._cost = 0.0
        self._took_ns = 0.0
        self._spread = 0.0  # variance of the costs
        self._slope = 0.0  # their covariance with the times

    @property
    def is_known(self) -> bool:
        return self.batches > 0

    def expect_ns(self, cost: float) -> float:
        """Return how long a batch of this cost takes; 0 before anything was learned."""
        return self.fixed_ns + self.per_cost_ns * cost

    def largest_cost_within(self, time_ns: float) -> float:
        """Return the cost of a batch that takes `time_ns`; negative if even an empty batch takes longer."""
        if self.per_cost_ns <= 0:
            return float("inf") if self.fixed_ns <= time_ns else -1.0
        return (time_ns - self.fixed_ns) / self.per_cost_ns

    def learn(self, cost: int, took_ns: float) -> None:
        expected_ns = self.expect_ns(cost)
        if self.batches >= _ENOUGH:
            took_ns = min(took_ns, _SLOWEST_BELIEVED * expected_ns)
        if self.batches:
            self.deviation_ns += _WEIGHT * (abs(took_ns - expected_ns) - self.deviation_ns)
        self.batches += 1
        weight = max(_WEIGHT, 1 / self.batches)
        cost_off, took_off = cost - self._cost, took_ns - self._took_ns
        self._cost += weight * cost_off
        self._took_ns += weight * took_off
        self._spread = (1 - weight) * (self._spread + weight * cost_off * cost_off)
        self._slope = (1 - weight) * (self._slope + weight * cost_off * took_off)
        self._fit()

    def _fit(self) -> None:
        slope = self.per_cost_ns
        if self._spread > _TELLING_SPREAD * self._cost**2:
            slope = max(0.0, self._slope / self._spread)
        elif self.fixed_ns == 0:
            # Batches of one size so far: the time is taken to grow with the cost.
            slope = self._took_ns / self._cost
        # A line never begins below zero.
        self.per_cost_ns = min(slope, self._took_ns / self._cost)
        self.fixed_ns = self._took_ns - self.per_cost_ns * self._cost
