"""What has to hold for "The engine": one measurement for each bar (docs/figures.md).

    python -m benchmarks.engine overload|poisoned|killed|stopped|promoted|churn|memory|device|request_cost|all [--quick]

Real programs on this machine: engines around models whose cost is known, webs, and an open-loop load on a core of its
own. Each prints figures against bars, writes build/benchmarks/engine-NAME.json, and exits 1 when a bar is missed.
"""
