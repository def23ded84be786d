"""`python -m tests.zoo [NAME …]`: each architecture imported by one command, served, compared with its own library.

Needs the extra `import` (pip install 'transformers>=5.5'). Prints a row for docs/models.md each; fails where an import
is refused, or an answer differs.
"""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bedplate.bundle.bundle import read_bundle
from PIL import Image

from tests.service.running_service import KEY, RunningService, running_service
from tests.zoo import vectors
from tests.zoo.models import ENTRIES, WORDS, Entry

REQUESTS = 100
ALIKE = 1e-3  # of a score between 0 and 1; of the numbers of a vector, as a share of the largest


@dataclass(frozen=True)
class Row:
    name: str
    told: str
    right: bool


def main(names: Sequence[str]) -> int:
    chosen = [entry for entry in ENTRIES if not names or entry.name in names]
    torch.set_num_threads(1)
    quiet()
    rows = []
    print("| architecture | operations | import s | same | differ by |\n|---|---|---|---|---|", flush=True)
    for entry in chosen:
        with tempfile.TemporaryDirectory(prefix="bedplate-zoo-") as name:
            row = _tried(entry, Path(name))
        print(f"| {row.name} | {row.told} |", flush=True)
        rows.append(row)
    right = sum(row.right for row in rows)
    print(f"\n{right} of {len(rows)} by one command, with the answers of their own library")
    return 0 if right == len(rows) else 1


def quiet() -> None:
    logging.disable(logging.WARNING)
    from transformers.utils import logging as of_transformers  # noqa: PLC0415

    logging.disable(logging.NOTSET)
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()


def _tried(entry: Entry, folder: Path) -> Row:
    source = entry.write(folder / entry.name)
    begun_s = time.monotonic()
    command = [sys.executable, "-m", "bedplate", "bundle", "import", "hf", str(source), "--output", str(folder / "out")]
    command += entry.options
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    took_s = time.monotonic() - begun_s
    if done.returncode:
        return Row(entry.name, f"refused: {done.stderr.strip()[-300:]}", False)
    questions = _pictures() if entry.takes_pictures else _texts()
    if entry.answers_vectors:
        compared, ask = _vectors_compared, vectors.asker(source, entry)
    else:
        compared, ask = _compared, (_picture_asker if entry.takes_pictures else _text_asker)(source)
    with running_service(folder, bundle=folder / "out") as service:
        found = compared(service, entry, questions, ask)
    steps = len(read_bundle(folder / "out").operations.steps)  # type: ignore[union-attr]
    return Row(entry.name, f"{steps} | {took_s:.0f} | {found.told}", found.right)


@dataclass(frozen=True)
class Found:
    told: str
    right: bool


def _compared(service: RunningService, entry: Entry, questions: Sequence[bytes], ask: Callable[[bytes], Any]) -> Found:
    same, off = 0, 0.0
    for content, told in zip(questions, _answers(service, entry, questions), strict=True):
        wanted = ask(content)
        same += told["label"] == f"LABEL_{int(wanted.argmax())}"
        off = max(off, *(abs(told["scores"][f"LABEL_{at}"] - score) for at, score in enumerate(wanted.tolist())))
    return Found(f"top-1 of {same} of {len(questions)} | {off:.1g}", same == len(questions) and off <= ALIKE)


def _vectors_compared(
    service: RunningService, entry: Entry, questions: Sequence[bytes], ask: Callable[[bytes], Any]
) -> Found:
    answers = _answers(service, entry, questions)
    found = np.array([told["output"] for told in answers])
    wanted = np.array([ask(content) for content in questions], np.float64)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine, off = float(((found * wanted).sum(1) / lengths).min()), float(np.abs(found - wanted).max())
    largest = float(np.abs(wanted).max())
    told = f"cosine {cosine:.9f} at least | {off:.1g} of {largest:.1g}"
    return Found(told, cosine > 1 - ALIKE and off <= ALIKE * largest)


def _answers(service: RunningService, entry: Entry, questions: Sequence[bytes]) -> Iterator[Any]:
    kind = "image/png" if entry.takes_pictures else "text/plain"
    for content in questions:
        request = urllib.request.Request(
            f"http://127.0.0.1:{service.port}/v1/models/{entry.name}/predict",
            content,
            {"Authorization": f"Bearer {KEY}", "Content-Type": kind},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            [told] = json.load(answer)["predictions"]
        yield told


def _pictures() -> list[bytes]:
    random = np.random.default_rng(1)
    contents = []
    for _ in range(REQUESTS):
        width, height = random.integers(40, 400, 2)
        coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), np.uint8))
        out = io.BytesIO()
        coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(out, "PNG")
        contents.append(out.getvalue())
    return contents


def _texts() -> list[bytes]:
    random = np.random.default_rng(1)
    return [" ".join(random.choice(WORDS, random.integers(1, 60))).encode() for _ in range(REQUESTS)]


def _picture_asker(source: Path) -> Callable[[bytes], Any]:
    from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: PLC0415

    model = AutoModelForImageClassification.from_pretrained(source, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(source)

    def ask(content: bytes) -> Any:
        with torch.inference_mode():
            return model(**processor(Image.open(io.BytesIO(content)), return_tensors="pt")).logits[0].softmax(-1)

    return ask


def _text_asker(source: Path) -> Callable[[bytes], Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

    model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)

    def ask(content: bytes) -> Any:
        given = tokenizer(content.decode(), return_tensors="pt")
        given.pop("token_type_ids", None)
        with torch.inference_mode():
            return model(**given).logits[0].softmax(-1)

    return ask


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
