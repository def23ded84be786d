"""Ray Serve's side."""

import os
import signal
import threading

os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers import serving


@serve.deployment(
    num_replicas=serving.WORKERS,
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0.5},
    logging_config={"enable_access_log": False},
)
class Deployment:
    def __init__(self) -> None:
        self.network = serving.load()

    @serve.batch(max_batch_size=serving.MAX_BATCH, batch_wait_timeout_s=serving.WAIT_MS / 1e3)
    async def predict(self, items: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.network(serving.stacked(items)))

    async def __call__(self, request: Request) -> Response:
        item = serving.decode(await request.body())
        return Response(serving.encode(await self.predict(item)), media_type=serving.MEDIA_TYPE)


def main() -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False, logging_level="warning")
    timeout_s = serving.DEADLINE_MS / 1e3 or None
    serve.start(http_options={"host": "127.0.0.1", "port": serving.PORT, "request_timeout_s": timeout_s})
    serve.run(Deployment.bind(), route_prefix="/predict")
    stopping.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
