"""mosec: HTTP in Rust, models in Python processes."""

from benchmarks.peers.peer import NO_BATCHING, Peer, Setup

PEER = Peer(
    "mosec",
    "mosec 0.9.8",
    {
        "tiny": [
            Setup("1 worker, max_batch_size 64, max_wait_time 1 ms", max_batch=64, wait_ms=1, variant="batching"),
            Setup("2 workers, no batching", workers=2, variant=NO_BATCHING),
        ],
        "cnn": [Setup("2 workers, no batching", workers=2)],
        "transformer": [Setup("2 workers, max_batch_size 4, max_wait_time 1 ms", workers=2, max_batch=4, wait_ms=1)],
    },
    path=lambda model: "/inference",
)
