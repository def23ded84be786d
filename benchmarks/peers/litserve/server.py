"""LitServe's side: the four functions of a LitAPI."""

from typing import Annotated

import litserve as ls
import numpy as np
from fastapi import Body, Request, Response

from benchmarks.peers import serving

# What decode_request gets: the parsed JSON, or the bytes as they came.
Given = Request if serving.IS_JSON else Annotated[bytes, Body(media_type="application/octet-stream")]


class Api(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.network = serving.load()

    def decode_request(self, request: Given) -> np.ndarray:
        return serving.decode_document(request) if serving.IS_JSON else serving.decode(request)

    def batch(self, inputs: list) -> np.ndarray:
        return serving.stacked(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.network(x) if serving.MAX_BATCH > 1 else self.network(x[np.newaxis])[0]

    def unbatch(self, output: np.ndarray) -> list:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(serving.encode(output), media_type=serving.MEDIA_TYPE)


if __name__ == "__main__":
    api = Api(max_batch_size=serving.MAX_BATCH, batch_timeout=serving.WAIT_MS / 1e3)
    timeout_s = serving.DEADLINE_MS / 1e3 or 30
    server = ls.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=serving.WORKERS, timeout=timeout_s, fast_queue=True
    )
    servers = 1 if serving.MAX_BATCH == 1 else 2
    server.run(
        host="127.0.0.1", port=serving.PORT, num_api_servers=servers, log_level="warning", generate_client_file=False
    )
