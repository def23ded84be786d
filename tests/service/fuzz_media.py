"""python -m tests.service.fuzz_media [MUTATIONS [KIND…]]: damaged files of every kind, 10,000 each unless told else.

To a decoder, and every tenth over HTTP to the whole service around it. Every file is decoded or refused, within its
time, and no process is lost or grows; else it says what broke and ends with 1. The files are the same each time.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
from bedplate.bundle.bundle import describe
from bedplate.errors import InvalidRequest
from bedplate.web.items.decoders import Decoders
from bedplate.web.options import within

from tests.service import media_tools
from tests.service.decoder_tools import RunningDecoder, running_decoder
from tests.service.engine_tools import write_lamp
from tests.service.running_service import RunningService, rss_bytes, running_service
from tests.service.test_decode import GROWTH_BYTES, model_of

MUTATIONS = 10_000
OVER_HTTP = 10  # every tenth
ANSWERS = (200, 413, 415, 422)


def files_of(kind: str, count: int) -> Iterator[bytes]:
    whole, chance = media_tools.sample(kind), Random(f"fuzzed {kind}")
    return (media_tools.damaged(whole, chance) for _ in range(count))


def write_model(directory: Path, kind: str) -> Path:
    """A bundle for files of this kind, that finds everything bright."""
    model, canary = model_of(kind), f"canary.{kind}"
    size = math.prod(model.input.smallest)
    return write_lamp(
        directory,
        {"1.weight": torch.zeros(2, size), "1.bias": torch.tensor([0.0, 1.0])},
        task=model.task,
        inputs=describe(model)["inputs"],
        network=["flatten", {"linear": {"in_features": size, "out_features": 2}}],
        canary={"file": canary, "label": "bright"},
        canary_bytes=base64.b64encode(media_tools.sample(kind)).decode(),
    )


def decode_all(kind: str, count: int, decoder: RunningDecoder) -> Iterator[str]:
    """What broke."""
    model, decoders = model_of(kind), Decoders([decoder.path])
    before, began = rss_bytes(decoder.program.pid), time.monotonic()
    refused, slowest_s = 0, 0.0

    async def ask(content: bytes) -> bool:
        try:
            media = await decoders.decode([content], model, within(60))
        except InvalidRequest:
            return False
        assert np.isfinite(media.items).all()
        return True

    async def ask_all() -> None:
        nonlocal refused, slowest_s
        for content in files_of(kind, count):
            asked = time.monotonic()
            refused += not await ask(content)
            slowest_s = max(slowest_s, time.monotonic() - asked)

    try:
        asyncio.run(ask_all())
    except Exception as error:
        yield f"{kind}: no answer and no refusal but {error!r}"
    grown = max(rss_bytes(pid) for pid in (decoder.program.pid, decoder.child())) - before
    took_s = time.monotonic() - began
    print(
        f"{kind}: {count} files, {refused} refused, slowest {slowest_s * 1e3:.0f} ms, grown by {grown / 2**20:.1f} MB, "
        f"{took_s:.0f} s",
        flush=True,
    )
    if "SIGPROF" in decoder.log:
        yield f"{kind}: a file reached its time cap"
    if "SIG" in decoder.log or decoder.program.poll() is not None:
        yield f"{kind}: a process was lost:\n{decoder.log}"
    if grown >= GROWTH_BYTES:
        yield f"{kind}: grew by {grown} bytes, {GROWTH_BYTES} are allowed"


def send_all(kind: str, count: int, service: RunningService) -> Iterator[str]:
    """What broke."""
    before, statuses = service.web_rss_bytes(), dict.fromkeys(ANSWERS, 0)
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    for content in files_of(kind, count):
        connection.request(
            "POST",
            "/v1/models/lamp/predict",
            content or b"?",  # one that was cut to nothing would be no request
            {"Authorization": f"Bearer {service.key}", "Content-Type": "image/*", "Cache-Control": "no-cache"},
        )
        answer = connection.getresponse()
        said = answer.read()
        if answer.status in ANSWERS:
            statuses[answer.status] += 1
        else:
            yield f"{kind} over HTTP: {answer.status} {said[:200]!r}"
    grown = service.web_rss_bytes() - before
    print(f"{kind} over HTTP: {count} files, {statuses}, front end grown by {grown / 2**20:.1f} MB", flush=True)
    if grown >= GROWTH_BYTES:
        yield f"{kind} over HTTP: the front end grew by {grown} bytes, {GROWTH_BYTES} are allowed"


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MUTATIONS
    broken: list[str] = []
    for kind in sys.argv[2:] or media_tools.KINDS:
        with running_decoder() as decoder:
            broken += decode_all(kind, count, decoder)
        with tempfile.TemporaryDirectory() as name:
            bundle = write_model(Path(name) / "lamp", kind)
            with running_service(Path(name), bundle=bundle) as service:
                broken += send_all(kind, count // OVER_HTTP, service)
    print("\n".join(broken) or "nothing broke")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
