"""BentoML's side: the service, and the command that serves it."""

import os
from typing import Any

import bentoml
import numpy as np
from starlette.responses import Response

from benchmarks.peers import serving

TRAFFIC = {"timeout": serving.DEADLINE_MS / 1e3 or 60}
QUIET = {"access": {"enabled": False}}
SETTINGS = {"workers": serving.WORKERS, "traffic": TRAFFIC, "metrics": {"enabled": False}, "logging": QUIET}


@bentoml.service(**SETTINGS)
class Json:
    def __init__(self) -> None:
        self.network = serving.load()

    # The list of inputs of the request is what batches are made of: the protocol's requests have one each.
    @bentoml.api(batchable=True, max_batch_size=max(2, serving.MAX_BATCH), max_latency_ms=1000)
    def predict(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        items = np.array([tensor["data"] for tensor in inputs], np.float32)
        return [serving.encode_document(row)["outputs"][0] for row in self.network(items)]


@bentoml.service(**SETTINGS)
class Raw:
    def __init__(self) -> None:
        self.network = serving.load()

    # Without a return type, of which BentoML would want a schema.
    @bentoml.api
    def predict(self, body: bytes, /):  # type: ignore[no-untyped-def]
        item = serving.decode(body)
        return Response(serving.encode(self.network(item[np.newaxis])[0]), media_type=serving.MEDIA_TYPE)


if __name__ == "__main__":
    service = "Json" if serving.IS_JSON else "Raw"
    command = ["bentoml", "serve", f"benchmarks.peers.bentoml.server:{service}", "--host", "127.0.0.1"]
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    os.execvp("bentoml", [*command, "--port", str(serving.PORT)])
