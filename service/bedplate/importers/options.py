"""What whoever imports a model says of the bundle, and its labels as bundles have them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNSHOWN = re.compile(r"[\x00-\x1f\x7f]")
_MAX_LABEL = 200


@dataclass(frozen=True)
class BundleOptions:
    """What is said of a bundle whatever it is imported from."""

    name: str
    version: str = "1"
    description: str = ""
    max_items: int = 64

    def document(self, task: str, made_of: str) -> dict[str, Any]:
        """The keys of bundle.yaml on the bundle as a whole; `made_of` describes it where nobody did."""
        return {
            "name": self.name,
            "version": self.version,
            "task": task,
            "description": self.description or made_of,
        }


@dataclass(frozen=True)
class Options(BundleOptions):
    """Of a folder of Hugging Face's."""

    examples: Path | None = None  # a folder of pictures, or a file with a text in each line
    max_tokens: int | None = None
    truncate: bool = False
    pooling: str | None = None  # of a model that answers with a vector: vectors.POOLINGS; None: as its files say
    normalize: bool = False  # such a vector to the length 1; as its files say, otherwise
    window_s: float = 0  # of recordings
    part: str = ""  # image or text, of a model that has one of each


def labels_of(names: Mapping[int, str]) -> Sequence[str]:
    """As bundles have them: in order, each once, none too long."""
    labels: list[str] = []
    for at in range(len(names)):
        label = _UNSHOWN.sub(" ", str(names[at])).strip()[:_MAX_LABEL] or f"LABEL_{at}"
        labels.append(label if label not in labels else f"{label[: _MAX_LABEL - 8]} ({at})")
    return labels
