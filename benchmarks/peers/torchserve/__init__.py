"""TorchServe: HTTP in Java, models in Python processes."""

from benchmarks.peers.peer import NO_BATCHING, Peer, Setup

_HEAVY = "2 workers, batchSize 4, maxBatchDelay 2 ms"

PEER = Peer(
    "torchserve",
    "TorchServe 0.12.0",
    {
        "tiny": [
            Setup("1 worker, batchSize 64, maxBatchDelay 10 ms", max_batch=64, wait_ms=10, variant="batching"),
            Setup("1 worker, batchSize 1", variant=NO_BATCHING, clients=(1,)),
        ],
        "cnn": [Setup(_HEAVY, workers=2, max_batch=4, wait_ms=2)],
        "transformer": [Setup(_HEAVY, workers=2, max_batch=4, wait_ms=2)],
    },
    path=lambda model: f"/predictions/{model.name}",
    tools=("java",),
)
