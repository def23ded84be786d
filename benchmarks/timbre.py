"""What `timbre` takes on the demo's hosts, through nginx: python -m benchmarks.timbre, after `make demo-all`.

Three minutes of mp3, one at a time; clips of ten seconds, as many as go; and 100 files of 4 MB at once.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from examples.timbre.files import to_file
from examples.timbre.sounds import INSTRUMENTS, TRAINING, recording
from tools.deployment import Deployment

RATE_HZ = 44_100
PREDICT = "/v1/models/timbre/predict"
REPEATS = 7
CLIPS, CLIP_S, FOR_S, AT_ONCE = 30, 10, 20, 8
IN_FLIGHT, LARGE_BYTES = 100, 4_000_000


def main() -> int:
    demo = Deployment("demo")
    long = mp3(180, 1)
    print(f"{len(long) / 1e6:.1f} MB, three minutes of mp3", flush=True)
    took_s = [ask(demo, long)[1] for _ in range(REPEATS)]
    print(f"  median {statistics.median(took_s):.2f} s, slowest {max(took_s):.2f} s of {REPEATS}")
    clips = [mp3(CLIP_S, seed) for seed in range(CLIPS)]
    print(
        f"clips of {CLIP_S} s, {AT_ONCE} at once for {FOR_S} s: {rate(demo, clips):.0f} predictions a minute",
        flush=True,
    )
    large = [mp3(100, seed, bit_rate=320_000) for seed in range(4)]
    print(f"{IN_FLIGHT} in flight of {len(large[0]) / 1e6:.1f} MB mp3 (100 s each)", flush=True)
    statuses, slowest_s = flood(demo, large)
    print(f"  statuses {dict(statuses)}, the last after {slowest_s:.1f} s")
    return 0 if statuses == {200: IN_FLIGHT} else 1


def mp3(length_s: float, seed: int, bit_rate: int = 128_000) -> bytes:
    name = list(INSTRUMENTS)[seed % len(INSTRUMENTS)]
    samples = recording(name, min(length_s, 20), RATE_HZ, TRAINING, np.random.default_rng(seed))
    whole = np.resize(samples, int(length_s * RATE_HZ))
    return to_file(whole, RATE_HZ, "mp3", channels=2, bit_rate=bit_rate)


def ask(demo: Deployment, content: bytes) -> tuple[int, float]:
    """Status, and how long it took on a connection of its own."""
    connection = demo.connect()
    connection.timeout = 300
    began = time.monotonic()
    status = demo.ask(connection, "POST", PREDICT, content, Content_Type="audio/mpeg").status
    connection.close()
    return status, time.monotonic() - began


def rate(demo: Deployment, clips: list[bytes]) -> float:
    """Predictions a minute."""
    end = time.monotonic() + FOR_S
    counts: list[int] = []

    def work(first: int) -> None:
        connection, done = demo.connect(), 0
        while time.monotonic() < end:
            answer = demo.ask(
                connection, "POST", PREDICT, clips[(first + done) % len(clips)], Content_Type="audio/mpeg"
            )
            done += answer.status == 200
        counts.append(done)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(AT_ONCE)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began) * 60


def flood(demo: Deployment, files: list[bytes]) -> tuple[Counter[int], float]:
    began = time.monotonic()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        asked = [pool.submit(ask, demo, files[number % len(files)]) for number in range(IN_FLIGHT)]
        statuses = Counter(one.result()[0] for one in asked)
    return statuses, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
