"""What the files of sentence-transformers say beside those of transformers: how tokens become a vector."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.importers.vectors import CLS, LAST, MEAN

MODULES = "modules.json"
_FOLDER = re.compile(r"[A-Za-z0-9_-]{0,64}")
_POOLINGS = {
    "pooling_mode_cls_token": CLS,
    "pooling_mode_lasttoken": LAST,
    "pooling_mode_mean_tokens": MEAN,
}
_NEW_POOLINGS = {"cls": CLS, "lasttoken": LAST, "mean": MEAN}
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"Tanh": nn.Tanh, "Identity": nn.Identity}

ReadJson = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Sentences:
    """
    Args:
        encoder: the folder with config.json.
        layers: behind the pooling.
        max_tokens: of a text; None: not said.
        lowers: whether capitals become small letters first.
        prompt: put before texts unasked, which a bundle does not.
    """

    encoder: Path
    pooling: str
    layers: tuple[nn.Module, ...]
    normalize: bool
    max_tokens: int | None
    lowers: bool
    prompt: str

    @property
    def chosen(self) -> list[str]:
        if not self.prompt:
            return []
        return [f"clients send the prompt {self.prompt!r} before a text themselves; sentence-transformers adds it"]


def read_sentences(folder: Path, read: ReadJson) -> Sentences | None:
    """None of a folder that sentence-transformers did not write.

    Args:
        read: gives the JSON object in a file.

    Raises:
        BundleError: it has a module that is no Transformer, Pooling, Dense or Normalize, or in another order.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _modules(folder)
    kinds = [kind for kind, _ in modules]
    if not re.fullmatch(r"Transformer Pooling( Dense)*( Normalize)?", " ".join(kinds)):
        raise BundleError(
            f"{folder / MODULES}: {', '.join(kinds)} is not imported; wanted Transformer, Pooling, and then Dense or "
            "Normalize. A module around it goes by 'bedplate bundle import torch'"
        )
    (_, encoder), (_, pooling), *others = modules
    said = _optional(encoder / "sentence_bert_config.json", read)
    max_tokens = said.get("max_seq_length")
    prompts = _optional(folder / "config_sentence_transformers.json", read)
    named = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "")
    return Sentences(
        encoder=encoder,
        pooling=_pooling(pooling / "config.json", read),
        layers=tuple(layer for kind, path in others if kind == "Dense" for layer in _dense(path, read)),
        normalize=kinds[-1] == "Normalize",
        max_tokens=max_tokens if isinstance(max_tokens, int) else None,
        lowers=bool(said.get("do_lower_case")),
        prompt=str(named or ""),
    )


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """The kind of each module, whatever package it lies in, and its folder; nothing of that name is imported."""
    try:
        entries = json.loads((folder / MODULES).read_bytes())
        modules = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in entries]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / MODULES}: is no list of modules ({error}); download it again") from None
    for _, path in modules:
        if not _FOLDER.fullmatch(path):
            raise BundleError(f"{folder / MODULES}: {path!r} is no folder in it; download it again")
    return [(kind, folder / path) for kind, path in modules]


def _optional(path: Path, read: ReadJson) -> dict[str, Any]:
    return read(path) if path.is_file() else {}


def _pooling(path: Path, read: ReadJson) -> str:
    said = read(path)
    modes = [mode for mode, is_on in said.items() if mode.startswith("pooling_mode_") and is_on is True]
    found = [_POOLINGS.get(mode) for mode in modes]
    if isinstance(said.get("pooling_mode"), str):
        modes = [said["pooling_mode"]]
        found = [_NEW_POOLINGS.get(modes[0])]
    if len(found) != 1 or found[0] is None:
        raise BundleError(f"{path}: {', '.join(modes) or 'no pooling'} is not imported; wanted mean, cls or lasttoken")
    return found[0]


def _dense(folder: Path, read: ReadJson) -> list[nn.Module]:
    said = read(folder / "config.json")
    activation = str(said.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        known = " or ".join(_ACTIVATIONS)
        raise BundleError(f"{folder / 'config.json'}: activation_function: {activation!r} does not do, wanted {known}")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BundleError(f"{weights}: is missing; pickles (.bin) are not opened. Save the model again, as safetensors")
    try:
        linear = nn.Linear(int(said["in_features"]), int(said["out_features"]), bool(said.get("bias", True)))
        linear.load_state_dict(
            {name.removeprefix("linear."): tensor.float() for name, tensor in load_file(weights).items()}
        )
    except Exception as error:
        raise BundleError(f"{folder}: is no Dense module: {words_of(error)}") from None
    return [linear.eval(), _ACTIVATIONS[activation]()]
