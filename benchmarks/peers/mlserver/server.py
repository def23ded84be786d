"""MLServer's side: a custom runtime, and the settings files that its command wants."""

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Body
from mlserver import MLModel
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from starlette.responses import Response

from benchmarks.peers import serving


class Runtime(MLModel):
    async def load(self) -> bool:
        self.network = serving.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        data = payload.inputs[0].data.root
        items = np.frombuffer(data, serving.DTYPE).copy() if isinstance(data, bytes) else np.array(data, np.float32)
        logits = self.network(items.reshape(-1, *serving.SHAPE))
        answer: Any = logits.ravel().tolist() if serving.IS_JSON else logits.tobytes()
        output = ResponseOutput(name="logits", shape=list(logits.shape), datatype="FP32", data=answer)
        return InferenceResponse(model_name=self.name, outputs=[output])

    @custom_handler(rest_path="/raw")
    async def raw(self, body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
        # Bytes and not the Request: arguments go to another process.
        tensor = RequestInput(name="x", shape=[1, *serving.SHAPE], datatype=serving.DATATYPE, data=body)
        answer = await self.predict(InferenceRequest(inputs=[tensor]))
        return Response(answer.outputs[0].data.root, media_type=serving.MEDIA_TYPE)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-mlserver-"))
    settings = {
        "host": "127.0.0.1",
        "http_port": serving.PORT,
        "grpc_port": serving.PORT + 1,
        "metrics_port": serving.PORT + 2,
        "parallel_workers": serving.WORKERS,
        "debug": False,
    }
    model: dict[str, Any] = {"name": serving.MODEL, "implementation": "benchmarks.peers.mlserver.server.Runtime"}
    if serving.MAX_BATCH > 1:
        model |= {"max_batch_size": serving.MAX_BATCH, "max_batch_time": serving.WAIT_MS / 1e3}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.execvp("mlserver", ["mlserver", "start", str(folder)])


if __name__ == "__main__":
    main()
