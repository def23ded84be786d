"""What the service adds to a prediction: one request over one keep-alive connection, minus the bare forward.

    PYTHONPATH=service python -m benchmarks.latency_overhead --url https://lb1/v1/models/digits/predict --ca ca.pem \\
        --header-file key.txt --bundle examples/digits/bundle

Blocks of requests, each a raw float32 tensor sent when the answer before it came, alternate with blocks of the same
network run in this process on one thread: both meet the same noise of the machine, and each finds its own data in the
caches. `--block 1` alternates one by one: then either finds the caches full of the other's data and sleeping cores, and
both figures grow. Run it on the machine that serves; elsewhere it measures the network.
"""

import argparse
import json
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tools.load.http1 import Response, parse_response, request_bytes
from tools.load.ledger import percentile
from tools.load.plan import Target, read_headers, read_target


def load_forward(bundle_directory: Path) -> tuple[np.ndarray, Callable[[], object]]:
    """One input of the bundle's shape, and a call that runs the network on it as the engine does."""
    import torch  # noqa: PLC0415 - everything that knows of the service is in this function
    from bedplate.bundle.bundle import read_bundle  # noqa: PLC0415
    from bedplate.engine.model import Model  # noqa: PLC0415

    torch.set_num_threads(1)
    bundle = read_bundle(bundle_directory)
    model = Model.load(bundle, bundle_directory, torch.device("cpu"))
    item = np.random.default_rng(seed=0).uniform(-1, 1, (1, *bundle.input.shape)).astype(np.float32)
    return item, lambda: model.run(item)


class Client:
    """One blocking connection; a parser and two system calls are all that it adds."""

    def __init__(self, target: Target):
        self._socket = socket.create_connection((target.host, target.port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls:
            self._socket = target.tls.wrap_socket(self._socket, server_hostname=target.server_name)

    def exchange(self, request: bytes) -> Response:
        self._socket.sendall(request)
        buffer = bytearray()
        while (response := parse_response(buffer)) is None:
            received = self._socket.recv(65536)
            if not received:
                sys.exit("the server closed the connection; raise nginx's keepalive_requests or lower --turns")
            buffer += received
        if response.status != 200:
            sys.exit(f"the server answered {response.status}: {response.body[:500].decode(errors='replace')}")
        return response


def elapsed_ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def measure(client: Client, request: bytes, forward: Callable[[], object], turns: int, block: int) -> dict[str, object]:
    served_ms, bare_ms = [], []
    for _ in range(turns // block):
        served_ms += [elapsed_ms(lambda: client.exchange(request)) for _ in range(block)]
        bare_ms += [elapsed_ms(forward) for _ in range(block)]
    return {
        "turns": turns,
        "block": block,
        "served_ms": figures(served_ms),
        "bare_forward_ms": figures(bare_ms),
        "overhead_p50_ms": round(statistics.median(served_ms) - statistics.median(bare_ms), 3),
        "served_to_bare_p50": round(statistics.median(served_ms) / statistics.median(bare_ms), 2),
    }


def figures(values_ms: list[float]) -> dict[str, float]:
    ordered = sorted(values_ms)
    return {name: round(percentile(ordered, share) or 0.0, 3) for name, share in (("p50", 0.5), ("p99", 0.99))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency_overhead")
    parser.add_argument("--url", required=True)
    parser.add_argument("--connect-to", metavar="ADDRESS", help="connect here; the URL still names the server")
    parser.add_argument("--ca", type=Path, metavar="FILE")
    parser.add_argument("--header-file", type=Path, metavar="FILE", help="lines `Name: value`, such as the key's")
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIRECTORY")
    # nginx closes a connection after 1000 requests unless keepalive_requests says otherwise.
    parser.add_argument("--turns", type=int, default=900)
    parser.add_argument("--block", type=int, default=50, help="requests, then forwards, back to back (50)")
    args = parser.parse_args()
    item, forward = load_forward(args.bundle)
    parts = urlsplit(args.url)
    headers = read_headers(args.header_file.read_text().splitlines()) if args.header_file else {}
    headers |= {"Host": parts.netloc, "Content-Type": "application/octet-stream"}
    request = request_bytes("POST", parts.path, headers, item.astype("<f4").tobytes())
    client = Client(read_target(args.url, args.ca, args.connect_to))
    print(json.dumps(measure(client, request, forward, args.turns, args.block), indent=2))


if __name__ == "__main__":
    main()
