"""BentoML: a service class; adaptive batching in front of its method."""

from benchmarks.peers.peer import Peer, Setup

_BATCHED = "2 workers, batchable API, max_batch_size 4, max_latency_ms 1000"


PEER = Peer(
    "bentoml",
    "BentoML 1.4.39",
    {
        "tiny": [Setup("2 workers, batchable API, max_batch_size 64, max_latency_ms 1000", workers=2, max_batch=64)],
        "cnn": [Setup("2 workers, no batching", workers=2)],
        "transformer": [Setup(_BATCHED, workers=2, max_batch=4)],
    },
    path=lambda model: "/predict" if model.is_json else "/raw",
    command=lambda python: [str(python), "-m", "benchmarks.peers.bentoml.server"],
)
