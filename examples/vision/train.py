"""Train three networks that are served together: what a picture shows, where shapes are, what a sentence means.

    PYTHONPATH=service python -m examples.vision.train

writes build/bundles/vision-classes/1, vision-boxes/1 and vision-sentiment/1, and build/examples/NAME/heldout for each:
pictures and sentences that training never saw, the truth, and what the bundle says of them offline.
"""

from __future__ import annotations

import sys
from pathlib import Path

from examples.common import run
from examples.vision import boxes, classes, sentiment

BUNDLES = [classes.NAME, boxes.NAME, sentiment.NAME]


def main() -> int:
    return run.run(__file__, BUNDLES, make)


def make(build: Path) -> None:
    for model in (classes, boxes, sentiment):
        print(model.NAME, flush=True)
        right = model.make(build)
        print(f"held out: {right:.2%} right")
        if right < model.THRESHOLD:
            raise run.NotGoodEnough(f"{model.NAME} gets {right:.1%} of what it never saw, wanted {model.THRESHOLD:.0%}")


if __name__ == "__main__":
    sys.exit(main())
