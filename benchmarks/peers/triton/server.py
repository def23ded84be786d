"""Triton's side: pytriton starts the server and one process for each instance."""

import multiprocessing

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.model_config.common import QueuePolicy
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers import serving


class Instance:
    """Loads the network in the process that uses it."""

    def __init__(self) -> None:
        self.network: serving.Predict | None = None

    @batch
    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        if self.network is None:
            self.network = serving.load()
        return [self.network(np.array(x))]


def main() -> None:
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=serving.PORT,
        http_thread_count=1,
        grpc_address="127.0.0.1",
        grpc_port=serving.PORT + 1,
        allow_metrics=False,
        log_verbose=0,
    )
    policy = None
    if serving.DEADLINE_MS:
        policy = QueuePolicy(default_timeout_microseconds=round(serving.DEADLINE_MS * 1e3))
    batcher = DynamicBatcher(max_queue_delay_microseconds=round(serving.WAIT_MS * 1e3), default_queue_policy=policy)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=serving.MODEL,
            infer_func=[Instance() for _ in range(serving.WORKERS)],
            inputs=[Tensor(name="x", dtype=serving.DTYPE, shape=serving.SHAPE)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=serving.MAX_BATCH, batcher=batcher),
        )
        triton.serve()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn", force=True)
    main()
