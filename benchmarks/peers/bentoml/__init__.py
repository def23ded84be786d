"""BentoML: a service class; adaptive batching in front of its method."""

from benchmarks.peers.peer import Peer, Setup

# Batches are made of lists and arrays that came as JSON; a body of bytes is a request of its own.
_HEAVY = "2 workers, no batching, metrics and access log off"

PEER = Peer(
    "bentoml",
    "BentoML 1.4.39",
    {
        "tiny": [
            Setup("2 workers, batchable API, max_batch_size 64, max_latency_ms 1000", workers=2, max_batch=64),
        ],
        "cnn": [Setup(_HEAVY, workers=2)],
        "transformer": [Setup(_HEAVY, workers=2)],
    },
    path=lambda model: "/predict",
)
