"""LitServe: FastAPI in front, models in worker processes behind queues."""

from benchmarks.peers.peer import NO_BATCHING, Peer, Setup

_HEAVY = "2 workers per device, max_batch_size 4, batch_timeout 2 ms, fast_queue, 2 API servers"

PEER = Peer(
    "litserve",
    "LitServe 0.2.19",
    {
        "tiny": [
            Setup(
                "max_batch_size 32, batch_timeout 2 ms, fast_queue, 2 API servers",
                max_batch=32,
                wait_ms=2,
                variant="batching",
            ),
            Setup("no batching, fast_queue, 1 API server", variant=NO_BATCHING, clients=(1,)),
        ],
        "cnn": [Setup(_HEAVY, workers=2, max_batch=4, wait_ms=2)],
        "transformer": [Setup(_HEAVY, workers=2, max_batch=4, wait_ms=2)],
    },
    path=lambda model: "/predict",
)
