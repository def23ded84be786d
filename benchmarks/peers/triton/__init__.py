"""Triton Inference Server by nvidia-pytriton: HTTP and batching in C++, models in Python processes."""

from benchmarks.peers.cases import Dialect
from benchmarks.peers.peer import Peer, Setup

_HEAVY = "2 instances, dynamic batching up to 4, max_queue_delay 0, 1 HTTP thread"

PEER = Peer(
    "triton",
    "Triton (nvidia-pytriton 0.7.0)",
    {
        "tiny": [Setup("dynamic batching up to 64, max_queue_delay 0, 1 HTTP thread", max_batch=64)],
        "cnn": [Setup(_HEAVY, workers=2, max_batch=4)],
        "transformer": [Setup(_HEAVY, workers=2, max_batch=4)],
    },
    path=lambda model: f"/v2/models/{model.name}/infer",
    dialect=Dialect({}, protocol=True),
)
