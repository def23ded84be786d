"""One item that the model fails on, among 64: only it may fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import numpy as np
import uvloop

from benchmarks.engine.bundles import BODIES, POISON, brightness_of, lamp_item, read_lamp, write_lamp
from benchmarks.engine.load import raw_request
from benchmarks.engine.report import Row, exactly
from benchmarks.engine.stack import Stack, scratch, stack
from tools.load.connections import Pool
from tools.load.http1 import Response

DEADLINE_S = 10.0  # what counts is who fails, not when
PATH = "/v1/models/lamp/predict"


def measure(quick: bool) -> list[Row]:
    turns = 2 if quick else 20
    rows = []
    with (
        scratch() as folder,
        stack(
            [write_lamp(folder)],
            # Quick, so that halving again and again does not take the measurement's time.
            ("sleeping", "--base-ms", "2", "--item-ms", "1"),
            folder=folder,
            web_settings={"request_timeout_s": DEADLINE_S},
            engine_settings={"queue_limit": 2 * BODIES},
        ) as running,
    ):
        for requests, items in ((64, 1), (8, 8)):
            seen = [uvloop.run(_together(running, requests, items, bad=(7 * turn) % requests)) for turn in range(turns)]
            rows.append(_row(f"{requests} requests of {items}, one poisoned item, {turns} times", seen, requests))
    return rows


def _row(what: str, seen: Sequence[tuple[int, int, int]], requests: int) -> Row:
    right, failed, others = (sum(column) for column in zip(*seen, strict=True))
    shown = f"right {right}, poisoned failed {failed}, others failed {others}"
    wanted = f"right {(requests - 1) * len(seen)}, poisoned failed {len(seen)}, others failed 0"
    return exactly(what, shown, wanted)


async def _together(running: Stack, requests: int, items: int, bad: int) -> tuple[int, int, int]:
    """How many answers were right, how many of the poisoned request's were errors, and how many of the others'."""
    bodies = [np.vstack([lamp_item(brightness_of(turn * items + n)) for n in range(items)]) for turn in range(requests)]
    bodies[bad][items // 2] = POISON
    pool = Pool(("127.0.0.1", running.ports[0]), None, "", requests)
    responses = await asyncio.gather(
        *(_ask(pool, raw_request(running.key, PATH, body.tobytes(), DEADLINE_S)) for body in bodies)
    )
    pool.close()
    right = [_is_right(response, body[:, 0, 0, 0].tolist()) for response, body in zip(responses, bodies, strict=True)]
    others_failed = sum(not good for turn, good in enumerate(right) if turn != bad)
    return sum(right), int(responses[bad].status == 500 or responses[bad].status == 422), others_failed


async def _ask(pool: Pool, request: bytes) -> Response:
    connection = await pool.take()
    try:
        return await connection.exchange(request)
    finally:
        connection.abort()


def _is_right(response: Response, brightness: Sequence[float]) -> bool:
    if response.status != 200:
        return False
    predictions = json.loads(response.body)["predictions"]
    return [read_lamp(prediction["scores"])[0] for prediction in predictions] == list(brightness)
