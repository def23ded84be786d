"""Who is measured."""

from __future__ import annotations

import importlib

from benchmarks.peers.peer import Peer

BARE = "bare"
# Each round goes through them in this order.
NAMES = ("bedplate", "mosec", "fastapi", "litserve", "bentoml", "mlserver", "torchserve", "triton", "ray")


def peer(name: str) -> Peer:
    found: Peer = importlib.import_module(f"benchmarks.peers.{name}").PEER
    return found
