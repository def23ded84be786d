"""`bedplate bundle import hf`: a folder of Hugging Face's, by transformers, offline. Nobody's program runs."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bedplate.bundle.strict_yaml import BundleError
from bedplate.importers import pictures, texts
from bedplate.importers.options import Options
from bedplate.importers.writing import Imported

OLDEST = (5, 5)  # before it transformers ran what a configuration named
_MAX_JSON_BYTES = 64 << 20
_CONFIGURATIONS = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "processor_config.json")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors")
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class Kind:
    """What is done with an architecture, by the end of its name."""

    auto: str  # transformers' class that makes it
    imported: Callable[[Path, Any, Mapping[int, str], Options], Imported]


KINDS: Mapping[str, Kind] = {
    "ForImageClassification": Kind("AutoModelForImageClassification", pictures.imported),
    "ForSequenceClassification": Kind("AutoModelForSequenceClassification", texts.imported),
}


def import_folder(folder: Path, options: Options) -> Imported:
    """
    Raises:
        BundleError: it wants a program to run, has no safetensors, or is of a kind that is not imported yet.
    """
    config = require_plain(folder)
    with _quiet():
        transformers = _transformers()
        kind = _kind_of(config, folder)
        module = _model(getattr(transformers, kind.auto), folder)
        return kind.imported(folder, module, module.config.id2label, options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What transformers imports in turn warns of parts that are not there, and are not wanted."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def require_plain(folder: Path) -> dict[str, Any]:
    """What config.json says, of a folder that can be read without running anything; nothing else is opened for it.

    Raises:
        BundleError: with the file, and what to do.
    """
    if not folder.is_dir():
        raise BundleError(
            f"{folder}: is no folder; name one with config.json and *.safetensors, as save_pretrained writes"
        )
    config = _json(folder / "config.json")
    for name in _CONFIGURATIONS:
        if (folder / name).exists():
            _refuse_programs(_json(folder / name), folder / name)
    _require_safetensors(folder)
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES} bytes")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing; download the whole folder of the model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is no JSON ({error}); download it again") from None
    if not isinstance(document, dict):
        raise BundleError(f"{path}: is no JSON object; download it again")
    return document


def _refuse_programs(document: object, path: Path) -> None:
    """Of a configuration, however deep: a name of a program that is to be loaded."""
    if isinstance(document, dict):
        for key in ("auto_map", "custom_pipelines", "trust_remote_code"):
            if document.get(key):
                raise BundleError(
                    f"{path}: {key} names a program of its author's, which is never run; take a model whose class "
                    "transformers has, or import the module by 'bedplate bundle import torch'"
                )
        for value in document.values():
            _refuse_programs(value, path)
    elif isinstance(document, list):
        for value in document:
            _refuse_programs(value, path)


def _require_safetensors(folder: Path) -> None:
    if (folder / _WHOLE).is_file():
        return
    if not (folder / _INDEX).is_file():
        raise BundleError(
            f"{folder}: has no {_WHOLE}; pickles (.bin, .pt, .ckpt) are not opened. Where they may run, write it with "
            "model.save_pretrained(folder)"
        )
    shards = _json(folder / _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BundleError(f"{folder / _INDEX}: has no weight_map; download the folder again")
    for shard in sorted(set(map(str, shards.values()))):
        if not _SHARD.fullmatch(shard):
            raise BundleError(f"{folder / _INDEX}: {shard!r} is no file of the folder; download it again")
        if not (folder / shard).is_file():
            raise BundleError(f"{folder / shard}: is missing; download it too")


def _transformers() -> Any:
    try:
        import transformers  # noqa: PLC0415 - the author's machine has it, hosts do not
    except ImportError:
        raise BundleError("import hf: needs transformers; run: pip install 'transformers>=5.5'") from None
    found = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if found < OLDEST:
        raise BundleError(
            f"import hf: transformers {transformers.__version__} runs what configurations name (CVE-2026-4372); run: "
            "pip install 'transformers>=5.5'"
        )
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _kind_of(config: Mapping[str, Any], folder: Path) -> Kind:
    architectures = config.get("architectures")
    [name, *_] = architectures if isinstance(architectures, list) and architectures else [None]
    for end, kind in KINDS.items():
        if isinstance(name, str) and name.endswith(end):
            return kind
    wanted = " or ".join(f"...{end}" for end in KINDS)
    raise BundleError(
        f"{folder / 'config.json'}: architectures: {name!r} is not imported yet, wanted {wanted}; a module around it "
        "goes by 'bedplate bundle import torch'"
    )


def _model(auto: Any, folder: Path) -> Any:
    try:
        made, told = auto.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=_attention(auto, folder),
            output_loading_info=True,
        )
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise BundleError(f"{folder}: transformers cannot load it: {type(error).__name__}: {said}") from None
    if missing := sorted(told["missing_keys"]):
        raise BundleError(f"{folder}: the weights lack {', '.join(missing[:3])}; was it trained for this task?")
    return made.eval()


def _attention(auto: Any, folder: Path) -> str:
    """torch's own where the model knows it. Never what the configuration names: that may be a kernel to download."""
    from transformers import AutoConfig  # noqa: PLC0415

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    known = auto._model_mapping[type(config)]
    return "sdpa" if getattr(known, "_supports_sdpa", False) else "eager"
