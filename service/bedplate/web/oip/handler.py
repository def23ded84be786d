"""An infer request without HTTP: its headers by name and its whole body in, a Reply out.

Falcon's route and the direct way both come here, so that what holds for a request is said once.
"""

from __future__ import annotations

import re

from bedplate.bundle.bundle import Bundle
from bedplate.errors import WrongSize
from bedplate.web.items.decoders import Media
from bedplate.web.items.files import EncodedFiles, checked, decode_files
from bedplate.web.items.limits import Limits
from bedplate.web.observer import Inference, Observation
from bedplate.web.oip.plan import plan_of
from bedplate.web.oip.request import InferRequest, parse
from bedplate.web.oip.response import Reply, encode, of_files
from bedplate.web.options import Header, RequestOptions
from bedplate.web.predictor import Predictor
from bedplate.wire import Frame, now_ns

_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
HEADER = "Inference-Header-Content-Length"


class InferHandler:
    def __init__(self, predictor: Predictor, limits: Limits):
        self._predictor = predictor
        self._limits = limits

    async def answer(
        self, header: Header, body: bytes, model: Bundle, options: RequestOptions, started_ns: int, seen: Observation
    ) -> Reply:
        """Parse `body`, ask an engine, and write what it took to `seen`.

        Args:
            options: what the headers ask for; the body may narrow them, from `started_ns` on.

        Raises:
            ServiceError: see errors.py.
        """
        decoding_ns = now_ns()
        asked = parse(body, json_bytes_of(header(HEADER)), model, self._limits)
        options = options.narrowed(started_ns, asked.timeout_us, asked.priority)
        options.require_time()
        media = await self._media(asked, model, options)
        decode_ns = now_ns() - decoding_ns
        frame = await self._predictor.infer_all(model, media.parts, options)
        seen.inference = inference_of(frame, sum(map(len, media.parts)), decode_ns)
        if media.files and model.input.cuts_files:
            frame = of_files(frame, model, media.files)
        return encode(frame, model, asked)

    async def _media(self, asked: InferRequest, model: Bundle, options: RequestOptions) -> Media:
        """What is sent: tensors as they are, files decoded."""
        if asked.items is not None:
            return Media([asked.items])
        assert asked.files is not None
        limits = plan_of(model, self._limits).limits
        files = checked(EncodedFiles(asked.files), model, limits)
        decoding = decode_files(files, model, limits, self._predictor.decoders, options)
        return await self._predictor.decode(decoding, options)


def inference_of(frame: Frame, items: int, decode_ns: int) -> Inference:
    meta = frame.meta
    return Inference(items, meta["queue_ns"], decode_ns, meta.get("batch_ns", 0), meta["compute_ns"])


def json_bytes_of(given: str | None) -> int | None:
    """What Inference-Header-Content-Length says.

    Raises:
        WrongSize: it is no number.
    """
    if given is None:
        return None
    if not _NUMBER.fullmatch(given):
        raise WrongSize(f"{HEADER} is no number of bytes", next_step="send the length of the JSON, or leave it out")
    return int(given)
