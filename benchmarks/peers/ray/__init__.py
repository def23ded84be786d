"""Ray Serve: a proxy, a router, and replicas as actors."""

from benchmarks.peers.peer import Peer, Setup

_HEAVY = "2 replicas, serve.batch of 4 within 2 ms, max_ongoing_requests 256"

PEER = Peer(
    "ray",
    "Ray Serve 2.60.0",
    {
        "tiny": [
            Setup(
                "2 replicas, serve.batch of 32 within 2 ms, max_ongoing_requests 256",
                workers=2,
                max_batch=32,
                wait_ms=2,
            )
        ],
        "cnn": [Setup(_HEAVY, workers=2, max_batch=4, wait_ms=2)],
        "transformer": [Setup(_HEAVY, workers=2, max_batch=4, wait_ms=2)],
    },
    path=lambda model: "/predict",
)
