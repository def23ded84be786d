"""MLServer: the Open Inference Protocol in Python, adaptive batching."""

from benchmarks.peers.peer import NO_BATCHING, Peer, Setup

# Its REST side does not speak the protocol's binary extension, so the heavy models are asked through a custom handler,
# as its documentation has it for bodies of one's own.
PEER = Peer(
    "mlserver",
    "MLServer 1.7.1",
    {
        "tiny": [
            Setup(
                "parallel_workers 0, max_batch_size 64, max_batch_time 2 ms",
                workers=0,
                max_batch=64,
                wait_ms=2,
                variant="batching",
            ),
            Setup("parallel_workers 0, no batching", workers=0, variant=NO_BATCHING, clients=(1,)),
        ],
        "cnn": [Setup("parallel_workers 2, no batching", workers=2)],
        "transformer": [Setup("parallel_workers 2, no batching", workers=2)],
    },
    path=lambda model: f"/v2/models/{model.name}/infer" if model.is_json else "/raw",
)
