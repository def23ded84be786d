"""mosec's side: one stage that decodes, predicts and encodes."""

import os
import sys

import numpy as np
from mosec import Server, Worker

from benchmarks.peers import serving

_PATIENT_MS = 30_000


class Inference(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.predict = serving.load()

    def deserialize(self, data: bytes) -> np.ndarray:
        return serving.decode(data)

    def forward(self, data):  # type: ignore[no-untyped-def]  # a list where batches are made, else an item
        if serving.MAX_BATCH == 1:
            return self.predict(data[np.newaxis])[0]
        return list(self.predict(serving.stacked(data)))

    def serialize(self, data: np.ndarray) -> bytes:
        return serving.encode(data)


if __name__ == "__main__":
    os.environ["MOSEC_ADDRESS"] = "127.0.0.1"
    os.environ["MOSEC_PORT"] = str(serving.PORT)
    # By itself it gives up after 3 s, which sixteen pictures take on a busy machine.
    os.environ["MOSEC_TIMEOUT"] = str(round(serving.DEADLINE_MS) or _PATIENT_MS)
    sys.argv = sys.argv[:1]
    server = Server()
    server.append_worker(
        Inference,
        num=serving.WORKERS,
        max_batch_size=serving.MAX_BATCH,
        max_wait_time=max(1, round(serving.WAIT_MS)),
    )
    server.run()
