"""`bedplate bundle import hf`: a folder of Hugging Face's, by transformers, offline. Nobody's program runs."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.importers import pictures, sounds, texts
from bedplate.importers.answers import Answers
from bedplate.importers.options import Options, labels_of
from bedplate.importers.sentences import Sentences, read_sentences
from bedplate.importers.vectors import POOLER, Vectors, pooling_of
from bedplate.importers.writing import Imported

OLDEST = (5, 5)  # before it transformers ran what a configuration named
_MAX_JSON_BYTES = 64 << 20
_CONFIGURATIONS = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "processor_config.json")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors")
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


# What makes a model with a head, by the end of its architecture's name.
_HEADS = {
    "ForImageClassification": ["AutoModelForImageClassification"],
    # Of texts, and of what recordings are sequences of.
    "ForSequenceClassification": ["AutoModelForSequenceClassification", "AutoModelForAudioClassification"],
    "ForAudioClassification": ["AutoModelForAudioClassification"],
}
# Of a model without one, which answers with a vector.
_ENCODERS: Mapping[str, Sequence[str]] = {
    "EncoderModel": ["AutoModelForTextEncoding"],
    "Model": ["AutoModel"],
    "ModelWithProjection": [],
}
# Of a model of pictures and texts: what is made of it for either.
_PARTS = {
    "CLIPModel": {"image": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"},
    "SiglipModel": {"image": "SiglipVisionModel", "text": "SiglipTextModel"},
}


def import_folder(folder: Path, options: Options) -> Imported:
    """
    Raises:
        BundleError: it wants a program to run, has no safetensors, or is of a kind that is not imported yet.
    """
    sentences = read_sentences(folder, _json)
    source = sentences.encoder if sentences else folder
    config = require_plain(source)
    with _quiet():
        transformers = _transformers()
        end = _end_of(config, _HEADS)
        if sentences or options.pooling or end is None:
            return _imported_vectors(source, config, transformers, sentences, options)
        return _imported_head(folder, _model(_class_of(config, transformers, _HEADS[end], folder), folder), options)


def _imported_head(folder: Path, model: Any, options: Options) -> Imported:
    settings = model.config
    if settings.num_labels < 2 or settings.problem_type == "regression":
        answers = Answers("value")
    else:
        activation = "sigmoid" if settings.problem_type == "multi_label_classification" else "softmax"
        answers = Answers("logits", labels_of(settings.id2label), activation)
    if model.main_input_name == "pixel_values":
        return pictures.imported(folder, model, lambda made, example: pictures.Logits(made), answers, options)
    if model.main_input_name == "input_values":
        return sounds.imported(folder, model, sounds.Logits, answers, options)
    return texts.imported(folder, model, texts.Logits, answers, options)


def _imported_vectors(
    folder: Path, config: Mapping[str, Any], transformers: Any, sentences: Sentences | None, options: Options
) -> Imported:
    pooling = options.pooling or (sentences.pooling if sentences else None)
    kind = _encoder_of(config, transformers, folder, options.part, pooling is not None)
    # Many encoders of texts were saved without the layer behind their first token.
    model = _model(kind, folder, spare="" if pooling in (None, POOLER) else "pooler.")
    answers = Answers("embedding")
    layers = sentences.layers if sentences else ()
    normalize = options.normalize or (sentences is not None and sentences.normalize)

    def vectors(made: Any, pad: int | None, example: torch.Tensor) -> Vectors:
        return Vectors(made, pad, pooling_of(made, pooling, example, str(folder)), layers, normalize)

    if model.main_input_name == "pixel_values":
        return pictures.imported(folder, model, lambda made, some: vectors(made, None, some), answers, options)
    if model.main_input_name == "input_values":
        samples = torch.zeros(1, 16_000)
        return sounds.imported(folder, model, lambda made: vectors(made, None, samples), answers, options)
    if model.main_input_name != "input_ids":
        raise BundleError(f"{folder}: {type(model).__name__} takes {model.main_input_name}, which is not imported yet")
    ids = torch.tensor([[2, 3]])
    wanted = replace(options, max_tokens=options.max_tokens or (sentences.max_tokens if sentences else None))
    lowers = sentences is not None and sentences.lowers
    found = texts.imported(folder, model, lambda made, pad: vectors(made, pad, ids), answers, wanted, lowers)
    return replace(found, chosen=[*found.chosen, *(sentences.chosen if sentences else ())])


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


def _end_of(config: Mapping[str, Any], known: Mapping[str, object]) -> str | None:
    """Which of these its architecture ends with."""
    return next((end for end in known if str(_architecture(config)).endswith(end)), None)


def _architecture(config: Mapping[str, Any]) -> object:
    """The name of a class; of what a stranger wrote maybe anything."""
    architectures = config.get("architectures")
    [name, *_] = architectures if isinstance(architectures, list) and architectures else [None]
    return name


def _encoder_of(config: Mapping[str, Any], transformers: Any, folder: Path, part: str, is_asked: bool) -> Any:
    """The class that makes the model without a head, or the part that is asked for of one that has two.

    Args:
        is_asked: for a vector, whatever head it has.

    Raises:
        BundleError: it has a head that is not imported yet, or a part is not said, or not there.
    """
    name = _architecture(config)
    if parts := _PARTS.get(str(name)):
        if part not in parts:
            raise BundleError(f"{folder}: {name} takes pictures and texts; name --part {' or '.join(parts)}")
        return getattr(transformers, parts[part])
    if part:
        raise BundleError(f"{folder}: {name} has one part; leave --part out")
    if end := _end_of(config, _ENCODERS):
        return _class_of(config, transformers, _ENCODERS[end], folder)
    if is_asked:
        return transformers.AutoModel
    wanted = " or ".join(f"...{end}" for end in (*_HEADS, "Model"))
    raise BundleError(
        f"{folder / 'config.json'}: architectures: {name!r} is not imported yet, wanted {wanted}; what it says of "
        "tokens becomes a vector by --pooling; a module around it goes by 'bedplate bundle import torch'"
    )


def _class_of(config: Mapping[str, Any], transformers: Any, autos: Sequence[str], folder: Path) -> Any:
    """The first of these of transformers that makes such a model; of what none knows the class of its own name."""
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    kind = config.get("model_type")
    for auto in (getattr(transformers, name) for name in autos):
        if kind in known and known[kind] in auto._model_mapping:
            return auto
    made = getattr(transformers, str(_architecture(config)), None)
    if not isinstance(made, type) or not issubclass(made, transformers.PreTrainedModel):
        raise BundleError(
            f"config.json: architectures: transformers has no {_architecture(config)!r}; take a newer one"
        )
    return made


def _model(kind: Any, folder: Path, spare: str = "") -> Any:
    """
    Args:
        spare: how weights begin that may be missing, as nothing asks for them.
    """
    try:
        made, told = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=_attention(kind, folder),
            output_loading_info=True,
        )
    except Exception as error:
        said = words_of(error)
        raise BundleError(f"{folder}: transformers cannot load it: {type(error).__name__}: {said}") from None
    missing = [key for key in sorted(told["missing_keys"]) if not (spare and key.startswith(spare))]
    if missing:
        raise BundleError(f"{folder}: the weights lack {', '.join(missing[:3])}; was it trained for this task?")
    return made.eval()


def _attention(kind: Any, folder: Path) -> str:
    """torch's own where the model knows it. Never what the configuration names: that may be a kernel to download."""
    from transformers import AutoConfig  # noqa: PLC0415

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    known = kind._model_mapping[type(config)] if hasattr(kind, "_model_mapping") else kind
    return "sdpa" if getattr(known, "_supports_sdpa", False) else "eager"
