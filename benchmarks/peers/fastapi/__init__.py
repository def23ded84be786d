"""FastAPI under uvicorn, the model in the process that speaks HTTP: what one writes without a model server."""

from benchmarks.peers.peer import Peer, Setup

_SAYS = "2 uvicorn workers, uvloop and httptools, async def, no access log"

PEER = Peer(
    "fastapi",
    "FastAPI 0.165 + uvicorn",
    {name: [Setup(_SAYS, workers=2)] for name in ("tiny", "cnn", "transformer")},
    path=lambda model: "/predict",
)
